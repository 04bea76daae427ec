"""The history's command line: `python -m examples.history --help`.

First all commits are put into the log; then it is closed and opened again, and every state is rebuilt from what it says: all in one pass, and those that
are asked for one by one through time travel.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import happened as h

from .model import Committed, LineBegun, PathsChanged, Told, history
from .read import BadHistory, Commit, read_file, read_repository, the_commit
from .rebuild import messages, rebuilt
from .travel import Tree, listed, tree_at, written

DIFFERENCES_SHOWN = 10

DEPTHS = 16
"""Snapshots that are taken, evenly, before commits are drawn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 all trees are equal, 1 some differ, 2 asked for what can't be done."""
    parser = the_parser()
    asked = parser.parse_args(arguments)
    if asked.seed is not None and asked.sample is None:
        parser.error("--seed goes with --sample")
    try:
        commits = list(read_file(asked.data) if asked.data else read_repository(asked.repo))
        with tempfile.TemporaryDirectory() as folder:
            log = asked.log or f"sqlite:///{folder}/history.db"
            record(log, commits)
            if asked.at is not None:
                commit = whole(asked.at, commits) if asked.data else the_commit(asked.repo, asked.at)
                return show(log, commit, as_json=asked.json)
            count, different = compare(log)
            told = {"commits": count, "equal": count - len(different)}
            said = f"{count:,} commits; the trees of {told['equal']:,} were rebuilt from events and are equal to git's."
            if asked.sample is not None:
                seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
                drawn, wrong = sample(log, asked.sample, seed)
                told |= {"seed": seed, "sampled": drawn, "sampled_equal": drawn - len(wrong)}
                said += f"\n{drawn:,} of them, drawn with --seed {seed}, were asked for through time travel: {drawn - len(wrong):,} are equal to git's."
                different += [commit for commit in wrong if commit not in different]
    except (BadHistory, h.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(told) if asked.json else said)
    for commit in different[:DIFFERENCES_SHOWN]:
        print(f"differs: {commit}", file=sys.stderr)
    if len(different) > DIFFERENCES_SHOWN:
        print(f"and {len(different) - DIFFERENCES_SHOWN:,} more", file=sys.stderr)
    return 1 if different else 0


def the_parser() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.history",
        description="Record the history of a git repository as events, rebuild from them the tree after every commit, and compare it with git's own.",
        epilog="Exit codes: 0 all trees are equal; 1 some differ; 2 bad arguments, repository, file or log.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--repo", type=Path, metavar="DIR", default=Path(), help="a git repository with its whole history (default: the one here)"
    )
    source.add_argument("--data", type=Path, metavar="FILE", help="a history as lines of JSON, also compressed by gzip")
    parser.add_argument(
        "--log", metavar="URL", help="where the log is kept, such as sqlite:///history.db; without it, it is thrown away at the end"
    )
    asking = parser.add_mutually_exclusive_group()
    asking.add_argument(
        "--at",
        metavar="COMMIT",
        help="print the tree as of a commit, as `git ls-tree -r` does, and compare only that: a hash or the beginning of one, in a repository any name",
    )
    asking.add_argument(
        "--sample",
        type=count_of,
        metavar="N",
        help="also ask for the trees as of N commits, drawn at random, through time travel with snapshots",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same commits as another run that said this was its seed")
    parser.add_argument("--json", action="store_true", help="print the counts, or the tree, as JSON")
    return parser


def count_of(text: str) -> int:
    """Read a number of commits."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of commits")
    return int(text)


def whole(asked: str, commits: Iterable[Commit]) -> str:
    """Return the hash that begins like this. `BadHistory` if none does, or several do."""
    found = {commit.number for commit in commits if asked and commit.number.startswith(asked)}
    if len(found) != 1:
        raise BadHistory(
            f"{len(found) or 'no'} commits of this history begin with {asked!r}: name one by its hash, or by as much of it as only it has"
        )
    return found.pop()


def record(log: str, commits: Sequence[Commit]) -> None:
    """Put commits into the log. Those it knows by their hash stay as they are. Not while another process does: lines are chosen by what is there."""
    with history.open(log, run=False) as running:
        running.record_all(messages(commits, recorded(running), lambda commit: written(tree_at(running, commit))))


def compare(log: str) -> tuple[int, list[str]]:
    """Rebuild every state from the log; return how many there are, and the commits whose tree differs from git's."""
    with history.open(log, run=False) as running:
        results = list(rebuilt(recorded(running)))
    return len(results), [result.commit for result in results if not result.equal]


def sample(log: str, count: int, seed: int) -> tuple[int, list[str]]:
    """Ask for trees through time travel; return how many were, and the commits whose tree differs from git's. Takes snapshots first, as a log has in use."""
    with history.open(log, run=False) as running:
        head = running.log.head
        for fold in history.snapped():
            for position in sorted({running.at(head * depth // DEPTHS).position for depth in range(1, DEPTHS + 1)} - {0}):
                running.snapshots.take(fold, position)
        numbers = [event.commit for event in recorded(running) if isinstance(event, Committed)]
        drawn = random.Random(seed).sample(numbers, min(count, len(numbers)))
        return len(drawn), [number for number in drawn if not is_git_s(tree_at(running, number))]


def show(log: str, commit: str, *, as_json: bool) -> int:
    """Print the tree as of a commit; return 1 if it differs from git's."""
    with history.open(log, run=False) as running:
        tree = tree_at(running, commit)
    lines = listed(tree)
    if as_json:
        files = [{"mode": line.mode, "type": line.type, "digest": line.digest, "path": line.path} for line in lines]
        print(json.dumps({"commit": commit, "position": tree.position, "tree": tree.digest(), "equal": is_git_s(tree), "files": files}))
    else:
        for line in lines:
            print(f"{line.mode} {line.type} {line.digest}\t{line.quoted()}")
    if not is_git_s(tree):
        print(f"differs: {commit}", file=sys.stderr)
    return 0 if is_git_s(tree) else 1


def is_git_s(tree: Tree) -> bool:
    """Say whether a tree is the one that git says the commit has."""
    return tree.digest() == tree.git


def recorded(running: h.Running) -> Iterator[Told]:
    """Read back what was recorded, in its order."""
    for record in running.log.read():
        if isinstance(record.body, LineBegun | PathsChanged | Committed):
            yield record.body


if __name__ == "__main__":
    sys.exit(main())
