"""Digests: a copy proves itself equal to its origin, at a position, without either sending its rows.

Of each row a 64-bit hash is taken of its key with its version, and one of each field with key, version and value. The sums of these hashes over all rows,
modulo 2 to the power of 64, don't depend on the order of rows and change with each by a few additions. They are kept by field, so that a copy that holds
some of the fields can prove those. Values are hashed as the bytes that were published, on both sides.
"""

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
    number = int.from_bytes

    def hashes(key: bytes, version: int, body: bytes) -> Hashes:
        base = b"%d\x1f%b\x1f" % (version, key)
        found = [number(blake2b(base, digest_size=8).digest(), "little")]
        for start, value in zip(starts, values(decode(body)), strict=True):
            found.append(number(blake2b(b"%b%b%b" % (start, base, value), digest_size=8).digest(), "little"))
        return tuple(found)

    return hashes


class Digest:
    """The sums over all rows, as they change."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self.count = 0
        self.sums = [0] * (len(self.fields) + 1)

    def change(self, before: Hashes | None, after: Hashes | None) -> None:
        """Take out what a row was, and put in what it is; `None` for no row."""
        self.count += (after is not None) - (before is not None)
        sums = self.sums
        if before is not None and after is not None:
            self.sums = [total - gone + come for total, gone, come in zip(sums, before, after, strict=True)]
        elif after is not None:
            self.sums = [total + come for total, come in zip(sums, after, strict=True)]
        elif before is not None:
            self.sums = [total - gone for total, gone in zip(sums, before, strict=True)]

    def told(self) -> dict[str, str]:
        """Return the digests as text, by field."""
        return {name: f"{total & MASK:016x}" for name, total in zip((KEYS, *self.fields), self.sums, strict=True)}

    def kept(self) -> str:
        """Return the sums as text, to be compared with what is noted."""
        return ",".join(f"{total & MASK:016x}" for total in self.sums)

    def copy(self) -> "Digest":
        """Return one that goes its own way from here."""
        copied = Digest(self.fields)
        copied.count, copied.sums = self.count, list(self.sums)
        return copied

    def is_equal(self, count: int, told: Mapping[str, str]) -> bool:
        """Say whether this is what the origin told, as far as the fields go that are here."""
        return count == self.count and all(told.get(name) == digest for name, digest in self.told().items())
