"""What SQLite says in its own words: rows written, found and deleted by the many, and the parts of conditions."""

import itertools
from collections.abc import Sequence
from typing import Any  # Any: values of any column

from happened.shelf.connection import Connection, Tabled

VARIABLES_MAX = 32_766
"""Parameters that SQLite takes in one statement."""

MANY = 128
"""Rows that one statement writes where there are many: a fifth faster, and Python's lock is let go once instead of at each row."""

EVEN = 8
"""Statements for more rows than that write a multiple of them, so that there are few, which are kept prepared: the last row is written again."""

KEYS_MAX = 5_000
"""Keys that one query looks for."""


class SqliteDialect:
    """The words of SQLite."""

    depth_max = 12
    """Its parser, which keeps a stack of 100, needs up to seven places for each parenthesis."""

    def ddl(self, statement: str) -> str:
        """Return the statement as it is."""
        return statement

    def name(self, text: str) -> str:
        """Return the name as it is: SQLite knows no longest one."""
        return text

    def upsert(self, table: str, _key: Sequence[str], columns: Sequence[str]) -> str:
        """Return a `replace`, which writes a row without other indexes in one step; `on conflict do update` takes a tenth more."""
        listed, marks = ", ".join(map(quoted, columns)), ", ".join("?" * len(columns))
        return f"replace into {quoted(table)} ({listed}) values ({marks})"  # noqa: S608 - names are quoted, values bound

    def put_many(self, connection: Connection, table: Tabled, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows, many by a statement: each one lets go of the interpreter's lock."""
        another = f", ({', '.join('?' * len(table.written))})"
        most = min(MANY, VARIABLES_MAX // len(table.written))
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            if EVEN < len(some) < most:
                some = [*some, *[some[-1]] * min(-len(some) % EVEN, most - len(some))]
            connection.execute(table.upsert + another * (len(some) - 1), list(itertools.chain.from_iterable(some)))

    def delete_many(self, connection: Connection, table: Tabled, keys: Sequence[Sequence[Any]]) -> None:
        """Delete rows one by one."""
        connection.executemany(table.delete, keys)

    def found(self, connection: Connection, table: Tabled, keys: Sequence[Sequence[Any]]) -> list[Any]:
        """Return rows by their keys. About 1 µs a key, a third of what one query each takes."""
        if not table.key:
            return connection.execute(f"select {table.everything} from {quoted(table.name)}").fetchall()  # noqa: S608 - names are quoted
        rows: list[Any] = []
        most = min(KEYS_MAX, VARIABLES_MAX // len(table.key))
        for start in range(0, len(keys), most):
            some = keys[start : start + most]
            rows += connection.execute(select_keys_sql(table, len(some)), list(itertools.chain.from_iterable(some))).fetchall()
        return rows

    def check(self, row: Sequence[Any]) -> None:
        """Encode texts that may be no Unicode, as SQLite will."""
        for value in row:
            if isinstance(value, str) and not value.isascii():
                value.encode()

    def listed(self, key: str) -> str:
        """Return the key as it is."""
        return key

    def exact(self, column: str, places: int | None) -> str:
        """Return what shows a scaled integer as text without zeros at its end; what is none as it is."""
        if places is None:
            return column
        if places == 0:
            return f"cast({column} as text)"
        scale = 10**places
        number = f"printf('%s%d.%0{places}d', iif({column} < 0, '-', ''), abs({column} / {scale}), abs({column} % {scale}))"
        return f"iif({column} is null, null, rtrim(rtrim({number}, '0'), '.'))"

    def dropping(self, table: str) -> str:
        """Return the statement that drops a table; a view over it stays, until another takes its place."""
        return f"drop table if exists {quoted(table)}"

    def order(self, column: str, *, down: bool) -> str:
        """Return an order: null is less than all else here."""
        return f"{column} desc" if down else column

    def test(self, column: str) -> str:
        """Return the column: an integer is a truth here."""
        return column

    def like(self, left: str, pattern: str, escape: str) -> str:
        """Return a `like`."""
        return f"{left} like {pattern}{escape and f' escape {escape}'}"

    def called(self, function: str, arguments: Sequence[str]) -> str:
        """Return a call: all functions that conditions may use are SQLite's."""
        return f"{function}({', '.join(arguments)})"

    def held(self, sql: str, _holds: str) -> str:
        """Return it as it is: SQLite compares anything."""
        return sql

    def calculated(self, symbol: str, left: str, right: str) -> str:
        """Return what it says."""
        return f"{left} {symbol} {right}"


SQLITE = SqliteDialect()


def select_keys_sql(table: Tabled, count: int) -> str:
    """Return the query for the rows of `count` different keys; its parameters are the encoded keys, one after the other."""
    if len(table.key) == 1:
        return f"select {table.everything} from {quoted(table.name)} where {quoted(table.key[0])} in ({', '.join('?' * count)})"  # noqa: S608 - names are quoted
    # A join, since SQLite answers `(a, b) in (values …)` by a scan of the whole table.
    named = [f"_{index}" for index in range(len(table.key))]
    one = f"({', '.join('?' * len(table.key))})"
    wanted = f"_wanted ({', '.join(named)}) as (values {', '.join([one] * count)})"
    matching = " and ".join(f"{quoted(name)} = {index}" for name, index in zip(table.key, named, strict=True))
    return f"with {wanted} select {table.everything} from _wanted cross join {quoted(table.name)} where {matching}"  # noqa: S608 - as above


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
