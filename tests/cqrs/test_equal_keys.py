"""Keys that are equal and are written in different ways: 1.50 and 1.5, one moment in two zones, 0.0 and -0.0. They are one row, also where that stands still."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any  # Any: keys of several types

import pytest

import happened as h
from happened.cqrs.view import key_text
from tests.servers import fresh


class Measured(h.Event):
    rate: Decimal = Decimal(1)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    degrees: float = 0.0
    bad: bool = False


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


lab = h.App("lab", records=[Measured], views=[ByRate, ByMoment, ByDegrees])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EQUAL: dict[type[Any], tuple[Callable[[Any], Measured], list[Any]]] = {
    ByRate: (lambda key: Measured(rate=key), [Decimal("1.50"), Decimal("1.5"), Decimal("15E-1")]),
    ByMoment: (lambda key: Measured(at=key), [NOON.astimezone(timezone(timedelta(hours=2))), NOON]),
    ByDegrees: (lambda key: Measured(degrees=key), [-0.0, 0.0]),
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
                running.record(Measured(bad.rate, bad.at, bad.degrees, bad=True))
            last = [running.record(make(key)) for key in keys][-1]
            for key in keys:
                with pytest.raises(h.Stuck, match="bad"):
                    view.get(key, since=last)
            rows = view.rows()
            assert (rows.stuck, [row.count for row in rows]) == (1, [1])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Decimal("1.50"), "1.5"),
        (Decimal(100), "100"),
        (Decimal("1E+2"), "100"),
        (Decimal("-0.00"), "0"),
        (Decimal("1E+999999"), "1E+999999"),
        (Decimal("1E-999999"), "1E-999999"),
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
