"""The row: how one command and what came of it become bytes, and how the chain binds them.

A record is a JSON array `[number, body]` or `[number, body, extra]`: the number of its name (see `names`), its body as a JSON object, and what can't be
derived. The header says once what all records of the command share. What can be derived is not written: a record's id is the command's id and an
ordinal, its causation the command, its kind follows from name and header, its tags from body and recorded schema.

The chain: digest = SHA-256(previous digest, recorded time, count, header, and for each record its number, extra and SHA-256(salt, body)). So a body can be
erased later, its salt with it, and the chain still holds: its digest then stands in the extra, and is left out of it where that is hashed. What has no fixed length stands behind its length, so no two rows
have one link. A record's bytes never change after commit; where they lie and how they are packed may.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any  # Any: bodies are JSON

import msgspec

from happened.core.errors import Broken, Invalid
from happened.core.store import Row

FORMAT = 1
"""The number of this format. A higher one than the code knows is not opened."""

SCHEMA, TOPOLOGY, EPOCH_CHANGE, REFUSAL, ANSWER, SCHEDULE = range(6)
"""Numbers of the names that the framework itself records; those of users start at 16."""

BUILT_IN = {SCHEMA: "schema", TOPOLOGY: "topology", EPOCH_CHANGE: "epoch", REFUSAL: "refusal", ANSWER: "answer", SCHEDULE: "schedule"}
FIRST_NUMBER = 16

CONVERSATION = ""
"""The name of the tag that a row is found by which is of another's conversation: its value is the correlation. No tag of a user has an empty name."""

RECORD_BYTES_MAX = 1024 * 1024
RECORDS_MAX = 10_000
SALT_BYTES = 16
ERASED = b"null"
"""What stands in the place of a body that was erased."""


class Sent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How the input of a row came to be sent, where a handler sent it: the execution of that handler."""

    handler: int
    """The number of its name: a reaction, a publication, a share, a subscription."""
    cause: int
    """The number of the name of the record that it heard; 0 for a timer that rang."""
    waited: int = 0
    """Microseconds from the recorded time of that record to the run."""
    ran: int = 0
    attempt: int = 1
    seen: int = 0
    """The durable head as of which it read its states."""


class Header(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """What the records of one command share. Short keys, and nothing that is at its default, since every command pays for it."""

    id: str | None = msgspec.field(default=None, name="i")
    actor: str = msgspec.field(default="", name="a")
    correlation: str | None = msgspec.field(default=None, name="g")
    """None: the id itself."""
    causation: str | None = msgspec.field(default=None, name="c")
    occurred: int | None = msgspec.field(default=None, name="o")
    """Microseconds since 1970; None: the recorded time."""
    now: int | None = msgspec.field(default=None, name="n")
    """What `world.now` said, in microseconds since 1970."""
    traceparent: str | None = msgspec.field(default=None, name="p")
    outcome: str = msgspec.field(default="accepted", name="r")
    decides: str | None = msgspec.field(default=None, name="d")
    """The id of the input that this row decides, where that was enqueued and has a row of its own."""
    handler: int | None = msgspec.field(default=None, name="h")
    waited: int = msgspec.field(default=0, name="w")
    ran: int = msgspec.field(default=0, name="u")
    attempt: int = msgspec.field(default=1, name="y")
    reads: tuple[Any, ...] = msgspec.field(default=(), name="e")
    """The version of each state that was read: the position of the event that last changed it, in the order of the handler's parameters."""
    sent: Sent | None = msgspec.field(default=None, name="s")
    depth: int = msgspec.field(default=0, name="z")
    """How many handlers stand between this and what came from outside."""


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


class Written(msgspec.Struct, frozen=True, gc=False):
    """A record ready to be put into a row."""

    number: int
    body: bytes
    extra: bytes = b""


class RawRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record taken apart, with its body's bytes as they are."""

    number: int
    body: msgspec.Raw
    extra: msgspec.Raw = msgspec.Raw(b"")


encode = msgspec.json.Encoder(decimal_format="string").encode
decode_header = msgspec.json.Decoder(Header).decode
decode_extra = msgspec.json.Decoder(Extra).decode
_decode_one = msgspec.json.Decoder(RawRecord).decode
_decode_all = msgspec.json.Decoder(list[RawRecord]).decode

_sha256 = hashlib.sha256


_spelled: dict[int, tuple[bytes, bytes]] = {}
"""For each number of a name: how a record of it begins, and what the chain says of it where it has no extra."""


def _spell(number: int) -> tuple[bytes, bytes]:
    _spelled[number] = spelled = b"[%d," % number, b"%d 0 " % number
    return spelled


def seal(before: bytes, position: int, at: int, header: Header, asked: Written | None, records: Sequence[Written], salts: bytes) -> Row:
    """Make the row that follows the one with digest `before`. `Invalid` where a limit is passed; then nothing may be recorded."""
    everything = (asked, *records) if asked is not None else records
    count = len(everything)
    if count > RECORDS_MAX:
        raise Invalid(f"a command may have {RECORDS_MAX:,} records, this one has {count:,}: split it", records=count)
    head = encode(header)
    link = [before, b"%d %d %d " % (at, count, len(head)), head]
    texts: list[bytes] = []
    start = 0
    for record in everything:
        body, extra = record.body, record.extra
        if len(body) > RECORD_BYTES_MAX:
            raise Invalid(
                f"a record may have {RECORD_BYTES_MAX:,} bytes, this one has {len(body):,}: keep large things outside", bytes=len(body)
            )
        opening, said = _spelled.get(record.number) or _spell(record.number)
        digest = _sha256(salts[start : start + SALT_BYTES] + body).digest()
        start += SALT_BYTES
        if extra:
            link += (b"%d %d %b" % (record.number, len(extra), extra), digest)
            texts.append(b"%b%b,%b]" % (opening, body, extra))
        else:
            link += (said, digest)
            texts.append(opening + body + b"]")
    text = texts.pop(0).decode() if asked is not None else None
    records_text = f"[{b','.join(texts).decode()}]"
    return Row(position, count, at, head.decode(), text, records_text, salts, _sha256(b"".join(link)).digest())


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


def digest_of(before: bytes, row: Row) -> bytes:
    """Compute the digest that a row must have after the one with digest `before`."""
    head = row.head.encode()
    link = b"%b%d %d %d %b" % (before, row.at, row.count, len(head), head)
    start = 0
    for _, record in taken_apart(row):
        extra = bytes(record.extra)
        erased = decode_extra(extra).erased if b'"h"' in extra and bytes(record.body) == ERASED else None
        if erased is not None:
            without = encode(msgspec.structs.replace(decode_extra(extra), erased=None, kept=()))
            extra = b"" if without == b"{}" else without
            body = bytes.fromhex(erased)
        else:
            body = _sha256(row.salts[start : start + SALT_BYTES] + bytes(record.body)).digest()
        link += b"%d %d %b%b" % (record.number, len(extra), extra, body)
        start += SALT_BYTES
    return _sha256(link).digest()
