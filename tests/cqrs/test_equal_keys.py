"""Keys that are equal and are written in different ways: 1.50 and 1.5, one moment in two zones, 0.0 and -0.0. They are one row, also where that stands still."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any  # Any: keys of several types

import msgspec
import pytest

import happened as h
from happened.cqrs.view import key_text
from tests.servers import fresh


class Money(h.Value):
    currency: str
    amount: Decimal


class Measured(h.Event):
    rate: Decimal = Decimal(1)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    degrees: float = 0.0
    bad: bool = False
    price: Money = Money("EUR", Decimal(1))
    pair: tuple[datetime, float] = (datetime(2026, 1, 1, tzinfo=UTC), 0.0)
    rates: frozenset[Decimal] = frozenset()


class ByRate(h.State):
    rate: Decimal
    count: int = 0

    def evolve(self, event: Measured) -> "ByRate":
        if event.bad:
            raise ValueError("bad")
        return self.but(count=self.count + 1)


class ByMoment(h.State):
    at: datetime
    count: int = 0

    def evolve(self, event: Measured) -> "ByMoment":
        if event.bad:
            raise ValueError("bad")
        return self.but(count=self.count + 1)


class ByDegrees(h.State):
    degrees: float
    count: int = 0

    def evolve(self, event: Measured) -> "ByDegrees":
        if event.bad:
            raise ValueError("bad")
        return self.but(count=self.count + 1)


class ByPrice(h.State):
    price: Money
    count: int = 0

    def evolve(self, event: Measured) -> "ByPrice":
        if event.bad:
            raise ValueError("bad")
        return self.but(count=self.count + 1)


class ByPair(h.State):
    pair: tuple[datetime, float]
    count: int = 0

    def evolve(self, event: Measured) -> "ByPair":
        if event.bad:
            raise ValueError("bad")
        return self.but(count=self.count + 1)


class ByRates(h.State):
    rates: frozenset[Decimal]
    count: int = 0

    def evolve(self, event: Measured) -> "ByRates":
        if event.bad:
            raise ValueError("bad")
        return self.but(count=self.count + 1)


lab = h.App("lab", records=[Measured], views=[ByRate, ByMoment, ByDegrees, ByPrice, ByPair, ByRates])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EQUAL: dict[type[Any], tuple[Callable[[Any], Measured], list[Any]]] = {
    ByRate: (lambda key: Measured(rate=key), [Decimal("1.50"), Decimal("1.5"), Decimal("15E-1")]),
    ByMoment: (lambda key: Measured(at=key), [NOON.astimezone(timezone(timedelta(hours=2))), NOON]),
    ByDegrees: (lambda key: Measured(degrees=key), [-0.0, 0.0]),
    ByPrice: (lambda key: Measured(price=key), [Money("EUR", Decimal("1.50")), Money("EUR", Decimal("1.5"))]),
    ByPair: (lambda key: Measured(pair=key), [(NOON.astimezone(timezone(timedelta(hours=2))), -0.0), (NOON, 0.0)]),
    ByRates: (lambda key: Measured(rates=key), [frozenset(map(Decimal, written)) for written in (("1.50", "20"), ("2E1", "1.5"))]),
}


@pytest.mark.parametrize("of", EQUAL, ids=lambda of: of.__name__)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_row_stands_still_by_whichever_of_its_equal_keys_it_is_asked_for_and_changed(store: str, of: type[Any], tmp_path: Path) -> None:
    """It stopped by one of them: events of the others do not go on with it, and who asks by them hears that it stands still."""
    url = fresh() if store == "postgres" else f"sqlite:///{tmp_path}/log.db"
    make, keys = EQUAL[of]
    for _ in range(2):
        with lab.open(url) as running:
            view = running.view(of)
            bad = make(keys[0])
            if view.rows().stuck == 0:
                running.record(make(keys[0]))
                running.record(msgspec.structs.replace(bad, bad=True))
            last = [running.record(make(key)) for key in keys][-1]
            for key in keys:
                with pytest.raises(h.Stuck, match="bad"):
                    view.get(key, since=last)
            rows = view.rows()
            assert (rows.stuck, [row.count for row in rows]) == (1, [1])


@pytest.mark.parametrize("of", EQUAL, ids=lambda of: of.__name__)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_events_of_equal_keys_are_one_row_also_after_a_restart(store: str, of: type[Any], tmp_path: Path) -> None:
    """Whichever of them comes first, and by whichever of them it is asked for."""
    url = fresh() if store == "postgres" else f"sqlite:///{tmp_path}/log.db"
    make, keys = EQUAL[of]
    for count, key in enumerate([*keys, *reversed(keys)], 1):
        with lab.open(url) as running:
            last = running.record(make(key))
            assert [row.count for row in running.view(of).rows(since=last)] == [count]
            for equal in keys:
                assert running.view(of).get(equal).count == count


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Decimal("1.50"), "1.5"),
        (Decimal(100), "100"),
        (Decimal("1E+2"), "100"),
        (Decimal("-0.00"), "0"),
        (Decimal("1E+999999"), "1E+999999"),
        (Decimal("1E-999999"), "1E-999999"),
        (Decimal("0.00000010"), "0.0000001"),
        (Decimal("1234567890123456789012345678901234567890.120"), "1234567890123456789012345678901234567890.12"),
        (Decimal("NaN"), "NaN"),
        (-0.0, "0.0"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-2))), "9999-12-31T23:59:59.999999-02:00"),
        (True, "1"),
        ("1.50", "1.50"),
    ],
    ids=str,
)
def test_a_key_is_written_in_one_way(key: Any, text: str) -> None:
    """Texts stay as they are, and what is too long to write out keeps its exponent."""
    assert key_text((key,)) == f'["{text}"]'
