"""Rows for tests of stores: sealed as the log seals them, small, and each different from every other.

A `Scribe` appends as a log's writer does: it knows what it has seen, takes in what it has not, and puts its rows behind that.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from happened.core.store import START, Commit, Engine, Head, Row, Terms, Unseen, Wanted
from happened.log.row import SALT_BYTES, Header, Written, body_digest, decode_header, digest_of, encode, seal, taken_apart

INTRUDER = "intruder"
"""The actor in the rows of another process."""
NAMES = (16, 17, 18)
"""Numbers of names that rows of tests have."""


class Fact(NamedTuple):
    """What one row is to say: the tags and the name of its records, how many there are, the id it uses, and a text beside."""

    tags: tuple[str, ...] = ()
    name: int = 16
    records: int = 1
    id: str | None = None
    text: str = ""


class Body(msgspec.Struct, frozen=True):
    """The body of a record of a test: what is found by the index stands in it, so that an index can be made of the rows."""

    tags: tuple[str, ...]
    text: str


def terms_of(row: Row) -> Terms:
    """Find the terms of a row, as a log's reader does."""
    records = [(record.number, msgspec.json.decode(record.body, type=Body | None)) for _, record in taken_apart(row)]
    return Terms(
        list(dict.fromkeys(tag for _, body in records if body is not None for tag in body.tags)),
        decode_header(row.head).id,
        list(dict.fromkeys(number for number, _ in records)),
        counts_of(row),
    )


def counts_of(row: Row) -> list[tuple[str, int]]:
    """Return what is counted of a row of a test: records by name, in numbers that are longer than a machine's, and rows by how long they are."""
    numbers = [record.number for _, record in taken_apart(row)]
    return [(f"name {numbers[0]}", len(numbers) << 100 | 1), (f"records {len(numbers)}", 1)]


def added_up(rows: Iterable[Row]) -> dict[str, int]:
    """Return what these rows count, added up one by one."""
    sums: dict[str, int] = {}
    for row in rows:
        for text, number in counts_of(row):
            sums[text] = sums.get(text, 0) + number
    return sums


def other_terms_of(row: Row) -> Terms:
    """Find the terms of a row by another reading of the same bytes: tags are in capitals."""
    terms = terms_of(row)
    return Terms([tag.upper() for tag in terms.tags], terms.id, terms.names, terms.counts)


def read_by(fingerprint: str) -> Mapping[int, str]:
    """Return the reading of all names, under a fingerprint."""
    return dict.fromkeys(NAMES, fingerprint)


def matches(row: Row, wanted: Sequence[Wanted], terms_of: Callable[[Row], Terms] = terms_of) -> bool:
    """Say whether a row is wanted: exactly, not as an index finds it."""
    terms = terms_of(row)
    return any(set(item.terms) <= set(terms.tags) and (not item.names or bool(set(item.names) & set(terms.names))) for item in wanted)


def ours(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that this process wrote."""
    return [row for row in rows if decode_header(row.head).actor != INTRUDER]


def flat(pages: Iterable[Sequence[Row]]) -> list[Row]:
    """Return the rows of all pages."""
    return [row for page in pages for row in page]


def check_whole(rows: Sequence[Row]) -> None:
    """Fail unless these rows are a whole log: from position 1 without a gap, in time, and bound by the chain."""
    head = START
    for row in rows:
        assert row.position == head.position + 1, f"positions are dense: {row.position} follows {head.position}"
        assert row.at >= head.at, f"recorded time never falls: at position {row.position}"
        assert row.digest == digest_of(head.digest, row), f"the chain holds: broken at position {row.position}"
        head = head_of(row)


def without(row: Row) -> Row:
    """Return a row of one record without the body of that, as a log erases it."""
    [(_, record)] = taken_apart(row)
    digest = body_digest(row.salts, bytes(record.body)).hex()
    text = f'[{record.number},null,{{"h":"{digest}"}}]'
    return msgspec.structs.replace(row, records=f"[{text}]", salts=bytes(SALT_BYTES))


def head_of(row: Row) -> Head:
    """Return where a log stands whose last row this is."""
    return Head(row.last, row.at, row.digest)


class Scribe:
    """Appends to a store, by one thread at a time."""

    def __init__(self, store: Engine, *, actor: str = "", seen: int = 0) -> None:
        self.store = store
        self.actor = actor
        self.seen = seen
        self.taken_in: list[Row] = []
        """All rows that `append` handed over, in order."""

    def append(self, *facts: Fact, notes: Mapping[str, str | None] | None = None, wait_seconds_max: float = 10.0) -> list[Row]:
        """Append a row for each fact, in one commit, and return them."""
        rows: list[Row] = []

        def decide(unseen: Unseen) -> Commit:
            self.taken_in += unseen.rows
            head = unseen.head
            for fact in facts:
                rows.append(self.row_after(head, fact))
                head = head_of(rows[-1])
            return Commit(rows, [terms_of(row) for row in rows], notes or {})

        head = self.store.append(decide, self.seen, wait_seconds_max=wait_seconds_max)
        self.seen = head.position
        return rows

    def row_after(self, head: Head, fact: Fact) -> Row:
        """Make the row that says a fact, behind a head."""
        seed = f"{self.actor} {head.position}".encode()
        records = [Written(fact.name, encode(Body(fact.tags, f"{fact.text}{n}"))) for n in range(fact.records)]
        asked = records.pop(0) if fact.id is not None and fact.records > 1 else None
        salts = hashlib.shake_128(seed).digest(SALT_BYTES * fact.records)
        return seal(head.digest, head.position + 1, head.at + 1, Header(id=fact.id, actor=self.actor), asked, records, salts)

    def notes(self, start: str = "") -> dict[str, str]:
        """Return the notes whose key starts with a text, as `append` hands them out."""
        found: dict[str, str] = {}

        def look(unseen: Unseen) -> Commit:
            found.update(unseen.notes(start))
            return Commit()

        self.store.append(look, self.seen)
        return found
