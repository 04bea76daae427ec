"""Reading a log in PostgreSQL: pages of its rows, wherever they lie (see `postgres_cold`), and the pool of connections that they are read on.

A connection is taken for one page. Most pages are of the hot part alone, and take one statement, which says with each row how far the cold part reaches.
Where that may hold some of the rows, several statements are asked, as of one moment.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeVar  # Any: rows of the columns that were asked for

import psycopg
from psycopg import errors

from happened.core.errors import Broken, StoreFailed
from happened.core.store import Row
from happened.stores.postgres_cold import BEHIND, END, WHOLE, Columns, PostgresCold, moment
from happened.stores.postgres_tables import Connection, Where, one_line

T = TypeVar("T")
Page = list[tuple[Any, ...]]
"""Rows, each behind nothing of meaning and its first position."""
PAGE_ROWS = 1000
SPAN_MIN = 16
SPAN_MAX = 100 * PAGE_ROWS
"""How many positions are looked at for a page: twice as many as its rows are likely to have. A row may have 10,000."""
KEEP_READERS = 8
"""Connections for readers that are kept open. More are made where more read at once, and given back after."""
POSITION_MAX = 2**63 - 1
DAMAGED = errors.DataCorrupted, errors.IndexCorrupted


class PostgresPages:
    """The rows of one log by pages, and the pool of connections to read them on. `check_usable` raises where the log may not be read any more."""

    def __init__(self, where: Where, cold: PostgresCold, check_usable: Callable[[], None]) -> None:
        self._where = where
        self._cold = cold
        self._check_usable = check_usable
        self._readers: deque[Connection] = deque()
        self._packed = 0
        """How far the cold part reached when it was looked at last."""
        self.primary = False
        """The log was opened on a primary: it is read on none that only follows."""
        self.closed = False
        """Set when the log is closed: connections that are given back are closed then, and not kept."""

    # --- pages, asked for on one connection

    def edges(self, connection: Connection, after: int, until: int | None) -> tuple[int, int, int]:
        """Return where the log ends, where the first row begins that ends after a position, and where the last one ends that does at or before another."""
        [(last, before, end)] = connection.execute(
            self._where.sql(f"select position, {BEHIND}, {BEHIND} from @head"), (after, after, until, until)
        ).fetchall()
        if before < 0 < after and last:
            with moment(connection):
                before = self._cold.behind(connection, after)
        if until is None or until >= last:
            end = last
        elif end < 0 < until:
            with moment(connection):
                end = self._cold.behind(connection, until)
        return last, max(before, 0) + 1, max(end, 0)

    def page(self, connection: Connection, columns: Columns, first: int, last: int, *, backwards: bool, rows_max: int) -> Page:
        """Return the rows that begin between two positions, at most so many, as of one moment."""
        if self._cold.is_there and first > self._packed:  # most reads are of the hot part alone
            order = f"order by position {'desc' if backwards else 'asc'} limit %s"
            found = self._asked(
                connection,
                f"select {END}, position, {columns.sql} from @log where position between %s and %s {order}",
                (first, last, rows_max),
            )
            if found:
                self._packed = packed = found[0][0] or 0  # other threads write it, too
                if first > packed:
                    return found
        with moment(connection):
            return self._cold.rows_between(connection, columns, first, last, rows_max, backwards=backwards)

    def row_holding(self, connection: Connection, position: int) -> Row | None:
        """Return the row that holds a position."""
        if position > POSITION_MAX:
            return None
        first = self._packed + 1 if position > self._packed else 1
        found = self.page(connection, WHOLE, first, position, backwards=True, rows_max=1)
        row = Row(*found[0][2:]) if found else None
        return row if row is not None and row.last >= position else None

    def page_at(
        self, connection: Connection, columns: Columns, positions: Sequence[int], after: int, until: int, *, backwards: bool
    ) -> Page:
        """Return those of the rows that begin at these positions, which are in order, that end after one position and at or before another, as `page` does."""
        first = min(positions[0], positions[-1])
        if self._cold.is_there and first > self._packed:
            found = self._asked(
                connection,
                f"select cold, position, {columns.sql} from (select {END} as cold) packed left join @log on position = any(%s) "
                f"and position + count - 1 > %s and position + count - 1 <= %s order by position {'desc' if backwards else 'asc'}",
                (list(positions), after, until),
            )
            self._packed = packed = found[0][0] or 0
            if first > packed:
                return found if found[0][1] is not None else []
        with moment(connection):
            begin, end = self._cold.behind(connection, after) + 1, self._cold.behind(connection, until)
            rows = self._cold.rows_at(connection, columns, [position for position in positions if begin <= position <= end])
        return sorted(rows, key=_position, reverse=backwards)

    def _asked(self, connection: Connection, sql: str, values: Sequence[Any]) -> Page:
        return connection.execute(self._where.sql(sql), values, binary=True).fetchall()

    # --- the pool

    def tried(self, ask: Callable[[Connection], T]) -> T:
        """Ask on a connection of the pool; where that was lost, once more on a new one."""
        for attempt in range(2):
            with self.reader(fresh=attempt > 0) as reader:
                try:
                    return ask(reader)
                except psycopg.OperationalError as error:
                    if attempt or not is_lost(reader, error):
                        raise
        raise AssertionError("the second attempt returns or raises")

    @contextlib.contextmanager
    def reader(self, *, fresh: bool = False) -> Generator[Connection]:
        """Give a connection of the pool, or a new one."""
        self._check_usable()
        try:
            reader = self._taken(fresh=fresh)
        except psycopg.Error as error:
            raise StoreFailed(f"the database can't be reached: {one_line(error)}", error=one_line(error), url=self._where.said) from error
        try:
            yield reader
        except psycopg.Error as error:
            raise _read_failed(error) from error
        except BaseException:  # after an interrupt nobody knows where it is
            reader.close()
            raise
        finally:
            if self.closed or reader.closed or reader.pgconn.transaction_status != _IDLE or len(self._readers) >= KEEP_READERS:
                reader.close()
            else:
                self._readers.append(reader)

    def _taken(self, *, fresh: bool) -> Connection:
        while not fresh:
            try:
                reader = self._readers.pop()
            except IndexError:
                break
            if not reader.closed and not reader.broken:
                return reader
        if fresh:
            self.drop()  # the others are likely to be lost, too
        return self._where.connect_like(primary=self.primary)

    def drop(self) -> None:
        """Close the connections that are kept."""
        while self._readers:
            with contextlib.suppress(IndexError):  # another thread has taken it
                self._readers.pop().close()


_position = itemgetter(1)
_IDLE = psycopg.pq.TransactionStatus.IDLE


def pages_between(page: Callable[[int, int], Page], first: int, last: int, *, backwards: bool, rows_max: int) -> Iterator[Page]:
    """Yield pages of the rows that begin between two positions. `page` returns those that begin between two others, at most `rows_max`."""
    span = max(2 * rows_max, SPAN_MIN)
    while first <= last:
        # Not of all that is left: a server that has no statistics yet would sort it, for each page.
        low, high = (max(first, last - span + 1), last) if backwards else (first, min(last, first + span - 1))
        found = page(low, high)
        if found:
            yield found
        if len(found) == rows_max:  # there may be more
            low, high = (found[-1][1], high) if backwards else (low, found[-1][1])
        span = 2 * ((high - low + 1) * rows_max // len(found) if found else span)
        span = min(max(span, SPAN_MIN), SPAN_MAX)
        if backwards:
            last = low - 1
        else:
            first = high + 1


def is_lost(connection: Connection, error: psycopg.Error) -> bool:
    """Say whether a connection is gone. The server says so before it hangs up: then it is still there to look at."""
    return connection.closed or connection.broken or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def _read_failed(error: psycopg.Error) -> StoreFailed | Broken:
    if isinstance(error, DAMAGED):
        return Broken(f"the database is damaged: {one_line(error)}", error=one_line(error))
    return StoreFailed(f"the log could not be read: {one_line(error)}", error=one_line(error))
