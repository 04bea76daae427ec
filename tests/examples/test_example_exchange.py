"""The exchange's reader comes to what a plain script computes, whatever becomes of the delivery: in disorder, double, the reader closed or killed."""

import gzip
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any  # Any: a summary is JSON

import msgspec
import pytest

import happened as h
from examples.exchange.producers import PRODUCERS
from examples.exchange.read import Row, read_rows, sample
from examples.exchange.reader import (
    FEATURED_FOR_MAX,
    Accept,
    Accepted,
    Badge,
    BadgeAwarded,
    Commented,
    Post,
    Posted,
    Revised,
    UserRegistered,
    Voted,
    accept,
    reader,
)
from happened.testing import spec
from happened.testing.world import START

Run = Callable[..., subprocess.CompletedProcess[str]]
Real = Callable[[str], Path]

ROOT = Path(__file__).parents[2]

FIELDS = ("score", "comments", "answers", "title", "tags", "accepted")


# --- the same as a plain script ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--shuffle", 1),
        ("--twice",),
        ("--restart", 3),
        ("--shuffle", 2, "--twice", "--restart", 7),
        ("--shuffle", 3, "--restart", 20),
    ],
    ids=lambda options: " ".join(map(str, options)) or "as it comes",
)
def test_the_sample_comes_to_what_a_plain_script_computes(run: Run, options: tuple[object, ...]) -> None:
    """In order or not, once or twice, in one go or not."""
    print("seed", options)

    told = summary(run("examples.exchange", "--json", *options))

    assert told == plain(sample())


def test_the_sample_has_what_makes_the_real_file_a_test() -> None:
    """Votes before their posts and on posts that never come, accepted answers, titles and tags that change, a feature that lapses, empty titles."""
    rows = list(sample())
    expected = plain(rows)
    written: set[int | None] = set()
    early = 0
    for row in rows:
        early += row.vote is not None and row.post not in written and str(row.post) in expected["posts"]
        written |= {row.post} if row.type in ("QuestionAsked", "AnswerPosted", "WikiPostCreated") else set()

    assert early > 20
    assert expected["parked"]["events"] > 30
    assert sum(post["accepted"] is not None for post in expected["posts"].values()) > 5
    assert sum(row.type == "TitleEdited" for row in rows) > 20
    assert sum(post["kind"] == "WikiPostCreated" for post in expected["posts"].values()) > 2
    assert any("<featured>" in (row.text or "") for row in rows)
    assert not any("<featured>" in (post["tags"] or "") for post in expected["posts"].values())
    assert rows == list(sample())


def test_a_file_gives_the_same_as_its_rows(run: Run, tmp_path: Path) -> None:
    """A row of the file is a JSON object, and the file names no zone."""
    write(tmp_path / "rows.jsonl", sample(40))

    told = summary(run("examples.exchange", "--data", tmp_path / "rows.jsonl", "--json"))

    assert told == plain(sample(40))


def test_people_are_told_what_is_parked(run: Run) -> None:
    """How many events, about which posts; and how many are not shown."""
    expected = plain(sample())["parked"]

    told = run("examples.exchange").stdout

    assert f"Parked: {expected['events']} events about {len(expected['posts'])} posts that have not come" in told
    assert f"  and {len(expected['posts']) - 10} more" in told
    first, kinds = next(iter(expected["posts"].items()))
    assert f"  post {first}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}" in told


# --- done again, killed -----------------------------------------------------------------------------------------------------


def test_done_twice_on_the_same_logs_nothing_changes(run: Run, tmp_path: Path) -> None:
    """Ids tell what is there already, at the producers and at the reader."""
    first = summary(run("examples.exchange", "--logs", tmp_path, "--json"))
    head = reader_head(tmp_path)

    second = summary(run("examples.exchange", "--logs", tmp_path, "--shuffle", 5, "--json"))

    assert first == second == plain(sample())
    assert reader_head(tmp_path) == head


def test_killed_again_and_again_it_comes_out_the_same(run: Run, tmp_path: Path) -> None:
    """All six systems die by kill -9, wherever they are: while facts are recorded, published, heard, or decided on."""
    seed = 11
    print("seed", seed)
    chance = random.Random(seed)
    kills = [killed(tmp_path, chance.randrange(1, 45), seed=chance.randrange(100)) for _ in range(9)]

    told = summary(run("examples.exchange", "--logs", tmp_path, "--shuffle", seed, "--json"))

    print("killed", kills)
    assert sum(kills) >= 5
    assert told == plain(sample())
    for name in (*(app.name for app in PRODUCERS), "reader"):
        with h.open_log(f"sqlite:///{tmp_path}/{name}.db") as log:
            log.verify()
            inputs = [record.id for record in log.read() if record.kind == "input"]
        assert len(inputs) == len(set(inputs))


# --- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{}", "row 1"),
        ('{"seq": 1, "at": "yesterday", "type": "UpVoted", "vote": 1, "post": 2}', "row 1"),
        ('{"seq": 1, "at": "2011-08-17T00:00:00.000", "type": "UpVoted", "vote": 1}', "row 1 is a UpVoted"),
    ],
)
def test_a_bad_row_is_named(run: Run, tmp_path: Path, content: str, complaint: str) -> None:
    """The exit code is 2, and there is no traceback."""
    (tmp_path / "bad.jsonl").write_text(content + "\n")

    told = run("examples.exchange", "--data", tmp_path / "bad.jsonl", "--json")

    assert (told.returncode, told.stdout) == (2, "")
    assert complaint in told.stderr
    assert "Traceback" not in told.stderr


def test_a_missing_file_is_an_error(run: Run, tmp_path: Path) -> None:
    """A file that isn't there is named."""
    told = run("examples.exchange", "--data", tmp_path / "nowhere.jsonl")

    assert told.returncode == 2
    assert "nowhere.jsonl" in told.stderr


# --- the rules, by themselves -----------------------------------------------------------------------------------------------

ANSWER = Posted(7, "AnswerPosted", question=1)
VOTE = Voted(5, 7, "AnswerAccepted")


def test_what_comes_before_its_post_is_parked_and_counts() -> None:
    """It is counted as parked until the post comes, and then it has been counted in all along."""
    before = spec(reader).given(Voted(1, 1, "UpVoted"), Voted(2, 1, "UpVoted"), Voted(3, 1, "DownVoted"), Commented(1, 1))

    before.then_view(Post(1, score=1, comments=1, parked=4))
    before.when(Posted(1, "QuestionAsked", None)).then_view(Post(1, kind="QuestionAsked", score=1, comments=1))


@pytest.mark.parametrize("events", [(ANSWER, VOTE), (VOTE, ANSWER)], ids=["vote last", "answer last"])
def test_an_answer_is_accepted_when_the_vote_and_the_answer_are_there(events: tuple[h.Event, h.Event]) -> None:
    """Whichever comes last."""
    first, second = events

    done = spec(reader).given(Posted(1, "QuestionAsked", None), first).when(second)

    done.then(Accepted(1, 7, 5)).then_view(Post(1, kind="QuestionAsked", answers=1, accepted=7, accepted_vote=5))


def test_an_answer_is_accepted_once_and_the_last_one_holds() -> None:
    """Said again, nothing happens; an earlier vote that comes later does not count any more."""
    done = spec(reader).given(ANSWER, VOTE)

    done.when(Accept(1, 7, 5)).then_nothing()
    done.when(Accept(1, 8, 4)).then_nothing()
    done.when(Accept(1, 8, 6)).then(Accepted(1, 8, 6))


def test_other_votes_accept_nothing() -> None:
    """They are heard by the reaction, too."""
    assert list(accept(Voted(6, 7, "UpVoted"), Post(7, question=1, accepting_vote=5))) == []
    assert list(accept(VOTE, Post(7, accepting_vote=5))) == []
    assert list(accept(ANSWER, Post(7, question=1))) == []


def test_the_revision_with_the_highest_number_holds() -> None:
    """In whichever order they come; an empty title is none."""
    revised = spec(reader).given(
        Revised(3, 1, "TitleEdited", "better"), Revised(2, 1, "TitleSet", "good"), Revised(4, 1, "BodyEdited", None)
    )

    revised.then_view(Post(1, title="better", title_revision=3, parked=3))
    revised.when(Revised(5, 1, "TitleRolledBack", "")).then_view(Post(1, title=None, title_revision=5, parked=4))


def test_a_feature_lapses_by_itself() -> None:
    """The site takes it down, with no revision that says so."""
    post = Post(1, tags="<discussion><featured>", tagged=START)

    assert post.tags_at(START + FEATURED_FOR_MAX) == "<discussion><featured>"
    assert post.tags_at(START + FEATURED_FOR_MAX + timedelta(days=1)) == "<discussion>"
    assert Post(1).tags_at(START) is None


def test_badges_are_counted() -> None:
    """A user who comes has none."""
    given = spec(reader).given(UserRegistered(1), BadgeAwarded("Editor", 1), BadgeAwarded("Editor", 2))

    given.then_view(Badge("Editor", 2))


# --- the real file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [(), ("--shuffle", 4, "--twice", "--restart", 9)], ids=lambda options: " ".join(map(str, options)) or "as it comes"
)
def test_the_real_file_gives_the_expected_posts(run: Run, real: Real, options: tuple[object, ...]) -> None:
    """15,021 events: of 781 posts the score, comments, answers, title, tags and what is accepted; 119 events are about posts that never come."""
    expected = json.loads(gunzipped(real("se_french_meta_expected.json.gz")))

    told = summary(run("examples.exchange", "--data", real("se_french_meta.jsonl.gz"), "--json", *options))

    assert told["by_type"] == expected["by_type"]
    assert {post: {field: known[field] for field in FIELDS} for post, known in told["posts"].items()} == {
        post: {field: known[field] for field in FIELDS} for post, known in expected["posts"].items()
    }
    assert len(told["posts"]) == 781
    assert told["parked"]["events"] == 119
    assert told["parked"] == plain(read_rows(real("se_french_meta.jsonl.gz")))["parked"]


# --- means ------------------------------------------------------------------------------------------------------------------


def summary(told: subprocess.CompletedProcess[str]) -> Any:  # Any: JSON
    """Return the summary that a run printed."""
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def gunzipped(path: Path) -> bytes:
    """Return what is in a compressed file."""
    return gzip.decompress(path.read_bytes())


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as the file has them: times without a zone."""
    lines: list[str] = []
    for row in rows:
        fields = msgspec.to_builtins(row) | {"at": row.at.replace(tzinfo=None).isoformat(timespec="milliseconds")}
        lines.append(json.dumps(fields))
    path.write_text("\n".join(lines) + "\n")


def reader_head(folder: Path) -> int:
    """Return how long the reader's log is."""
    with h.open_log(f"sqlite:///{folder}/reader.db") as log:
        return log.head


def killed(folder: Path, at: int, seed: int) -> bool:
    """Begin an exchange in a process of its own, which kills itself as it commits for the nth time, in whichever of the six logs; `False` if it ends before."""
    suicide = f"""
import itertools, os, pathlib, signal
import happened.stores.sqlite as store
from examples.exchange.__main__ import exchange
from examples.exchange.read import sample

append, commits = store.SqliteStore.append, itertools.count()

def counted(*arguments, **named):
    if next(commits) >= {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return append(*arguments, **named)

store.SqliteStore.append = counted
exchange(sample(), pathlib.Path({str(folder)!r}), seed={seed}, twice=False, restarts=2)
"""
    done = subprocess.run([sys.executable, "-c", suicide], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    return done.returncode != 0


def plain(rows: Iterable[Row]) -> dict[str, Any]:  # Any: JSON
    """Compute the summary without logs, without views, and without the reader's rules: all votes and revisions are there, and in order."""
    listed = list(rows)
    posts: dict[int, dict[str, Any]] = {}  # Any: JSON
    tagged: dict[int, datetime] = {}
    for row in listed:
        if row.post is not None and row.type in ("QuestionAsked", "AnswerPosted", "WikiPostCreated"):
            answers = 0 if row.type == "QuestionAsked" else None
            posts[row.post] = {
                "kind": row.type,
                "score": 0,
                "comments": 0,
                "answers": answers,
                "title": None,
                "tags": None,
                "accepted": None,
            }
    parked: dict[int, Counter[str]] = {}
    questions = {row.post: row.question for row in listed if row.type == "AnswerPosted"}
    for row in listed:
        if row.post is None:
            continue
        post = posts.get(row.post)
        if post is None:
            parked.setdefault(row.post, Counter())[row.type] += 1
            continue
        match row.type:
            case "UpVoted" | "DownVoted":
                post["score"] += 1 if row.type == "UpVoted" else -1
            case "Commented":
                post["comments"] += 1
            case "AnswerPosted" if row.question is not None:
                posts[row.question]["answers"] += 1
            case "TitleSet" | "TitleEdited" | "TitleRolledBack":
                post["title"] = row.text or None
            case "TagsSet" | "TagsEdited" | "TagsRolledBack":
                post["tags"] = row.text
                tagged[row.post] = row.at
            case "AnswerAccepted":
                posts[questions[row.post] or 0]["accepted"] = row.post
            case _:
                pass
    for number, at in tagged.items():
        if max(row.at for row in listed) - at > timedelta(days=60):
            posts[number]["tags"] = posts[number]["tags"].replace("<featured>", "")
    badges = Counter(row.badge for row in listed if row.badge is not None)
    return {
        "events": len(listed),
        "by_type": dict(sorted(Counter(row.type for row in listed).items())),
        "badges": dict(badges),
        "posts": {str(number): posts[number] for number in sorted(posts)},
        "parked": {
            "events": sum(sum(kinds.values()) for kinds in parked.values()),
            "posts": {str(number): dict(sorted(kinds.items())) for number, kinds in sorted(parked.items())},
        },
    }
