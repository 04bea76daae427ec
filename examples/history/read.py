"""Where histories come from: any git repository on this machine, or a file with a JSON object for each commit, also compressed by gzip.

Git is asked with its plumbing commands, which no user's settings change: `rev-list` for the commits, parents first, and one `diff-tree` for what each of
them changed against its first parent. Only names, modes and hashes are read, no contents.
"""

import gzip
import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from .model import Written

GZIP_MAGIC = b"\x1f\x8b"

READ_BYTES = 1 << 16

DIFF_TREE = ("diff-tree", "--stdin", "-z", "-r", "--root", "--raw", "--no-renames", "--no-abbrev", "--always")
"""Asks for all changed files of commits, also where there are none; answers with the commit, then mode, digest and status and the path of each."""


class Commit(NamedTuple):
    """A commit and what it changed against its first parent. Its number is its hash; times are seconds since 1970."""

    number: str
    parents: tuple[str, ...]
    tree: str
    authored: int
    committed: int
    removed: Sequence[str]
    written: Sequence[Written]


class BadHistory(Exception):
    """The repository or file can't be read, or does not hold a whole history. The text says what to do."""


# --- from a repository ------------------------------------------------------------------------------------------------------


def read_repository(folder: Path) -> Iterator[Commit]:
    """Read all commits that any branch or tag of the repository leads to, parents first. `BadHistory` if it is none, is empty, or is shallow."""
    if asked(folder, "rev-parse", "--is-shallow-repository").strip() != b"false":
        raise BadHistory(f"{folder} is a shallow clone: it lacks commits that its files come from. Get them with `git fetch --unshallow`")
    told = asked(folder, "rev-list", "--all", "--topo-order", "--reverse", "--format=%H %T %at %ct %P").decode().splitlines()
    commits = [line for line in told if not line.startswith("commit ")]  # a header that only newer versions of git can leave out
    if not commits:
        raise BadHistory(f"{folder} has no commits yet")
    tokens = streamed(folder, *DIFF_TREE, lines=map(compared, commits))
    header = next(tokens, b"")
    for commit in commits:
        number, tree, authored, committed, *parents = commit.split()
        assert header == number.encode(), f"git told of {header!r} when it was asked for {number}"
        removed: list[str] = []
        written: list[Written] = []
        for token in tokens:
            if not token.startswith(b":"):
                header = token
                break
            _, mode, _, after, status = token.decode().split()
            path = text_of(next(tokens))
            if status == "D":
                removed.append(path)
            else:
                written.append(Written(path, mode, after))
        yield Commit(number, tuple(parents), tree, int(authored), int(committed), removed, written)


def the_commit(folder: Path, name: str) -> str:
    """Return the hash of the commit that a name means in a repository: a hash, the beginning of one, a branch, a tag, `HEAD~3`. `BadHistory` if none."""
    try:
        return asked(folder, "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}").decode().strip()
    except BadHistory as error:
        raise BadHistory(f"{folder} has no commit that is called {name!r}, or several") from error


def compared(commit: str) -> str:
    """Return what `diff-tree` is asked: the commit and its first parent, which is then the only one it compares with."""
    number, _, _, _, *parents = commit.split()
    return " ".join((number, *parents[:1]))


def asked(folder: Path, *arguments: str) -> bytes:
    """Run git and return what it answers. `BadHistory` with its own words if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=environment(), capture_output=True, check=False)
    except OSError as error:
        raise BadHistory(f"git can't be run: {error}") from error
    if done.returncode:
        raise BadHistory(f"{folder}: git says: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def streamed(folder: Path, *arguments: str, lines: Iterable[str]) -> Iterator[bytes]:
    """Run git on lines of input; yield what it answers up to each zero byte, while it is still running. `BadHistory` with its own words if it fails.

    The input is a file, so that nobody has to write and read at the same time.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
        given.writelines(f"{line}\n".encode() for line in lines)
        given.seek(0)
        with subprocess.Popen(
            ["git", "-C", str(folder), *arguments], env=environment(), stdin=given, stdout=subprocess.PIPE, stderr=complaints
        ) as process:
            assert process.stdout is not None, "it is a pipe"
            rest = b""
            try:
                while read := process.stdout.read(READ_BYTES):
                    *tokens, rest = (rest + read).split(b"\0")
                    yield from tokens
            except GeneratorExit:
                process.kill()  # nobody listens any more
                raise
        if process.returncode:
            complaints.seek(0)
            raise BadHistory(f"{folder}: git says: {complaints.read().decode(errors='replace').strip()}")


def environment() -> dict[str, str]:
    """Return this process's environment without what would lead git to another repository than the one asked for, or change its history."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return own | {"GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"}


# --- from a file ------------------------------------------------------------------------------------------------------------


Id = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]

MODE_AND_DIGEST = re.compile(r"[0-7]{5,6} ([0-9a-f]{40}|[0-9a-f]{64})")


class Told(msgspec.Struct, frozen=True):
    """A commit as a line of the file has it; `ch` has status, path, mode and digest of each change, or only the first two where the status is D."""

    c: Id
    p: tuple[Id, ...]
    tree: Id
    at: int
    ct: int
    ch: list[tuple[str, ...]]


def read_file(path: Path) -> Iterator[Commit]:
    """Read the commits in the file's order. `BadHistory` for a file or a line that can't be read."""
    decode = msgspec.json.Decoder(Told).decode
    try:
        with opened(path) as file:
            for count, text in enumerate(file, start=1):
                try:
                    told = decode(text)
                    removed, written = told_changes(told.ch)
                except ValueError as error:
                    raise BadHistory(f"{path}, line {count}: {error}") from error
                yield Commit(told.c, told.p, told.tree, told.at, told.ct, removed, written)
    except (OSError, EOFError, zlib.error) as error:
        raise BadHistory(f"{path} can't be read: {error}") from error


def told_changes(changes: Iterable[tuple[str, ...]]) -> tuple[list[str], list[Written]]:
    """Sort changes into what is gone and what is there now. `ValueError` for one that says neither."""
    removed: list[str] = []
    written: list[Written] = []
    for change in changes:
        match change:
            case ("D", path):
                removed.append(path)
            case (_, path, mode, digest) if MODE_AND_DIGEST.fullmatch(f"{mode} {digest}"):
                written.append(Written(path, mode, digest))
            case _:
                raise ValueError(f"a change says neither that a path is gone nor what it is now: {change}")
    return removed, written


def opened(path: Path) -> BinaryIO:
    """Open the file, whether compressed or not."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path, "rb")) if compressed else path.open("rb")  # cast: a GzipFile is a BinaryIO in all but name


# --- paths ------------------------------------------------------------------------------------------------------------------


def text_of(path: bytes) -> str:
    """Return a path as text: itself where it is UTF-8, else percent-encoded behind a slash, with which no path in git begins."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return f"/{quote_from_bytes(path)}"


def path_of(text: str) -> bytes:
    """Return the path that `text_of` made text of."""
    return unquote_to_bytes(text[1:]) if text.startswith("/") else text.encode()
