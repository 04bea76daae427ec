"""Reading a log in a SQLite file: pages of its rows, wherever they lie (see `cold`), and the pool of connections that they are read on.

A connection is taken for one page. Readers never wait for a writer.
"""

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any  # Any: rows of the columns that were asked for

from happened.core.errors import Broken, StoreFailed
from happened.core.store import Row
from happened.stores import runs
from happened.stores.cold import END, LAST_BEGUN, WHOLE, Cold, Columns, last_position, one_moment

Connect = Callable[[str], sqlite3.Connection]

READ_MS_MAX = 10_000
"""How long a reader waits inside SQLite. It needs to only while another process makes the file, or the last one that has it open closes it."""
ROW_RECORDS = 1 << 15
"""More than a row has: a command has 10,000 at most."""
AROUND = (
    f"select (select position {LAST_BEGUN}), (select position + count - 1 {LAST_BEGUN}), "
    f"(select position + count - 1 from log order by position desc limit 1), {END}"
)
"""The last row that begins at a position or before it, the last record, and the end of the cold part, as of one moment."""


class Pages:
    """The rows of one log by pages, and the pool of connections to read them on. `check_usable` raises where the log may not be read any more."""

    def __init__(self, path: str, connect: Connect, cold: Cold, check_usable: Callable[[], None]) -> None:
        self._path = path
        self._connect = connect
        self._cold = cold
        self._check_usable = check_usable
        self._readers: deque[sqlite3.Connection] = deque()
        self.closed = False
        """Set when the log is closed: connections that are given back are closed then, and not kept."""

    # --- pages

    def all_after(self, after: int) -> tuple[int, int]:
        """Return the range from the first row that does not end at or before a position up to the last record."""
        with self.reader() as reader:
            if self._cold.is_there:
                [(begun, ended, last, cold_end)] = reader.execute(AROUND, (min(after, runs.POSITION),) * 2)
                if not after or after > cold_end:
                    return begun + (ended <= after) if after and begun is not None else 0, last or 0
            with one_moment(reader):
                return self.first_after(reader, after), last_position(reader)

    def first_behind(self, after: int, columns: Columns, *, rows_max: int) -> list[Any]:
        """Return the first rows that reach behind a position; none where they are to be found by ranges."""
        if after > runs.POSITION:
            return []
        with self.reader() as reader:
            return self._cold.rows_behind(reader, columns, after, rows_max)

    def row_holding(self, position: int) -> Row | None:
        """Return the row that holds a position, unless it is longer than rows are."""
        if position > runs.POSITION:
            return None
        with self.reader() as reader:
            found = self._cold.rows_between(reader, WHOLE, max(1, position - ROW_RECORDS), position, 1, backwards=True)
        row = Row(*found[0]) if found else None
        return row if row is not None and row.last >= position else None

    def first_after(self, reader: sqlite3.Connection, after: int) -> int:
        """Return where the first row may begin that does not end at or before a position."""
        begun = self._cold.last_begun(reader, after) if after else None
        return begun[0] + (begun[1] <= after) if begun is not None else 0

    def read_at(self, positions: Sequence[int], columns: Columns, *, rows_max: int) -> Iterator[list[Any]]:
        """Yield pages of the rows that begin at these positions, which are in order or backwards."""
        for start in range(0, len(positions), rows_max):
            with self.reader() as reader, one_moment(reader):
                rows = self._cold.rows_at(reader, columns, positions[start : start + rows_max])
            if rows:
                yield rows

    def read_ranges(
        self,
        ranges: Sequence[tuple[int, int]],
        until: int,
        columns: Columns,
        *,
        backwards: bool,
        rows_max: int,
    ) -> Iterator[list[Any]]:
        """Yield pages of the rows that begin in these ranges, at or before a position."""
        for start, end in reversed(ranges) if backwards else ranges:
            first, last = max(start, 1), min(end, until)
            while first <= last:
                with self.reader() as reader:
                    rows = self._cold.rows_between(reader, columns, first, last, rows_max, backwards=backwards)
                if not rows:
                    break
                before = first, last
                if len(rows) < rows_max:
                    first = last + 1
                elif backwards:
                    last = rows[-1][0] - 1
                else:
                    first = columns.last(rows[-1]) + 1
                if first < before[0] or last > before[1] or (first, last) == before:  # this would not come to an end
                    raise out_of_order(self._path, rows[-1][0])
                yield rows

    # --- the pool

    @contextlib.contextmanager
    def reader(self) -> Generator[sqlite3.Connection]:
        """Give a connection of the pool, or a new one."""
        self._check_usable()
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self._new_reader()
        try:
            yield reader
        except sqlite3.Error as error:
            raise self._unread(error) from error
        finally:
            if self.closed:
                reader.close()
            else:
                self._readers.append(reader)

    def _new_reader(self) -> sqlite3.Connection:
        try:
            reader = self._connect(self._path)
            try:
                reader.execute("pragma query_only=on")
                reader.execute(f"pragma busy_timeout={READ_MS_MAX}")
            except BaseException:
                reader.close()
                raise
        except sqlite3.Error as error:
            raise self._unread(error) from error
        return reader

    def _unread(self, error: sqlite3.Error) -> StoreFailed:
        return StoreFailed(f"the log could not be read: {error}", error=str(error), path=self._path)

    def drop(self) -> None:
        """Close the connections that are kept."""
        while self._readers:
            self._readers.pop().close()


def out_of_order(path: str, position: int) -> Broken:
    """Return what it means that a row overlaps with the one before it."""
    return Broken(f"{path} is damaged: the row at position {position} lies where another is to be", path=path, position=position)
