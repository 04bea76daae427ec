"""The tree as of any commit, through time travel: its line as of when it was recorded, over what that line forked from as of then, back to a root."""

from typing import NamedTuple

import happened as h

from .model import GONE, Committed, Line, Written
from .read import BadHistory, path_of
from .tree import EMPTY, File, changed, planned

REPOSITORY_MODE = "160000"
MODE_DIGITS = 6

SPACE, DELETE = 0x20, 0x7F
SHORT = {ord(raw): f"\\{letter}" for raw, letter in zip('\a\b\t\n\v\f\r"\\', 'abtnvfr"\\', strict=True)}
"""How git shows bytes that have a short form of their own."""


class Tree(NamedTuple):
    """The files of a repository as of a commit: each path with its mode and digest. `git` is the id that git gives it."""

    commit: str
    position: int
    git: str
    files: dict[str, str]

    def digest(self) -> str:
        """Return the id of the tree, made from the files as git makes it."""
        written = [(path_of(path), file_of(told)) for path, told in self.files.items()]
        return changed(EMPTY, planned([], written)).digest(len(self.git) // 2).hex()


def tree_at(running: h.Running, commit: str) -> Tree:
    """Return the tree as of a commit. `BadHistory` for one that is not in the log. Cost: for each fork on the way, the line's events since a snapshot."""
    first = position, committed = found(running, commit)
    lines: list[Line] = []
    while True:
        line = running.at(position).state(Line, line=committed.line)
        assert line is not None, "the commit lies on it"
        lines.append(line)
        if not line.forked_from:
            break
        position, committed = found(running, line.forked_from)
    files: dict[str, str] = {}
    for line in reversed(lines):
        for paths in line.folders.values():
            files.update(paths)
    return Tree(commit, first[0], first[1].tree, {path: told for path, told in files.items() if told != GONE})


class Listed(NamedTuple):
    """A file as `git ls-tree` lists it."""

    mode: str
    type: str
    digest: str
    path: str

    def quoted(self) -> str:
        """Return the path as git shows it: in quotes where it has bytes that a terminal may not show as they are."""
        path = path_of(self.path)
        told = "".join([SHORT.get(byte) or (chr(byte) if SPACE <= byte < DELETE else f"\\{byte:03o}") for byte in path])
        return told if told.encode() == path else f'"{told}"'


def listed(tree: Tree) -> list[Listed]:
    """Return the files of a tree in git's order: by the bytes of their paths."""
    found: list[Listed] = []
    for path in sorted(tree.files, key=path_of):
        mode, digest = tree.files[path].split()
        found.append(Listed(mode.zfill(MODE_DIGITS), "commit" if mode == REPOSITORY_MODE else "blob", digest, path))
    return found


def written(tree: Tree) -> list[Written]:
    """Return the files of a tree as an event tells them, always in the same order."""
    return [Written(path, *tree.files[path].split()) for path in sorted(tree.files)]


def found(running: h.Running, commit: str) -> tuple[int, Committed]:
    """Look a commit up by the index; return where it was recorded, and what."""
    for record in running.log.read(h.query(names=["Committed"], commit=commit)):
        if isinstance(record.body, Committed):
            return record.position, record.body
    raise BadHistory(f"there is no commit {commit} in the log")


def file_of(told: str) -> File:
    """Return a file from its mode and digest."""
    mode, digest = told.split()
    return File(mode.lstrip("0").encode(), bytes.fromhex(digest))
