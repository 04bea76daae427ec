"""The seam between rows and the database that holds them: what a connection can do, what may go wrong, and what a place of rows offers.

Statements are written once, in SQLite's words with `?` for values; what PostgreSQL says otherwise stands in its own file.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar  # Any: values of any column

A = TypeVar("A")

BUSY_SECONDS = 10
"""How long to wait for others that write."""


class Failed(Exception):
    """A database did not do what it was asked. It may do so at the next try."""


class Gone(Failed):
    """A table is not there, or not any more: others may drop one at any moment, also after its checkpoint was read."""


class Unstorable(Exception):
    """A database does not take a value, or not what is calculated with it."""


_PASSWORD = re.compile(r"(?<=//)([^:@/]*):.*@|(?<=password=)[^&]*")

FAILED = (sqlite3.Error, Failed)
"""All that a statement may raise, but for a value."""


def as_shown(url: str) -> str:
    """Return what was given as a URL as it may be shown to people: without a password, also where it is no URL of ours."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", url)


PASSING = (sqlite3.OperationalError, Failed)
"""Trouble of the database's own."""

UNSTORABLE = (UnicodeEncodeError, sqlite3.DataError, Unstorable)
"""What is raised for a value, not for the database's own trouble: text that is no Unicode, or is too long."""


class Answer(Protocol):
    """What a statement has found."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or `None`."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows that are left."""
        ...


class Connection(Protocol):
    """What runs statements: a connection of SQLite as it is, or one of PostgreSQL that acts as such."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(self, statement: str, params: Sequence[Any] = ..., /) -> Answer:
        """Run a statement with values for its `?`."""
        ...

    def executemany(self, statement: str, params: Iterable[Sequence[Any]], /) -> Answer:
        """Run a statement once for each of these values."""
        ...


class Asking(Protocol):
    """One read transaction for somebody whose query is not ours."""

    @property
    def connection(self) -> Connection:
        """What our own statements run on, until then."""
        ...

    def query(self, text: str, params: Sequence[Any], views: "Mapping[str, Tabled | None]") -> list[tuple[Any, ...]]:
        """Answer a query that can do nothing else. `views` are the app's, by name; of one without a table nothing may be read."""
        ...


class Tabled(Protocol):
    """What a dialect needs to know of a table."""

    @property
    def name(self) -> str:
        """The name of the table."""
        ...

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of its key; none where it has one row."""
        ...

    @property
    def written(self) -> Mapping[str, str]:
        """All columns that a row has a value for, with their types as SQLite calls them."""
        ...

    @property
    def everything(self) -> str:
        """The columns that a row is read from, as a list in SQL."""
        ...

    @property
    def shown(self) -> str:
        """The query that makes it readable."""
        ...

    @property
    def upsert(self) -> str:
        """The statement that writes a row."""
        ...

    @property
    def delete(self) -> str:
        """The statement that deletes the row of a key."""
        ...


class Dialect(Protocol):
    """What databases say in different words."""

    @property
    def depth_max(self) -> int:
        """How many parentheses may lie in each other."""
        ...

    def ddl(self, statement: str) -> str:
        """Return one of our statements that makes a table, in the words of this database."""
        ...

    def name(self, text: str) -> str:
        """Return a name of a table or an index as it can be in this database."""
        ...

    def upsert(self, table: str, key: Sequence[str], columns: Sequence[str], /) -> str:
        """Return the statement that writes a row, in place of the one of its key."""
        ...

    def put_many(self, connection: Connection, table: Tabled, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of different keys. What `UNSTORABLE` names leaves the transaction as it can go on, whichever rows it has written."""
        ...

    def delete_many(self, connection: Connection, table: Tabled, keys: Sequence[Sequence[Any]]) -> None:
        """Delete the rows of these keys. One that this database can't hold has none."""
        ...

    def found(self, connection: Connection, table: Tabled, keys: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the rows of some different keys, those that are there, in any order. A key that this database can't hold has none."""
        ...

    def check(self, row: Sequence[Any], /) -> None:
        """Raise what `UNSTORABLE` names for a row with a text that this database can't hold."""
        ...

    def listed(self, key: str) -> str:
        """Return a key as text, as the table of what stands still takes it, whatever this database can hold."""
        ...

    def exact(self, column: str, places: int | None) -> str:
        """Return what shows a scaled integer as the exact text of its number; a column without places as it is."""
        ...

    def dropping(self, table: str) -> str:
        """Return the statement that drops a table if it is there."""
        ...

    def order(self, column: str, *, down: bool) -> str:
        """Return an order by a column, empty ones first, or with `down` last."""
        ...

    def test(self, column: str) -> str:
        """Return the test whether a column of true and false is true."""
        ...

    def like(self, left: str, pattern: str, escape: str) -> str:
        """Return the test whether text is like a pattern, where the case of a to z does not count; `escape` is a mark, or empty."""
        ...

    def called(self, function: str, arguments: Sequence[str]) -> str:
        """Return the call of one of the functions that conditions may use. `Invalid` where this database has none such."""
        ...

    def held(self, sql: str, holds: str, /) -> str:
        """Return what may hold anything, compared with what holds `text` or `number`."""
        ...

    def calculated(self, symbol: str, left: str, right: str) -> str:
        """Return `left` and `right` with `+ - * / %` or `||` between them."""
        ...


class Place(Protocol):
    """Where rows are kept: a file, memory, or a schema."""

    place: str
    """What tells it from other places that hold views of the same log."""

    @property
    def dialect(self) -> Dialect:
        """The words that are understood there."""
        ...

    @property
    def said(self) -> str:
        """What it is called where somebody has to find it."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes may have it open."""
        ...

    @property
    def at_hand(self) -> bool:
        """Whether a row is found in microseconds, whatever others do there: then an event loop asks by itself."""
        ...

    def transaction(self) -> AbstractContextManager[Connection]:
        """Write in one transaction, or not at all; one at a time."""
        ...

    def reader(self) -> AbstractContextManager[Connection]:
        """Read, each statement as of its own moment."""
        ...

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Read in one transaction: whatever is asked is as of one moment."""
        ...

    def asked(self, ask: Callable[[Connection], A], tables: Sequence[str] = ()) -> A:
        """Let a function read as of one moment. Where a table is dropped under its hands, which files do not allow, it is asked again.

        `tables` are those that may be emptied, or made anew under the same name.
        """
        ...

    def guarded(self, tables: Sequence[str] = ()) -> AbstractContextManager[Asking]:
        """Read in one transaction for somebody whose query is not ours. `tables` as in `asked`."""
        ...

    def is_taken(self, connection: Connection, name: str) -> bool:
        """Say whether no view can have this name: something of the log has it, which lies here, too."""
        ...

    def tables(self, connection: Connection, tag: str) -> list[str]:
        """Return the names of the tables that end with a tag."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Look(Protocol):
    """A place of rows that is only looked at."""

    said: str

    @property
    def dialect(self) -> Dialect:
        """The words that are understood there."""
        ...

    def moment(self) -> AbstractContextManager[Connection]:
        """Read as of one moment."""
        ...

    def columns(self, connection: Connection, table: str) -> list[str]:
        """Return the columns of a table, in their order; none where there is no such table."""
        ...
