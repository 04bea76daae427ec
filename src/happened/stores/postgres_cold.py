"""The rows of a log in PostgreSQL, wherever they lie: in table `log`, or, the oldest, packed into segments (see `segments`) in table `segment`.

A row lies in one of both at any moment: it is moved in one transaction, under the lock of the log. So whoever asks as of one moment how far the cold part
reaches, and then for rows, misses nothing and meets nothing twice. A step packs beside the lock, and takes it only to see that nothing has changed, and to
put the segment in the rows' place.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple  # Any: rows of the columns that were asked for

import psycopg

from happened.core.errors import Broken
from happened.core.store import Parts, Row
from happened.stores import segments
from happened.stores.postgres_tables import TABLES, Connection, Where, lock_head
from happened.stores.segments import Segment
from happened.stores.unfolded import Of, Unfolded

ROW = ", ".join(Row.__struct_fields__)
ROW_TYPES = ("int8", "int4", "int8", "text", "text", "text", "bytea", "bytea")
END = "(select last from @segment order by first desc limit 1)"
"""The last position of the cold part, in a statement that finds rows of table `log`: that is one moment, without a transaction."""
BEHIND = (
    "coalesce((select case when position + count - 1 <= %s then position + count - 1 else position - 1 end "
    "from @log where position <= %s order by position desc limit 1), -1)"
)
"""The last position of the last row that ends at or before a position, twice given; below 0 where that is not in table `log`."""
STEP_POSITIONS = 16 * segments.ROWS_MAX
"""Rows that are packed in one step begin within so many positions: of all that is left, a server that has no statistics yet would sort it."""
BYTES_MAX = 4 * segments.TEXT_BYTES_MAX
"""Rows behind so many bytes are not looked at for a step: they are too many for one segment, whatever a character takes."""
NEXT = (
    f"select {ROW} from (select *, sum(octet_length(head) + coalesce(octet_length(input), 0) + octet_length(records)) "
    "over (order by position rows between unbounded preceding and 1 preceding) as before "
    "from (select * from @log where position between %s and %s and position + count - 1 <= %s and position < (select row from @head) "
    "order by position limit %s) following) sized where before is null or before <= %s order by position"
)
LOCK_SECONDS_MAX = 10.0
"""How long a step waits for the lock of the log."""
SIZED_ROWS = 1000
"""What rows take in their table is told from so many of the last."""
FREE_OF_MIN = 8
"""What is free is estimated: less than such a part of the table, or two pages, is not told from nothing."""
PAGE_HEAD_BYTES, PAGE_BYTES, ROW_ALIGNED, ROW_PLACE_BYTES = 24, 8192, 8, 4
"""How a page of a table is laid out, by the server's documentation (Database Page Layout)."""


class Columns(NamedTuple):
    """Which columns of rows are read: as SQL, and from a segment."""

    sql: str
    of: Of


_BARE = "position + (input is not null)::int, position + count, records"
WHOLE = Columns(ROW, Segment.whole)
COUNTED = Columns(ROW.replace("salts", "''::bytea").replace("digest", "''::bytea"), Segment.counted)
BARE = Columns(_BARE, Segment.bare)
HEADED = Columns(f"{_BARE}, position, at, head", Segment.headed)
ASKED = Columns("position + count, records, input", Segment.asked)
"""What the same names stand for in a file: see `cold`."""


def put_rows(cursor: psycopg.Cursor[Any], where: Where, rows: Iterable[Row]) -> None:
    """Put rows into table `log`, in the open transaction."""
    handed_over = False
    try:
        with cursor.copy(where.sql(f"copy @log({ROW}) from stdin (format binary)")) as copy:
            copy.set_types(ROW_TYPES)
            for row in rows:
                copy.write_row((row.position, row.count, row.at, row.head, row.input, row.records, row.salts, row.digest))
            handed_over = True
    except ValueError as error:
        if not handed_over:
            raise
        # The driver expects one answer at the end, and a pooler gives two.
        raise psycopg.OperationalError("the session was ended while rows were copied") from error


class PostgresCold(Unfolded[Connection]):
    """The rows of one log, as one process reads and packs them. All it is asked on one connection, for one answer, should be as of one moment.

    `is_there` says that the table of segments is: a log that an older release has made, and that is only read, may have none.
    """

    def __init__(self, where: Where, *, is_there: bool) -> None:
        super().__init__(where.said, url=where.said)
        self._where = where
        self.is_there = is_there

    def until(self, connection: Connection) -> int:
        """Return the last position of the cold part; 0 where there is none."""
        if not self.is_there:
            found = connection.execute("select to_regclass(%s)", (f'"{self._where.schema}".segment',)).fetchone()
            if found is None or found[0] is None:
                return 0
            self.is_there = True
        [(last,)] = self._asked(connection, f"select coalesce({END}, 0)")
        return int(last)

    def rows_between(
        self, connection: Connection, columns: Columns, first: int, last: int, rows_max: int | None = None, *, backwards: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return the rows that begin between two positions, each with nothing, its position, and these columns; in order or backwards, at most so many."""
        until = self.until(connection)

        def hot(first: int, left: int | None) -> list[tuple[Any, ...]]:
            order = f"order by position {'desc' if backwards else 'asc'} limit %s"
            sql = f"select null, position, {columns.sql} from @log where position between %s and %s {order}"
            return self._asked(connection, sql, (first, last, left))

        if first > until:
            return hot(first, rows_max)
        rows = hot(until + 1, rows_max) if backwards and last > until else []
        left = rows_max - len(rows) if rows_max is not None else -1
        rows += self.between(connection, _placed(columns), max(first, 1), min(last, until), left, backwards=backwards)
        left = rows_max - len(rows) if rows_max is not None else -1
        return rows if backwards or last <= until or not left else rows + hot(until + 1, left if left >= 0 else None)

    def rows_at(self, connection: Connection, columns: Columns, positions: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the rows that begin at these positions, in the order of those in the cold part, then the others in any order."""
        until = self.until(connection)
        rows = self.at(connection, _placed(columns), [position for position in positions if position <= until])
        hot = [position for position in positions if position > until]
        sql = f"select null, position, {columns.sql} from @log where position = any(%s)"
        return rows + (self._asked(connection, sql, (hot,)) if hot else [])

    def row_at(self, connection: Connection, position: int) -> Row | None:
        """Return the row that begins at a position."""
        found = self.rows_at(connection, WHOLE, [position])
        return Row(*found[0][2:]) if found else None

    def behind(self, connection: Connection, position: int) -> int:
        """Return the last position of the last row that ends at or before a position; 0 where there is none."""
        if 0 < position <= self.until(connection):
            first, last = self.begun(connection, position)
            return last if last <= position else first - 1
        [(found,)] = self._asked(connection, f"select {BEHIND}", (position, position))
        return max(int(found), 0)

    def parts(self, connection: Connection) -> Parts:
        """Return how much of the log is packed, and what it takes."""
        [(until, cold, size, count, hot, table, each, whole)] = self._asked(
            connection,
            f"select coalesce({END}, 0), (select coalesce(sum(rows), 0)::bigint from @segment), "
            "(select coalesce(sum(length(body)), 0)::bigint from @segment), (select count(*) from @segment), (select count(*) from @log), "
            "pg_relation_size(%s), (select avg(pg_column_size(newest.*))::float8 from (select * from @log order by position desc limit %s) newest), "
            "(select sum(pg_total_relation_size(oid))::bigint from pg_class where relnamespace = %s::regnamespace and relname = any(%s))",
            (f'"{self._where.schema}".log', SIZED_ROWS, f'"{self._where.schema}"', list(TABLES)),
        )
        taken = hot * (ROW_PLACE_BYTES + ROW_ALIGNED / 2 + (each or 0)) * PAGE_BYTES / (PAGE_BYTES - PAGE_HEAD_BYTES)
        free = int(table - taken)
        return Parts(
            until, cold, size, count, hot, free if free > max(table // FREE_OF_MIN, 2 * PAGE_BYTES) else 0, gives_back=False, bytes=whole
        )

    # --- making it

    def pack(self, connection: Connection, until: int, notes: Mapping[str, str]) -> int:
        """Pack the next rows that end at or before a position; return the position reached, 0 where there is nothing to pack.

        The last segment grows until it is full. With the first segment of a log notes are set. Where others change what is being packed, nothing is done, and
        the position before is returned. The newest row is not packed. `Broken` for rows that can't be.
        """
        with moment(connection):
            reached, of, making = self._standing(connection)
            found = self._asked(connection, NEXT, (reached + 1, reached + STEP_POSITIONS, until, segments.ROWS_MAX, BYTES_MAX))
            if not found:
                return 0
            is_full = of is None or of[2] >= segments.ROWS_MAX
            body, earlier, rows = self.packed(connection, reached, [Row(*row) for row in found], is_full=is_full)
        with connection.transaction():
            lock_head(self._where, connection, LOCK_SECONDS_MAX)
            if self._standing(connection) != (reached, of, making):
                return max(reached, 1)
            self.put(connection, [*earlier, *rows], body)
            deleted = connection.execute(
                self._where.sql("delete from @log where position between %s and %s"), (rows[0].position, rows[-1].position)
            ).rowcount
            if deleted != len(rows):
                raise Broken(
                    f"{self._place} is damaged: of {len(rows)} rows from position {rows[0].position} on {deleted} are there", **self._said
                )
            if not reached and notes:
                connection.execute(self._where.sql("select @note_down(%s::text[], %s::text[])"), (list(notes), list(notes.values())))
        return rows[-1].last

    def unpack(self, connection: Connection, after: int, notes: Sequence[str]) -> int:
        """Put the rows of the last segment back, if it lies behind a position; return what is cold then. With the last of them notes are deleted."""
        with connection.transaction(), connection.cursor() as cursor:
            lock_head(self._where, connection, LOCK_SECONDS_MAX)
            reached = self.until(connection)
            if reached <= after:
                return reached
            segment = self.segment(connection, reached)
            put_rows(cursor, self._where, segment.rows(0, segment.count))
            cursor.execute(self._where.sql("delete from @segment where first = %s"), (segment.positions[0],))
            left = segment.positions[0] - 1
            if not left:
                cursor.execute(self._where.sql("delete from @note where key = any(%s)"), (list(notes),))
        return left

    def _standing(self, connection: Connection) -> tuple[int, tuple[int, int, int] | None, str]:
        """Return how far the cold part reaches, its last segment, and which making of the index there is: that is another one where bodies were erased."""
        [(making, *last)] = self._asked(
            connection,
            "select reading, first, last, checked, rows from @head left join (select * from @segment order by first desc limit 1) newest on true",
        )
        first, reached, checked, rows = last
        return (reached, (first, checked, rows), making) if reached is not None else (0, None, making)

    def _key(self, connection: Connection, position: int) -> tuple[int, int] | None:
        found = self._asked(connection, "select first, checked from @segment where first <= %s order by first desc limit 1", (position,))
        return found[0] if found else None

    def _body(self, connection: Connection, first: int) -> bytes | None:
        found = self._asked(connection, "select body from @segment where first = %s", (first,))
        return found[0][0] if found else None

    def _put(self, connection: Connection, first: int, last: int, rows: int, checked: int, body: bytes) -> None:
        connection.execute(
            self._where.sql(
                "insert into @segment(first, last, rows, checked, body) values(%s, %s, %s, %s, %s) on conflict (first) do update "
                "set last = excluded.last, rows = excluded.rows, checked = excluded.checked, body = excluded.body"
            ),
            (first, last, rows, checked, body),
        )

    def _asked(self, connection: Connection, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return connection.execute(self._where.sql(sql), values, binary=True).fetchall()


@contextlib.contextmanager
def moment(connection: Connection) -> Generator[None]:
    """Have all that is read on a connection be as of one moment. In an open transaction nothing is begun: who asks there holds the lock of the log."""
    if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:  # who packs takes that lock: nothing moves meanwhile
        yield
        return
    connection.execute("begin isolation level repeatable read, read only")
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("rollback")


def _placed(columns: Columns) -> Callable[[Segment, int, int], list[tuple[Any, ...]]]:
    """Return what reads these columns from a segment as a statement does from the table: with nothing, and the position, before them."""

    def of(segment: Segment, start: int, end: int) -> list[tuple[Any, ...]]:
        return [
            (None, position, *found) for position, found in zip(segment.positions[start:end], columns.of(segment, start, end), strict=True)
        ]

    return of
