"""Segments: rows of a log packed together, column by column, so that they take about a sixth of their bytes, and unfolded again to the same bytes.

The texts of rows of one shape differ in few places. So each text is cut at its quotation marks, and the pieces that stand in the same place of all rows of
a shape are a column: most are the same in all rows, or the same as another column (what was decided repeats what was asked), and are kept once. What is
left is deflated, each large column by statistics of its own. Salts are random and kept as they are. Of the digests one in 8 is kept; the others follow
by the chain from that before.
"""

import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Any  # Any: rows of the columns that were asked for

import msgspec

from happened.core.chain import SALT_BYTES, digest_of
from happened.core.errors import Broken, Incompatible
from happened.core.store import Row

LAYOUT = 1
ROWS_MAX = 256
"""With fewer rows it takes more bytes, with more it takes longer to read one: some 0.3 ms."""
TEXT_BYTES_MAX = 256 * 1024
"""No more text is packed together than is unfolded in about a millisecond, unless one row has more."""
LINKS = 8
"""One digest in so many is kept: for one row at most so many are computed, in some 50 µs."""
LEVEL = 9
OWN_STATISTICS_BYTES = 1000
"""A column of so many bytes is deflated apart: what describes its statistics takes about 60."""
VALUE_BYTES = 60
"""What a piece of text takes in memory, beside its characters."""
DIGEST_BYTES = 32
UUID_CHARACTERS = 36
UUID_BYTES = 16
GROUPS = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 16))
"""The bytes of a UUID between its hyphens."""

SAME, LIKE, UUIDS, TEXTS = range(4)
"""How a column is kept: one value, as an earlier column, as UUIDs of 16 bytes each, as texts."""


class Shape(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one shape: how many pieces their head, input and records have (an input that is null has none), and how each column is kept."""

    pieces: tuple[int, int, int]
    columns: list[tuple[int, int]]
    """How, and of what is kept the bytes, else the number of the column that it is like."""


class Contents(msgspec.Struct, array_like=True, frozen=True):
    """What stands first in the deflated part."""

    counts: list[int]
    at: list[int]
    """The first recorded time, then the differences."""
    shapes: list[Shape]
    which: bytes
    """Of each row the number of its shape, in two bytes; nothing where there is only one."""


class Packed(msgspec.Struct, array_like=True, frozen=True):
    """A segment as it is kept, behind a byte with the number of this layout."""

    first: int
    before: bytes
    """The digest of the row before."""
    deflated: bytes
    salts: bytes
    digests: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_packed = msgspec.msgpack.Decoder(Packed).decode
_decode_contents = msgspec.msgpack.Decoder(Contents).decode


def fitting(rows: Sequence[Row]) -> int:
    """Return how many of these rows are packed together: at least one."""
    size = 0
    for place, row in enumerate(rows[:ROWS_MAX]):
        size += len(row.head) + len(row.input or "") + len(row.records)
        if size > TEXT_BYTES_MAX and place:
            return place
    return min(len(rows), ROWS_MAX)


def pack(rows: Sequence[Row], before: bytes) -> bytes:
    """Pack rows that follow on the one with digest `before`. `Broken` where they do not follow by the chain; what is returned unfolds to the same."""
    shapes: dict[object, tuple[int, list[list[str]], tuple[int, int, int]]] = {}
    which: list[int] = []
    for row in rows:
        asked = row.input or ""
        head, inputs, records = row.head.split('"'), [] if row.input is None else row.input.split('"'), row.records.split('"')
        if "\0" in row.head or "\0" in asked or "\0" in row.records or len(row.salts) != SALT_BYTES * row.count:
            raise Broken(f"the row at position {row.position} is damaged, and is not packed: run `happened verify`", position=row.position)
        pieces = len(head), len(inputs), len(records)
        number, alike, _ = shapes.setdefault((pieces, _before_body(asked), _before_body(row.records)), (len(shapes), [], pieces))
        alike.append([*head, *inputs, *records])
        which.append(number)
    parts: list[bytes] = []
    described = [Shape(pieces, _columns(alike, parts)) for _, alike, pieces in shapes.values()]
    contents = Contents(
        [row.count for row in rows],
        [rows[0].at, *[row.at - last.at for last, row in pairwise(rows)]],
        described,
        b"".join([number.to_bytes(2, "little") for number in which]) if len(shapes) > 1 else b"",
    )
    digests = [row.digest for place, row in enumerate(rows, 1) if not place % LINKS or place == len(rows)]
    salts = b"".join([row.salts for row in rows])
    body = bytes([LAYOUT]) + _encode(Packed(rows[0].position, before, _deflated(contents, parts), salts, b"".join(digests)))
    unfolded = Segment(body)
    for row, again in zip(rows, unfolded.rows(0, len(rows)), strict=True):
        if row != again:
            raise Broken(
                f"the row at position {row.position} does not follow by the chain on the one before, and is not packed: run `happened verify`",
                position=row.position,
            )
    return body


def _before_body(text: str) -> str:
    """Return what says the name of the first record."""
    return text[: text.find("{") + 1]


def _columns(alike: list[list[str]], parts: list[bytes]) -> list[tuple[int, int]]:
    """Return how the columns of rows of one shape are kept, and add what is kept of them."""
    found: dict[tuple[str, ...], int] = {}
    columns: list[tuple[int, int]] = []
    for place, column in enumerate(zip(*alike, strict=True)):
        earlier = found.setdefault(column, place)
        if earlier != place:
            columns.append((LIKE, earlier))
            continue
        how = SAME if column.count(column[0]) == len(column) else TEXTS
        part = (column[0] if how == SAME else "\0".join(column)).encode()
        if how == TEXTS and len(part) + 1 == (UUID_CHARACTERS + 1) * len(column):
            dense = _dense(column)
            if dense is not None:
                how, part = UUIDS, dense
        columns.append((how, len(part)))
        parts.append(part)
    return columns


def _dense(column: Sequence[str]) -> bytes | None:
    """Return a column of UUIDs in 16 bytes each; `None` where one is written otherwise than they usually are."""
    try:
        whole = bytes.fromhex("".join(column).replace("-", ""))
    except ValueError:
        return None
    dense = b"".join([whole[n + start : n + end] for start, end in GROUPS for n in range(0, len(whole), UUID_BYTES)])
    return dense if len(whole) == len(column) * UUID_BYTES and tuple(_uuids(dense, 0, len(column))) == tuple(column) else None


def _uuids(dense: bytes, first: int, after: int) -> list[str]:
    """Return UUIDs of a column. Their groups of digits stand apart, the first of all of them first: so no step is taken for each digit."""
    count = len(dense) // UUID_BYTES
    groups = [
        dense[start * count + (end - start) * first : start * count + (end - start) * after].hex("-", end - start).split("-")
        for start, end in GROUPS
    ]
    return list(map("-".join, zip(*groups, strict=True))) if first < after else []


def _deflated(contents: Contents, parts: Sequence[bytes]) -> bytes:
    first = _encode(contents)
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1)
    found = [deflate.compress(len(first).to_bytes(4, "little") + first)]
    for part in parts:
        if len(part) >= OWN_STATISTICS_BYTES:
            found += [deflate.flush(zlib.Z_BLOCK), deflate.compress(part), deflate.flush(zlib.Z_BLOCK)]
        else:
            found.append(deflate.compress(part))
    return b"".join([*found, deflate.flush()])


class Column:
    """The pieces in one place of all rows of a shape, split when they are asked for."""

    __slots__ = ("_how", "_part", "_pieces", "_size")

    def __init__(self, how: int, part: bytes, size: int) -> None:
        self._how = how
        self._part = part
        self._size = size
        self._pieces: list[str] | None = [part.decode()] * size if how == SAME else None

    def between(self, first: int, after: int) -> list[str]:
        """Return the pieces of rows. UUIDs are written out anew each time: they take the most memory."""
        if self._how == UUIDS:
            return _uuids(self._part, first, after)
        pieces = self._pieces
        if pieces is None:
            pieces = self._pieces = self._part.decode().split("\0")
        return pieces if after - first == self._size else pieces[first:after]


class Alike:
    """The rows of one shape."""

    __slots__ = ("_texts", "is_asked", "members")

    def __init__(self, pieces: tuple[int, int, int], columns: list[Column], members: Sequence[int]) -> None:
        head, asked, _ = pieces
        self._texts = columns[:head], columns[head : head + asked], columns[head + asked :]
        self.is_asked = asked > 0
        """Whether they have an input."""
        self.members = members
        """The places of these rows in the segment, in order."""

    def texts(self, which: int, start: int, end: int) -> Iterable[str | None]:
        """Return the heads, the inputs or the records of those of the rows that stand between two places."""
        first, after = bisect_left(self.members, start), bisect_left(self.members, end)
        columns = self._texts[which]
        return (
            map('"'.join, zip(*[column.between(first, after) for column in columns], strict=True))
            if columns
            else repeat(None, after - first)
        )


HEADS, INPUTS, RECORDS = range(3)


class Segment:
    """A segment, unfolded: columns are split, and a text is put together when it is asked for. Threads may share it."""

    def __init__(self, body: bytes) -> None:
        if body[0] > LAYOUT:
            raise Incompatible(f"a cold part of this log has layout {body[0]}, this release reads up to {LAYOUT}: use a newer release")
        packed = _decode_packed(memoryview(body)[1:])
        plain = zlib.decompress(packed.deflated, -zlib.MAX_WBITS)
        end = 4 + int.from_bytes(plain[:4], "little")
        contents = _decode_contents(plain[4:end])
        self.count = len(contents.counts)
        ends = list(accumulate(contents.counts, initial=packed.first))
        self.positions = ends[:-1]
        """Of each row the position of its first record."""
        self.last = ends[-1] - 1
        self.before = packed.before
        """The digest of the row before the first."""
        self._counts = contents.counts
        self._at = list(accumulate(contents.at))
        self._salts = packed.salts
        self._kept = [packed.digests[n : n + DIGEST_BYTES] for n in range(0, len(packed.digests), DIGEST_BYTES)]
        self._links: dict[int, list[bytes]] = {}
        """Digests that were asked for, by 8."""
        pairs = contents.which
        self._which = [pairs[n] | pairs[n + 1] << 8 for n in range(0, len(pairs), 2)]
        """Of each row its shape; nothing where there is only one."""
        members: list[list[int]] = [[] for _ in contents.shapes]
        for place, number in enumerate(self._which):
            members[number].append(place)
        self._alike: list[Alike] = []
        values = 4 * self.count
        for shape, places in zip(contents.shapes, members, strict=True):
            among: Sequence[int] = places or range(self.count)
            columns: list[Column] = []
            for how, of in shape.columns:
                if how == LIKE:
                    columns.append(columns[of])
                    continue
                part, end = plain[end : end + of], end + of
                columns.append(Column(how, part, len(among)))
                values += len(among) if how == TEXTS else 0
            self._alike.append(Alike(shape.pieces, columns, among))
        self.bytes = len(plain) + len(packed.salts) + VALUE_BYTES * values
        """About what it takes in memory."""

    def place(self, position: int) -> int:
        """Return the place of the first row that begins at a position or after it."""
        return bisect_left(self.positions, position)

    @property
    def digest(self) -> bytes:
        """The digest of the last row."""
        return self._kept[-1]

    def rows(self, start: int, end: int) -> list[Row]:
        """Return rows by their places."""
        return [Row(*found) for found in self.whole(start, end)]

    def whole(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """Return all columns of rows."""
        digests: list[bytes] = []
        for link in range(start // LINKS, (end - 1) // LINKS + 1):
            digests += self._links.get(link) or self._linked(link)
        skipped = start % LINKS
        return [
            (*row, salts, digest)
            for row, salts, digest in zip(
                self._said(start, end), self._salted(start, end), digests[skipped : skipped + end - start], strict=True
            )
        ]

    def counted(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """Return what is counted of rows: all columns, without salts and digests."""
        return [(*row, b"", b"") for row in self._said(start, end)]

    def bare(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """Return what a fold needs of rows."""
        columns = self.positions[start:end], self._counts[start:end], self._is_asked(start, end), self._texts(RECORDS, start, end)
        return [(position + asked, position + count, records) for position, count, asked, records in zip(*columns, strict=True)]

    def headed(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """Return what a fold needs of rows, and what they say of themselves."""
        return [
            (*bare, position, at, head)
            for bare, position, at, head in zip(
                self.bare(start, end), self.positions[start:end], self._at[start:end], self._texts(HEADS, start, end), strict=True
            )
        ]

    def asked(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """Return what a `Bare` has with its input."""
        columns = self.positions[start:end], self._counts[start:end], self._texts(RECORDS, start, end), self._texts(INPUTS, start, end)
        return [(position + count, records, asked) for position, count, records, asked in zip(*columns, strict=True)]

    def _said(self, start: int, end: int) -> Iterable[tuple[Any, ...]]:
        return zip(
            self.positions[start:end],
            self._counts[start:end],
            self._at[start:end],
            self._texts(HEADS, start, end),
            self._texts(INPUTS, start, end),
            self._texts(RECORDS, start, end),
            strict=True,
        )

    def _salted(self, start: int, end: int) -> list[bytes]:
        salts, origin = self._salts, self.positions[0]
        ends = [SALT_BYTES * (position - origin) for position in self.positions[start : end + 1]]
        if end == self.count:
            ends.append(len(salts))
        return [salts[one:other] for one, other in pairwise(ends)]

    def _texts(self, which: int, start: int, end: int) -> Iterable[Any]:
        if len(self._alike) == 1:
            return self._alike[0].texts(which, start, end)
        found = [iter(alike.texts(which, start, end)) for alike in self._alike]
        return [next(found[number]) for number in self._which[start:end]]

    def _is_asked(self, start: int, end: int) -> list[bool]:
        asked = [alike.is_asked for alike in self._alike]
        return [asked[number] for number in self._which[start:end]] if self._which else asked * (end - start)

    def _linked(self, link: int) -> list[bytes]:
        """Return the digests of 8 rows, computed from the one before them. The last of them is the one that is kept."""
        start, end = link * LINKS, min((link + 1) * LINKS, self.count)
        digests: list[bytes] = []
        before = self._kept[link - 1] if link else self.before
        for (position, count, at, head, asked, records), salts in zip(
            self._said(start, end - 1), self._salted(start, end - 1), strict=True
        ):
            before = digest_of(before, Row(position, count, at, head, asked, records, salts, b""))
            digests.append(before)
        digests.append(self._kept[link])
        self._links[link] = digests
        return digests
