"""Out of the log and back into states: record a history, then rebuild from the log alone what each commit looked like."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

import happened as h

from .lines import lines_of
from .model import Committed, LineBegun, PathsChanged, Told, Written
from .read import BadHistory, Commit, path_of
from .tree import EMPTY, Changes, Directory, File, changed, planned

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

SECONDS_MAX = 253_402_300_799
"""The last second of the year 9999, as far as a datetime reaches. Some clocks of authors were further ahead."""

PART_BYTES = 256 * 1024
"""About as much of a commit's changes as one event holds: a quarter of what a record may have."""

CHANGE_BYTES = 100
"""About what a change takes besides its path: mode, hash, and the names of the fields."""


FilesOf: TypeAlias = Callable[[str], Iterable[Written]]


def no_files(commit: str) -> Iterable[Written]:
    """Say that nothing was recorded before."""
    raise BadHistory(f"there is no commit {commit} in the log")


class Rebuilt(NamedTuple):
    """A state, rebuilt from events, and what git says of it."""

    commit: str
    tree: str
    equal: bool


def messages(commits: Sequence[Commit], known: Iterable[Told] = (), files_of: FilesOf = no_files) -> Iterator[h.Message]:
    """Make each commit a fact under its own hash; what it changed beyond the size of one fact goes before it, numbered.

    `known` is what was recorded before, and `files_of` says which files there were as of a commit of that. `BadHistory`, before the first message, for a
    commit that stands before its first parent.
    """
    lines = lines_of(commits, known)
    for commit in commits:
        if commit.number in lines.whole:
            for part, (_, written) in enumerate(portions([], files_of(commit.parents[0]))):
                yield h.Message(
                    LineBegun(commit.number, part, written), id=f"{commit.number}/files/{part}", occurred=moment(commit.authored)
                )
        for fact in facts(commit, lines.of[commit.number]):
            number = commit.number if isinstance(fact, Committed) else f"{commit.number}/{fact.part}"
            yield h.Message(fact, id=number, occurred=moment(commit.authored))


def facts(commit: Commit, line: str) -> Iterator[PathsChanged | Committed]:
    """Tell a commit, on its line, in as many events as it takes: `Committed` last, and in most cases alone."""
    *before, (removed, written) = portions(commit.removed, commit.written)
    for part, changes in enumerate(before):
        yield PathsChanged(commit.number, line, part, *changes)
    yield Committed(commit.number, line, commit.parents, commit.tree, moment(commit.committed), removed, written)


def portions(removed: Iterable[str], written: Iterable[Written]) -> Iterator[tuple[tuple[str, ...], tuple[Written, ...]]]:
    """Portion changes out so that an event can hold each portion; the last one may be empty."""
    gone: list[str] = []
    there: list[Written] = []
    room = PART_BYTES
    for change in itertools.chain[str | Written](removed, written):
        path = change if isinstance(change, str) else change.path
        room -= len(path.encode()) + CHANGE_BYTES
        if room < 0:
            yield tuple(gone), tuple(there)
            gone, there, room = [], [], PART_BYTES
        if isinstance(change, str):
            gone.append(change)
        else:
            there.append(change)
    yield tuple(gone), tuple(there)


def moment(seconds: int) -> datetime:
    """Return seconds since 1970 as a time."""
    return EPOCH + timedelta(seconds=min(max(seconds, 0), SECONDS_MAX))


def rebuilt(events: Iterable[Told]) -> Iterator[Rebuilt]:
    """Rebuild the state after each commit, in the log's order, and compare it with git's own id of its tree.

    All states are kept, since any of them may be the first parent of a commit to come; they share what they have in common.
    """
    states: dict[str, Directory] = {}
    told: defaultdict[str, list[PathsChanged | Committed]] = defaultdict(list)
    for event in events:
        if isinstance(event, LineBegun):
            continue  # it says again what was told before
        told[event.commit].append(event)
        if isinstance(event, Committed):
            before = states[event.parents[0]] if event.parents else EMPTY
            after = changed(before, all_changes(told.pop(event.commit)))
            states[event.commit] = after
            tree = after.digest(len(event.tree) // 2).hex()
            yield Rebuilt(event.commit, tree, tree == event.tree)


def all_changes(told: Sequence[PathsChanged | Committed]) -> Changes:
    """Put together what the events of one commit say."""
    removed = (path_of(path) for event in told for path in event.removed)
    written = (
        (path_of(one.path), File(one.mode.lstrip("0").encode(), bytes.fromhex(one.digest))) for event in told for one in event.written
    )
    return planned(removed, written)
