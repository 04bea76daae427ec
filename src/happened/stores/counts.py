"""Counts: numbers that rows add up under texts, by blocks of 4,096 positions, so that any stretch of a log is summed without reading it.

A row belongs to the block of its first position. The block that still grows is in memory, and is written now and then in the transaction of whoever
commits, for good when it is whole; eight of them are summed into one of the next level, and so on. So a stretch is a few blocks, and rows only at its two ends. What was not
written is found again in the rows: where a process ends at once nothing is lost, and since a sum follows from the rows alone nothing counts twice.
"""

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from happened.core.store import Row, Terms

BLOCK_BITS = 12
LEVEL_BITS = 3
"""Eight blocks of a level are one of the next."""
LEVELS = 7
"""The highest is a block of 2 to the 33 positions: the whole of any log."""

Sums = dict[str, int]

DDL = (
    (
        "create table if not exists counted(level integer not null, block integer not null, last integer not null, sums blob not null, "
        "primary key(level, block))"
    ),
)
TABLES = ("counted",)

_decode = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


class Counts:
    """The counts of one log as this process knows them. Not for two threads at once."""

    def __init__(self) -> None:
        self.counted = 0
        """All rows up to this position are counted."""
        self._open: dict[int, Sums] = {}
        """Blocks that are not written, or not for good: whole from their first row on."""

    def load(self, connection: sqlite3.Connection) -> None:
        """Take in what is on disk, anew."""
        self.counted, self._open = 0, {}
        found = connection.execute("select block, last, sums from counted where level = 0 order by block desc limit 1").fetchone()
        if found is not None:
            block, self.counted, sums = found  # of a block that is whole its end: the next row begins behind it
            if not self._is_whole(block):
                self._open[block] = unpacked(sums)

    def add(self, rows: Iterable[Row], terms: Iterable[Terms]) -> None:
        """Take in rows, in order of position; one that was taken in before changes nothing."""
        counted, known = self.counted, -1
        sums: Sums = {}
        for row, found in zip(rows, terms, strict=True):
            position = row.position
            if position <= counted:
                continue
            block = position >> BLOCK_BITS
            if block != known:
                sums = self._open.setdefault(block, {})
                known = block
            for text, number in found.counts:
                sums[text] = sums.get(text, 0) + number
            counted = position + row.count - 1
        self.counted = counted

    def write(self, connection: sqlite3.Connection) -> list[int]:
        """Write the blocks that have grown, in the open transaction; return those that are whole, and need not be kept."""
        whole = [block for block in self._open if self._is_whole(block)]
        for block in self._open:
            if _last_of(connection, 0, block) < self._until(block):
                self._put(connection, 0, block, self._open[block])
        for block in whole:
            self._merge(connection, block)
        return whole

    def written(self, blocks: Iterable[int]) -> None:
        """Let go of what was written, and is committed."""
        for block in blocks:
            self._open.pop(block, None)

    def here(self) -> "Known":
        """Return what is in memory, for a look at a stretch that goes on without the lock."""
        return Known(self.counted, {block: dict(sums) for block, sums in self._open.items()})

    def _is_whole(self, block: int, level: int = 0) -> bool:
        return self.counted >= _end(block, level)

    def _until(self, block: int, level: int = 0) -> int:
        return min(self.counted, _end(block, level))

    def _merge(self, connection: sqlite3.Connection, block: int) -> None:
        """Sum eight blocks into one of the next level, as often as the last of eight is whole."""
        for level in range(1, LEVELS + 1):
            block >>= LEVEL_BITS
            if not self._is_whole(block, level) or _last_of(connection, level, block) >= 0:
                return
            below = connection.execute(
                "select sums from counted where level = ? and block between ? and ?",
                (level - 1, block << LEVEL_BITS, ((block + 1) << LEVEL_BITS) - 1),
            )
            self._put(connection, level, block, summed(unpacked(sums) for (sums,) in below))

    def _put(self, connection: sqlite3.Connection, level: int, block: int, sums: Sums) -> None:
        connection.execute(
            "insert or replace into counted(level, block, last, sums) values(?, ?, ?, ?)",
            (level, block, self._until(block, level), packed(sums)),
        )


class Known(NamedTuple):
    """What a process has counted and not written, at one moment."""

    counted: int
    open: Mapping[int, Sums]

    def between(self, connection: sqlite3.Connection, first: int, last: int, rows: Callable[[int, int], Iterator[Sums]]) -> Sums:
        """Return the sums of the rows that begin between two positions, both included. `rows` gives those of the rows in a stretch, one for each.

        Cost: at most 2,048 rows for each end, and some ten blocks for each level.
        """
        last = min(last, self.counted)
        if last < first:
            return {}
        start, end = first >> BLOCK_BITS, last >> BLOCK_BITS
        if start == end:
            return self._within(connection, start, first, last, rows)
        parts = [self._within(connection, start, first, last, rows), self._within(connection, end, first, last, rows)]
        return summed([*parts, *self._whole(connection, start + 1, end)])

    def _within(
        self, connection: sqlite3.Connection, block: int, first: int, last: int, rows: Callable[[int, int], Iterator[Sums]]
    ) -> Sums:
        """Return the sums of a part of a block: of its rows, or of the block without the other rows, whichever are fewer."""
        start, end = block << BLOCK_BITS, min(_end(block), self.counted)
        first, last = max(first, start), min(last, end)
        if 2 * (last - first) < end - start:
            return summed(rows(first, last))
        sums = self._block(connection, block)
        for low, high in ((start, first - 1), (last + 1, end)):
            for one in rows(low, high) if low <= high else ():
                for text, number in one.items():
                    sums[text] -= number
        return {text: number for text, number in sums.items() if number}

    def _whole(self, connection: sqlite3.Connection, block: int, end: int) -> Iterator[Sums]:
        """Yield the sums of the blocks from one up to before another, of many at once where that is written."""
        while block < end:
            level = LEVELS
            while level:
                size = 1 << LEVEL_BITS * level
                if not block % size and block + size <= end:
                    found = connection.execute(
                        "select sums from counted where level = ? and block = ?", (level, block >> LEVEL_BITS * level)
                    ).fetchone()
                    if found is not None:
                        yield unpacked(found[0])
                        break
                level -= 1
            else:
                yield self._block(connection, block)
            block += 1 << LEVEL_BITS * level

    def _block(self, connection: sqlite3.Connection, block: int) -> Sums:
        sums = self.open.get(block)
        if sums is not None:
            return dict(sums)
        found = connection.execute("select sums from counted where level = 0 and block = ?", (block,)).fetchone()
        return unpacked(found[0]) if found is not None else {}  # no row begins in it


def summed(parts: Iterable[Mapping[str, int]]) -> Sums:
    """Return the sums of several."""
    sums: Sums = {}
    get = sums.get
    for part in parts:
        for text, number in part.items():
            sums[text] = get(text, 0) + number
    return sums


def packed(sums: Mapping[str, int]) -> bytes:
    """Return sums as bytes: texts with whole numbers of any length, the lowest byte first, as MessagePack, deflated."""
    return zlib.compress(_encode({text: number.to_bytes((number.bit_length() + 7) // 8, "little") for text, number in sums.items()}), 1)


def unpacked(body: bytes) -> Sums:
    """Return what was packed."""
    from_bytes = int.from_bytes
    return {text: from_bytes(number, "little") for text, number in _decode(zlib.decompress(body)).items()}


def _end(block: int, level: int = 0) -> int:
    """Return the last position of a block."""
    return ((block + 1) << BLOCK_BITS + LEVEL_BITS * level) - 1


def _last_of(connection: sqlite3.Connection, level: int, block: int) -> int:
    found: Sequence[int] | None = connection.execute("select last from counted where level = ? and block = ?", (level, block)).fetchone()
    return found[0] if found is not None else -1
