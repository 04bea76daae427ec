"""The row: how one command and what came of it become bytes, and how the chain binds them.

A record is a JSON array `[number, body]` or `[number, body, extra]`: the number of its name (see `names`), its body as a JSON object, and what can't be
derived. The header says once what all records of the command share. What can be derived is not written: a record's id is the command's id and an
ordinal, its causation the command, its kind follows from name and header, its tags from body and recorded schema.

The chain: digest = SHA-256(previous digest, recorded time, count, header, and for each record its number, extra and SHA-256(salt, body)). So a body can be
erased later, its salt with it, and the chain still holds: its digest then stands in the extra, and is left out of it where that is hashed. What has no fixed length stands behind its length, so no two rows
have one link. A record's bytes never change after commit; where they lie and how they are packed may.
"""

import hashlib
from collections.abc import Sequence
from typing import Any  # Any: bodies are JSON

import msgspec

from happened.core import chain
from happened.core.errors import Invalid
from happened.core.store import Row

FORMAT = 1
"""The number of this format. A higher one than the code knows is not opened."""

SCHEMA, TOPOLOGY, EPOCH_CHANGE, REFUSAL, ANSWER, SCHEDULE, ERASURE, NOTHING = range(8)
"""Numbers of the names that the framework itself records; those of users start at 16."""

BUILT_IN = {
    SCHEMA: "schema",
    TOPOLOGY: "topology",
    EPOCH_CHANGE: "epoch",
    REFUSAL: "refusal",
    ANSWER: "answer",
    SCHEDULE: "schedule",
    ERASURE: "erasure",
    NOTHING: "nothing",
}
SYSTEM = frozenset({SCHEMA, TOPOLOGY, EPOCH_CHANGE, ERASURE})
"""What the log says about itself."""
SAID_OF_ITSELF = (f"[[{EPOCH_CHANGE},", f"[[{ERASURE},")
"""How the records of a row begin that says what a person has done to the log: adopted it, or erased something."""
FIRST_NUMBER = 16

CONVERSATION = ""
"""The name of the tag that a row is found by which is of another's conversation: its value is the correlation. No tag of a user has an empty name."""

RECORD_BYTES_MAX = 1024 * 1024
RECORDS_MAX = 10_000

encode, decode_extra = chain.encode, chain.decode_extra
digest_of, taken_apart, taken_apart_text = chain.digest_of, chain.taken_apart, chain.taken_apart_text
is_erased, link_of_erased, body_digest = chain.is_erased, chain.link_of_erased, chain.body_digest
ERASED, SALT_BYTES = chain.ERASED, chain.SALT_BYTES
Extra = chain.Extra
RawRecord = chain.RawRecord
"""What binds rows lies in the core, where stores find it, too; whoever writes rows finds it here."""


class Sent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How the input of a row came to be sent, where a handler sent it: the execution of that handler."""

    handler: int
    """The number of its name: a reaction, a publication, a share, a subscription; 0 where a caller has said the cause."""
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
    """The version of each state that was read: the position of the event that last changed it, in the order of the handler's parameters.

    Of a state that was asked of the `World`: its name and its version.
    """
    sent: Sent | None = msgspec.field(default=None, name="s")
    depth: int = msgspec.field(default=0, name="z")
    """How many handlers stand between this and what came from outside."""


class EpochChange(msgspec.Struct, frozen=True):
    """What is recorded where a log was adopted: the epoch that begins here, and what of the log was there."""

    epoch: int
    position: int
    """The last position before this record: what other copies of the log have after it is another history."""
    digest: str
    """The chain's link there, in hex."""
    reason: str = ""


class Erased(msgspec.Struct, frozen=True):
    """What is recorded where bodies were erased: not what was in them, nor the value of the tag that they were found by."""

    positions: tuple[tuple[int, int], ...]
    """The first and the last position of each stretch."""
    by: str = ""
    """How they were found: `id ID`, or `tag TAG`."""
    kept: tuple[str, ...] = ()
    """The tags that still lead to them."""
    reason: str = ""


class Written(msgspec.Struct, frozen=True, gc=False):
    """A record ready to be put into a row."""

    number: int
    body: bytes
    extra: bytes = b""
    kept: bool = True
    """False: its digest is written in its place. Only of what was asked."""


decode_header = msgspec.json.Decoder(Header).decode
_sha256 = hashlib.sha256


def seal(before: bytes, position: int, at: int, header: Header, asked: Written | None, records: Sequence[Written], salts: bytes) -> Row:
    """Make the row that follows the one with digest `before`. `Invalid` where a limit is passed; then nothing may be recorded."""
    if len(records) == 1 and not records[0].extra:
        if asked is None:
            return sealed_fact(before, position, at, encode(header), records[0].number, records[0].body, salts)
        if not asked.extra:
            return _sealed_pair(before, position, at, encode(header), asked, records[0], salts)
    everything = (asked, *records) if asked is not None else records
    count = len(everything)
    if count > RECORDS_MAX:
        raise too_many(count)
    head = encode(header)
    link = b"%b%d %d %d %b" % (before, at, count, len(head), head)
    texts: list[str] = []
    start = 0
    for record in everything:
        number, body = record.number, record.body
        digest = _sha256(salts[start : start + SALT_BYTES] + body).digest()
        if record.extra:
            extra = record.extra
            if body == ERASED and is_erased(RawRecord(number, msgspec.Raw(body), msgspec.Raw(extra))):  # given again to a branch
                extra, digest = link_of_erased(extra)
            link += b"%d %d %b%b" % (number, len(extra), extra, digest)
            texts.append(f"[{number},{body.decode()},{record.extra.decode()}]")
        else:
            link += b"%d 0 %b" % (number, digest)
            texts.append(f"[{number},{body.decode()}]" if record.kept else digest_alone(number, digest))
        if len(body) > RECORD_BYTES_MAX:
            raise too_large(len(body))
        start += SALT_BYTES
    text = texts.pop(0) if asked is not None else None
    return Row(position, count, at, head.decode(), text, f"[{','.join(texts)}]", salts, _sha256(link).digest())


def _sealed_pair(before: bytes, position: int, at: int, head: bytes, asked: Written, decided: Written, salts: bytes) -> Row:
    """Make the row that nearly every command comes to, in one line: the same as `seal` makes of it."""
    number, body, other, record = asked.number, asked.body, decided.number, decided.body
    if len(body) > RECORD_BYTES_MAX or len(record) > RECORD_BYTES_MAX:
        raise too_large(max(len(body), len(record)))
    digest = _sha256(salts[:SALT_BYTES] + body).digest()
    link = b"%b%d 2 %d %b%d 0 %b%d 0 %b" % (
        before,
        at,
        len(head),
        head,
        number,
        digest,
        other,
        _sha256(salts[SALT_BYTES:] + record).digest(),
    )
    text = f"[{number},{body.decode()}]" if asked.kept else digest_alone(number, digest)
    texts = f"[[{other},{record.decode()}]]"
    return Row(position, 2, at, head.decode(), text, texts, salts, _sha256(link).digest())


def sealed_fact(before: bytes, position: int, at: int, head: bytes, number: int, body: bytes, salt: bytes) -> Row:
    """Make the row of a fact by itself: the same as `seal` makes of it."""
    if len(body) > RECORD_BYTES_MAX:
        raise too_large(len(body))
    link = b"%b%d 1 %d %b%d 0 %b" % (before, at, len(head), head, number, _sha256(salt + body).digest())
    return Row(position, 1, at, head.decode(), None, f"[[{number},{body.decode()}]]", salt, _sha256(link).digest())


def is_unkept(row: Row) -> bool:
    """Say whether the input of a row was never kept: the salt of what was erased is erased, too."""
    return row.input is not None and any(row.salts[:SALT_BYTES]) and is_erased(next(taken_apart(row))[1])


def digest_alone(number: int, digest: bytes) -> str:
    """Return a record whose body is not kept: as one that was erased, but that its salt stays, and what comes under its id again can be compared."""
    return f'[{number},null,{{"h":"{digest.hex()}"}}]'


def too_many(count: int) -> Invalid:
    """Return the error of a command with too many records."""
    return Invalid(f"a command may have {RECORDS_MAX:,} records, this one has {count:,}: split it", records=count)


def too_large(size: int) -> Invalid:
    """Return the error of a record with too many bytes."""
    return Invalid(f"a record may have {RECORD_BYTES_MAX:,} bytes, this one has {size:,}: keep large things outside", bytes=size)
