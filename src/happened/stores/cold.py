"""The cold part of a log: its oldest rows, packed into segments (see `segments`) that lie in the log's own file.

The cold part is the beginning of the log, without a gap, and never all of it: the newest row stays in table `log`. A row lies in one of both at any moment:
it is moved in one transaction. So whoever looks first how far the cold part reaches, and then reads, in one transaction, misses nothing and meets nothing
twice. A step packs beside the lock, and takes it only to see that nothing has changed and to put the segment in the rows' place.
"""

import sqlite3
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple  # Any: rows of the columns that were asked for

import msgspec

from happened.core.errors import Broken
from happened.core.store import START, Row
from happened.stores import segments
from happened.stores.segments import Segment

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
CACHE_BYTES_MAX = 32 * 1024 * 1024
"""Segments that are kept unfolded; those that were not read for longest go first."""
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


WHOLE = Columns(ALL, Segment.whole, _last_of_row)
COUNTED = Columns(ALL.replace("salts", "x''").replace("digest", "x''"), Segment.counted, _last_of_row)
"""What is found and counted: what was asked and what came of it."""
BARE = Columns(BARE_SQL, Segment.bare, _last_of_bare)
HEADED = Columns(f"{BARE_SQL}, position, at, head", Segment.headed, _last_of_bare)
"""What a `Bare` has, without and with what a row says of itself."""
ASKED = Columns("position, position + count, records, input", Segment.asked, _last_of_bare)
"""What a `Bare` has with its input."""


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
        connection.execute("rollback")


class Cold:
    """The cold part of one file, as one process reads and makes it. All it is asked on one connection should be in one transaction."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._there = False
        """The table was seen: logs that were made before there was one get it with their first segment."""
        self._lock = threading.Lock()
        self._unfolded: dict[tuple[int, int], Segment] = {}
        """First position and check sum -> segment, the one that was read last at the end."""
        self._bytes = 0

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
            raise Broken(f"{self._path} is damaged: the cold part ends at {found[0]!r:.100}, which is no position", path=self._path)
        return found[0]

    def segment(self, connection: sqlite3.Connection, position: int) -> Segment:
        """Return the segment that holds a position of the cold part. `Broken` where its bytes are damaged."""
        key = connection.execute(
            "select first, checked from segment where first <= ? order by first desc limit 1", (max(position, 1),)
        ).fetchone()
        if key is None:
            raise self._damaged(position, "no segment begins before it")
        with self._lock:
            found = self._unfolded.pop(key, None)
            if found is not None:
                self._unfolded[key] = found
        if found is None:
            first, checked = key
            [body] = connection.execute("select body from segment where first = ?", (first,)).fetchone()
            found = self._kept(key, self._unfold(first, checked, body))
        return found

    def _damaged(self, position: int, why: str) -> Broken:
        return Broken(
            f"{self._path} is damaged: position {position} is to be in its cold part, and {why}", path=self._path, position=position
        )

    def _kept(self, key: tuple[int, int], unfolded: Segment) -> Segment:
        with self._lock:
            if key not in self._unfolded:
                self._unfolded[key] = unfolded
                self._bytes += unfolded.bytes
                while self._bytes > CACHE_BYTES_MAX and len(self._unfolded) > 1:
                    self._bytes -= self._unfolded.pop(next(iter(self._unfolded))).bytes
        return unfolded

    def between(
        self, connection: sqlite3.Connection, columns: Columns, first: int, last: int, rows_max: int, *, backwards: bool
    ) -> list[tuple[Any, ...]]:
        """Return the rows that begin between two positions of the cold part, in order or backwards, at most so many (below 0: all)."""
        found: list[tuple[Any, ...]] = []
        left = rows_max if rows_max >= 0 else last
        while first <= last and left > 0:
            at = last if backwards else first
            segment = self.segment(connection, at)
            if not segment.positions[0] <= at <= segment.last:  # else this would not come to an end
                raise self._damaged(at, f"the segment there holds {segment.positions[0]} to {segment.last}")
            start, end = segment.place(first), segment.place(last + 1)
            if backwards:
                start = max(start, end - left)
                found += reversed(columns.of(segment, start, end)) if start < end else ()
                last = segment.positions[0] - 1
            else:
                end = min(end, start + left)
                found += columns.of(segment, start, end) if start < end else ()
                first = segment.last + 1
            left -= max(end - start, 0)
        return found

    def at(self, connection: sqlite3.Connection, columns: Columns, positions: Iterable[int]) -> list[tuple[Any, ...]]:
        """Return the rows that begin at these positions of the cold part, in their order."""
        found: list[tuple[Any, ...]] = []
        for position in positions:
            segment = self.segment(connection, position)
            place = segment.place(position)
            if place < segment.count and segment.positions[place] == position:
                found += columns.of(segment, place, place + 1)
        return found

    def begun(self, connection: sqlite3.Connection, position: int) -> tuple[int, int]:
        """Return the first and last position of the row that holds a position of the cold part."""
        segment = self.segment(connection, position)
        place = bisect_right(segment.positions, max(position, 1)) - 1
        return segment.positions[place], segment.positions[place + 1] - 1 if place + 1 < segment.count else segment.last

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
            found = connection.execute(*asked).fetchall()
            if not found:
                return 0
            of = self._last(connection, reached)
            rows = [Row(*row) for row in found]
            earlier: list[Row] = []
            before = START.digest
            if of is not None:
                segment = self.segment(connection, reached)
                if of[2] < segments.ROWS_MAX:
                    earlier = segment.rows(0, segment.count)
                together = segments.fitting([*earlier, *rows]) - len(earlier)
                earlier = earlier if together > 0 else []
                before = segment.before if earlier else segment.digest
        rows = rows[: segments.fitting([*earlier, *rows]) - len(earlier)]
        body = segments.pack([*earlier, *rows], before)
        begin()
        try:
            now = self.until(connection)
            if (
                now != reached
                or self._last(connection, reached) != of
                or connection.execute(*asked).fetchall()[: len(rows)] != found[: len(rows)]
            ):
                connection.execute("rollback")
                return max(now, 1)
            if not self._there:
                connection.execute(DDL)
            for statement in first_time if not now else ():
                connection.execute(*statement)
            if earlier:
                connection.execute("delete from segment where last = ?", (reached,))
            first = [*earlier, *rows][0].position
            self._put(connection, first, rows[-1].last, len(earlier) + len(rows), body)
            connection.execute("delete from log where position between ? and ?", (rows[0].position, rows[-1].position))
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        return rows[-1].last

    def unpack(self, connection: sqlite3.Connection, after: int) -> int:
        """Put the rows of the last segment back into table `log`, in the open transaction, if it lies behind a position; return what is cold then."""
        reached = self.until(connection)
        if reached <= after:
            return reached
        segment = self.segment(connection, reached)
        marks = ", ".join("?" * len(Row.__struct_fields__))
        connection.executemany(
            f"insert into log({ALL}) values({marks})", [msgspec.structs.astuple(row) for row in segment.rows(0, segment.count)]
        )
        connection.execute("delete from segment where last = ?", (reached,))
        return segment.positions[0] - 1

    def rewrite(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Put other rows in the place of those that begin at the same positions of the cold part, in the open transaction: for erasing.

        `Broken` where a row does not follow by the chain: only what the chain leaves out may differ. What was there is in no page of the file any more
        once the transaction is in the file, if the connection says `secure_delete`.
        """
        left = {row.position: row for row in rows}
        while left:
            segment = self.segment(connection, min(left))
            rewritten = min(left)
            packed = [left.pop(row.position, row) for row in segment.rows(0, segment.count)]
            if rewritten in left:
                raise Broken(f"no row of the cold part begins at position {rewritten}", position=rewritten, path=self._path)
            connection.execute("delete from segment where first = ?", (packed[0].position,))
            self._put(connection, packed[0].position, segment.last, segment.count, segments.pack(packed, segment.before))

    def _last(self, connection: sqlite3.Connection, reached: int) -> tuple[int, int, int] | None:
        """Return the first position, the check sum and the count of rows of the segment that ends at a position."""
        if not reached:
            return None
        found: tuple[int, int, int] | None = connection.execute(
            "select first, checked, rows from segment where last = ?", (reached,)
        ).fetchone()
        return found

    def _put(self, connection: sqlite3.Connection, first: int, last: int, rows: int, body: bytes) -> None:
        connection.execute(
            "insert into segment(first, last, rows, checked, body) values(?, ?, ?, ?, ?)", (first, last, rows, zlib.crc32(body), body)
        )

    def _unfold(self, first: int, checked: int, body: bytes) -> Segment:
        try:
            if zlib.crc32(body) == checked:
                return Segment(body)
            error: Exception | None = None
        except (zlib.error, msgspec.MsgspecError, ValueError, IndexError) as found:
            error = found
        raise Broken(
            f"{self._path} is damaged: the cold part from position {first} on can't be unfolded", path=self._path, position=first
        ) from error
