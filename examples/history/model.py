"""What the log keeps of a repository: for each commit, what it changed against its first parent, and which tree git says it has.

Nothing is decided here: commits are facts, each under its own id, the commit's hash. So a repository that has grown is simply recorded again: what is
known stays, what is new is added. The state after a commit is that after its first parent with the changes made; where two commits have the same
parent, there are two states, each right in its own line.

An event has a size that one can read at once. A commit that changes thousands of files is told in several: `PathsChanged` as often as it takes, and
`Committed` last.

So that the tree as of a commit can be asked for as any state of the past can, each commit lies on a line. One child of a commit goes on with its line,
each of the others begins a line of its own, which is called by that first commit's hash. `Line` holds what happened on one; what lies before is in the
line that it forked from, as of then. `lines.py` chooses who goes on, `travel.py` puts lines together.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

import happened as h

CommitNo = Annotated[str, h.Tag("commit")]
LineNo = Annotated[str, h.Tag("line")]


class Written(h.Value):
    """A path was added or changed: now it has this mode, and a content with this digest.

    A path is text. Git allows any bytes; what isn't UTF-8 stands here percent-encoded behind a slash, with which no path in git begins.
    """

    path: str
    mode: str
    digest: str


class PathsChanged(h.Event):
    """Some of what a commit changed: it has more than one event should hold."""

    commit: CommitNo
    line: LineNo
    part: int
    removed: tuple[str, ...]
    written: tuple[Written, ...]


class Committed(h.Event):
    """A commit, with what it changed, or with the rest of it. Its `occurred` is the author's time; `committed` is another clock, and may disagree."""

    commit: CommitNo
    line: LineNo
    parents: tuple[str, ...]
    tree: str
    committed: datetime
    removed: tuple[str, ...]
    written: tuple[Written, ...]


class LineBegun(h.Event):
    """All files as of the commit that a line goes out from, in one event or several, where there are too many forks from there to a root."""

    line: LineNo
    part: int
    written: tuple[Written, ...]


Told: TypeAlias = LineBegun | PathsChanged | Committed

GONE = ""


class Line(h.State):
    """What the commits of one line have changed, up to now or to any position of the past.

    `forked_from` is the commit that it goes out from: empty where it begins with a root or with all files, and `None` before its first commit is whole.
    """

    line: LineNo
    forked_from: str | None = None
    folders: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict[str, Mapping[str, str]])
    """By folder, so that a commit copies only those that it changes: each path with its mode and digest, or `GONE`."""

    def evolve(self, event: LineBegun | PathsChanged | Committed) -> "Line":
        forked_from = "" if isinstance(event, LineBegun) else self.forked_from
        folders = dict(self.folders)
        copied: dict[str, dict[str, str]] = {}
        changes = [] if isinstance(event, LineBegun) else [(path, GONE) for path in event.removed]
        changes += [(one.path, f"{one.mode} {one.digest}") for one in event.written]
        for path, after in changes:
            folder = path.rpartition("/")[0]
            paths = copied.get(folder)
            if paths is None:
                paths = folders[folder] = copied[folder] = dict(folders.get(folder, ()))
            if after == GONE and forked_from == "":
                paths.pop(path, None)  # nothing lies before the line that it could hide
            else:
                paths[path] = after
        if forked_from is None and isinstance(event, Committed):
            forked_from = "".join(event.parents[:1])
        return self.but(folders=folders, forked_from=forked_from)


history = h.App("history", records=[LineBegun, PathsChanged, Committed], views=[Line])
