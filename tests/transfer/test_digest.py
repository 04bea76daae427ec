"""Digests: equal where the rows are equal, whatever the order in which they came, and other where anything in them is other."""

import itertools

import pytest

from happened.transfer.digest import Digest, Hashes, hashing

FIELDS = ["country", "paid"]
ROWS = [
    (b'["c-1"]', 7, b'{"customer":"c-1","country":"France","paid":"5"}'),
    (b'["c-2"]', 9, b'{"customer":"c-2","paid":"0","country":"Spain"}'),
]


def digest_of(*rows: Hashes) -> Digest:
    """Return that of these rows."""
    digest = Digest(FIELDS)
    for row in rows:
        digest.change(None, row)
    return digest


def test_a_digest_is_the_same_for_ever() -> None:
    """Beacons are recorded, and systems of two releases compare theirs: what is hashed can't change."""
    digest = digest_of(*(hashing(FIELDS)(*row) for row in ROWS))

    assert digest.told() == {"": "09ed55f4cd5d2a30", "country": "5fc1bab4a99f6a54", "paid": "90b55c57d8dab1d6"}
    assert digest.count == 2


def test_rows_are_added_and_taken_out_in_any_order() -> None:
    """What comes and goes leaves nothing, whenever somebody looks; sums stay within 64 bits."""
    first, second = (hashing(FIELDS)(*row) for row in ROWS)
    large: Hashes = ((1 << 64) - 1,) * 3
    changes: list[tuple[Hashes | None, Hashes | None]] = [(None, first), (None, large), (large, second), (None, large), (large, None)]
    for order in itertools.permutations(changes):
        digest = Digest(FIELDS)
        for before, after in order:
            digest.change(before, after)
            assert all(0 <= total < 1 << 64 for total in digest.sums)
        assert digest.told() == digest_of(second, first).told()
        assert digest.count == 2


def test_one_that_goes_its_own_way_changes_nothing_of_the_other() -> None:
    """Neither before nor after somebody looks."""
    first, second = (hashing(FIELDS)(*row) for row in ROWS)
    digest = digest_of(first)
    copy = digest.copy()
    copy.change(None, second)
    assert (digest.told(), digest.count) == (digest_of(first).told(), 1)
    assert (copy.told(), copy.count) == (digest_of(first, second).told(), 2)
    digest.change(first, None)
    assert (copy.told(), digest.count) == (digest_of(first, second).told(), 0)


@pytest.mark.parametrize(
    "other",
    [
        (b'["c-3"]', 7, ROWS[0][2]),
        (b'["c-1"]', 8, ROWS[0][2]),
        (b'["c-1"]', 7, b'{"customer":"c-1","country":"Spain","paid":"5"}'),
        (b'["c-1"]', 7, b'{"customer":"c-1","country":"5","paid":"France"}'),
    ],
    ids=["key", "version", "value", "values that have changed places"],
)
def test_what_is_other_is_not_equal(other: tuple[bytes, int, bytes]) -> None:
    """By whichever of its parts."""
    digest = digest_of(hashing(FIELDS)(*ROWS[0]))
    told = digest_of(hashing(FIELDS)(*other))
    assert not digest.is_equal(1, told.told())
    assert digest.is_equal(1, digest.told())


def test_some_of_the_fields_are_proven_by_themselves() -> None:
    """A copy may hold fewer fields than its origin tells of; what it holds must all be there, and as many rows."""
    whole = digest_of(*(hashing(FIELDS)(*row) for row in ROWS)).told()
    part = Digest(["paid"])
    for row in ROWS:
        part.change(None, hashing(["paid"])(*row))

    assert part.is_equal(2, whole)
    assert not part.is_equal(3, whole)
    assert not part.is_equal(2, {name: total for name, total in whole.items() if name != "paid"})
    assert not part.is_equal(2, {name: total for name, total in whole.items() if name})
    assert not part.is_equal(2, whole | {"paid": "0" * 16})
