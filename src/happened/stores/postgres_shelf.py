"""The shelf of a log in PostgreSQL: tags, ids, names and sums, written with the rows that they are of. All of it can be made anew from those.

An entry of a tag or an id is a hash of 64 bits and the position of its row: a hash may collide, so a reader verifies in the row. Names, and what rows count,
are kept for blocks of 4,096 positions.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any  # Any: rows of the columns that were asked for

from happened.core.store import Row, Terms
from happened.stores.postgres_tables import Connection, Where

Counts = Sequence[tuple[str, int]]

BLOCK_BITS = 12
NOTHING: tuple[list[Any], ...] = tuple([] for _ in range(9))
"""Nothing is to be filed."""
FILE = "select @file(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::int[], %s::bigint[], %s::bigint[], %s::text[], %s::text[])"


def hash_of(text: str) -> int:
    """Return the hash of a term or id: 64 bits, as a signed number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class Filing:
    """Writes the shelf."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._known: set[tuple[int, int]] = set()
        """Names and blocks that this process has written or found, of one making of the index."""
        self._written: set[tuple[int, int]] = set()
        """Those of the open transaction."""
        self._making = ""

    def begin(self, making: str) -> None:
        """Say of which making of the index this transaction is: what was known of another is forgotten."""
        if making != self._making:
            self._known.clear()
            self._making = making

    def keep(self) -> None:
        """Take what was written for known: it was committed."""
        self._known |= self._written
        self._written.clear()

    def drop(self) -> None:
        """Forget what was written: it was not committed, or nobody knows."""
        self._written.clear()

    def forget(self) -> None:
        """Forget all that is known: it is not there any more."""
        self._known.clear()
        self._written.clear()

    def file(
        self, connection: Connection, rows: Sequence[Row], terms: Sequence[Terms], *, tags: bool, tags_after: int = 0, filed_after: int = 0
    ) -> None:
        """File rows, in the open transaction: their ids, names and counts where they lie after one position, and their tags where after another."""
        entries = self.entries(rows, terms, tags=tags, tags_after=tags_after, filed_after=filed_after)
        if any(entries):
            connection.execute(self._where.sql(FILE), entries)

    def entries(
        self, rows: Sequence[Row], terms: Sequence[Terms], *, tags: bool, tags_after: int = 0, filed_after: int = 0
    ) -> tuple[list[Any], ...]:
        """Return what is to be filed of rows, as columns for `FILE`, and take names for written."""
        tagged: list[tuple[int, int]] = []
        used: list[tuple[int, int]] = []
        blocks: dict[tuple[int, int], None] = {}
        counted: dict[tuple[int, str], int] = {}
        for row, found in zip(rows, terms, strict=True):
            position = row.position
            if tags and position > tags_after:
                tagged += [
                    (hashed, position) for hashed in {hash_of(text) for text in found.tags}
                ]  # none twice, should two ever have one hash
            if position <= filed_after:
                continue
            block = position >> BLOCK_BITS
            if found.id is not None:
                used.append((hash_of(found.id), position))
            blocks.update(dict.fromkeys((name, block) for name in found.names))
            for text, number in found.counts:
                counted[block, text] = counted.get((block, text), 0) + number
        fresh = [one for one in blocks if one not in self._known and one not in self._written]
        self._written.update(fresh)
        return (
            *_columns(tagged, 2),
            *_columns(used, 2),
            *_columns(fresh, 2),
            *_columns([(*key, str(n)) for key, n in counted.items()], 3),
        )

    def ranges(self, blocks: Iterable[int]) -> list[tuple[int, int]]:
        """Return the positions of blocks."""
        return [(block << BLOCK_BITS, ((block + 1) << BLOCK_BITS) - 1) for block in blocks]

    def write_samples(self, connection: Connection, samples: Mapping[tuple[str, str], tuple[int, int, str]]) -> None:
        """Add samples to those that are there, in the open transaction."""
        for (handler, outcome), (count, ran, what) in samples.items():
            connection.execute(
                self._where.sql(
                    "insert into @sample as before (handler, outcome, count, ran, what) values(%s, %s, %s, %s, %s) on conflict (handler, outcome) "
                    "do update set count = before.count + excluded.count, ran = before.ran + excluded.ran, what = excluded.what"
                ),
                (handler, outcome, count, ran, what),
            )


def stretch(
    where: Where,
    connection: Connection,
    after: int,
    until: int | None,
    rows: Callable[[int, int], Iterable[Counts]],
    behind: Callable[[int], int],
) -> dict[str, int]:
    """Return what is counted of the rows that lie after one position and up to another, in the open transaction.

    `rows` gives that of the rows that begin between two positions, `behind` the last position of the last row that ends at or before one.

    Cost: some rows for each block, and at most 4,096 positions at each end.
    """
    [(position, filed)] = connection.execute(where.sql("select position, filed from @head")).fetchall()
    if filed < position and (until is None or until > filed):
        both = stretch(where, connection, after, filed, rows, behind)
        first = behind(max(after, filed)) + 1
        _add(both, rows(first, position if until is None else behind(until)))
        return both
    head = min(position, filed)
    first = behind(after) + 1
    last = head if until is None else behind(until)
    if last < first:
        return {}
    start, end = first >> BLOCK_BITS, (last >> BLOCK_BITS) + 1
    whole_end = end if last >= head else end - 1
    whole_start = start if first <= start << BLOCK_BITS or first <= 1 else start + 1
    sums: dict[str, int] = {}
    if whole_start >= whole_end:
        _add(sums, rows(first, last))
        return sums
    _add(sums, rows(first, (whole_start << BLOCK_BITS) - 1))
    found = connection.execute(
        where.sql("select what, sum(number) from @counted where block >= %s and block < %s group by what"), (whole_start, whole_end)
    )
    _add(sums, [[(what, int(number)) for what, number in found]])
    _add(sums, rows(whole_end << BLOCK_BITS, last))
    return sums


def _columns(entries: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[entry[place] for entry in entries] for place in range(count)]


def _add(sums: dict[str, int], parts: Iterable[Counts]) -> None:
    for part in parts:
        for text, number in part:
            sums[text] = sums.get(text, 0) + number
