"""The rows of a log in a SQLite file, wherever they lie: in table `log`, or, the oldest, packed into segments (see `segments`) in table `segment`.

The cold part is the beginning of the log, without a gap, and never all of it: the newest row stays in table `log`. A row lies in one of both at any moment:
it is moved in one transaction. So whoever looks first how far the cold part reaches, and then reads, in one transaction, misses nothing and meets nothing
twice. A step packs beside the lock, and takes it only to see that nothing has changed and to put the segment in the rows' place.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple  # Any: rows of the columns that were asked for

from happened.core.errors import Broken
from happened.core.store import Row
from happened.stores import segments
from happened.stores.segments import Segment
from happened.stores.unfolded import Unfolded

DDL = """create table if not exists segment(
    first   integer primary key,
    last    integer not null,
    rows    integer not null,
    checked integer not null,
    body    blob not null)"""

END = "coalesce((select coalesce(last, 1 << 62) from segment order by first desc limit 1), 0)"
"""The last position of the cold part, in a statement that finds rows of table `log`: that is one moment, without a transaction.

What is no position, in a damaged file, lies behind all of them: then `until` is asked, and says so.
"""
LAST_BEGUN = "from log where position <= ? order by position desc limit 1"
BEHIND = (
    f"where position >= coalesce((select position {LAST_BEGUN}), 0) and coalesce(position + count - 1 > ?, true) and ? >= {END} "
    "order by position limit ?"
)
"""The first rows that reach behind a position; none where that lies in the cold part."""
ALL = ", ".join(Row.__struct_fields__)
BARE_SQL = "position + (input is not null), position + count, records"


class Columns(NamedTuple):
    """Which columns of rows are read: as SQL, and from a segment; and how those tell the position of a row's last record."""

    sql: str
    of: Callable[[Segment, int, int], list[tuple[Any, ...]]]
    last: Callable[[tuple[Any, ...]], int]


def _last_of_row(found: tuple[Any, ...]) -> int:
    last: int = found[0] + found[1] - 1
    return last


def _last_of_bare(found: tuple[Any, ...]) -> int:
    last: int = found[1] - 1
    return last


def _last_of_asked(found: tuple[Any, ...]) -> int:
    last: int = found[0] - 1
    return last


WHOLE = Columns(ALL, Segment.whole, _last_of_row)
COUNTED = Columns(ALL.replace("salts", "x''").replace("digest", "x''"), Segment.counted, _last_of_row)
"""What is found and counted: what was asked and what came of it."""
BARE = Columns(BARE_SQL, Segment.bare, _last_of_bare)
HEADED = Columns(f"{BARE_SQL}, position, at, head", Segment.headed, _last_of_bare)
"""What a `Bare` has, without and with what a row says of itself."""
ASKED = Columns("position + count, records, input", Segment.asked, _last_of_asked)
"""What a `Bare` has with its input. It has no column too many: each takes a tenth of what a row does."""


def _together(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the first of these rows, up to the one with which their texts are too long for one segment."""
    found: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        found.append(row)
        size += sum(len(text) for text in row if isinstance(text, str))
        if size > segments.TEXT_BYTES_MAX:
            break
    return found


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Generator[None]:
    """Have all that is read on a connection be as of one moment."""
    if connection.in_transaction:
        yield
        return
    connection.execute("begin")
    try:
        yield
    finally:
        roll_back(connection)


@contextmanager
def one_step(connection: sqlite3.Connection) -> Generator[None]:
    """Commit what is done in the open transaction, or nothing of it."""
    try:
        yield
        connection.execute("commit")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """Leave a transaction. SQLite has done so by itself where the disk is full or the device has failed: that is what is to be said then."""
    if connection.in_transaction:
        connection.execute("rollback")


def last_position(connection: sqlite3.Connection) -> int:
    """Return the last position of the log: the newest row is never packed."""
    row = connection.execute("select position + count - 1 from log order by position desc limit 1").fetchone()
    return row[0] if row is not None else 0


class Cold(Unfolded[sqlite3.Connection]):
    """The rows of one file, as one process reads and packs them. All it is asked on one connection should be in one transaction."""

    def __init__(self, path: str) -> None:
        super().__init__(path, path=path)
        self._there = False
        """The table was seen: logs that were made before there was one get it with their first segment."""

    @property
    def is_there(self) -> bool:
        """Whether the table was seen, so that `END` may be asked."""
        return self._there

    def until(self, connection: sqlite3.Connection) -> int:
        """Return the last position of the cold part; 0 where there is none."""
        if not self._there:
            if connection.execute("select 1 from sqlite_master where name = 'segment'").fetchone() is None:
                return 0
            self._there = True
        found = connection.execute("select last from segment order by first desc limit 1").fetchone()
        if found is None:
            return 0
        if not isinstance(found[0], int):
            raise Broken(f"{self._place} is damaged: the cold part ends at {found[0]!r:.100}, which is no position", path=self._place)
        return found[0]

    def rows_between(
        self, connection: sqlite3.Connection, columns: Columns, first: int, last: int, rows_max: int = -1, *, backwards: bool = False
    ) -> list[Any]:
        """Return these columns of the rows that begin between two positions, in order or backwards, at most so many (below 0: all), as of one moment."""
        order = f"order by position{' desc' * backwards} limit ?"
        if self._there and not connection.in_transaction:  # most reads are of the hot part alone
            rows = self._found(connection, f"where position between ? and ? and ? > {END} {order}", (first, last, first, rows_max), columns)
            if rows:
                return rows
        which = f"where position between ? and ? {order}"
        with one_moment(connection):
            until = self.until(connection)
            if first > until:
                return self._found(connection, which, (first, last, rows_max), columns)
            hot = self._found(connection, which, (until + 1, last, rows_max), columns) if backwards and last > until else []
            left = rows_max - len(hot) if rows_max >= 0 else -1
            rows = self.between(connection, columns.of, max(first, 1), min(last, until), left, backwards=backwards)
            if backwards:
                return hot + rows
            left = rows_max - len(rows) if rows_max >= 0 else -1
            return rows + self._found(connection, which, (until + 1, last, left), columns) if last > until and left else rows

    def rows_behind(self, connection: sqlite3.Connection, columns: Columns, after: int, rows_max: int) -> list[Any]:
        """Return these columns of the first rows that reach behind a position, as of one moment and in one statement; none where only a longer look tells."""
        return self._found(connection, BEHIND, (after, after, after, rows_max), columns) if self._there else []

    def rows_at(self, connection: sqlite3.Connection, columns: Columns, positions: Sequence[int]) -> list[Any]:
        """Return these columns of the rows that begin at these positions, which are in order or backwards, and so are the rows."""
        until = self.until(connection)
        backwards = positions[0] > positions[-1]
        packed = self.at(connection, columns.of, [position for position in positions if position <= until])
        hot = ",".join([str(position) for position in positions if position > until])
        found = self._found(connection, f"where position in ({hot}) order by position{' desc' * backwards}", (), columns) if hot else []
        return [*found, *packed] if backwards else [*packed, *found]

    def digest_at(self, connection: sqlite3.Connection, position: int) -> bytes | None:
        """Return the digest of the row that begins at a position, if one does."""
        rows = self.rows_between(connection, WHOLE, position, position)
        return rows[0][-1] if rows else None

    def behind(self, connection: sqlite3.Connection, position: int) -> int:
        """Return the last position of the last row that ends at or before a position; 0 where there is none."""
        begun = self.last_begun(connection, position)
        return 0 if begun is None else begun[1] if begun[1] <= position else begun[0] - 1

    def last_begun(self, connection: sqlite3.Connection, position: int) -> tuple[int, int] | None:
        """Return the first and last position of the last row that begins at a position or before it."""
        if 0 < position <= self.until(connection):
            return self.begun(connection, position)
        found: tuple[int, int] | None = connection.execute(
            "select position, position + count - 1 from log where position <= ? order by position desc limit 1", (position,)
        ).fetchone()
        return found

    def _found(self, connection: sqlite3.Connection, where: str, values: tuple[int, ...], columns: Columns) -> list[Any]:
        try:
            return connection.execute(f"select {columns.sql} from log {where}", values).fetchall()
        except sqlite3.DatabaseError as error:
            if "decode" in str(error) or "malformed" in str(error):
                raise Broken(f"{self._place} is damaged: {error}", path=self._place) from error
            raise

    def _key(self, connection: sqlite3.Connection, position: int) -> tuple[int, int] | None:
        found: tuple[int, int] | None = connection.execute(
            "select first, checked from segment where first <= ? order by first desc limit 1", (position,)
        ).fetchone()
        return found

    def _body(self, connection: sqlite3.Connection, first: int) -> bytes | None:
        found = connection.execute("select body from segment where first = ?", (first,)).fetchone()
        return found[0] if found is not None else None

    # --- making it

    def pack(
        self, connection: sqlite3.Connection, until: int, begin: Callable[[], None], first_time: Iterable[tuple[str, tuple[str, ...]]]
    ) -> int:
        """Pack the next rows that end at or before a position, in a transaction; return the position reached, 0 where there is nothing to pack.

        The last segment grows until it is full. `begin` takes the lock; `first_time` has statements for the first segment of a log. Where others change what
        is being packed, nothing is done, and the position before is returned. The newest row is not packed. `Broken` for rows that can't be.
        """
        which = "where position > ? and position + count - 1 <= ? and position < (select max(position) from log) order by position limit ?"
        with one_moment(connection):
            reached = self.until(connection)
            asked = f"select {ALL} from log {which}", (reached, until, segments.ROWS_MAX)
            found = _together(connection.execute(*asked))
            if not found:
                return 0
            of = self._last(connection, reached)
            is_full = of is None or of[2] >= segments.ROWS_MAX
            body, earlier, rows = self.packed(connection, reached, [Row(*row) for row in found], is_full=is_full)
        begin()
        with one_step(connection):
            now = self.until(connection)
            if (
                now != reached
                or self._last(connection, reached) != of
                or _together(connection.execute(*asked))[: len(rows)] != found[: len(rows)]
            ):
                return max(now, 1)
            if not self._there:
                connection.execute(DDL)
            for statement in first_time if not now else ():
                connection.execute(*statement)
            self.put(connection, [*earlier, *rows], body)
            connection.execute("delete from log where position between ? and ?", (rows[0].position, rows[-1].position))
        return rows[-1].last

    def unpack(self, connection: sqlite3.Connection, after: int) -> int:
        """Put the rows of the last segment back into table `log`, in the open transaction, if it lies behind a position; return what is cold then."""
        reached = self.until(connection)
        if reached <= after:
            return reached
        segment = self.segment(connection, reached)
        marks = ", ".join("?" * len(Row.__struct_fields__))
        connection.executemany(f"insert into log({ALL}) values({marks})", segment.whole(0, segment.count))
        connection.execute("delete from segment where last = ?", (reached,))
        return segment.positions[0] - 1

    def _last(self, connection: sqlite3.Connection, reached: int) -> tuple[int, int, int] | None:
        """Return the first position, the check sum and the count of rows of the segment that ends at a position."""
        if not reached:
            return None
        found: tuple[int, int, int] | None = connection.execute(
            "select first, checked, rows from segment where last = ?", (reached,)
        ).fetchone()
        return found

    def _put(self, connection: sqlite3.Connection, first: int, last: int, rows: int, checked: int, body: bytes) -> None:
        connection.execute(
            "insert or replace into segment(first, last, rows, checked, body) values(?, ?, ?, ?, ?)", (first, last, rows, checked, body)
        )
