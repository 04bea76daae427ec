"""The cold part of a log as one process reads it: which segment holds a position, and the segments that were read last, unfolded.

Where they lie is for a subclass to say. The cold part is the beginning of the log, without a gap; segments follow on each other.
"""

import threading
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar  # Any: rows of the columns that were asked for

import msgspec

from happened.core.errors import Broken
from happened.core.store import START, Row
from happened.stores import segments
from happened.stores.segments import Segment

CACHE_BYTES_MAX = 32 * 1024 * 1024
"""Segments that are kept unfolded; those that were not read for longest go first."""

Connection = TypeVar("Connection")
Of = Callable[[Segment, int, int], list[Any]]
"""Returns some columns of the rows between two places of a segment."""


class Unfolded(ABC, Generic[Connection]):
    """The segments of one log. All that is asked on one connection, for one answer, should be as of one moment."""

    def __init__(self, place: str, **said: str) -> None:
        self._place = place
        self._said = said
        """What errors say of where the log is, beside their text."""
        self._lock = threading.Lock()
        self._unfolded: dict[tuple[int, int], Segment] = {}
        """First position and check sum -> segment, the one that was read last at the end."""
        self._bytes = 0

    @abstractmethod
    def until(self, connection: Connection) -> int:
        """Return the last position of the cold part; 0 where there is none."""

    @abstractmethod
    def _key(self, connection: Connection, position: int) -> tuple[int, int] | None:
        """Return the first position and the check sum of the last segment that begins at or before a position."""

    @abstractmethod
    def _body(self, connection: Connection, first: int) -> bytes | None:
        """Return the bytes of the segment that begins at a position."""

    @abstractmethod
    def _put(self, connection: Connection, first: int, last: int, rows: int, checked: int, body: bytes) -> None:
        """Keep a segment, in the place of the one that begins at the same position, in the open transaction."""

    def segment(self, connection: Connection, position: int) -> Segment:
        """Return the segment that holds a position of the cold part. `Broken` where its bytes are damaged, and where none does."""
        position = max(position, 1)
        key = self._key(connection, position)
        if key is None:
            raise self._damaged(position, "no segment begins before it")
        with self._lock:
            found = self._unfolded.pop(key, None)
            if found is not None:
                self._unfolded[key] = found
        if found is None:
            first, checked = key
            body = self._body(connection, first)
            if body is None:
                raise self._damaged(position, f"the segment that begins at {first} can't be found")
            found = self._kept(key, self._unfold(first, checked, body))
        if position > found.last:  # else a row that is gone would be none, and who goes on behind the segment would not come to an end
            raise self._damaged(position, f"the segment there holds {found.positions[0]} to {found.last}")
        return found

    def between(self, connection: Connection, of: Of, first: int, last: int, rows_max: int = -1, *, backwards: bool = False) -> list[Any]:
        """Return the rows that begin between two positions of the cold part, in order or backwards, at most so many (below 0: all)."""
        found: list[Any] = []
        left = rows_max if rows_max >= 0 else last
        while first <= last and left > 0:
            segment = self.segment(connection, last if backwards else first)
            start, end = segment.place(first), segment.place(last + 1)
            if backwards:
                start = max(start, end - left)
                found += reversed(of(segment, start, end)) if start < end else ()
                last = segment.positions[0] - 1
            else:
                end = min(end, start + left)
                found += of(segment, start, end) if start < end else ()
                first = segment.last + 1
            left -= max(end - start, 0)
        return found

    def at(self, connection: Connection, of: Of, positions: Iterable[int]) -> list[Any]:
        """Return the rows that begin at these positions of the cold part, in their order."""
        found: list[Any] = []
        for position in positions:
            segment = self.segment(connection, position)
            place = segment.place(position)
            if place < segment.count and segment.positions[place] == position:
                found += of(segment, place, place + 1)
        return found

    def begun(self, connection: Connection, position: int) -> tuple[int, int]:
        """Return the first and last position of the row that holds a position of the cold part."""
        segment = self.segment(connection, position)
        place = bisect_right(segment.positions, max(position, 1)) - 1
        return segment.positions[place], segment.positions[place + 1] - 1 if place + 1 < segment.count else segment.last

    def packed(
        self, connection: Connection, reached: int, rows: Sequence[Row], *, is_full: bool
    ) -> tuple[bytes, Sequence[Row], Sequence[Row]]:
        """Pack rows that follow on the cold part, with those of its last segment unless that is full; return its bytes, what is in it already, and what is new.

        `Broken` for rows that can't be packed.
        """
        earlier: Sequence[Row] = ()
        before = START.digest
        if reached:
            segment = self.segment(connection, reached)
            before = segment.digest
            if not is_full:
                earlier = segment.rows(0, segment.count)
                if segments.fitting([*earlier, *rows]) > len(earlier):
                    before = segment.before
                else:
                    earlier = ()
        rows = rows[: segments.fitting([*earlier, *rows]) - len(earlier)]
        return segments.pack([*earlier, *rows], before), earlier, rows

    def put(self, connection: Connection, rows: Sequence[Row], body: bytes) -> None:
        """Keep these rows as this segment, in the open transaction."""
        self._put(connection, rows[0].position, rows[-1].last, len(rows), zlib.crc32(body), body)

    def rewrite(self, connection: Connection, rows: Iterable[Row]) -> None:
        """Put other rows in the place of those that begin at the same positions of the cold part, in the open transaction: for erasing.

        `Broken` where a row does not follow by the chain: only what the chain leaves out may differ.
        """
        left = {row.position: row for row in rows}
        until = self.until(connection)
        while left:
            rewritten = min(left)
            segment = self.segment(connection, rewritten) if rewritten <= until else None
            if segment is None or rewritten not in segment.positions:
                raise Broken(f"no row of the cold part begins at position {rewritten}", position=rewritten, **self._said)
            packed = [left.pop(row.position, row) for row in segment.rows(0, segment.count)]
            self.put(connection, packed, segments.pack(packed, segment.before))

    def _damaged(self, position: int, why: str) -> Broken:
        return Broken(
            f"{self._place} is damaged: position {position} is to be in its cold part, and {why}", position=position, **self._said
        )

    def _kept(self, key: tuple[int, int], unfolded: Segment) -> Segment:
        with self._lock:
            if key not in self._unfolded:
                self._unfolded[key] = unfolded
                self._bytes += unfolded.bytes
                while self._bytes > CACHE_BYTES_MAX and len(self._unfolded) > 1:
                    self._bytes -= self._unfolded.pop(next(iter(self._unfolded))).bytes
        return unfolded

    def _unfold(self, first: int, checked: int, body: bytes) -> Segment:
        try:
            if zlib.crc32(body) == checked:
                found = Segment(body)
                if found.positions[0] == first:
                    return found
            error: Exception | None = None
        except (zlib.error, msgspec.MsgspecError, ValueError, IndexError) as found:
            error = found
        raise Broken(
            f"{self._place} is damaged: the cold part from position {first} on can't be unfolded", position=first, **self._said
        ) from error
