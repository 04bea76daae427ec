"""The views' file: tables of rows, with the checkpoint, the owner's epoch and what is stuck in the same transactions.

By default it lies beside the log, with `synchronous=NORMAL`: what it loses is folded again. All of it can be deleted without loss.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar  # Any: values of any column

from happened.core.errors import Broken, Closed, Error, Forked, Invalid, StoreFailed
from happened.shelf.connection import BUSY_SECONDS, Connection, Tabled, as_shown
from happened.shelf.dialect import SQLITE, SqliteDialect, quoted

DDL = (
    """create table if not exists _view(
    name text not null, fingerprint text not null, generation integer not null, made integer not null,
    log text not null, epoch integer not null, position integer not null, digest blob not null,
    owner integer not null, ready integer not null, broken text, primary key(name, fingerprint, generation)) without rowid""",
    """create table if not exists _stuck(
    name text not null, fingerprint text not null, generation integer not null, key text not null, position integer not null, error text not null,
    primary key(name, fingerprint, generation, key)) without rowid""",
    """create table if not exists _shown(
    name text not null, fingerprint text not null, generation integer not null, tally blob not null,
    primary key(name, fingerprint, generation)) without rowid""",
    """create table if not exists _begun(
    name text not null, fingerprint text not null, generation integer not null, erased integer not null,
    primary key(name, fingerprint, generation)) without rowid""",
)

COLUMNS = ["name", "fingerprint", "generation", "made", "log", "epoch", "position", "digest", "owner", "ready", "broken"]
"""The columns of `_view`: what a file of another release may not have."""

A = TypeVar("A")

LOG, RECORD = "log", "record"
"""A table that the file of a log has, and the view by which people read it."""

OURS = ("_", "sqlite_")
"""What the names of tables in a file of views start with."""

ASKING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
"""All that a query may do."""


class ViewsFile:
    """One SQLite file of views: one connection writes, readers take one from a pool. In memory all share one.

    `log` is the path of the log: views may lie in its file too, but in no other file that holds something else. `ddl` makes what its user needs beside.
    """

    dialect: SqliteDialect = SQLITE

    def __init__(self, url: str, log: str | None, *, ddl: Sequence[str] = ()) -> None:
        self._ddl = (*DDL, *ddl)
        self.path = _path_in(url)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed = False
        self.writer = self._opened(log)
        self.place = f"{Path(self.path).stat().st_ino:x}" if self.path is not None else ""
        """What tells this file from others that hold views of the same log."""

    @property
    def said(self) -> str:
        """The path of the file."""
        return self.path or "memory"

    @property
    def shared(self) -> bool:
        """Whether it is a file, which other processes may have open."""
        return self.path is not None

    @property
    def at_hand(self) -> bool:
        """Whether it is a file: those who read one wait for nobody. In memory they wait for who writes."""
        return self.path is not None

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Write in one transaction, or not at all."""
        with self._lock:
            self._check()
            try:
                self.writer.execute("begin immediate")
                try:
                    yield self.writer
                    self.writer.execute("commit")
                except BaseException:
                    if self.writer.in_transaction:
                        self.writer.execute("rollback")
                    raise
            except sqlite3.Error as error:
                raise self._said(error) from error

    def forget(self, log: str, erased: int) -> None:
        """Do what `forget_rows` does with a file, where this is none: nobody else can."""
        if self.path is None:
            with self.transaction() as connection:
                empty(connection, log, erased)

    @contextlib.contextmanager
    def reader(self) -> Generator[sqlite3.Connection]:
        """Read on a connection that can't write."""
        self._check()
        try:
            if self.path is None:
                with self._lock:
                    self._check()
                    yield self.writer
                return
            with self._pooled() as reader:
                yield reader
        except sqlite3.Error as error:
            raise self._said(error) from error

    @contextlib.contextmanager
    def snapshot(self) -> Generator[sqlite3.Connection]:
        """Read in one transaction: whatever is asked is as of one moment."""
        with self.reader() as reader:
            reader.execute("savepoint asked")
            try:
                yield reader
            finally:
                reader.execute("release asked")

    def asked(self, ask: Callable[[Connection], A], tables: Sequence[str] = ()) -> A:
        """Let a function read as of one moment."""
        with self.snapshot() as reader:
            return ask(reader)

    @contextlib.contextmanager
    def guarded(self, tables: Sequence[str] = ()) -> "Generator[Guarded]":
        """Read in one transaction for somebody whose query is not ours: on a connection of its own, which is closed afterwards."""
        self._check()
        with contextlib.ExitStack() as last_first:
            if self.path is None:
                last_first.enter_context(self._lock)
                self._check()
                guarded = self.writer
                last_first.callback(guarded.set_authorizer, None)
            else:
                guarded = sqlite3.connect(
                    f"{Path(self.path).absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
                )
                last_first.callback(guarded.close)
                guarded.execute("pragma temp_store=memory")
                guarded.execute("begin")
            # SQLite sets these two up at their first use, which is then no query.
            guarded.execute("select 1 from json_each('[]')").fetchall()
            guarded.execute("select 1 from json_tree('[]')").fetchall()
            yield Guarded(guarded, beside=self.path is not None)

    def is_taken(self, connection: Connection, name: str) -> bool:
        """Say whether no view can have this name, in whichever case."""
        tables = [found.lower() for (found,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return name.lower() in tables or (name.lower() == RECORD and LOG in tables)

    def tables(self, connection: Connection, tag: str) -> list[str]:
        """Return the names of the tables that end with a tag."""
        tagged = connection.execute("select name from sqlite_master where type = 'table' and substr(name, -length(?)) = ?", (tag, tag))
        return [name for (name,) in tagged]

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._closed = True
            if self._pid == os.getpid():
                while self._readers:
                    self._readers.pop().close()
                self.writer.close()

    @contextlib.contextmanager
    def _pooled(self) -> Generator[sqlite3.Connection]:
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self._connect()
            reader.execute("pragma query_only=on")
        try:
            yield reader
        finally:
            if self._closed:
                reader.close()
            else:
                self._readers.append(reader)

    def _opened(self, log: str | None) -> sqlite3.Connection:
        """Open the file, make what is missing in it. `Invalid` for a file of something else, `Broken` for a damaged one."""
        try:
            connection = self._connect()
            try:
                self._check_holds_views(connection, log)
                connection.execute("begin immediate")
                for statement in self._ddl:
                    connection.execute(statement)
                connection.execute("commit")
            except BaseException:
                connection.close()
                raise
        except sqlite3.OperationalError as error:
            raise Invalid(f"{self.path} can't be opened as a file of views: {error}", path=self.path) from error
        except sqlite3.DatabaseError as error:
            raise self._said(error) from error
        return connection

    def _check_holds_views(self, connection: sqlite3.Connection, log: str | None) -> None:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table' order by name")]
        others = [name for name in tables if not name.startswith(OURS)]
        if others and not (self.path is not None and log is not None and Path(log).exists() and Path(self.path).samefile(log)):
            raise Invalid(
                f"{self.path} holds something else than views ({', '.join(others)}): views need a file of their own, or the one of their own log",
                path=self.path,
                tables=others,
            )
        columns = [column for _, column, *_ in connection.execute("pragma table_info(_view)")]
        if columns and columns != COLUMNS:
            raise Invalid(
                f"{self.path} was written by another release of `happened`. Delete it: it is rebuilt", path=self.path, columns=columns
            )

    def _said(self, error: sqlite3.Error) -> Error:
        """Return what SQLite's error means to who uses views."""
        if self._closed:
            return Closed("the views are closed")
        if type(error) is sqlite3.DatabaseError:  # its subclasses are of values, of statements, of what may pass
            return Broken(
                f"{self.path} is no SQLite file, or a damaged one: {error}. If it held views, delete it: it is rebuilt",
                path=self.path,
                error=str(error),
            )
        return StoreFailed(f"the views in {self.path or 'memory'} can't be read or written: {error}", path=self.path, error=str(error))

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise Forked("these views were opened before a fork: open the app in the child process")
        if self._closed:
            raise Closed("the views are closed")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        if self.path is not None:
            try:
                _set_wal(connection)
                connection.execute("pragma synchronous=normal")
            except BaseException:
                connection.close()
                raise
        return connection


class Guarded:
    """One read transaction that ends with somebody's query."""

    def __init__(self, connection: sqlite3.Connection, *, beside: bool) -> None:
        self.connection = connection
        self._beside = beside
        """Other processes may have put a table of other code under a view's name."""

    def query(self, text: str, params: Sequence[Any], views: Mapping[str, Tabled | None]) -> list[tuple[Any, ...]]:
        """Close the door, and answer a query: from here on nothing else can be run, and nothing read of what is hidden."""
        if self._beside:
            for name, table in views.items():
                if table is not None:
                    self.connection.execute(f"create temporary view {quoted(name)} as {table.shown}")

        def allowed(action: int, _one: str | None, _two: str | None, _database: str | None, view: str | None) -> int:
            return (
                sqlite3.SQLITE_OK
                if action in ASKING and (view is None or view not in views or views[view] is not None)
                else sqlite3.SQLITE_DENY
            )

        self.connection.set_authorizer(allowed)
        return self.connection.execute(text, params).fetchall()


def _set_wal(connection: sqlite3.Connection) -> None:
    """Set the journal's mode. Where two processes make a new file at once SQLite does not wait by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("pragma journal_mode=wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _path_in(url: str) -> str | None:
    """Return the path that a URL names, `None` for memory."""
    if url in ("memory:", "memory://"):
        return None
    path = url.removeprefix("sqlite:///")
    if path == url or path in ("", ":memory:"):
        shown = as_shown(url)
        raise Invalid(f"`{shown}` names no place for views: write memory: or sqlite:///path", url=shown)
    return path


class FileLook:
    """A file of views that is only looked at. `Invalid` where it holds none of this release. Close it when done."""

    dialect: SqliteDialect = SQLITE

    def __init__(self, path: str) -> None:
        self.said = path
        self._connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            if self.columns(self._connection, "_view") != COLUMNS:
                raise Invalid(f"{path} holds no views of this release", path=path)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def moment(self) -> Generator[sqlite3.Connection]:
        """Read as of one moment."""
        self._connection.execute("begin")
        try:
            yield self._connection
        finally:
            if self._connection.in_transaction:  # a device that failed has ended it: that is what is to be said
                self._connection.execute("rollback")

    def columns(self, connection: Connection, table: str) -> list[str]:
        """Return the columns of a table."""
        return [column for _, column, *_ in connection.execute(f"pragma table_info({quoted(table)})")]

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()


def forget_rows(path: str, log: str, erased: int) -> bool:
    """Empty all views of a log that lie in a file, and take what they held out of its bytes. Say whether that could be done.

    Whoever follows them finds them at position 0 and folds them anew; until they are whole again they are not answered from. The bytes stay while another
    process reads; calling it again does the rest.
    """
    if not Path(path).is_file():
        return True
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        if "_view" not in _tables_in(connection):
            return True
        connection.execute("pragma secure_delete=on")
        for statement in DDL:
            connection.execute(statement)
        connection.execute("begin immediate")
        empty(connection, log, erased)
        connection.execute("commit")
        return scrubbed(connection)
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def empty(connection: sqlite3.Connection, log: str, erased: int) -> None:
    """Empty, in the open transaction, all views of a log that were begun before an erasure; they are begun anew."""
    tables = _tables_in(connection)
    for tag in begun_anew(connection, log, erased):
        for table in tables:
            if table.endswith(f"_{tag}"):
                connection.execute(f"delete from {quoted(table)}")  # noqa: S608 - a table of ours


def _tables_in(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]


def begun_anew(connection: Connection, log: str, erased: int) -> list[str]:
    """Set back, in the open transaction, all views of a log that were begun before an erasure; return what their tables end with, which are to be emptied."""
    begun = connection.execute(
        "select name, fingerprint, generation from _view left join _begun using (name, fingerprint, generation) "
        "where log = ? and coalesce(erased, 0) < ?",
        (log, erased),
    ).fetchall()
    for identity in begun:
        for table in ("_stuck", "_shown", "_begun"):
            connection.execute(f"delete from {table} where name = ? and fingerprint = ? and generation = ?", identity)  # noqa: S608 - constants
        connection.execute(
            "update _view set position = 0, digest = ?, ready = 0, owner = -1, broken = null where name = ? and fingerprint = ? and generation = ?",
            (bytes(32), *identity),
        )
        connection.execute("insert into _begun(name, fingerprint, generation, erased) values(?, ?, ?, ?)", (*identity, erased))
    return [tag_of(fingerprint, generation) for _, fingerprint, generation in begun]


def tag_of(fingerprint: str, generation: int) -> str:
    """Return what the names of the tables of a view end with, in a generation of its code."""
    return f"{fingerprint[:6]}{generation % 100:02d}"


def scrubbed(connection: sqlite3.Connection) -> bool:
    """Write a file anew without what was deleted in it, and empty its WAL. Say whether that could be done: not while somebody reads."""
    try:
        connection.execute("vacuum")
        [(busy, _, _)] = connection.execute("pragma wal_checkpoint(truncate)")
    except sqlite3.OperationalError:
        return False
    return not busy
