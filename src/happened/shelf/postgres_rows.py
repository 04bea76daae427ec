"""Rows in a schema of PostgreSQL: the place of views, of replicas and of snapshots, beside a log or away from it.

Rows, checkpoint and owner's epoch are written in one transaction, one at a time for a schema, as in a file of SQLite. All of it can be deleted without loss.
Values are kept as in SQLite: texts compare by code point, truth is an integer, a number with places is a scaled integer.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar  # Any: values of any column

import psycopg
from psycopg import errors
from psycopg.types.numeric import Int8

from happened.core.errors import Closed, Error, Forked, Invalid, StoreFailed
from happened.shelf.connection import BUSY_SECONDS, Answer, Failed, Gone, Tabled, Unstorable
from happened.shelf.connection import Connection as Runs
from happened.shelf.dialect import quoted
from happened.shelf.rows import COLUMNS, DDL, OURS, begun_anew

A = TypeVar("A")

NAME_BYTES_MAX = 63
"""Bytes of a name in PostgreSQL."""

LISTED_BYTES_MAX, LISTED_CHARACTERS = 1_000, 200
"""How long a key may be in the list of what stands still, whose index takes some 2,700 bytes of a row, and what is left of a longer one."""

KEEP_READERS = 8
"""Connections for readers that are kept open. More are made where more read at once, and given back after."""

ASKED_MAX = 5
"""How often a table may be dropped under the hands of who reads."""

STALLED_SECONDS = 300
"""How long a process may hold the lock of writers and do nothing before the server takes it away."""

TYPES = {"integer": "bigint", "real": "double precision", "blob": "bytea", "text": 'text collate "C"'}
"""What SQLite's types are called here."""

ARRAYS = {"integer": "bigint[]", "real": "double precision[]", "blob": "bytea[]", "text": "text[]"}

OF_VALUES = (
    errors.DataError,
    errors.ProgramLimitExceeded,
    errors.UndefinedFunction,
    errors.DatatypeMismatch,
    errors.AmbiguousFunction,
    errors.IndeterminateDatatype,
    errors.CannotCoerce,
)
"""Errors that are of a value, or of what is calculated with it: out of range, no text, too long for an index, text beside a number."""

NO_NUL = "PostgreSQL text fields cannot contain NUL (0x00) bytes"
"""What the driver says of one."""

NO_MARK = "''"

MADE = re.compile(r"create table if not exists (\w+)")

MARKS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\?""")


class Where(Protocol):
    """Where the schema is, and how to connect."""

    @property
    def schema(self) -> str:
        """The name of the schema."""
        ...

    @property
    def said(self) -> str:
        """The URL as it may be shown to people."""
        ...

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect."""
        ...

    def trouble(self, error: psycopg.Error, what: str) -> Invalid | StoreFailed:
        """Return what it means that opening failed: whether it may help to try again."""
        ...


@lru_cache(1000)
def numbered(statement: str) -> bytes:
    """Return a statement with `$1`, `$2` for its `?`, but for those in texts and names."""
    count = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal count
        if found.group() != "?":
            return found.group()
        count += 1
        return f"${count}"

    return MARKS.sub(mark, statement).encode()


class Session:
    """A connection of psycopg that acts as one of SQLite's does."""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.raw = raw

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, also one that can only be rolled back."""
        return self.raw.pgconn.transaction_status in (psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR)

    @property
    def idle(self) -> bool:
        """Whether it can be used by the next: it is open, and no transaction is, nor a statement on its way."""
        return self.raw.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE

    def execute(self, statement: str, params: Sequence[Any] = (), /) -> Answer:
        """Run a statement. `Failed` or `Unstorable`."""
        return self.run(numbered(statement), params)

    def run(self, statement: bytes, params: Sequence[Any] = ()) -> Answer:
        """Run a statement with `$1` for its values."""
        # Of an integer the driver would say 16 or 32 bits where they are enough, and what is calculated with it would not fit.
        values = [Int8(value) if isinstance(value, int) else value for value in params]
        try:
            return psycopg.RawCursor(self.raw).execute(statement, values or None, prepare=False)
        except psycopg.Error as error:
            raise meant(error) from error

    def executemany(self, statement: str, params: Iterable[Sequence[Any]], /) -> Answer:
        """Run a statement once for each of these values: for few of them."""
        cursor = psycopg.RawCursor(self.raw)
        rows = [tuple(values) for values in params]
        try:
            cursor.executemany(numbered(statement), rows)
        except psycopg.Error as error:
            raise meant(error) from error
        return cursor


def meant(error: psycopg.Error) -> Failed | Unstorable:
    """Return what an error of the driver means: it is of a value, or of the database."""
    said = " ".join(str(error).split())
    if isinstance(error, OF_VALUES):
        return Unstorable(said)
    return Gone(said) if isinstance(error, errors.UndefinedTable) else Failed(said)


class PostgresDialect:
    """The words of PostgreSQL."""

    depth_max = 1_000
    """It takes many more."""

    def ddl(self, statement: str) -> str:
        """Return a statement that makes a table with the types of this database."""
        told = re.sub(r"\)\s*without rowid\s*$", ")", statement.strip())
        words = re.compile(r'"(?:[^"]|"")*"|\b(integer|real|blob|text)\b')
        return words.sub(lambda found: TYPES[found.group(1)] if found.group(1) else found.group(), told)

    def name(self, text: str) -> str:
        """Return a name; one that is too long keeps its beginning and its end, with a digest between them."""
        if len(text.encode()) <= NAME_BYTES_MAX:
            return text
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        begin, end = text.encode()[:36].decode(errors="ignore"), text.encode()[-12:].decode(errors="ignore")
        return f"{begin}~{digest}{end}"

    def upsert(self, table: str, key: Sequence[str], columns: Sequence[str]) -> str:
        """Return an `insert` that takes the place of the row of its key."""
        marks = ", ".join("?" * len(columns))
        return f"insert into {quoted(table)} ({_listed(columns)}) values ({marks}) {_on_conflict(key, columns)}"  # noqa: S608 - names are quoted, values bound

    def put_many(self, connection: Runs, table: Tabled, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows with one statement, a column of values at a time. What this database takes no value of leaves none written."""
        if not rows:
            return
        columns, key = table.written, table.key or ("_one",)
        statement = (
            f"insert into {quoted(table.name)} ({_listed(columns)}) select * from unnest({_arrays(columns.values())}) "  # noqa: S608 - as above
            f"{_on_conflict(key, tuple(columns))}"
        )
        values = [_column(rows, place, kind) for place, kind in enumerate(columns.values())]
        with _taken_back(connection):
            connection.execute(statement, values)

    def delete_many(self, connection: Runs, table: Tabled, keys: Sequence[Sequence[Any]]) -> None:
        """Delete rows with one statement."""
        keys = _held(keys)
        if not keys:
            return
        if not table.key:
            connection.execute(table.delete)
            return
        kinds = [table.written[name] for name in table.key]
        connection.execute(
            f"delete from {quoted(table.name)} where ({_listed(table.key)}) in (select * from unnest({_arrays(kinds)}))",  # noqa: S608 - as above
            [_column(keys, place, kind) for place, kind in enumerate(kinds)],
        )

    def found(self, connection: Runs, table: Tabled, keys: Sequence[Sequence[Any]]) -> list[Any]:
        """Return rows by their keys, with one query."""
        if not table.key:
            return connection.execute(f"select {table.everything} from {quoted(table.name)}").fetchall()  # noqa: S608 - as above
        keys = _held(keys)
        if not keys:
            return []
        kinds = [table.written[name] for name in table.key]
        named = [f"_{index}" for index in range(len(kinds))]
        matching = " and ".join(f"{quoted(name)} = {index}" for name, index in zip(table.key, named, strict=True))
        return connection.execute(
            f"select {table.everything} from unnest({_arrays(kinds)}) as _wanted ({', '.join(named)}) join {quoted(table.name)} on {matching}",  # noqa: S608 - as above
            [_column(keys, place, kind) for place, kind in enumerate(kinds)],
        ).fetchall()

    def check(self, row: Sequence[Any]) -> None:
        """Raise for a text with a NUL, and for one that is no Unicode."""
        for value in row:
            if isinstance(value, str):
                if "\0" in value:
                    raise Unstorable(NO_NUL)
                if not value.isascii():
                    value.encode()

    def listed(self, key: str) -> str:
        """Return a key as it is; one that is too long for an index keeps its beginning, with a digest after it."""
        if len(key.encode()) <= LISTED_BYTES_MAX:
            return key
        return f"{key[:LISTED_CHARACTERS]}…{hashlib.sha256(key.encode()).hexdigest()}"

    def exact(self, column: str, places: int | None) -> str:
        """Return what shows a scaled integer as text without zeros at its end."""
        if places is None:
            return column
        return f"trim_scale({column}::numeric * 1e-{places}::numeric)::text"

    def dropping(self, table: str) -> str:
        """Return the statement that drops a table, with the readable view over it if it still stands there."""
        return f"drop table if exists {quoted(table)} cascade"

    def order(self, column: str, *, down: bool) -> str:
        """Return an order in which null is less than all else."""
        return f"{column} desc nulls last" if down else f"{column} nulls first"

    def test(self, column: str) -> str:
        """Return a test of an integer."""
        return f"({column} <> 0)"

    def like(self, left: str, pattern: str, escape: str) -> str:
        """Return a `like` of texts in which a to z are also A to Z, and no others."""
        return f"{_folded(left)} like {_folded(pattern)} escape {escape or NO_MARK}"

    def called(self, function: str, arguments: Sequence[str]) -> str:
        """Return a call."""
        match function:
            case "json_extract":
                return f"(jsonb_path_query_first(({arguments[0]})::jsonb, ({arguments[1]})::text::jsonpath) #>> '{{}}')"
            case "json_array_length":
                path = f" #> string_to_array(trim(leading '$.' from {arguments[1]}), '.')" if len(arguments) > 1 else ""
                return f"json_array_length(({arguments[0]})::json{path})"
            case "instr":
                return f"strpos({', '.join(f'({one})::text' for one in arguments)})"
            case "round" if len(arguments) > 1:
                return f"round(({arguments[0]})::numeric, ({arguments[1]})::int)::float8"
            case "substr":
                return f"substr(({arguments[0]})::text, {', '.join(f'({one})::int' for one in arguments[1:])})"
            case "lower" | "upper":
                return f'{function}(({arguments[0]})::text collate "C")'
            case "length" | "trim":
                return f"{function}(({arguments[0]})::text)"
            case _:
                return f"{function}({', '.join(arguments)})"

    def held(self, sql: str, holds: str) -> str:
        """Return what may be anything as what it is compared with."""
        return {"number": f"({sql})::numeric", "text": f"({sql})::text"}.get(holds, sql)

    def calculated(self, symbol: str, left: str, right: str) -> str:
        """Return a calculation; what is divided by nothing is null."""
        match symbol:
            case "||":
                return f"({left})::text || ({right})::text"
            case "/" | "%":
                return f"{left} {symbol} nullif({right}, 0)"
            case _:
                return f"{left} {symbol} {right}"


POSTGRES = PostgresDialect()


@contextlib.contextmanager
def _taken_back(connection: Runs) -> Generator[None]:
    """Go back to here where a value was refused: else nothing more could be done in the transaction. Without one nothing is to be done."""
    if not connection.in_transaction:
        yield
        return
    connection.execute("savepoint many")
    try:
        yield
    except (UnicodeEncodeError, Unstorable):
        connection.execute("rollback to many")
        raise
    connection.execute("release many")


def _held(keys: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Return the keys without those that have a NUL in a text: the driver would not even ask for these."""
    return [key for key in keys if not any(isinstance(value, str) and "\0" in value for value in key)]


def _column(rows: Sequence[Sequence[Any]], place: int, kind: str) -> list[Any]:
    values = [row[place] for row in rows]
    if kind == "integer":
        return [int(value) if value is True or value is False else value for value in values]
    return values


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(quoted, columns))


def _arrays(kinds: Iterable[str]) -> str:
    return ", ".join(f"?::{ARRAYS[kind]}" for kind in kinds)


def _on_conflict(key: Sequence[str], columns: Sequence[str]) -> str:
    others = [name for name in columns if name not in key]
    return f"on conflict ({_listed(key)}) do update set {', '.join(f'{quoted(name)} = excluded.{quoted(name)}' for name in others)}"


def _folded(text: str) -> str:
    return f'lower(({text})::text collate "C")'


class RowsSchema:
    """One schema with rows: one connection writes, readers take one from a pool.

    A log may lie in it, too. `ddl` makes what its user needs beside. `Invalid` for a schema of something else, and where this role may not make tables;
    `StoreFailed` where the database can't be reached now.
    """

    dialect: PostgresDialect = POSTGRES

    def __init__(self, where: Where, *, ddl: Sequence[str] = ()) -> None:
        self._where = where
        self._ddl = (*DDL, *ddl)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._readers: deque[Session] = deque()
        self._closed = False
        self._writer: Session | None = None
        self.place = self._made()

    @property
    def said(self) -> str:
        """The database and the schema."""
        return self._where.said

    @property
    def shared(self) -> bool:
        """It is."""
        return True

    @property
    def at_hand(self) -> bool:
        """It is not: a server may be far away, or gone."""
        return False

    @contextlib.contextmanager
    def transaction(self) -> Generator[Session]:
        """Write in one transaction, or not at all, and one at a time for all processes. A connection that was lost is made anew first."""
        with self._lock:
            self._check()
            with self._meant():
                writer = self._writing()
                try:
                    yield writer
                    writer.execute("commit")
                except BaseException:
                    self._undo(writer)
                    raise

    @contextlib.contextmanager
    def reader(self) -> Generator[Session]:
        """Read, each statement as of its own moment."""
        with self._reading("read committed") as reader:
            yield reader

    @contextlib.contextmanager
    def snapshot(self) -> Generator[Session]:
        """Read in one transaction: whatever is asked is as of one moment."""
        with self._reading("repeatable read") as reader:
            yield reader

    def asked(self, ask: Callable[[Runs], A], tables: Sequence[str] = ()) -> A:
        """Let a function read as of one moment; again, where a table was dropped between what it says of itself and its rows.

        These tables may be emptied or made anew under the same name: none of them is, before it has read.
        """
        for left in reversed(range(ASKED_MAX)):
            try:
                with self._reading("repeatable read", tables) as reader:
                    return ask(reader)
            except StoreFailed as error:
                if not isinstance(error.__cause__, Gone) or not left:
                    raise
        raise AssertionError("the last one raises or returns")

    @contextlib.contextmanager
    def guarded(self, tables: Sequence[str] = ()) -> Generator["Guarded"]:
        """Read in one transaction for somebody whose query is not ours: on a connection of its own, which is closed afterwards. `tables` as in `asked`."""
        self._check()
        with self._meant(), contextlib.closing(self._where.connect()) as raw:
            session = Session(raw)
            self._begin_reading(session, "repeatable read", tables)
            yield Guarded(session, self._where.schema)

    def is_taken(self, connection: Runs, name: str) -> bool:
        """Say whether no view can have this name."""
        return name in _tables_in(connection, self._where.schema)

    def tables(self, connection: Runs, tag: str) -> list[str]:
        """Return the names of the tables that end with a tag."""
        return [name for name in _tables_in(connection, self._where.schema) if name.endswith(tag)]

    def _said(self, error: Exception) -> Error:
        """Return what an error means to who uses views."""
        if self._closed:
            return Closed("the views are closed")
        return StoreFailed(f"the views in {self._where.said} can't be read or written: {error}", url=self._where.said, error=str(error))

    def close(self) -> None:
        """Give the connections back."""
        self._closed = True
        if self._pid != os.getpid():
            return
        while self._readers:
            self._readers.pop().raw.close()
        with self._lock:
            if self._writer is not None:
                self._writer.raw.close()

    # --- connections

    @contextlib.contextmanager
    def _reading(self, isolation: str, tables: Sequence[str] = ()) -> Generator[Session]:
        self._check()
        with self._meant():
            reader = self._taken(isolation, tables)
            try:
                yield reader
                reader.execute("commit")
            except Unstorable as error:
                raise Invalid(f"the database does not take this value: {error}", error=str(error)) from error
            finally:
                if self._closed or not reader.idle or len(self._readers) >= KEEP_READERS:
                    reader.raw.close()
                else:
                    self._readers.append(reader)

    def _begin_reading(self, reader: Session, isolation: str, tables: Sequence[str]) -> None:
        """Begin, and hold tables as they are before the moment is fixed: to an older one, what was emptied or made anew since is just empty."""
        begin = f"begin isolation level {isolation} read only; ".encode() + self._path
        if not tables:
            reader.run(begin)
            return
        try:
            reader.run(begin + f"; lock table {', '.join(map(quoted, sorted(tables)))} in access share mode".encode())
        except Gone:  # what says that they are dropped is read without them
            reader.execute("rollback")
            reader.run(begin)

    @property
    def _path(self) -> bytes:
        return _path_to(self._where.schema)

    def _begin(self, writer: Session) -> None:
        limits = (
            f"set local lock_timeout = {BUSY_SECONDS * 1000}; set local idle_in_transaction_session_timeout = {STALLED_SECONDS * 1000}; "
        )
        lazy = b"set local synchronous_commit = off; "  # what a view loses is folded again
        writer.run(b"begin isolation level read committed, read write; " + limits.encode() + lazy + self._path)
        writer.run(b"select pg_advisory_xact_lock(hashtext($1))", (f"happened rows {self._where.schema}",))

    def _writing(self) -> Session:
        """Return the connection that writes, in a transaction."""
        while True:
            kept = self._writer is not None and not self._writer.raw.closed
            if self._writer is None or not kept:
                self._writer = Session(self._where.connect())
            if self._is_begun(self._writer, self._begin, kept=kept):
                return self._writer

    def _undo(self, writer: Session) -> None:
        """Leave no transaction open; where that is not known, no connection."""
        try:
            if writer.in_transaction:
                writer.raw.pgconn.exec_(b"rollback")
        finally:
            if not writer.idle:
                writer.raw.close()

    def _taken(self, isolation: str, tables: Sequence[str]) -> Session:
        """Return a connection for a reader, in a transaction."""

        def begin(reader: Session) -> None:
            self._begin_reading(reader, isolation, tables)

        while True:
            try:
                reader, kept = self._readers.pop(), True
            except IndexError:
                reader, kept = Session(self._where.connect()), False
            if self._is_begun(reader, begin, kept=kept):
                return reader

    def _is_begun(self, session: Session, begin: Callable[[Session], None], *, kept: bool) -> bool:
        """Begin, unless it is seen now that a connection was lost while it was kept and nobody used it: then it is closed."""
        try:
            begin(session)
        except BaseException as error:
            refused = session.in_transaction  # by the server, in a transaction that can only be rolled back
            session.raw.close()
            if kept and isinstance(error, Failed) and not refused:
                return False
            raise
        return True

    @contextlib.contextmanager
    def _meant(self) -> Generator[None]:
        try:
            yield
        except (Failed, Unstorable, psycopg.Error) as error:
            raise self._said(error) from error

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise Forked("these views were opened before a fork: open the app in the child process")
        if self._closed:
            raise Closed("the views are closed")

    # --- opening

    def _made(self) -> str:
        """Make what is missing; return what tells this schema from others."""
        try:
            with self._lock, contextlib.closing(self._where.connect()) as raw:
                session = Session(raw)
                session.execute("begin isolation level read committed, read write")
                session.run(b"select pg_advisory_xact_lock(hashtext($1))", (f"happened rows {self._where.schema}",))
                if session.run(b"select 1 from pg_namespace where nspname = $1", (self._where.schema,)).fetchone() is None:
                    session.execute(f"create schema {quoted(self._where.schema)}")
                session.run(self._path)
                self._check_holds_rows(session)
                there = _tables_in(session, self._where.schema)
                for statement in self._ddl:  # to say it of one that is there takes the right to make it, too: who only reads has none
                    if MADE.split(statement)[1] not in there:
                        session.execute(self.dialect.ddl(statement))
                found = session.run(
                    b"select (select oid from pg_database where datname = current_database())::text || '.' || oid::text || '.' || "
                    b"(select system_identifier from pg_control_system())::text from pg_namespace where nspname = $1",
                    (self._where.schema,),
                ).fetchone()
                session.execute("commit")
                return str(found[0])
        except psycopg.Error as error:
            raise self._where.trouble(error, "can't be reached") from error
        except Failed as error:
            if isinstance(error.__cause__, errors.InsufficientPrivilege):
                raise Invalid(
                    f"this role may not make the tables of views in the schema `{self._where.schema}`: {error}. "
                    "Let it, or keep the views elsewhere: views='postgresql://…?schema=…' or views='sqlite:///…'",
                    schema=self._where.schema,
                ) from error
            raise self._said(error) from error

    def _check_holds_rows(self, session: Session) -> None:
        tables = _tables_in(session, self._where.schema)
        others = [] if "migration" in tables and "head" in tables else [name for name in tables if not name.startswith(OURS)]
        if others:
            raise Invalid(
                f"the schema `{self._where.schema}` holds something else than views ({', '.join(others)}): views need a schema of their own, or the one "
                "of their own log",
                schema=self._where.schema,
                tables=others,
            )
        columns = _columns_of(session, self._where.schema, "_view")
        if columns and columns != COLUMNS:
            raise Invalid(
                f"the views in the schema `{self._where.schema}` were written by another release of `happened`. Drop its tables that begin with _: "
                "they are made anew",
                schema=self._where.schema,
            )


def _path_to(schema: str) -> bytes:
    return f"set local search_path = {quoted(schema)}".encode()


def _columns_of(connection: Runs, schema: str, table: str) -> list[str]:
    found = connection.execute(
        "select column_name from information_schema.columns where table_schema = ? and table_name = ? order by ordinal_position",
        (schema, table),
    )
    return [name for (name,) in found]


def _tables_in(connection: Runs, schema: str) -> list[str]:
    found = connection.execute("select tablename from pg_tables where schemaname = ? order by tablename", (schema,))
    return [name for (name,) in found]


class Guarded:
    """One read transaction that ends with somebody's query."""

    def __init__(self, connection: Session, schema: str) -> None:
        self.connection = connection
        self._schema = schema

    def query(self, text: str, params: Sequence[Any], views: Mapping[str, Tabled | None]) -> list[tuple[Any, ...]]:
        """Answer a query, as a part of one of ours: so it can only read. By a plain name it finds these views and their tables, and nothing else."""
        self.connection.run(b"set local search_path = ''")
        named: dict[str, str] = {}
        for name, table in views.items():
            if table is not None:
                there = f"{quoted(self._schema)}.{quoted(table.name)}"
                named[table.name] = f"select * from {there}"  # noqa: S608 - names are quoted
                named[name] = table.shown.removesuffix(quoted(table.name)) + there
        for name in list(named):  # a name without quotes comes in small letters
            named.setdefault(name.lower(), named[name])
        listed = ", ".join(f"{quoted(name)} as ({select})" for name, select in named.items())
        rest = str.strip(text).removesuffix(";")  # `TypeError` where it is no text
        asked = f"{listed and f'with {listed} '}select * from (\n{rest}\n) as answered"  # noqa: S608 - that is what is asked for
        found: list[tuple[Any, ...]] = self.connection.run(numbered(asked), params).fetchall()
        return found


class SchemaLook:
    """A schema that is only looked at for its views. `Invalid` where it holds some that are none of this release. Close it when done."""

    dialect: PostgresDialect = POSTGRES

    def __init__(self, where: Where) -> None:
        self._where = where
        self.said = where.said
        self._session = Session(where.connect())
        try:
            with self.moment() as connection:
                there = self.columns(connection, "_view")
        except BaseException:
            self.close()
            raise
        self.is_empty = not there
        """Nobody has kept a view in it yet."""
        if there and there != COLUMNS:
            self.close()
            raise Invalid(f"{where.said} holds no views of this release", url=where.said)

    @contextlib.contextmanager
    def moment(self) -> Generator[Session]:
        """Read as of one moment."""
        self._session.run(b"begin isolation level repeatable read read only; " + _path_to(self._where.schema))
        try:
            yield self._session
        finally:
            self._session.execute("rollback")

    def columns(self, connection: Runs, table: str) -> list[str]:
        """Return the columns of a table."""
        return _columns_of(connection, self._where.schema, table)

    def close(self) -> None:
        """Give the connection back."""
        self._session.raw.close()


def forget_rows(where: Where, log: str, erased: int) -> bool:
    """Empty all views of a log that lie in a schema; return true: it can be done at once.

    Whoever follows them finds them at position 0 and folds them anew; until they are whole again they are not answered from.
    """
    with contextlib.closing(where.connect()) as raw:
        if "_view" not in _tables_in(Session(raw), where.schema):
            return True
    with contextlib.closing(RowsSchema(where)) as rows, rows.transaction() as connection:
        emptied = {table for tag in begun_anew(connection, log, erased) for table in rows.tables(connection, f"_{tag}")}
        for table in sorted(emptied):  # in the order in which readers hold them
            connection.execute(f"truncate table {quoted(table)}")
    return True
