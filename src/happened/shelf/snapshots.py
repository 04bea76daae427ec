"""The snapshots' file: states as bytes, in chunks, each set of chunks with all that says what it is of.

It lies beside the log and is made with the first snapshot. All of it can be deleted without loss. A snapshot is seen only when the last of its chunks is
written, and each chunk is written by itself, so that a reader never waits for more than one.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any  # Any: the columns of a row

import msgspec

from happened.core.errors import Broken, Closed, StoreFailed
from happened.shelf.connection import Answer

DDL = (
    """create table if not exists _snapshot(
    id integer primary key autoincrement, name text not null, fingerprint text not null, log text not null, epoch integer not null,
    position integer not null, digest blob not null, states integer not null, chunks integer not null, bytes integer not null,
    seconds real not null, whole integer not null default 0)""",
    "create table if not exists _chunk(snapshot integer not null, n integer not null, body blob not null, primary key(snapshot, n))",
)
"""No id is given twice: whoever knows a snapshot that was dropped since must not take the chunks of another one for its own.

Chunks have rowids: without, SQLite reads the body of each chunk that it passes on its way to one.
"""

BUSY_SECONDS = 10

CHECKPOINT_PAGES = 100
"""Pages that are taken into the file and synced at once: a commit of the log that comes then waits for them on the same disk, 20 ms for 1,000."""

ABOUT = "id, name, fingerprint, log, epoch, position, digest, states, chunks, bytes, seconds"


class Kept(msgspec.Struct, frozen=True):
    """What is said of a snapshot."""

    id: int
    name: str
    fingerprint: str
    log: str
    epoch: int
    position: int
    digest: bytes
    states: int
    chunks: int
    bytes: int
    seconds: float
    """How long it took to write."""


def forget_snapshots(path: str | None) -> bool:
    """Take all snapshots out of a file, and their bytes; say whether that could be done now. Nothing is lost but time."""
    if path is None or not Path(path).exists():
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            _make(connection)
            for statement in ("delete from _chunk", "delete from _snapshot", "vacuum"):
                connection.execute(statement)
            [(busy, _, _)] = connection.execute("pragma wal_checkpoint(truncate)")
    except sqlite3.OperationalError:  # somebody is reading: it is done later
        return False
    return not busy


def _make(connection: sqlite3.Connection) -> None:
    """Make the tables, if they are not there as they are made today."""
    for statement in DDL:
        connection.execute(statement)
    if _earlier(connection):
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError:  # whoever may only read gives no ids
            return
        for table, made in _earlier(connection):  # unless somebody else was quicker
            connection.execute(f"alter table {table} rename to _earlier")
            connection.execute(made)
            connection.execute(f"insert into {table} select * from _earlier")  # noqa: S608 - one of two names
            connection.execute("drop table _earlier")
        connection.execute("commit")


def _earlier(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return the tables that earlier code has made, with what makes them today: one gave ids again, the other had no rowids."""
    made: dict[str, str] = dict(connection.execute("select name, sql from sqlite_master where type = 'table'"))
    given, chunks = DDL
    found = [("_snapshot", given)] if "autoincrement" not in made["_snapshot"] else []
    return [*found, ("_chunk", chunks)] if "without rowid" in made["_chunk"] else found


class SnapshotsFile:
    """One SQLite file of snapshots. Every method may be called from any thread. Without a path it is in memory."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    def listed(self) -> list[Kept]:
        """Return all snapshots, by name and position."""
        return [Kept(*row) for row in self._asked(f"select {ABOUT} from _snapshot where whole = 1 order by name, position, id")]  # noqa: S608 - a constant

    def put(self, about: Kept, chunks: Iterable[bytes]) -> int:
        """Write a snapshot; return its id. What `about` says of its id, its chunks and its bytes is found here."""
        with self._lock:
            found: list[tuple[int]] = self._run(
                "insert into _snapshot(name, fingerprint, log, epoch, position, digest, states, chunks, bytes, seconds) "
                "values(?, ?, ?, ?, ?, ?, ?, 0, 0, 0) returning id",
                (about.name, about.fingerprint, about.log, about.epoch, about.position, about.digest, about.states),
            ).fetchall()
            made = found[0][0]
        count = size = 0
        try:
            for body in chunks:
                self._run("insert into _chunk(snapshot, n, body) values(?, ?, ?)", (made, count, body))
                count += 1
                size += len(body)
        except BaseException:
            self.drop([made])
            raise
        self._run("update _snapshot set chunks = ?, bytes = ?, whole = 1 where id = ?", (count, size, made))
        return made

    def timed(self, id: int, seconds: float) -> None:
        """Note how long it took to write one."""
        self._run("update _snapshot set seconds = ? where id = ?", (seconds, id))

    def chunk(self, id: int, n: int) -> bytes | None:
        """Return one chunk of a snapshot, `None` where it is not there any more."""
        found = self._asked("select body from _chunk where snapshot = ? and n = ?", (id, n))
        return found[0][0] if found else None

    def chunks(self, about: Kept) -> Iterator[bytes | None]:
        """Yield all chunks of a snapshot, in order."""
        for n in range(about.chunks):
            yield self.chunk(about.id, n)

    def drop(self, ids: Iterable[int]) -> None:
        """Delete snapshots, also those that were never whole."""
        for one in ids:
            self._run("delete from _snapshot where id = ?", (one,))
            self._run("delete from _chunk where snapshot = ?", (one,))

    def unfinished(self) -> list[int]:
        """Return those that somebody has begun and not finished: who was killed, or is still at it."""
        return [one for (one,) in self._asked("select id from _snapshot where whole = 0")]

    def close(self) -> None:
        """Give the file back. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _asked(self, query: str, params: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        if self._connection is None and (self.path is None or not Path(self.path).exists()):
            return []
        with self._lock:
            return self._run(query, params).fetchall()

    def _run(self, statement: str, params: tuple[object, ...] = ()) -> Answer:
        with self._lock:
            if self._closed:
                raise Closed("the snapshots are closed")
            try:
                if self._connection is None:
                    self._connection = self._opened()
                return self._connection.execute(statement, params)
            except sqlite3.OperationalError as error:
                raise StoreFailed(f"the snapshots in {self.path or 'memory'} can't be read or written: {error}", path=self.path) from error
            except sqlite3.DatabaseError as error:
                raise Broken(
                    f"{self.path} is no file of snapshots, or a damaged one: {error}. Delete it: nothing is lost", path=self.path
                ) from error

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma synchronous=normal")
            connection.execute(f"pragma wal_autocheckpoint={CHECKPOINT_PAGES}")
            _make(connection)
        except BaseException:
            connection.close()
            raise
        return connection
