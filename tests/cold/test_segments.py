"""Segments: whatever the rows, they unfold to the same bytes; rows that the chain does not bind are not packed."""

import hashlib
import random
import uuid
from array import array

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from happened.core.errors import Broken, Incompatible
from happened.core.store import START, Row
from happened.log.row import ERASED, SALT_BYTES, Extra, Header, Written, encode, seal
from happened.stores import runs, segments
from happened.stores.segments import LINKS, Segment, fitting, pack
from happened.testing.rows import check_whole, head_of

TEXTS = some.text(some.characters(codec="utf-8"), max_size=8)
VALUES = some.one_of(
    TEXTS, some.integers(), some.booleans(), some.none(), some.uuids().map(str), some.uuids().map(lambda one: str(one).upper())
)
BODIES = some.dictionaries(some.sampled_from(["a", "b", 'c"', "\\"]), some.one_of(VALUES, some.lists(VALUES, max_size=3)), max_size=3)
ROWS = some.lists(
    some.tuples(some.booleans(), some.lists(some.tuples(some.integers(16, 19), BODIES), min_size=1, max_size=3)), min_size=1, max_size=40
)


def sealed(said: list[tuple[bool, list[tuple[int, object]]]]) -> list[Row]:
    """Seal a row for each: whether its first record is an input, and its records."""
    rows: list[Row] = []
    head = START
    for number, (is_asked, bodies) in enumerate(said):
        records = [Written(name, encode(body), encode(Extra(id=f"own-{number}")) if name == 19 else b"") for name, body in bodies]
        asked = records.pop(0) if is_asked else None
        salts = hashlib.shake_128(str(number).encode()).digest(SALT_BYTES * len(bodies))
        rows.append(
            seal(
                head.digest,
                head.position + 1,
                head.at + number % 3,
                Header(id=f"id-{number}" if number % 2 else None),
                asked,
                records,
                salts,
            )
        )
        head = head_of(rows[-1])
    return rows


@given(ROWS)
@settings(max_examples=200, deadline=None)
def test_rows_unfold_to_the_same_bytes(said: list[tuple[bool, list[tuple[int, object]]]]) -> None:
    """Whole, in any part, and as far as folds need them."""
    rows = sealed(said)
    check_whole(rows)

    segment = Segment(pack(rows, START.digest))

    assert segment.rows(0, len(rows)) == rows
    assert (segment.count, segment.last, segment.digest) == (len(rows), rows[-1].last, rows[-1].digest)
    for start in range(len(rows)):
        fresh = Segment(pack(rows, START.digest)) if start % LINKS == 1 else segment
        assert fresh.rows(start, start + 1) == rows[start : start + 1]
        assert fresh.rows(start, len(rows)) == rows[start:]
        assert fresh.place(rows[start].position) == start
    bare = [(row.position + (row.input is not None), row.last + 1, row.records) for row in rows]
    assert segment.bare(0, len(rows)) == bare
    assert segment.headed(0, len(rows)) == [(*one, row.position, row.at, row.head) for one, row in zip(bare, rows, strict=True)]
    assert segment.counted(1, len(rows)) == [(*msgspec.structs.astuple(row)[:6], b"", b"") for row in rows[1:]]


def test_texts_of_one_shape_take_little() -> None:
    """A command and its event with a random UUID and random salts come to little more than those."""
    chance = random.Random(3)
    print("seed 3")
    bodies = [{"txn": str(uuid.UUID(int=chance.getrandbits(128))), "account": f"a{n % 40}", "memo": f"payment {n}"} for n in range(512)]

    size = len(pack(sealed([(True, [(16, body), (17, body)]) for body in bodies]), START.digest))

    assert size / 512 < 2 * SALT_BYTES + 16 + 12


def test_no_more_is_packed_together_than_is_soon_unfolded() -> None:
    """Many small rows, few large ones, and one that is larger than all."""
    rows = sealed([(False, [(16, {"text": "x" * (segments.TEXT_BYTES_MAX // 4 if n > 600 else 3)})]) for n in range(610)])
    huge = sealed([(False, [(16, {"text": "x" * 2 * segments.TEXT_BYTES_MAX})])] * 2)

    assert fitting(rows) == segments.ROWS_MAX
    assert fitting(rows[601:]) == 3
    assert fitting(huge) == 1


@pytest.mark.parametrize("field", ["head", "records", "at", "digest", "salts"])
def test_rows_that_the_chain_does_not_bind_are_not_packed(field: str) -> None:
    """Packing leaves out what follows by the chain, so what does not follow would be lost: it is named instead."""
    rows = sealed([(False, [(16, {"n": n})]) for n in range(40)])
    other = {"head": '{"i":"other"}', "records": '[[16,{"n":77}]]', "at": rows[20].at + 1, "digest": bytes(32), "salts": bytes(16)}[field]
    rows[20] = msgspec.structs.replace(rows[20], **{field: other})

    with pytest.raises(Broken, match=r"position 2\d .*happened verify"):
        pack(rows, START.digest)


def test_a_body_that_was_erased_is_packed() -> None:
    """The chain holds without it, in a segment too."""
    rows = sealed([(False, [(16, {"n": n})]) for n in range(40)])
    body = encode({"n": 20})
    extra = encode(Extra(erased=hashlib.sha256(rows[20].salts + body).hexdigest()))
    rows[20] = msgspec.structs.replace(rows[20], records=f"[[16,{ERASED.decode()},{extra.decode()}]]", salts=bytes(16))

    assert Segment(pack(rows, START.digest)).rows(0, 40) == rows


@given(some.lists(some.tuples(some.integers(0, 2**32 - 1), some.lists(some.integers(1, 2**32 - 1), min_size=1, max_size=5)), max_size=60))
def test_a_run_of_the_index_unpacks_to_the_same_entries(said: list[tuple[int, list[int]]]) -> None:
    """Whatever the hashes and positions; what is packed is told from what is not by its length."""
    entries = array("Q", sorted(hashed << 32 | position for hashed, positions in said for position in positions)).tobytes()

    assert runs.unpacked(runs.packed(entries)) == entries
    assert len(runs.packed(entries)) % runs.ENTRY_BYTES


def test_a_newer_layout_says_so() -> None:
    """Of a layout that comes later this release reads nothing."""
    body = pack(sealed([(False, [(16, {})])]), START.digest)

    with pytest.raises(Incompatible, match="newer release"):
        Segment(bytes([segments.LAYOUT + 1]) + body[1:])
