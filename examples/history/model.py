"""What the log keeps of a repository: for each commit, what it changed against its first parent, and which tree git says it has.

Nothing is decided here: commits are facts, each under its own id, the commit's hash. So a repository that has grown is simply recorded again: what is
known stays, what is new is added. The state after a commit is that after its first parent with the changes made; where two commits have the same
parent, there are two states, each right in its own line.

An event has a size that one can read at once. A commit that changes thousands of files is told in several: `PathsChanged` as often as it takes, and
`Committed` last.
"""

from datetime import datetime
from typing import Annotated

import happened as h

CommitNo = Annotated[str, h.Tag("commit")]


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
    part: int
    removed: tuple[str, ...]
    written: tuple[Written, ...]


class Committed(h.Event):
    """A commit, with what it changed, or with the rest of it. Its `occurred` is the author's time; `committed` is another clock, and may disagree."""

    commit: CommitNo
    parents: tuple[str, ...]
    tree: str
    committed: datetime
    removed: tuple[str, ...]
    written: tuple[Written, ...]


history = h.App("history", records=[PathsChanged, Committed])
