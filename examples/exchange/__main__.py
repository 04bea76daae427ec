"""The exchange's command line: `python -m examples.exchange --help`.

Five systems record what happened on a site, each in its own log, and publish it. A sixth listens to all of them, and then is asked what it knows. It may be
closed and opened again on the way, and the delivery may be in disorder and double: what it says in the end is the same.

All is put in under ids made from the rows' numbers, so a run that was killed is gone on with by running it again on the same logs.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import msgspec

import happened as h

from .channel import Rough, shuffled
from .producers import (
    PRODUCERS,
    BadgeGiven,
    CommentWritten,
    PostWritten,
    RevisionMade,
    UserCame,
    VoteCast,
    badges,
    comments,
    posts,
    revisions,
    votes,
)
from .read import POSTS, BadFile, Row, read_rows, sample
from .reader import EARLY, QUESTION, Badge, Heard, Post, reader

ROUND_ROWS = 1000

WAIT_SECONDS = 0.2
"""How long to wait for the next record before looking again how far everybody is."""

IDLE_ROUNDS_MAX = 300
"""After so many rounds in which nothing was recorded, nothing more is expected."""

ROWS_MAX = 1_000_000

SHOWN_MAX = 10
"""Posts that people are shown of a long list."""


class Known(msgspec.Struct, frozen=True):
    """What the reader knows of a post."""

    kind: str
    score: int
    comments: int
    answers: int | None
    """`None` for what can't be answered."""
    title: str | None
    tags: str | None
    accepted: int | None


class Parked(msgspec.Struct, frozen=True):
    """What has come about posts that have not."""

    events: int
    posts: dict[int, dict[str, int]]
    """For each post, how many events of each kind."""


class Summary(msgspec.Struct, frozen=True):
    """What the reader's views say when all that was published has come."""

    events: int
    by_type: dict[str, int]
    badges: dict[str, int]
    posts: dict[int, Known]
    parked: Parked


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 done, 2 asked for what can't be done."""
    asked = the_parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            logs = asked.logs or Path(folder)
            logs.mkdir(parents=True, exist_ok=True)
            told = exchange(
                read_rows(asked.data) if asked.data else sample(), logs, seed=asked.shuffle, twice=asked.twice, restarts=asked.restart
            )
    except (BadFile, OSError, h.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(msgspec.json.encode(told).decode() if asked.json else "\n".join(sentences(told)))
    return 0


def the_parser() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.exchange",
        description="Let five systems tell what happened on a site, and a sixth listen to them all.",
        epilog="Exit codes: 0 done; 2 bad arguments, file or logs.",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="events as lines of JSON, also compressed by gzip; without it a small sample is made"
    )
    parser.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="where the six logs are kept; without it, they are thrown away at the end"
    )
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="have everything recorded and delivered in disorder, within windows")
    parser.add_argument("--twice", action="store_true", help="have everything recorded and delivered twice")
    parser.add_argument(
        "--restart", type=number, default=0, metavar="N", help="close the reader and open it again so many times on the way"
    )
    parser.add_argument("--json", action="store_true", help="print what the reader knows as JSON")
    return parser


def number(text: str) -> int:
    """Read a number that is not less than nothing."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def exchange(rows: Iterable[Row], logs: Path, *, seed: int | None, twice: bool, restarts: int) -> Summary:
    """Have the rows told and heard, and return what the reader knows then."""
    with ExitStack() as stack:
        producers = {app.name: stack.enter_context(app.open(log_of(logs, app))) for app in PRODUCERS}
        tell(producers, rows, Random(seed) if seed is not None else None, twice=twice)
        heads = {name: published(producer) for name, producer in producers.items()}
        expected = sum(heads.values()) // 2  # a fact is a record, and so is its publication
        for part in range(1, restarts + 1):
            with listening(logs, producers, seed, twice=twice) as running:
                wait(running, partial(has_come_to, running, expected * part // (restarts + 1)))
        with listening(logs, producers, seed, twice=twice) as running:
            wait(running, partial(has_heard, running, heads))
            running.settled(wait_seconds_max=60)
            return summary(running)


def log_of(logs: Path, app: h.App) -> str:
    """Return where the log of an app is."""
    return f"sqlite:///{logs}/{app.name}.db"


# --- the five: rows become facts, and facts are published ---------------------------------------------------------------------


def tell(producers: Mapping[str, h.Running], rows: Iterable[Row], chance: Random | None, *, twice: bool) -> None:
    """Have each row recorded by the system that it belongs to: a fact under an id of its own, so that it counts once."""
    listed = list(rows)
    if chance is not None:
        listed = shuffled(listed, chance)
    for start in range(0, len(listed), ROUND_ROWS):
        part: dict[str, list[h.Message]] = {name: [] for name in producers}
        for row in listed[start : start + ROUND_ROWS]:
            app, event = fact(row)
            part[app.name].append(h.Message(event, id=f"row-{row.seq}", occurred=row.at))
        for name, messages in part.items():
            for _ in range(1 + twice):
                producers[name].record_all(messages)


def fact(row: Row) -> tuple[h.App, h.Event]:
    """Return what a row says, and which system says it. `BadFile` for a row that lacks what its type needs."""
    match row:
        case Row(type=kind, post=int(post)) if kind in POSTS:
            return posts, PostWritten(post, kind, row.user, row.question)
        case Row(vote=int(vote), post=int(post)):
            return votes, VoteCast(vote, post, row.type)
        case Row(comment=int(comment), post=int(post)):
            return comments, CommentWritten(comment, post, row.user)
        case Row(rev=str(), post=int(post)):
            return revisions, RevisionMade(row.seq, post, row.type, row.user, row.text)
        case Row(badge=str(badge), user=int(user)):
            return badges, BadgeGiven(badge, user)
        case Row(type="UserRegistered", user=int(user)):
            return badges, UserCame(user)
        case _:
            raise BadFile(f"row {row.seq} is a {row.type}, and lacks what that is about")


def published(producer: h.Running) -> int:
    """Wait until all that was recorded is published, and return how long the log is then."""
    wait(producer, partial(has_said, producer))
    return producer.log.head


def has_said(producer: h.Running) -> bool:
    """Say whether all there is to publish has been published."""
    return all(one["lag"] == 0 for one in producer.statistics()["publications"])


# --- the reader ---------------------------------------------------------------------------------------------------------------


def listening(logs: Path, producers: Mapping[str, h.Running], seed: int | None, *, twice: bool) -> h.Running:
    """Open the reader, with a channel to each log: by its URL, or disturbed."""
    rough = seed is not None or twice
    channels = {name: Rough(one, seed, twice=twice) if rough else one.url for name, one in producers.items()}
    return reader.open(log_of(logs, reader), channels=channels)


def has_come_to(running: h.Running, position: int) -> bool:
    """Say whether so much has come."""
    return running.log.head >= position


def has_heard(running: h.Running, heads: Mapping[str, int]) -> bool:
    """Say whether all that was published has come."""
    return all(one["position"] >= heads[one["origin"]] for one in running.statistics()["subscriptions"])


def wait(running: h.Running, done: Callable[[], bool]) -> None:
    """Wait until something is so, looking whenever something was recorded. `Late` where nothing happens any more, and it is not so."""
    idle = 0
    while idle < IDLE_ROUNDS_MAX:
        head = running.log.head
        if done():
            return
        idle = 0 if running.log.wait(head, WAIT_SECONDS) > head else idle + 1
    raise h.Late(f"`{running.app.name}` does not come further than position {running.log.head}", position=running.log.head)


# --- out: views are asked -----------------------------------------------------------------------------------------------------


def summary(running: h.Running) -> Summary:
    """Ask the views, each of them as of all that is in the log."""
    head = running.log.head
    kinds = running.view(Heard).order_by("kind").rows(limit=ROWS_MAX, since=head, wait_seconds_max=60)
    now = max((kind.latest for kind in kinds), default=EARLY)
    found = running.view(Post).order_by("post").rows(limit=ROWS_MAX, since=head)
    parked = {post.post: parked_events(running, post.post) for post in found if not post.kind}
    return Summary(
        events=sum(kind.events for kind in kinds),
        by_type={kind.kind: kind.events for kind in kinds},
        badges={badge.badge: badge.awarded for badge in running.view(Badge).order_by("-awarded", "badge").rows(since=head)},
        posts={
            post.post: Known(
                post.kind,
                post.score,
                post.comments,
                post.answers if post.kind == QUESTION else None,
                post.title,
                post.tags_at(now),
                post.accepted,
            )
            for post in found
            if post.kind
        },
        parked=Parked(sum(post.parked for post in found if not post.kind), parked),
    )


def parked_events(running: h.Running, post: int) -> dict[str, int]:
    """Look up in the log, by its tag, what has come about a post that has not."""
    about = (record.body for record in running.log.read(h.query(post=post)))
    return dict(sorted(Counter(getattr(event, "kind", type(event).__name__) for event in about).items()))


def sentences(told: Summary) -> Iterator[str]:
    """Tell a summary to people."""
    yield f"{told.events:,} events of {len(told.by_type)} kinds have come from {len(PRODUCERS)} systems, about {len(told.posts):,} posts."
    accepted = sum(post.accepted is not None for post in told.posts.values())
    answers = sum(post.answers or 0 for post in told.posts.values())
    yield f"{answers:,} answers were given, {accepted:,} accepted; {sum(post.comments for post in told.posts.values()):,} comments were made."
    yield "\nQuestions with the highest score:"
    questions = [(number, post) for number, post in told.posts.items() if post.kind == QUESTION]
    best = sorted(questions, key=lambda question: (-question[1].score, question[0]))
    yield from (f"  {post.score:>4}  {post.answers or 0:>3} answers  {post.title}" for _, post in best[:SHOWN_MAX])
    yield from more(best)
    yield f"\nParked: {told.parked.events:,} events about {len(told.parked.posts):,} posts that have not come:"
    waiting = list(told.parked.posts.items())
    for number, kinds in waiting[:SHOWN_MAX]:
        yield f"  post {number}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
    yield from more(waiting)


def more(listed: Sequence[object]) -> Iterator[str]:
    """Say how many are not shown."""
    if len(listed) > SHOWN_MAX:
        yield f"  and {len(listed) - SHOWN_MAX:,} more"


if __name__ == "__main__":
    sys.exit(main())
