"""Runs: the index of terms and ids, as staggered sorted runs that cost no random page.

An entry is 8 bytes: a 32-bit hash of the term, and the position of the row. New entries gather in 64 parts in memory, by the top bits of the hash; every
few hundred records one part in turn becomes a sorted run, written in the transaction of whoever commits. Small runs of a part are merged eight to one as
they grow. A hash may collide, so a reader verifies in the row. (A b-tree over random terms writes a page for every entry: measured 16 times the bytes.)
A bit that flips on the disk would hide a row from who decides by it, so whatever is read here is compared with a checksum of its own.

Each part remembers up to which position its runs cover the log; what lies after is in memory. With each part the new entries of all parts are written
as they came, until every part has them in a run: so after a crash only what came since is found again in the rows. Ids are entries of their own kind,
beside the terms.
"""

import os
import sqlite3
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import sub
from typing import NamedTuple
from zlib import crc32

from happened.core.store import Row, Terms
from happened.stores import counts

PARTS = 64
PART_SHIFT = 26
"""The top 6 of the 32 bits of a hash say the part."""
POSITION = 0xFFFFFFFF
FLUSH_RECORDS = 500
"""One part is flushed each time so many records came: about as many are to be found again after a crash, and those of the last commit."""
RECENT_RECORDS_MAX = 64 * FLUSH_RECORDS
"""More that came at once, as where the index was dropped, is not written a second time: then all of it is to be found again."""
MERGE_RUNS = 8
"""So many runs of a level become one of the next. The first time it is fewer, of each part and level another number: else all parts would do it in turn within
a few hundred commits, and of a level whose runs are large each of these would be held up for tens of milliseconds."""
MEMORY_BYTES_MAX = 64 * 1024 * 1024
"""Runs kept in memory, of all parts; the oldest read go first."""
BLOCK_BITS = 12
"""Names are indexed by blocks of 4,096 positions: a block says which names occur in it."""

ENTRY_BYTES = 8
SUM_BYTES = 4
"""Entries are followed by their CRC-32, so their bytes are 4 more than a multiple of 8. The bytes of a run that is packed, which have a checksum within, are
no multiple of 4, or else one that is not taken for the sum of the rest."""
PLAIN = (0, SUM_BYTES)
"""What the bytes of a run that is not packed are beside a multiple of 8: an earlier release wrote no sum."""

TAGS, IDS = 0, 1

DDL = (
    (
        "create table if not exists run(part integer not null, kind integer not null, last integer not null, level integer not null, "
        "entries blob not null, primary key(part, kind, last))"
    ),
    "create table if not exists covered(part integer primary key, last integer not null)",
    "create table if not exists recent(last integer primary key, after integer not null, tags blob not null, ids blob not null)",
    "create table if not exists block(block integer primary key, names text not null)",
    "create table if not exists checked(part integer primary key, sum integer not null)",
    "create table if not exists shelf(key text primary key, body text not null) without rowid",
    *counts.DDL,
)
"""What holds large bodies has rowids. In a table without them the body is part of what is compared, and SQLite reads all of it, of each row that it passes on
its way: 2.6 MB for one run of 8 kB where 10,000,000 records are indexed, 1.4 ms. A file of an earlier release has such tables until its index is made anew."""
RECENT, CHECKED = "recent", "checked"
TABLES = ("run", "covered", RECENT, "block", CHECKED, "shelf", *counts.TABLES)
MAKE_ANEW = (
    "It is made of the rows, so it can be made anew: stop all that use the log, then `happened rebuild --index`, and `happened verify`"
)
"""What helps where the index is damaged."""
LATER = frozenset({RECENT, CHECKED})
"""Those that an earlier release did not have: who only reads does without."""


class Run(NamedTuple):
    """A sorted run on disk."""

    last: int
    level: int


def packed(entries: bytes) -> bytes:
    """Return a run in fewer bytes, a third for ids and less for tags: the differences of hashes, and positions as differences under one hash, deflated."""
    listed = memoryview(entries).cast("Q").tolist()
    hashes, positions = [entry >> 32 for entry in listed], [entry & POSITION for entry in listed]
    steps = list(map(sub, hashes, [0, *hashes]))
    places = [
        position - before if not step else position for step, before, position in zip(steps, [0, *positions], positions, strict=False)
    ]
    columns = array("I", steps).tobytes(), array("I", places).tobytes()
    found = zlib.compress(b"".join([column[n::4] for column in columns for n in range(4)]), 9)
    return found if len(found) % SUM_BYTES else found + b"\0"


def unpacked(body: bytes) -> bytes:
    """Return what was packed. `ValueError` or `zlib.error` for what was not."""
    packing = zlib.decompressobj()
    planes = packing.decompress(body)
    if not packing.eof:
        raise ValueError("a run of it has no end")
    count = len(planes) // ENTRY_BYTES
    columns = bytearray(4 * count), bytearray(4 * count)
    for n in range(8):
        columns[n // 4][n % 4 :: 4] = planes[n * count : (n + 1) * count]
    steps, places = (memoryview(column).cast("I").tolist() for column in columns)
    listed: list[int] = []
    position = 0
    for hashed, step, place in zip(accumulate(steps), steps, places, strict=True):
        position = place if step else position + place
        listed.append(hashed << 32 | position)
    return array("Q", listed).tobytes()


def sealed(entries: bytes, where: str) -> bytes:
    """Return entries with the checksum of themselves and of where they lie."""
    return entries + crc32(entries, crc32(where.encode())).to_bytes(SUM_BYTES, "little")


def opened(body: bytes, where: str) -> bytes:
    """Return the entries of what was sealed there, or packed. `ValueError` or `zlib.error` for what is not as it was written."""
    beyond = len(body) % ENTRY_BYTES
    if not beyond:
        return body  # of an earlier release
    entries, found = body[:-SUM_BYTES], body[-SUM_BYTES:]
    if beyond == SUM_BYTES and crc32(entries, crc32(where.encode())) == int.from_bytes(found, "little"):
        return entries
    return unpacked(body)


def part_of(text: str) -> tuple[int, int]:
    """Return the hash of a term or id, and the part it belongs to."""
    hashed = crc32(text.encode())
    return hashed, hashed >> PART_SHIFT


class Tail:
    """The entries of one part that are in no run yet, in order of position. They are looked through only when somebody asks: most never are."""

    __slots__ = ("_looked_through", "_places", "entries")

    def __init__(self, entries: Iterable[int] = ()) -> None:
        self.entries = array("Q", entries)
        """Not a list: every full collection of garbage would look at each of tens of thousands of numbers."""
        self._looked_through = 0
        self._places: dict[int, int | list[int]] = {}
        """Hash -> positions. Most have one, kept bare: a hundred thousand lists are a hundred thousand things for the garbage collector to visit."""

    def find(self, hashed: int) -> Sequence[int]:
        """Return the positions that have this hash."""
        found = self.places().get(hashed)
        return () if found is None else (found,) if isinstance(found, int) else found

    def places(self) -> Mapping[int, int | list[int]]:
        """Return the position of each hash, or its positions."""
        places = self._places
        if self._looked_through < len(self.entries):
            for entry in self.entries[self._looked_through :]:
                before = places.get(entry >> 32)
                if before is None:
                    places[entry >> 32] = entry & POSITION
                elif isinstance(before, int):
                    places[entry >> 32] = [before, entry & POSITION]
                else:
                    before.append(entry & POSITION)
            self._looked_through = len(self.entries)
        return places

    def after(self, position: int) -> "array[int]":
        """Return the entries that lie after a position."""
        entries = self.entries
        if not entries or entries[0] & POSITION > position:
            return entries
        return entries[bisect_right(entries, position, key=_position) :]


def _position(entry: int) -> int:
    return entry & POSITION


class Runs:
    """The index of one log as this process knows it. Not for two threads at once."""

    def __init__(self) -> None:
        self.indexed = 0
        """All rows up to this position are found."""
        self._tail: tuple[list[Tail], list[Tail]] = ([Tail() for _ in range(PARTS)], [Tail() for _ in range(PARTS)])
        """For tags and for ids: what is in memory, by part."""
        self._covered = [0] * PARTS
        self._runs: list[tuple[list[Run], list[Run]] | None] = [([], []) for _ in range(PARTS)]
        """For each part the runs of tags and those of ids; `None` before they were looked up."""
        self._cache: dict[tuple[int, int, int, int], memoryview] = {}
        self._cached_bytes = 0
        self._next = 0
        self._since = 0
        self._checks = True
        """The sums of parts are there to be compared with."""
        self._blocks: dict[int, set[int]] = {}
        """Name -> blocks it occurs in."""
        self._open_blocks: dict[int, set[int]] = {}
        """Blocks not written yet -> names."""
        self.counts = counts.Counts()

    def load(self, connection: sqlite3.Connection) -> None:
        """Take in what is on disk, anew."""
        self.__init__()  # type: ignore[misc]  # begin as if just made
        for part, last in connection.execute("select part, last from covered"):
            self._covered[part] = last
        self._runs = [None] * PARTS
        for block, names in connection.execute("select block, names from block"):
            for name in _names_in(block, names):
                self._blocks.setdefault(name, set()).add(block)
        self._checks = _has(connection, CHECKED)
        self.counts.load(connection)
        self.indexed = min(self._load_recent(connection), self.counts.counted)

    def _load_recent(self, connection: sqlite3.Connection) -> int:
        """Take in what not every part has in a run yet; return up to where there is nothing that is missing."""
        reached = min(self._covered)
        if not _has(connection, RECENT):
            return reached  # of an earlier release, and opened to read only
        for last, after, *bodies in connection.execute("select last, after, tags, ids from recent order by last"):
            if after > reached or last > self.counts.counted:  # a release that did not write them has been here since
                break
            reached = max(reached, last)
            for tails, body in zip(self._tail, bodies, strict=True):
                entries = memoryview(opened(body, f"{after}/{last}")).cast("Q")
                start = 0
                for part, tail in enumerate(tails):
                    end = bisect_left(entries, (part + 1) << PART_SHIFT + 32, start)
                    if start < end and last > self._covered[part]:
                        tail.entries.frombytes(entries[start:end].cast("B"))
                    start = end
        return reached

    def add(self, rows: Sequence[Row], terms: Sequence[Terms]) -> None:
        """Take in rows, in order of position."""
        if not rows:
            return
        self.counts.add(rows, terms)
        of_tags, of_ids = self._tail
        known: Sequence[int] = ()
        until = -1
        """Up to where rows with the names that are known need no second look."""
        for row, found in zip(rows, terms, strict=True):
            position, id, names = row.position, found.id, found.names  # noqa: A001 - as everywhere
            for text in found.tags:
                hashed = crc32(text.encode())
                of_tags[hashed >> PART_SHIFT].entries.append(hashed << 32 | position)
            if id is not None:
                hashed = crc32(id.encode())
                of_ids[hashed >> PART_SHIFT].entries.append(hashed << 32 | position)
            if (names is not known or position > until) and names:
                known, until = names, position | (1 << BLOCK_BITS) - 1
                open_block = self._open_blocks.get(position >> BLOCK_BITS)
                if open_block is None or not open_block.issuperset(names):
                    self._add_names(position >> BLOCK_BITS, names)
        last = rows[-1]
        self.indexed = last.position + last.count - 1
        self._since += self.indexed + 1 - rows[0].position

    def _add_names(self, block: int, names: Iterable[int]) -> None:
        open_block = self._open_blocks.setdefault(block, set())
        for name in names:
            open_block.add(name)
            self._blocks.setdefault(name, set()).add(block)

    def find(self, connection: sqlite3.Connection, kind: int, text: str, first: int = 0, last: int = POSITION) -> list[int]:
        """Return the positions of the rows that may have this term or id, in order, from one position up to another. Cost: what is found, not what there is."""
        hashed, part = part_of(text)
        found: list[int] = []
        low, high = hashed << 32 | first, hashed << 32 | last
        for run in tuple(self._of_part(connection, part)[kind]):
            entries = self._entries(connection, part, kind, run)
            if entries is None:  # merged by another process since: look again
                self._load_part(connection, part)
                return self.find(connection, kind, text, first, last)
            place = bisect_left(entries, low)
            if place < len(entries) and entries[place] <= high:  # most runs have none: a second search of each would be half the time
                found += [entry & POSITION for entry in entries[place : bisect_right(entries, high, place)]]
        found += [position for position in self._tail[kind][part].find(hashed) if first <= position <= last]
        return sorted(set(found)) if len(found) > 1 else found

    def among(self, connection: sqlite3.Connection, kind: int, texts: Sequence[str]) -> frozenset[str]:
        """Return those of these texts that may be found: by the hash alone, without their positions."""
        parts: list[tuple[list[memoryview], Mapping[int, int | list[int]]] | None] = [None] * PARTS
        found: set[str] = set()
        for text in texts:
            hashed = crc32(text.encode())
            part = hashed >> PART_SHIFT
            there = parts[part]
            if there is None:
                parts[part] = there = self._all_entries(connection, part, kind), self._tail[kind][part].places()
            runs, places = there
            if hashed in places:
                found.add(text)
                continue
            low = hashed << 32
            for entries in runs:
                place = bisect_left(entries, low)
                if place < len(entries) and entries[place] >> 32 == hashed:
                    found.add(text)
                    break
        return frozenset(found)

    def _all_entries(self, connection: sqlite3.Connection, part: int, kind: int) -> list[memoryview]:
        """Return all runs of a part."""
        while True:
            found = [self._entries(connection, part, kind, run) for run in self._of_part(connection, part)[kind]]
            runs = [entries for entries in found if entries is not None]
            if len(runs) == len(found):
                return runs
            self._load_part(connection, part)  # merged by another process since

    def inspect(self, connection: sqlite3.Connection, part: int) -> None:
        """Read all runs of a part from the disk, in one transaction. `ValueError` or `zlib.error` where one is not as it was written."""
        for kind, runs in enumerate(self._load_part(connection, part)):
            for run in runs:
                _read(connection, part, kind, run)

    def blocks(self, names: Sequence[int]) -> list[tuple[int, int]]:
        """Return the ranges (first, last position) in which any of these names occurs, in order."""
        ranges: list[tuple[int, int]] = []
        for block in sorted(set[int]().union(*(self._blocks.get(name, ()) for name in names))):
            first, last = block << BLOCK_BITS, ((block + 1) << BLOCK_BITS) - 1
            if ranges and ranges[-1][1] == first - 1:
                ranges[-1] = (ranges[-1][0], last)
            else:
                ranges.append((first, last))
        return ranges

    def due(self) -> bool:
        """Say whether a part should be flushed with the next commit."""
        return self._since >= FLUSH_RECORDS

    def flush_next(self, connection: sqlite3.Connection) -> "Flushed":
        """Write the part whose turn it is, in the open transaction. What comes back is applied once that is committed."""
        self._write_recent(connection)
        parts = [self._write_part(connection, self._next)]
        self._drop_recent(connection)
        return Flushed(self, parts, self._write_blocks(connection), self.counts.write(connection))

    def flush_all(self, connection: sqlite3.Connection) -> "Flushed":
        """Write every part, in the open transaction."""
        parts = [self._write_part(connection, part) for part in range(PARTS)]
        self._drop_recent(connection)
        return Flushed(self, parts, self._write_blocks(connection), self.counts.write(connection))

    def applied(self, flushed: "Flushed") -> None:
        """Let go of what has been written."""
        for part, covered, runs in flushed.parts:
            self._covered[part] = covered
            self._runs[part] = runs
            for kind in (TAGS, IDS):
                self._tail[kind][part] = Tail(self._tail[kind][part].after(covered))
        for block in flushed.blocks:
            self._open_blocks.pop(block, None)
        self.counts.written(flushed.counted)
        self._next = (self._next + 1) % PARTS
        self._since = 0

    def _write_recent(self, connection: sqlite3.Connection) -> None:
        """Write what came since this was done last, by whichever process, in order of parts. It is in memory: whoever writes knows all that is there."""
        [(after,)] = connection.execute("select coalesce((select max(last) from recent), (select max(last) from covered), 0)")
        if 0 < self.indexed - after <= RECENT_RECORDS_MAX:
            came = [b"".join([tail.after(after) for tail in tails]) for tails in self._tail]
            tags, ids = (sealed(entries, f"{after}/{self.indexed}") for entries in came)
            connection.execute("insert into recent(last, after, tags, ids) values(?, ?, ?, ?)", (self.indexed, after, tags, ids))

    def _drop_recent(self, connection: sqlite3.Connection) -> None:
        """Delete what every part has in a run by now."""
        [(parts, covered)] = connection.execute("select count(*), min(last) from covered")
        if parts == PARTS:
            connection.execute("delete from recent where last <= ?", (covered,))

    def _write_part(self, connection: sqlite3.Connection, part: int) -> tuple[int, int, tuple[list[Run], list[Run]]]:
        row = connection.execute("select last from covered where part = ?", (part,)).fetchone()
        covered = row[0] if row is not None else 0
        if covered > self._covered[part]:  # another process has flushed it meanwhile
            self._load_part(connection, part)
        known = self._of_part(connection, part)
        if covered > self.indexed:  # who notes something need not have taken in what others have recorded
            return part, covered, known
        kept = (list(known[TAGS]), list(known[IDS]))
        for kind in (TAGS, IDS):
            entries = array("Q", sorted(self._tail[kind][part].after(covered)))
            if entries:
                self._insert(connection, part, kind, Run(self.indexed, 0), entries)
                kept[kind].append(Run(self.indexed, 0))
                self._merge(connection, part, kind, kept[kind])
        connection.execute("insert or replace into covered(part, last) values(?, ?)", (part, self.indexed))
        connection.execute("insert or replace into checked(part, sum) values(?, ?)", (part, _sum_of(self.indexed, kept)))
        return part, self.indexed, kept

    def _merge(self, connection: sqlite3.Connection, part: int, kind: int, runs: list[Run]) -> None:
        level = 0
        while len(same := [run for run in runs if run.level == level]) >= _merged_at(part, level, runs):
            merged: list[int] = []
            for run in same:
                entries = self._entries(connection, part, kind, run)
                merged += entries.tolist() if entries is not None else ()
                connection.execute("delete from run where part = ? and kind = ? and last = ?", (part, kind, run.last))
                runs.remove(run)
            merged.sort()
            level += 1
            into = Run(same[-1].last, level)
            self._insert(connection, part, kind, into, array("Q", merged))
            runs.append(into)

    def _insert(self, connection: sqlite3.Connection, part: int, kind: int, run: Run, entries: "array[int]") -> None:
        body = entries.tobytes()
        connection.execute(
            "insert into run(part, kind, last, level, entries) values(?, ?, ?, ?, ?)",
            (part, kind, *run, sealed(body, place_of(part, kind, run))),
        )
        self._remember((part, kind, run.last, run.level), memoryview(body).cast("Q"))

    def _write_blocks(self, connection: sqlite3.Connection) -> list[int]:
        """Write the blocks that have grown, also the one that isn't full yet; return those that are full."""
        for block, names in self._open_blocks.items():
            stored = connection.execute("select names from block where block = ?", (block,)).fetchone()
            known = names | set(_names_in(block, stored[0])) if stored is not None else names
            if known:
                connection.execute("insert or replace into block(block, names) values(?, ?)", (block, _names_text(block, known)))
        return [block for block in self._open_blocks if (block + 1) << BLOCK_BITS <= self.indexed]

    def _of_part(self, connection: sqlite3.Connection, part: int) -> tuple[list[Run], list[Run]]:
        """Return the runs of a part. They are looked up when they are first asked for: a look at all of them is a third of what it takes to open a log."""
        return self._runs[part] or self._load_part(connection, part)

    def _load_part(self, connection: sqlite3.Connection, part: int) -> tuple[list[Run], list[Run]]:
        runs: tuple[list[Run], list[Run]] = ([], [])
        check = "(select sum from checked where part = one.part)" if self._checks else "null"
        found = connection.execute(  # one statement, so all of it is as of one moment
            f"select (select last from covered where part = one.part), {check}, run.kind, run.last, run.level "
            "from (select ? as part) as one left join run on run.part = one.part order by run.last",
            (part,),
        ).fetchall()
        for _, _, kind, last, level in found:
            if kind in (TAGS, IDS):
                runs[kind].append(Run(last, level))
        covered, sum_, *_ = found[0]
        strange = any(kind not in (TAGS, IDS, None) for _, _, kind, _, _ in found)
        dropped = covered is None and runs == ([], [])  # by somebody who did not know of the sums
        if strange or (sum_ is not None and sum_ != _sum_of(covered, runs) and not dropped):
            raise ValueError(f"the runs of its part {part} are not those that were written")
        self._runs[part] = runs
        return runs

    def _entries(self, connection: sqlite3.Connection, part: int, kind: int, run: Run) -> memoryview | None:
        key = (part, kind, run.last, run.level)
        entries = self._cache.get(key)
        if entries is None:
            entries = _read(connection, part, kind, run)
            if entries is not None:
                self._remember(key, entries)
        return entries

    def _remember(self, key: tuple[int, int, int, int], entries: memoryview) -> None:
        while self._cached_bytes + entries.nbytes > MEMORY_BYTES_MAX and self._cache:
            self._cached_bytes -= self._cache.pop(next(iter(self._cache))).nbytes
        self._cache[key] = entries
        self._cached_bytes += entries.nbytes


def _read(connection: sqlite3.Connection, part: int, kind: int, run: Run) -> memoryview | None:
    """Return the entries of a run; `None` where it is not there."""
    which = "part = ? and kind = ? and last = ? and level = ?"
    row = connection.execute(f"select entries from run where {which}", (part, kind, *run)).fetchone()
    return memoryview(opened(row[0], place_of(part, kind, run))).cast("Q") if row is not None else None


def drop(connection: sqlite3.Connection, there: Collection[str] = TABLES) -> str:
    """Drop all of the index in the open transaction, of those of its tables that are there, and leave it empty, as it is made today.

    Returns what tells its next making from this one.
    """
    for table in TABLES:
        if table in there:
            connection.execute(f"drop table {table}")
    for statement in DDL:
        connection.execute(statement)
    generation = os.urandom(8).hex()
    connection.execute("insert into shelf(key, body) values('generation', ?)", (generation,))
    return generation


def _merged_at(part: int, level: int, runs: Sequence[Run]) -> int:
    """Return how many runs of a level are merged."""
    if any(run.level > level for run in runs):
        return MERGE_RUNS
    numbers = MERGE_RUNS - 1  # from two on
    return 2 + (part // numbers if level % 2 else part) % numbers


def place_of(part: int, kind: int, run: Run) -> str:
    """Return where a run lies, as a text."""
    return f"{part}/{kind}/{run.last}/{run.level}"


def _sum_of(covered: int | None, runs: tuple[list[Run], list[Run]]) -> int:
    """Return the checksum of how far a part goes, and of which runs it has."""
    listed = [f"{kind}/{run.last}/{run.level}" for kind in (TAGS, IDS) for run in sorted(runs[kind])]
    return crc32(" ".join([str(covered), *listed]).encode())


def _names_text(block: int, names: Iterable[int]) -> str:
    listed = ",".join(map(str, sorted(names)))
    return f"{listed}; {crc32(f'{block}:{listed}'.encode())}"  # of no two characters here one flipped bit makes digits


def _names_in(block: int, text: str) -> list[int]:
    """Return the names of a block. `ValueError` where they are not those that were written."""
    listed, _, check = text.partition(";")  # an earlier release wrote no sum
    if check and int(check) != crc32(f"{block}:{listed}".encode()):
        raise ValueError(f"the names of its block {block} are not those that were written")
    return [int(name) for name in listed.split(",")]


def _has(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone() is not None


class Flushed(NamedTuple):
    """What a flush has written, to be applied after the commit."""

    runs: Runs
    parts: list[tuple[int, int, tuple[list[Run], list[Run]]]]
    blocks: list[int]
    counted: list[int]
