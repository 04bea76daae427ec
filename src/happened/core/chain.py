"""The chain: what binds each row to the one before it, so that nothing can be changed unnoticed. How it is computed stands in `docs/reference/format.md`.

A store that packs rows away leaves out what follows from the rest, and computes it anew by this.
"""

import hashlib
from collections.abc import Iterator

import msgspec

from happened.core.errors import Broken
from happened.core.store import Row

SALT_BYTES = 16
ERASED = b"null"
"""What stands in the place of a body that was erased."""


class Extra(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """What a record says beside its body."""

    tags: tuple[tuple[str, str], ...] = msgspec.field(default=(), name="t")
    """Tags given by hand, where no class says them."""
    id: str | None = msgspec.field(default=None, name="i")
    occurred: int | None = msgspec.field(default=None, name="o")
    erased: str | None = msgspec.field(default=None, name="h")
    """The digest of the body that was here, in hex."""
    kept: tuple[tuple[str, str], ...] = msgspec.field(default=(), name="e")
    """Tags that were kept when the body was erased."""


class RawRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record taken apart, with its body's bytes as they are."""

    number: int
    body: msgspec.Raw
    extra: msgspec.Raw = msgspec.Raw(b"")


encode = msgspec.json.Encoder(decimal_format="string").encode
decode_extra = msgspec.json.Decoder(Extra).decode
_decode_one = msgspec.json.Decoder(RawRecord).decode
_decode_all = msgspec.json.Decoder(list[RawRecord]).decode

_sha256 = hashlib.sha256


def taken_apart(row: Row) -> Iterator[tuple[bool, RawRecord]]:
    """Yield the records of a row in order, each with whether it is what was asked."""
    try:
        if row.input is not None:
            yield True, _decode_one(row.input)
    except msgspec.MsgspecError as error:
        raise Broken(f"the row at position {row.position} can't be read: {error}", position=row.position) from error
    for record in taken_apart_text(row.records, row.position):
        yield False, record


def taken_apart_text(records: str, position: int) -> list[RawRecord]:
    """Return the records of a row from their text. `Broken`, with the position, where it is none."""
    try:
        found: list[RawRecord] = _decode_all(records)
    except msgspec.MsgspecError as error:
        raise Broken(f"the row at position {position} can't be read: {error}", position=position) from error
    return found


def is_erased(record: RawRecord) -> bool:
    """Say whether the body of a record is gone, and its digest stands in its place."""
    return (
        bool(record.extra)
        and bytes(record.body) == ERASED
        and b'"h"' in bytes(record.extra)
        and decode_extra(record.extra).erased is not None
    )


def link_of_erased(extra: bytes) -> tuple[bytes, bytes]:
    """Return the extra of a record and the digest of its body as the chain holds them, by what stands there since the body was erased."""
    told = decode_extra(extra)
    without = encode(msgspec.structs.replace(told, erased=None, kept=()))
    return b"" if without == b"{}" else without, bytes.fromhex(told.erased or "")


def body_digest(salt: bytes, body: bytes) -> bytes:
    """Return what the chain holds of a body."""
    return _sha256(salt + body).digest()


def digest_of(before: bytes, row: Row) -> bytes:
    """Compute the digest that a row must have after the one with digest `before`."""
    head = row.head.encode()
    link = b"%b%d %d %d %b" % (before, row.at, row.count, len(head), head)
    start = 0
    for _, record in taken_apart(row):
        extra = bytes(record.extra)
        if is_erased(record):
            extra, body = link_of_erased(extra)
        else:
            body = _sha256(row.salts[start : start + SALT_BYTES] + bytes(record.body)).digest()
        link += b"%d %d %b%b" % (record.number, len(extra), extra, body)
        start += SALT_BYTES
    return _sha256(link).digest()
