"""The history's command line: `python -m examples.history --help`.

First all commits are put into the log; then it is closed and opened again, and every state is rebuilt from what it says.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import happened as h

from .model import Committed, PathsChanged, history
from .read import BadHistory, Commit, read_file, read_repository
from .rebuild import messages, rebuilt

DIFFERENCES_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 all trees are equal, 1 some differ, 2 asked for what can't be done."""
    asked = the_parser().parse_args(arguments)
    commits = read_file(asked.data) if asked.data else read_repository(asked.repo)
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = asked.log or f"sqlite:///{folder}/history.db"
            record(log, commits)
            count, different = compare(log)
    except (BadHistory, h.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps({"commits": count, "equal": count - len(different)}))
    else:
        print(f"{count:,} commits; the trees of {count - len(different):,} were rebuilt from events and are equal to git's.")
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
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    return parser


def record(log: str, commits: Iterable[Commit]) -> None:
    """Put commits into the log. Those it knows by their hash stay as they are."""
    with history.open(log) as running:
        running.record_all(messages(commits))


def compare(log: str) -> tuple[int, list[str]]:
    """Rebuild every state from the log; return how many there are, and the commits whose tree differs from git's."""
    with history.open(log) as running:
        results = list(rebuilt(recorded(running)))
    return len(results), [result.commit for result in results if not result.equal]


def recorded(running: h.Running) -> Iterator[PathsChanged | Committed]:
    """Read back what was recorded, in its order."""
    for record in running.log.read():
        if isinstance(record.body, PathsChanged | Committed):
            yield record.body


if __name__ == "__main__":
    sys.exit(main())
