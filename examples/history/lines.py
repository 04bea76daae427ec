"""Which line each commit lies on: the choice that keeps every commit few forks away from a root.

Of the children of a commit that one goes on with its line that most commits come after. So a line that forks has at most half of the commits before it
on its side: a history of a million commits, recorded at once, has at most 20 forks from any commit back to its root, and most have one or two.
A line that was recorded stays as it is. A repository that is recorded anew with every commit may come to more forks, and its past be slower to ask for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from .model import Committed, PathsChanged
from .read import BadHistory, Commit


def lines_of(commits: Sequence[Commit], known: Iterable[PathsChanged | Committed] = ()) -> dict[str, str]:
    """Return the line of each commit, and of each that is known: what was recorded before, in its order.

    `BadHistory` for a commit that stands before its first parent.
    """
    lines: dict[str, str] = {}
    tips: dict[str, str] = {}
    for event in known:
        lines[event.commit] = event.line
        tips[event.line] = event.commit  # also where only a part of it was recorded: nobody else may go on there
    heirs = heirs_of(commits)
    for commit in commits:
        [parent] = commit.parents[:1] or [""]
        if parent and parent not in lines:
            raise BadHistory(f"commit {commit.number} stands before its first parent, {parent}, or that one is missing")
        if commit.number not in lines:
            line = lines[parent] if parent and heirs[parent] == commit.number and tips[lines[parent]] == parent else commit.number
            lines[commit.number] = line
            tips[line] = commit.number
    return lines


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
