"""Digests: a copy proves itself equal to its origin, at a position, without either sending its rows.

Of each row a 64-bit hash is taken of its key with its version, and one of each field with key, version and value. The sums of these hashes over all rows,
modulo 2 to the power of 64, don't depend on the order of rows and change with each by a few additions. They are kept by field, so that a copy that holds
some of the fields can prove those. Values are hashed as the bytes that were published, on both sides.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any  # Any: msgspec makes the class

import msgspec

MASK = (1 << 64) - 1
KEYS = ""
"""What the digest of keys and versions is called among those of fields."""

Hashes = tuple[int, ...]
"""Of one row: of its key and version, then of each field in order."""


def hashing(fields: Sequence[str]) -> Callable[[bytes, int, bytes], Hashes]:
    """Return the function from a key, a version and a state's JSON to the hashes of its row. It raises `msgspec.ValidationError` where a field is missing."""
    places = [f"f{place}" for place in range(len(fields))]
    shape: Any = msgspec.defstruct(
        "Fields", [(place, msgspec.Raw) for place in places], rename=dict(zip(places, fields, strict=True)), frozen=True, gc=False
    )
    decode, values = msgspec.json.Decoder(shape).decode, msgspec.structs.astuple
    starts = [field.encode() + b"\x1f" for field in fields]
    numbers = struct.Struct(
        "<" + "Q56x" * (len(fields) + 1)
    ).unpack  # the first 8 of 64 bytes each: to ask for fewer costs more than the hash

    def hashes(key: bytes, version: int, body: bytes) -> Hashes:
        base = b"%d\x1f%b\x1f" % (version, key)
        found = [blake2b(base).digest()]
        found += [blake2b(start + base + value).digest() for start, value in zip(starts, values(decode(body)), strict=True)]
        return numbers(b"".join(found))

    return hashes


class Digest:
    """The sums over all rows, as they change. Changes are added up when somebody asks, column by column."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self.count = 0
        self._sums = [0] * (len(self.fields) + 1)
        self._come: list[Hashes] = []
        self._gone: list[Hashes] = []

    def change(self, before: Hashes | None, after: Hashes | None) -> None:
        """Take out what a row was, and put in what it is; `None` for no row."""
        if before is not None:
            self._gone.append(before)
            self.count -= 1
        if after is not None:
            self._come.append(after)
            self.count += 1

    @property
    def sums(self) -> list[int]:
        """The sums, of keys and then of each field."""
        if self._come or self._gone:
            zero = (0,) * len(self._sums)
            come = [sum(column) for column in zip(zero, *self._come, strict=True)]
            gone = [sum(column) for column in zip(zero, *self._gone, strict=True)]
            self._sums = [(total + more - less) & MASK for total, more, less in zip(self._sums, come, gone, strict=True)]
            self._come, self._gone = [], []
        return self._sums

    def told(self) -> dict[str, str]:
        """Return the digests as text, by field."""
        return {name: f"{total:016x}" for name, total in zip((KEYS, *self.fields), self.sums, strict=True)}

    def kept(self) -> str:
        """Return the sums as text, to be compared with what is noted."""
        return ",".join(f"{total:016x}" for total in self.sums)

    def copy(self) -> "Digest":
        """Return one that goes its own way from here."""
        copied = Digest(self.fields)
        copied.count, copied._sums = self.count, self.sums
        return copied

    def is_equal(self, count: int, told: Mapping[str, str]) -> bool:
        """Say whether this is what the origin told, as far as the fields go that are here."""
        return count == self.count and all(told.get(name) == digest for name, digest in self.told().items())
