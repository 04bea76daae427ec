"""Values of tags that are equal and are written in different ways are one tag: a state in memory is what it is from disk, whichever was written."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: values of several types

import pytest

import happened as h
from happened.core.tags import Scope
from tests.servers import fresh

Rate = Annotated[Decimal, h.Tag("rate")]
Moment = Annotated[datetime, h.Tag("moment")]
Degrees = Annotated[float, h.Tag("degrees")]
Plain = Annotated[str, h.Tag("plain")]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EAST = NOON.astimezone(timezone(timedelta(hours=2)))


class Line(h.Value):
    rate: Rate
    amount: Decimal


class Measured(h.Event):
    rate: Rate
    moment: Moment
    degrees: Degrees
    amount: Decimal = Decimal("0.10")


class Ordered(h.Event):
    lines: tuple[Line, ...]
    more: frozenset[Rate] = frozenset()
    named: Mapping[str, Line] | None = None
    plain: Plain = ""


class ByRate(h.State):
    rate: Rate
    count: int = 0

    def evolve(self, event: Measured | Ordered) -> "ByRate":
        return self.but(count=self.count + 1)


class ByMoment(h.State):
    moment: Moment
    count: int = 0

    def evolve(self, event: Measured) -> "ByMoment":
        return self.but(count=self.count + 1)


class ByDegrees(h.State):
    degrees: Degrees
    count: int = 0

    def evolve(self, event: Measured) -> "ByDegrees":
        return self.but(count=self.count + 1)


class Measure(h.Command):
    rate: Rate
    moment: Moment
    degrees: Degrees


def measure(command: Measure, rate: ByRate, moment: ByMoment, degrees: ByDegrees) -> Iterator[Measured]:
    """Measure twice at most."""
    if max(rate.count, moment.count, degrees.count) >= 2:
        raise h.Refused(f"{rate.count} {moment.count} {degrees.count}")
    yield Measured(command.rate, command.moment, command.degrees)


lab = h.App("lab", records=[Measured, Ordered], deciders=[measure], views=[ByRate])
WAYS: list[tuple[Any, Any, Any]] = [(Decimal("1.50"), EAST, -0.0), (Decimal("1.5"), NOON, 0.0), (Decimal("150E-2"), NOON, 0.0)]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that is kept."""
    return fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/log.db"


@pytest.mark.parametrize("reopened", [True, False])
def test_states_and_decisions_are_the_same_in_memory_and_from_disk(url: str, *, reopened: bool) -> None:
    """Each of the three is counted under all of them."""
    with lab.open(url) as running:
        running.record(Measured(*WAYS[0]))
        running.dispatch(Measure(*WAYS[1]))
        if not reopened:
            check(running)
    if reopened:
        with lab.open(url) as running:
            check(running)


def check(running: h.Running) -> None:
    """Ask in all ways."""
    for rate, moment, degrees in WAYS:
        assert [
            (found is not None and found.count)
            for found in (running.state(ByRate, rate), running.state(ByMoment, moment), running.state(ByDegrees, degrees))
        ] == [2, 2, 2]
        with pytest.raises(h.Refused, match="2 2 2"):
            running.dispatch(Measure(rate, moment, degrees))
        for tag, value in (("rate", rate), ("moment", moment), ("degrees", degrees)):
            assert [record.name for record in running.log.read(h.query(**{tag: value}))] == ["Measured"] * 2
        assert running.view(ByRate).get(rate, since=running.log.head).count == 2


def test_a_value_of_a_tag_is_recorded_in_one_way_and_all_else_as_it_is() -> None:
    """As it comes back in the receipt, and as a reader finds it."""
    with lab.open("memory:") as running:
        receipt = running.record(Measured(Decimal("1.50"), EAST, -0.0, Decimal("0.10")))
        [told], [record] = receipt.events, list(running.log.read(h.query(names=["Measured"])))
        for event in (told, record.body):
            assert (str(event.rate), str(event.moment), str(event.degrees), str(event.amount)) == ("1.5", str(NOON), "0.0", "0.10")


def test_it_is_so_within_parts_and_collections() -> None:
    """Lists, sets and mappings of them."""
    with lab.open("memory:") as running:
        line, other, third = (Line(Decimal(rate), Decimal("7.00")) for rate in ("1.50", "2E1", "3.0"))
        receipt = running.record(Ordered((line, other), frozenset([Decimal("4.0")]), {"third": third}))
        [told] = receipt.events
        assert [str(one.rate) for one in (*told.lines, told.named["third"])] == ["1.5", "20", "3"]
        assert [str(one.amount) for one in (*told.lines, told.named["third"])] == ["7.00"] * 3
        assert [str(rate) for rate in told.more] == ["4"]
        for rate in ("1.5", "20", "3", "4"):
            found = running.state(ByRate, Decimal(rate).quantize(Decimal("0.000")))
            assert found is not None, rate
            assert found.count == 1


def as_it_is(value: Any) -> Any:
    """Leave a value as it was written."""
    return value


def in_several(_scope: Scope) -> None:
    """Let values be recorded as they were written."""


def test_what_was_indexed_in_several_writings_is_found_in_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of before this rule: its rows stay as they are, and its index is made anew."""
    with monkeypatch.context() as before:
        before.setattr("happened.core.tags._as_one_alone", as_it_is)
        for module in ("typed", "records"):
            before.setattr(f"happened.log.{module}.in_one_writing", in_several)
        with lab.open(url, run=False) as running:
            for rate, moment, degrees in WAYS[:2]:
                running.record(Measured(rate, moment, degrees))
            assert len(list(running.log.read(h.query(rate=Decimal("1.5"))))) == 1

    with lab.open(url) as running:
        check(running)
        assert running.log.verify().position == running.log.head
