"""Equal values are written in one way, whatever holds them, and nothing else about them changes."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple  # Any: values of any type are given

import msgspec
import pytest

from happened.core.equal import DIGITS_MAX, as_one

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
EAST = NOON.astimezone(timezone(timedelta(hours=5)))


class Pair(NamedTuple):
    amount: Decimal
    at: datetime


class Money(msgspec.Struct, frozen=True):
    amount: Decimal


@pytest.mark.parametrize(
    ("value", "one"),
    [
        ((Decimal("1.50"), EAST), (Decimal("1.5"), NOON)),
        (Pair(Decimal("1.50"), EAST), Pair(Decimal("1.5"), NOON)),
        (frozenset([Decimal("1.50")]), frozenset([Decimal("1.5")])),
        (Money(Decimal("1.50")), Money(Decimal("1.5"))),
        ((frozenset([Pair(Decimal("2E1"), EAST)]),), (frozenset([Pair(Decimal(20), NOON)]),)),
    ],
    ids=["tuple", "named tuple", "frozenset", "value", "nested"],
)
def test_what_holds_values_holds_them_written_in_one_way(value: Any, one: Any) -> None:
    """What comes back is equal, and of the same class: who asks for a member by its name finds it."""
    found = as_one(value)
    assert found == value
    assert repr(found) == repr(one)


def test_a_moment_without_a_zone_is_none_in_utc() -> None:
    """It is not taken for one of the machine's own zone: it would be another on each machine."""
    plain = NOON.replace(tzinfo=None)
    assert as_one(plain) is plain


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_long_number_has_an_exponent(sign: str) -> None:
    """From the same length on for ever: keys are texts, and those of a row must not change."""
    written = [str(as_one(Decimal(f"{sign}1E{exponent}"))) for exponent in (DIGITS_MAX - 1, DIGITS_MAX)]
    assert written == [f"{sign}1{'0' * 39}", f"{sign}1E+40"]
