"""Every state that a repository ever was in is rebuilt from events, and equal to git's own."""

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any  # Any: commits as JSON

import pytest

from examples.history import lines, rebuild
from examples.history.__main__ import record, recorded
from examples.history.lines import lines_of
from examples.history.model import GONE, Committed, Line, LineBegun, PathsChanged, Written, history
from examples.history.read import BadHistory, Commit, path_of, read_file, read_repository, text_of
from examples.history.rebuild import facts, messages, rebuilt
from examples.history.travel import tree_at
from examples.history.tree import EMPTY, File, changed, planned

Run = Callable[..., subprocess.CompletedProcess[str]]
Real = Callable[[str], Path]

ROOT = Path(__file__).parents[2]

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""Git's id of a tree without entries, known to everybody who uses it."""

EMPTY_FILE = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
"""Git's id of a file without content."""


# --- a repository of one's own ----------------------------------------------------------------------------------------------


def test_every_tree_of_a_repository_is_rebuilt(run: Run, tmp_path: Path) -> None:
    """Forks, merges, roots, empty commits, links, other repositories, strange names, and a directory in place of a file."""
    git = intricate(tmp_path / "repo")

    told = run("examples.history", "--repo", tmp_path / "repo", "--json")

    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {"commits": int(git("rev-list", "--all", "--count")), "equal": 12}


def test_a_repository_that_has_grown_is_recorded_again(run: Run, tmp_path: Path) -> None:
    """Commits are known by their hash: what is there stays, what is new is added."""
    git = intricate(tmp_path / "repo")
    same = ("examples.history", "--repo", tmp_path / "repo", "--log", f"sqlite:///{tmp_path}/history.db", "--json")
    first = json.loads(run(*same).stdout)
    (tmp_path / "repo" / "new").write_text("new")
    git("add", "new")
    git("commit", "-qm", "one more")

    second = json.loads(run(*same).stdout)

    assert first == {"commits": 12, "equal": 12}
    assert second == {"commits": 13, "equal": 13}


def test_a_repository_with_longer_ids_is_rebuilt_as_well(run: Run, tmp_path: Path) -> None:
    """Where ids are made with SHA-256, trees are hashed so, too."""
    if git_in(tmp_path)("--version").split()[2] < "2.29":
        pytest.skip("NOT RUN: this git knows no repositories with SHA-256")
    git = repository(tmp_path / "repo", "--object-format=sha256")
    (tmp_path / "repo" / "file").write_text("content")
    git("add", "file")
    git("commit", "-qm", "only")

    told = run("examples.history", "--repo", tmp_path / "repo", "--json")

    assert json.loads(told.stdout) == {"commits": 1, "equal": 1}


def test_this_project_can_be_rebuilt(run: Run) -> None:
    """The history of the clone that this test lies in, where it is a whole one."""
    try:
        expected = sum(1 for _ in read_repository(ROOT))
    except BadHistory as reason:
        pytest.skip(f"NOT RUN ON THE OWN CLONE: {reason}")

    told = run("examples.history", "--json")

    assert json.loads(told.stdout) == {"commits": expected, "equal": expected}


def test_a_shallow_clone_is_an_error_that_says_so(run: Run, tmp_path: Path) -> None:
    """What isn't there can't be rebuilt, and the way to get it is named."""
    git = intricate(tmp_path / "repo")
    git("clone", "-q", "--depth", "1", f"file://{tmp_path}/repo", str(tmp_path / "shallow"))

    told = run("examples.history", "--repo", tmp_path / "shallow", "--json")

    assert (told.returncode, told.stdout) == (2, "")
    assert "shallow" in told.stderr
    assert "--unshallow" in told.stderr


def test_a_folder_that_is_no_repository_is_an_error(run: Run, tmp_path: Path) -> None:
    """Git's own words are passed on."""
    told = run("examples.history", "--repo", tmp_path)

    assert told.returncode == 2
    assert "not a git repository" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_repository_without_commits_is_an_error(run: Run, tmp_path: Path) -> None:
    """There is nothing to rebuild yet."""
    repository(tmp_path / "repo")

    told = run("examples.history", "--repo", tmp_path / "repo")

    assert told.returncode == 2
    assert "no commits yet" in told.stderr


def test_the_way_git_is_set_up_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a variable that leads git elsewhere nor settings of how it shows things."""
    git = intricate(tmp_path / "repo")
    expected = list(read_repository(tmp_path / "repo"))
    for setting in (
        "log.showRoot=false",
        "diff.renames=copies",
        "core.quotePath=true",
        "diff.noprefix=true",
        "color.ui=always",
        "diff.relative=true",
    ):
        git("config", *setting.split("="))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))

    told = list(read_repository(tmp_path / "repo"))

    assert told == expected


# --- through time travel ----------------------------------------------------------------------------------------------------


def test_the_tree_as_of_a_commit_is_printed_as_git_prints_it(run: Run, tmp_path: Path) -> None:
    """By any name that git knows a commit by, byte for byte: order, modes, types, and names in quotes."""
    git = intricate(tmp_path / "repo")
    for name in ("main", "main~3", "side", "main~4^2", "HEAD", git("rev-parse", "--short", "main")):
        told = run("examples.history", "--repo", tmp_path / "repo", "--at", name)

        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout == git("ls-tree", "-r", name) + "\n"


def test_the_tree_as_of_a_commit_is_json_as_well(run: Run, tmp_path: Path) -> None:
    """For whoever goes on with it: git's id of the tree, made from the files, and where the commit was recorded."""
    git = intricate(tmp_path / "repo")

    told = json.loads(run("examples.history", "--repo", tmp_path / "repo", "--at", "main~1", "--json").stdout)

    assert told["commit"] == git("rev-parse", "main~1")
    assert (told["tree"], told["equal"]) == (git("rev-parse", "main~1^{tree}"), True)
    assert {"mode": "160000", "type": "commit", "digest": git("rev-parse", "main~2"), "path": "module"} in told["files"]


@pytest.mark.parametrize("snapped", [False, True], ids=["from zero", "from snapshots"])
@pytest.mark.parametrize("steps", [1, 25], ids=["at once", "again and again"])
def test_any_history_is_asked_for_through_time_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, snapped: bool) -> None:
    """Several roots, forks, merges of many, moved files, directories for files; recorded at once, or again each time that it has grown."""
    monkeypatch.setattr(lines, "FORKS_MAX", 3)
    monkeypatch.setattr(rebuild, "PART_BYTES", 300)  # two or three files
    seed = random.SystemRandom().randrange(1_000_000)
    print("seed", seed)
    git = tangled(tmp_path / "repo", random.Random(seed))
    commits = list(read_repository(tmp_path / "repo"))
    log = f"sqlite:///{tmp_path}/history.db"
    for part in range(1, min(steps, len(commits)) + 1):
        record(log, commits[: len(commits) * part // min(steps, len(commits))])

    with history.open(log, run=False) as running:
        if snapped:
            for fold in history.snapped():
                for position in range(10, running.log.head, 10):
                    running.snapshots.take(fold, position)
        for commit in commits:
            tree = tree_at(running, commit.number)
            listed = git("ls-tree", "-r", "-z", commit.number)

            assert tree.digest() == commit.tree == tree.git
            assert len(tree.files) == listed.count("\0")
            assert all(f"\t{path}\0" in listed for path in tree.files)


def test_a_sample_is_drawn_by_its_seed(run: Run, tmp_path: Path) -> None:
    """The seed is told; with it the same is drawn, and without one another time others. No more are drawn than there are."""
    intricate(tmp_path / "repo")
    asked = ("examples.history", "--repo", tmp_path / "repo", "--json", "--sample")

    some, all_there_are = json.loads(run(*asked, 5, "--seed", 7).stdout), json.loads(run(*asked, 500).stdout)
    told = run("examples.history", "--repo", tmp_path / "repo", "--sample", 5, "--seed", 7)

    assert some == {"commits": 12, "equal": 12, "seed": 7, "sampled": 5, "sampled_equal": 5}
    assert (all_there_are["sampled"], all_there_are["sampled_equal"]) == (12, 12)
    assert "--seed 7" in told.stdout


def test_a_wrong_tree_is_found_in_a_sample_and_by_itself(run: Run, tmp_path: Path) -> None:
    """What time travel comes to is compared with what git said, too."""
    wrong = {"c": "2" * 40, "p": [], "tree": EMPTY_TREE, "at": 2, "ct": 2, "ch": [["A", "file", "100644", EMPTY_FILE]]}
    write(tmp_path / "commits.jsonl", [wrong])
    asked = ("examples.history", "--data", tmp_path / "commits.jsonl")

    sampled, by_itself = run(*asked, "--sample", 1, "--json"), run(*asked, "--at", "22")

    assert (sampled.returncode, by_itself.returncode) == (1, 1)
    assert json.loads(sampled.stdout)["sampled_equal"] == 0
    assert by_itself.stdout == f"100644 blob {EMPTY_FILE}\tfile\n"
    assert by_itself.stderr == f"differs: {'2' * 40}\n"


@pytest.mark.parametrize(("name", "said"), [("11", "2 commits"), ("3", "no commits"), ("", "no commits")])
def test_a_commit_that_is_not_there_is_an_error(run: Run, tmp_path: Path, name: str, said: str) -> None:
    """None begins like this, or several do: it is said, and how to name one."""
    commits: list[dict[str, Any]] = [
        {"c": number * 20, "p": [], "tree": EMPTY_TREE, "at": 1, "ct": 1, "ch": []} for number in ("11", "1a", "22")
    ]
    commits.append(commits[0] | {"c": "11" + "2" * 38})
    write(tmp_path / "commits.jsonl", commits)

    told = run("examples.history", "--data", tmp_path / "commits.jsonl", f"--at={name}")

    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr
    assert "Traceback" not in told.stderr


def test_a_name_that_the_repository_does_not_know_is_an_error(run: Run, tmp_path: Path) -> None:
    """The name is said."""
    intricate(tmp_path / "repo")

    told = run("examples.history", "--repo", tmp_path / "repo", "--at", "nowhere")

    assert (told.returncode, told.stdout) == (2, "")
    assert "'nowhere'" in told.stderr


@pytest.mark.parametrize(
    ("given", "said"), [(("--seed", "1"), "--sample"), (("--sample", "-1"), "-1"), (("--sample", "1", "--at", "HEAD"), "--at")]
)
def test_what_does_not_go_together_is_an_error(run: Run, given: tuple[str, ...], said: str) -> None:
    """A seed without a sample, less than no commits, and two things at once."""
    told = run("examples.history", *given)

    assert told.returncode == 2
    assert said in told.stderr
    assert "Traceback" not in told.stderr


# --- lines ------------------------------------------------------------------------------------------------------------------


def test_the_child_that_most_comes_after_goes_on_with_the_line(tmp_path: Path) -> None:
    """However often a side branch was there first: the main line is one, and no commit is more than one fork away from it."""
    git = repository(tmp_path / "repo")
    git("commit", "-qm", "root", "--allow-empty")
    root = git("rev-parse", "HEAD")
    for number in range(8):
        git("checkout", "-q", "-b", f"side{number}")
        git("commit", "-qm", f"side {number}", "--allow-empty")
        git("checkout", "-q", "main")
        git("merge", "-q", "--no-ff", "-m", f"merge {number}", f"side{number}")
    commits = list(read_repository(tmp_path / "repo"))

    of = lines_of(commits).of

    main = set(git("rev-list", "--first-parent", "main").split())
    assert {of[commit.number] for commit in commits if commit.number in main} == {root}
    assert all(of[commit.number] == commit.number for commit in commits if commit.number not in main)


def test_what_was_recorded_stays_on_its_line(tmp_path: Path) -> None:
    """A branch that went on with the line keeps it, though now more comes after another."""
    git = repository(tmp_path / "repo")
    git("commit", "-qm", "root", "--allow-empty")
    root = git("rev-parse", "HEAD")
    git("commit", "-qm", "first", "--allow-empty")
    first = git("rev-parse", "HEAD")
    log = f"sqlite:///{tmp_path}/history.db"
    record(log, list(read_repository(tmp_path / "repo")))
    git("checkout", "-q", "-b", "other", root)
    for name in ("second", "third"):
        git("commit", "-qm", name, "--allow-empty")
    commits = list(read_repository(tmp_path / "repo"))

    record(log, commits)
    record(log, commits)

    with history.open(log, run=False) as running:
        told = [(event.commit, event.line) for event in recorded(running) if isinstance(event, Committed)]
        [second, third] = git("rev-list", "--reverse", "other", "^main").split()
    assert told == [(root, root), (first, root), (second, second), (third, second)]


def test_nobody_goes_on_where_a_part_of_another_stands(tmp_path: Path) -> None:
    """A recording was broken off within a commit; when it is done again, more comes after another child of the same parent."""
    log = f"sqlite:///{tmp_path}/history.db"
    large = [Written(f"{'folder/' * 30}file {number}", "100644", EMPTY_FILE) for number in range(2000)]
    small = Written("file", "100644", EMPTY_FILE)
    root = Commit("1" * 40, (), EMPTY_TREE, 1, 1, [], [])
    first = Commit("2" * 40, (root.number,), treed(large), 1, 1, [], large)
    others = [
        Commit("3" * 40, (root.number,), treed([small]), 1, 1, [], [small]),
        Commit("4" * 40, ("3" * 40,), EMPTY_TREE, 1, 1, ["file"], []),
    ]
    with history.open(log, run=False) as running:
        running.record_all(list(messages([root, first]))[:2])

    record(log, [root, *others, first])

    with history.open(log, run=False) as running:
        assert [type(event) for event in recorded(running)][:3] == [Committed, PathsChanged, Committed]
        for commit in (root, first, *others):
            assert tree_at(running, commit.number).digest() == commit.tree


def test_where_forks_are_too_many_a_line_begins_with_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that is recorded after each commit, side branches first: its past stays as near as when it had been recorded at once."""
    monkeypatch.setattr(lines, "FORKS_MAX", 3)
    git = repository(tmp_path / "repo")
    git("commit", "-qm", "root", "--allow-empty")
    for number in range(12):
        git("checkout", "-q", "-b", f"side{number}")
        (tmp_path / "repo" / f"file{number}").write_text("")
        git("add", ".")
        git("commit", "-qm", f"side {number}")
        git("checkout", "-q", "main")
        git("merge", "-q", "--no-ff", "-m", f"merge {number}", f"side{number}")
    commits = list(read_repository(tmp_path / "repo"))
    log = f"sqlite:///{tmp_path}/history.db"
    for count in range(1, len(commits) + 1):
        record(log, commits[:count])

    with history.open(log, run=False) as running:
        of = running.states(Line)
        committed = {event.commit: event for event in recorded(running) if isinstance(event, Committed)}
        begun = [event for event in recorded(running) if isinstance(event, LineBegun)]
        for commit in commits:
            forks, line = 0, of[committed[commit.number].line,]
            while line.forked_from:
                forks, line = forks + 1, of[committed[line.forked_from].line,]
            assert forks <= 3
            assert tree_at(running, commit.number).digest() == commit.tree
    assert [len(event.written) for event in begun] == [3, 7, 11]


def test_a_line_leaves_the_one_before_alone_and_forgets_what_a_root_lost() -> None:
    """States share what stays the same; a path that is gone is kept only where it hides one that lies before the line."""
    written = (Written("a/b", "100644", EMPTY_FILE), Written("a/c", "100644", EMPTY_FILE))
    times = datetime(2026, 1, 1, tzinfo=UTC)

    def lived(parents: tuple[str, ...]) -> tuple[Line, Line]:
        before = Line("1").evolve(Committed("1", "1", parents, EMPTY_TREE, times, (), written))
        return before, before.evolve(Committed("2", "1", ("1",), EMPTY_TREE, times, ("a/b",), ()))

    before, after = lived(())
    _, fork = lived(("0",))

    assert before.folders["a"].keys() == {"a/b", "a/c"}
    assert after.folders["a"].keys() == {"a/c"}
    assert (fork.forked_from, fork.folders["a"]["a/b"]) == ("0", GONE)


def test_a_commit_before_its_parent_records_nothing(run: Run, tmp_path: Path) -> None:
    """What can't be right is refused as a whole, so that the log can be used with the right file."""
    right: list[dict[str, Any]] = [{"c": "1" * 40, "p": [], "tree": EMPTY_TREE, "at": 1, "ct": 1, "ch": []}]
    write(tmp_path / "wrong.jsonl", [*right, {**right[0], "c": "3" * 40, "p": ["2" * 40]}])
    write(tmp_path / "right.jsonl", right)
    log = ("--log", f"sqlite:///{tmp_path}/history.db", "--json")

    wrong = run("examples.history", "--data", tmp_path / "wrong.jsonl", *log)

    assert (wrong.returncode, wrong.stdout) == (2, "")
    with history.open(log[1], run=False) as running:
        assert list(recorded(running)) == []


# --- a file -----------------------------------------------------------------------------------------------------------------


def test_a_wrong_tree_is_found(run: Run, tmp_path: Path) -> None:
    """One tree that does not follow from the events: it is counted, named, and the exit code is 1."""
    right: dict[str, Any] = {"c": "1" * 40, "p": [], "tree": EMPTY_TREE, "at": 1, "ct": 1, "ch": []}
    wrong = {"c": "2" * 40, "p": ["1" * 40], "tree": EMPTY_TREE, "at": 2, "ct": 2, "ch": [["A", "file", "100644", EMPTY_FILE]]}
    write(tmp_path / "commits.jsonl", [right, wrong])

    told = run("examples.history", "--data", tmp_path / "commits.jsonl", "--json")

    assert told.returncode == 1
    assert json.loads(told.stdout) == {"commits": 2, "equal": 1}
    assert told.stderr == f"differs: {'2' * 40}\n"


def test_a_commit_before_its_parent_is_an_error(run: Run, tmp_path: Path) -> None:
    """A state can't follow from one that isn't known."""
    write(tmp_path / "commits.jsonl", [{"c": "2" * 40, "p": ["1" * 40], "tree": EMPTY_TREE, "at": 2, "ct": 2, "ch": []}])

    told = run("examples.history", "--data", tmp_path / "commits.jsonl")

    assert told.returncode == 2
    assert "before its first parent" in told.stderr


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "{}",
        '{"c": "short", "p": [], "tree": "short", "at": 1, "ct": 1, "ch": []}',
        f'{{"c": "{EMPTY_TREE}", "p": [], "tree": "{EMPTY_TREE}", "at": 1, "ct": 1, "ch": [["A", "file"]]}}',
        f'{{"c": "{EMPTY_TREE}", "p": [], "tree": "{EMPTY_TREE}", "at": 1, "ct": 1, "ch": [["A", "file", "100644", "no digest"]]}}',
    ],
)
def test_a_bad_line_is_named(run: Run, tmp_path: Path, line: str) -> None:
    """The error says which file and which line; the exit code is 2, and there is no traceback."""
    (tmp_path / "bad.jsonl").write_text(line + "\n")

    told = run("examples.history", "--data", tmp_path / "bad.jsonl", "--json")

    assert (told.returncode, told.stdout) == (2, "")
    assert "bad.jsonl, line 1" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_missing_file_is_an_error(run: Run) -> None:
    """A file that isn't there is named."""
    told = run("examples.history", "--data", "nowhere.jsonl")

    assert told.returncode == 2
    assert "nowhere.jsonl" in told.stderr


# --- trees, by themselves ---------------------------------------------------------------------------------------------------


def test_a_tree_without_entries_has_the_id_that_git_gives_it() -> None:
    """The smallest of trees."""
    assert EMPTY.digest().hex() == EMPTY_TREE


def test_a_tree_made_anew_leaves_the_old_one_alone() -> None:
    """Two commits on one parent are two states, each right in its own line."""
    file = File(b"100644", bytes.fromhex(EMPTY_FILE))
    parent = changed(EMPTY, planned([], [(b"a/b", file)]))
    before = parent.digest()

    one = changed(parent, planned([], [(b"a/c", file)]))
    other = changed(parent, planned([b"a/b"], []))

    assert changed(parent, {}).digest() == before
    assert other.digest() == EMPTY.digest()
    assert changed(one, planned([b"a/c"], [])).digest() == before


@pytest.mark.parametrize(("path", "text"), [(b"a/b", "a/b"), ("ä/b".encode(), "ä/b"), (b"caf\xe9 %", "/caf%E9%20%25"), (b"%41", "%41")])
def test_any_path_can_be_written_as_text(path: bytes, text: str) -> None:
    """Git allows any bytes, JSON does not."""
    assert text_of(path) == text
    assert path_of(text) == path


# --- commits, by themselves -------------------------------------------------------------------------------------------------


def test_a_commit_that_changes_much_is_told_in_several_events() -> None:
    """No event is larger than one can read at once, and together they say it all."""
    written = [Written(f"{'folder/' * 30}file {number}", "100644", EMPTY_FILE) for number in range(5000)]
    tree = changed(EMPTY, planned([], [(path_of(one.path), File(b"100644", bytes.fromhex(EMPTY_FILE))) for one in written])).digest().hex()
    commits = [
        Commit("1" * 40, (), tree, 1, 1, [], written),
        Commit("2" * 40, ("1" * 40,), EMPTY_TREE, 2, 2, [one.path for one in written], []),
    ]

    told = [fact for commit in commits for fact in facts(commit, "line")]

    assert [type(event) for event in told].count(Committed) == 2
    assert len(told) > 6
    assert all(sum(len(one.path) + 100 for one in event.written) < 300_000 for event in told)
    assert [one.equal for one in rebuilt(told)] == [True, True]


def test_events_of_a_broken_off_recording_do_no_harm() -> None:
    """Parts of a commit may stand long before the commit itself, with others between them."""
    written = Written("file", "100644", EMPTY_FILE)
    [first] = facts(Commit("1" * 40, (), EMPTY_TREE, 1, 1, [], []), "1" * 40)
    tree = changed(EMPTY, planned([], [(b"file", File(b"100644", bytes.fromhex(EMPTY_FILE)))])).digest().hex()
    [second] = facts(Commit("2" * 40, ("1" * 40,), tree, 1, 1, [], []), "1" * 40)

    results = list(rebuilt([PathsChanged("2" * 40, "1" * 40, 0, (), (written,)), first, second]))

    assert [one.equal for one in results] == [True, True]


def test_times_that_no_calendar_has_are_kept_within_it() -> None:
    """Some clocks of authors were far off; a commit is recorded all the same."""
    commit = Commit("1" * 40, (), EMPTY_TREE, -5, 10**15, [], [])

    [message] = messages([commit])
    [fact] = facts(commit, "line")

    assert message.occurred == datetime(1970, 1, 1, tzinfo=UTC)
    assert isinstance(fact, Committed)
    assert fact.committed == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


# --- the real file ----------------------------------------------------------------------------------------------------------


def test_the_real_file_is_rebuilt_whole(run: Run, real: Real) -> None:
    """16,238 of 16,238 trees."""
    told = run("examples.history", "--data", real("git_pip.jsonl.gz"), "--json", "--sample", 100)

    assert told.returncode == 0, told.stderr
    counts = json.loads(told.stdout)
    assert counts == {"commits": 16238, "equal": 16238, "seed": counts["seed"], "sampled": 100, "sampled_equal": 100}


# --- means ------------------------------------------------------------------------------------------------------------------

Git = Callable[..., str]


def git_in(folder: Path) -> Git:
    """Return git, run in this folder as somebody who does not exist and with nobody's settings."""
    somebody = {f"GIT_{role}_{what}": "nobody@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    nowhere = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ALLOW_PROTOCOL": "file"}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, env=own | somebody | nowhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return git


def repository(folder: Path, *options: str) -> Git:
    """Make an empty repository."""
    folder.mkdir()
    git = git_in(folder)
    git("init", "-q", *options)
    git("checkout", "-q", "-b", "main")
    return git


def intricate(folder: Path) -> Git:
    """Make a repository of twelve commits that has about everything a tree can have."""
    git = repository(folder)

    def commit(name: str) -> None:
        git("add", "-A")
        git("commit", "-qm", name, "--allow-empty")

    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "file").write_text("1")
    (folder / "thing").write_text("2")
    (folder / "run.sh").write_text("3")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("thing")
    (folder / 'strange "name"\twith é').write_text("4")
    commit("root")
    commit("empty")
    (folder / "thing").unlink()
    (folder / "thing").mkdir()
    (folder / "thing" / "inside").write_text("5")
    commit("a directory in place of a file")
    for name in ("thing.txt", "thing-1", "thing0"):  # they sort around `thing/`, not around `thing`
        (folder / name).write_text(name)
    commit("names around a directory")
    git("checkout", "-q", "-b", "side", "HEAD~2")
    (folder / "side").write_text("6")
    commit("a fork")
    (folder / "run.sh").chmod(0o644)
    commit("another mode")
    git("checkout", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "a merge", "side")
    (folder / "thing" / "inside").unlink()
    (folder / "thing").rmdir()
    (folder / "thing").write_text("7")
    commit("a file in place of a directory")
    (folder / "link").unlink()
    (folder / "link").write_text("no link any more")
    commit("another type")
    git("update-index", "--add", "--cacheinfo", f"160000,{git('rev-parse', 'HEAD')},module")
    git("commit", "-qm", "another repository inside")
    with contextlib.suppress(OSError):  # not every file system takes such names
        (folder / os.fsdecode(b"caf\xe9")).write_text("8")
    git("add", "--", ".", ":!module")
    git("commit", "-qm", "a name that is not UTF-8", "--allow-empty")
    git("checkout", "-q", "--orphan", "other")
    git("commit", "-qm", "a second root")
    return git


def tangled(folder: Path, chance: random.Random) -> Git:
    """Make a repository of a hundred commits, by chance: roots, forks anywhere, merges of two to four, and files that move, go, and turn into directories."""
    git = repository(folder)
    trees: list[dict[str, str]] = []
    told: list[str] = []
    for number in range(1, 101):
        parents = (
            []
            if number == 1 or chance.random() < 0.04
            else chance.sample(range(1, number), min(number - 1, chance.choice([1, 1, 1, 2, 4])))
        )
        if parents and chance.random() < 0.6:
            parents[0] = number - 1  # most go on where the last one was
        parents = list(dict.fromkeys(parents))
        files = dict(trees[parents[0] - 1]) if parents else {}
        commands: list[str] = []
        for _ in range(chance.randrange(4)):
            path = "/".join(chance.choices("abc", k=chance.randint(1, 3)))
            if files and chance.random() < 0.4:
                moved = chance.choice(sorted(files))
                content = files.pop(moved)
                commands.append(f"D {moved}\n")
                if chance.random() < 0.5:
                    continue
            else:
                content = f"{chance.randrange(20)}"
            for other in [one for one in files if one.startswith(f"{path}/") or path.startswith(f"{one}/")]:
                del files[other]
                commands.append(f"D {other}\n")
            files[path] = content
            commands.append(f"M {chance.choice(['100644', '100755'])} inline {path}\ndata {len(content)}\n{content}\n")
        trees.append(files)
        told.append(f"commit refs/heads/n{number}\nmark :{number}\ncommitter a <a> {number} +0000\ndata 1\n{number % 10}\n")
        told += [f"{'merge' if at else 'from'} :{parent}\n" for at, parent in enumerate(parents)]
        told += [*commands, "\n"]
    (folder / "told").write_text("".join(told))
    with (folder / "told").open() as stream:
        subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, stdin=stream, check=True)
    return git


def treed(written: Iterable[Written]) -> str:
    """Return git's id of a tree with these files."""
    return changed(EMPTY, planned([], [(path_of(one.path), File(b"100644", bytes.fromhex(one.digest))) for one in written])).digest().hex()


def write(path: Path, commits: Iterable[dict[str, Any]]) -> None:  # Any: JSON
    """Write commits to a file."""
    path.write_text("".join(json.dumps(commit) + "\n" for commit in commits))


def test_the_file_form_is_read_as_it_stands(tmp_path: Path) -> None:
    """What is removed has a path only."""
    changes = [["M", "kept", "100755", EMPTY_FILE], ["D", "gone"]]
    write(tmp_path / "commits.jsonl", [{"c": "1" * 40, "p": [], "tree": EMPTY_TREE, "at": 3, "ct": 4, "who": 1, "ch": changes}])

    [commit] = read_file(tmp_path / "commits.jsonl")

    assert commit == Commit("1" * 40, (), EMPTY_TREE, 3, 4, ["gone"], [Written("kept", "100755", EMPTY_FILE)])
