"""A state of a repository as git sees it: directories in directories, each with a digest over all that lies below.

A `Directory` is never changed: `changed` makes a new one that shares all that stayed the same. So every state of a history can be kept, at the cost of
what each commit changed, and a digest is computed once for each directory that ever was.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

DIRECTORY_MODE = b"40000"


class File(NamedTuple):
    """What stands under a name: a file, a symbolic link or another repository, told apart by the mode; and the digest of what is in it."""

    mode: bytes
    digest: bytes


class Directory:
    """Names and what stands under them. Don't change the entries: they are shared."""

    __slots__ = ("_digest", "entries")

    def __init__(self, entries: "dict[bytes, File | Directory]") -> None:
        self.entries = entries
        self._digest: bytes | None = None

    def digest(self, length: int = 20) -> bytes:
        """Return git's id of this tree: SHA-1, or SHA-256 in repositories whose ids have 32 bytes."""
        if self._digest is None:
            self._digest = digest_of(self.entries, length)
        return self._digest


EMPTY = Directory({})

Changes: TypeAlias = "dict[bytes, File | Changes | None]"
"""What is to change in a directory, by name: a file to write, changes further down, or `None` for what goes."""


def planned(removed: Iterable[bytes], written: Iterable[tuple[bytes, File]]) -> Changes:
    """Order changes of whole paths by directory. What is removed goes first: a directory may take the place of a file, and a file that of a directory."""
    changes: Changes = {}
    for path in removed:
        below, name = reached(changes, path)
        below[name] = None
    for path, file in written:
        below, name = reached(changes, path)
        below[name] = file
    return changes


def reached(changes: Changes, path: bytes) -> tuple[Changes, bytes]:
    """Go down to the directory of a path; return the changes there and the last name."""
    *folders, name = path.split(b"/")
    for folder in folders:
        below = changes.get(folder)
        if not isinstance(below, dict):
            below = changes[folder] = {}
        changes = below
    return changes, name


def changed(directory: Directory, changes: Changes) -> Directory:
    """Return the directory with the changes made. One in which nothing is left is gone, as git keeps no empty ones."""
    entries = dict(directory.entries)
    for name, change in changes.items():
        after: File | Directory | None
        if isinstance(change, dict):
            before = entries.get(name)
            below = changed(before if isinstance(before, Directory) else EMPTY, change)
            after = below if below.entries else None
        else:
            after = change
        if after is None:
            entries.pop(name, None)  # what wasn't there shows in the digest
        else:
            entries[name] = after
    return Directory(entries)


def digest_of(entries: dict[bytes, File | Directory], length: int) -> bytes:
    """Hash a directory as git does: the entries by name, a directory's name counting as if it ended with a slash."""
    told: list[tuple[bytes, bytes]] = []
    for name, entry in entries.items():
        if isinstance(entry, Directory):
            told.append((name + b"/", b"%b %b\0%b" % (DIRECTORY_MODE, name, entry.digest(length))))
        else:
            told.append((name, b"%b %b\0%b" % (entry.mode, name, entry.digest)))
    told.sort()
    body = b"".join([text for _, text in told])
    return hashlib.new("sha1" if length == 20 else "sha256", b"tree %d\0%b" % (len(body), body), usedforsecurity=False).digest()
