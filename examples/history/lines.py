"""Which line each commit lies on: the choice that keeps every commit few forks away from a root.

Of the children of a commit that one goes on with its line that most commits come after. So a line that forks has at most half of the commits before it
on its side: a history of a million commits, recorded at once, has at most 20 forks from any commit back to its root, and most have one or two.

A line that was recorded stays as it is, and nobody knows what will come after a commit. So in a repository that is recorded again and again there is fork
upon fork. Where they are too many a line begins with all files, and needs none before it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .model import Committed, LineBegun, Told
from .read import BadHistory, Commit

FORKS_MAX = 16
"""Forks from a line back to a root, or to one with all files; then one that goes out from a recorded commit begins with all files."""


class Lines(NamedTuple):
    """The line of each commit; and those lines that begin with all files as of the first parent of their first commit."""

    of: dict[str, str]
    whole: set[str]


def lines_of(commits: Sequence[Commit], known: Iterable[Told] = ()) -> Lines:
    """Choose lines. `known` is what was recorded before, in its order. `BadHistory` for a commit that stands before its first parent."""
    lines: dict[str, str] = {}
    tips: dict[str, str] = {}
    forks: dict[str, int] = {}
    for event in known:
        if isinstance(event, LineBegun):
            forks[event.line] = 0
            continue
        lines[event.commit] = event.line
        tips[event.line] = event.commit  # also where only a part of it was recorded: nobody else may go on there
        if isinstance(event, Committed) and event.line not in forks:
            forks[event.line] = forks[lines[event.parents[0]]] + 1 if event.parents else 0
    recorded = set(lines)
    whole: set[str] = set()
    heirs = heirs_of(commits)
    for commit in commits:
        [parent] = commit.parents[:1] or [""]
        if parent and parent not in lines:
            raise BadHistory(f"commit {commit.number} stands before its first parent, {parent}, or that one is missing")
        if commit.number in lines:
            continue
        line = lines[parent] if parent and heirs[parent] == commit.number and tips[lines[parent]] == parent else commit.number
        if line == commit.number:
            forks[line] = forks[lines[parent]] + 1 if parent else 0
            if forks[line] > FORKS_MAX and parent in recorded:
                whole.add(line)
                forks[line] = 0
        lines[commit.number] = line
        tips[line] = commit.number
    return Lines(lines, whole)


def heirs_of(commits: Sequence[Commit]) -> dict[str, str]:
    """Return for each commit its last child of those that most commits come after, along first parents: a merge stands after what it merges."""
    weights: Counter[str] = Counter()
    heirs: dict[str, str] = {}
    for commit in reversed(commits):
        weights[commit.number] += 1
        for parent in commit.parents[:1]:
            weights[parent] += weights[commit.number]
            if parent not in heirs or weights[commit.number] > weights[heirs[parent]]:
                heirs[parent] = commit.number
    return heirs
