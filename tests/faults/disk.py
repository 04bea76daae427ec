"""A disk that can lose its power, fail at a chosen call, or be full: SQLite through a file system that logs what is done to it.

`Disk.connect` takes the place of `sqlite3.connect` while a test records; what is opened afterwards, on what would be left, is opened by the standard library.
The model: what was written after the last sync of a file is kept, dropped or torn, each sector of 512 bytes by itself; so is a change of the file's length.
A strict disk also forgets names that were made or deleted since the folder was last synced. The `-shm` file is never there afterwards.
"""

import contextlib
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self  # Any: what SQLite binds and fetches

import apsw

SECTOR = 512

ERRORS: dict[type[apsw.Error], type[sqlite3.Error]] = {
    apsw.ConstraintError: sqlite3.IntegrityError,
    apsw.CorruptError: sqlite3.DatabaseError,
    apsw.NotADBError: sqlite3.DatabaseError,
}
"""Errors that the standard library raises as others than `OperationalError`."""

SAID = {
    sqlite3.SQLITE_FULL: "database or disk is full",
    sqlite3.SQLITE_IOERR: "disk I/O error",
    sqlite3.SQLITE_CANTOPEN: "unable to open database file",
}
"""SQLite's texts, which apsw leaves out of an error of our own making."""


class Op(NamedTuple):
    """What was done to a file; of `what` "mark" it says what the caller had been told by then."""

    what: str
    file: str
    at: int = 0
    data: bytes = b""


class Disk:
    """What is done to files through the connections it gives out. Calls can be made to fail: `fails` says by which number of SQLite's, 0 for not at all."""

    def __init__(self, *, synchronous: str | None = None) -> None:
        self.ops: list[Op] = []
        self.fails: Callable[[str, str], int] = lambda _call, _file: 0
        self.synchronous = synchronous
        """What every `pragma synchronous` is made to say instead: to show that the disk finds what is not synced."""
        self._lock = threading.RLock()
        self._lengths: dict[str, int] = {}
        self._name = f"disk-{id(self)}"
        self._vfs = _Vfs(self, self._name)

    def connect(self, path: str, *, timeout: float = 5.0, uri: bool = False, **_: object) -> "Connection":
        """Do as `sqlite3.connect` does."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | (apsw.SQLITE_OPEN_URI if uri else 0)
        with raised():
            return Connection(apsw.Connection(path, flags=flags, vfs=self._name), timeout, self.synchronous)

    def mark(self, told: str) -> None:
        """Note that the caller has been told something."""
        with self._lock:
            self.ops.append(Op("mark", told))

    def do(self, op: Op, really: Callable[[], object], call: str) -> None:
        """Do something to a file, and log it in the order in which it is done."""
        with self._lock:
            self.ask(call, op.file)
            self._look_for_growth(op.file)
            really()
            self.ops.append(op)
            before = self._lengths.get(op.file, 0)
            match op.what:
                case "write":
                    self._lengths[op.file] = max(before, op.at + len(op.data))
                case "truncate":
                    self._lengths[op.file] = op.at
                case "create" | "delete":
                    self._lengths[op.file] = 0
                case _:
                    pass

    def ask(self, call: str, file: str) -> None:
        """Fail where a call that changes nothing is to fail."""
        with self._lock:
            if code := self.fails(call, file):
                raise apsw.exception_for(code)

    def _look_for_growth(self, file: str) -> None:
        """See whether the store has grown the WAL by itself, past SQLite: with zeros."""
        if file.endswith("-wal") and Path(file).exists():
            length = Path(file).stat().st_size
            if length > self._lengths.get(file, 0):
                self.ops.append(Op("grow", file, length))
                self._lengths[file] = length


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:  # Any: a text, or apsw's URI
        self._disk = disk
        self._name = "" if name is None else name if isinstance(name, str) else name.filename()
        new = bool(self._name) and not Path(self._name).exists()
        disk.ask("open", self._name)
        super().__init__("", name, flags)
        if new and Path(self._name).exists():
            disk.do(Op("create", self._name), lambda: None, "create")

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.ask("read", self._name)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # Any: a buffer of SQLite
        really = super().xWrite  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - apsw names no type of a buffer
        self._disk.do(Op("write", self._name, offset, bytes(data)), lambda: really(data, offset), "write")

    def xTruncate(self, newsize: int) -> None:
        self._disk.do(Op("truncate", self._name, newsize), lambda: super(_File, self).xTruncate(newsize), "truncate")

    def xSync(self, flags: int) -> None:
        self._disk.do(Op("sync", self._name), lambda: super(_File, self).xSync(flags), "sync")

    def xLock(self, level: int) -> None:
        self._disk.ask("lock", self._name)
        super().xLock(level)

    def xFileSize(self) -> int:
        self._disk.ask("size", self._name)
        return super().xFileSize()


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # Any: a text, or apsw's URI
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.do(Op("delete", filename, int(syncdir)), lambda: super(_Vfs, self).xDelete(filename, syncdir), "delete")


class raised:  # noqa: N801 - used as a function
    """Raise what the standard library would."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, apsw.Error):
            made = ERRORS.get(type(error), sqlite3.OperationalError)(str(error) or SAID.get(getattr(error, "result", 0), "unknown error"))
            made.sqlite_errorcode = getattr(error, "extendedresult", 0) or getattr(error, "result", 0)
            raise made from error


class Cursor:
    """What the standard library's cursor gives, of rows that are all fetched at once."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self.rowcount = -1
        self.lastrowid = 0

    def execute(self, sql: str, parameters: Any = ()) -> Self:
        """Run a statement."""
        inner, asked = self._connection.inner, self._connection.synchronous
        if asked is not None and sql.startswith("pragma synchronous"):
            sql = f"pragma synchronous={asked}"
        with raised():
            self._rows = iter(list(inner.execute(sql, parameters)))
        self.rowcount, self.lastrowid = inner.changes(), inner.last_insert_rowid()
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row."""
        return next(self._rows, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def close(self) -> None:
        """Nothing is left to close."""


class Connection:
    """What the standard library's connection gives of what `happened` uses."""

    def __init__(self, inner: apsw.Connection, timeout: float, synchronous: str | None) -> None:
        self.inner: Any = inner  # Any: its rows and bindings are of any type
        self.synchronous = synchronous
        inner.set_busy_timeout(int(timeout * 1000))

    @property
    def in_transaction(self) -> bool:
        """Say whether a transaction is open."""
        with raised():
            return bool(self.inner.in_transaction)

    def cursor(self) -> Cursor:
        """Return a new cursor."""
        return Cursor(self)

    def execute(self, sql: str, parameters: Any = ()) -> Cursor:
        """Run a statement."""
        return Cursor(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        """Run a statement for each."""
        with raised():
            self.inner.executemany(sql, parameters)

    def executescript(self, sql: str) -> None:
        """Run it to its end."""
        Cursor(self).execute(sql)

    def set_authorizer(self, allowed: Any) -> None:
        """Have each statement asked for."""
        self.inner.authorizer = allowed

    def close(self) -> None:
        """Close it. SQLite says nothing of a last checkpoint that fails: all of it is in the WAL still."""
        with contextlib.suppress(apsw.Error):
            self.inner.close()


class _Inode:
    def __init__(self) -> None:
        self.fresh = True
        self.synced = bytearray()
        self.pending: list[Op] = []

    def content(self, kept: Callable[[], float]) -> bytearray:
        """Return what is there if of each change so much is kept: 1 all of it, 0 nothing, between them a part of a sector."""
        data = bytearray(self.synced)
        for what, _, at, written in self.pending:
            if what == "write":
                start, end = at, at + len(written)
                while start < end:
                    stop = min(end, (start // SECTOR + 1) * SECTOR)
                    until = start + round((stop - start) * kept())
                    if until > start:
                        data.extend(bytes(max(0, until - len(data))))
                        data[start:until] = written[start - at : until - at]
                    start = stop
            elif kept() == 1:
                data.extend(bytes(max(0, at - len(data))))
                if what == "truncate":
                    del data[at:]
        return data


class Platter:
    """What is on a disk after so many of its operations, and what may be left of it if the power goes."""

    def __init__(self) -> None:
        self._now: dict[str, _Inode] = {}
        self._named: dict[str, _Inode] = {}
        """The names that survive for sure."""

    def begin(self, folder: Path) -> None:
        """Begin with what is in a folder: all of it survives."""
        for path in folder.iterdir():
            inode = _Inode()
            inode.fresh, inode.synced = False, bytearray(path.read_bytes())
            self._now[str(path)] = inode
        self._named = dict(self._now)

    def apply(self, op: Op) -> None:
        """Take in one operation."""
        match op.what:
            case "mark":
                pass
            case "create":
                self._now[op.file] = _Inode()
            case "delete":
                self._now.pop(op.file, None)
                if op.at:
                    self._named = dict(self._now)
            case "sync":
                inode = self._now[op.file]
                inode.synced, inode.pending = inode.content(lambda: 1), []
                if inode.fresh and op.file.endswith(("-wal", "-journal")):  # SQLite syncs the folder with the first sync of these
                    self._named = dict(self._now)
                inode.fresh = False
            case _:
                self._now[op.file].pending.append(op)

    def image(self, chance: random.Random, folder: Path, *, strict: bool) -> None:
        """Write into an empty folder what may be left."""
        mode = chance.random()

        def kept() -> float:
            if mode < 0.1:
                return 0
            if mode < 0.2:
                return 1
            return chance.choices((0, 1, chance.random()), (0.3, 0.6, 0.1))[0]

        names = dict(self._now)
        if strict:
            for name in self._now.keys() | self._named.keys():
                if self._now.get(name) is not self._named.get(name):
                    inode = chance.choice((self._now, self._named)).get(name)
                    if inode is None:
                        names.pop(name, None)
                    else:
                        names[name] = inode
        for name in sorted(names):
            (folder / os.path.basename(name)).write_bytes(names[name].content(kept))  # noqa: PTH119 - the name is SQLite's text
