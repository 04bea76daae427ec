"""Recorded answers of the outside: a value in them that has a newer version today is lifted, as it is wherever else it lies."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.checking.decisions import Checked, decide_again
from happened.checking.ranges import readings_of
from happened.checking.reading import Verdict
from happened.checking.visit import visit

OrderNo = Annotated[str, h.Tag("order")]


class Tax1(h.Value):
    percent: int


class Quote1(h.Value):
    sku: str
    cents: int
    tax: Tax1 | None = None


h.named("Quote")(Quote1)
h.named("Tax")(Tax1)


@h.named("Tax", version=2)
class Tax(h.Value):
    rate: Decimal


@h.named("Quote", version=2)
class Quote(h.Value):
    sku: str
    price: Decimal
    tax: Tax | None = None


class Place(h.Command):
    order: OrderNo
    skus: tuple[str, ...]


class Placed(h.Event):
    order: OrderNo
    total: Decimal


class Total(h.State):
    order: OrderNo
    total: Decimal = Decimal(0)

    def evolve(self, event: Placed) -> "Total":
        return self.but(total=self.total + event.total)


@h.named("quote")
def quote_1(sku: str) -> Quote1:
    return Quote1(sku, 100 * len(sku), Tax1(10))


@h.named("listed")
def listed_1(skus: tuple[str, ...]) -> Mapping[str, tuple[Quote1 | None, ...]]:
    return {sku: (None, quote_1(sku)) for sku in skus}


def quote(sku: str) -> Quote:
    raise NotImplementedError


def listed(skus: tuple[str, ...]) -> Mapping[str, tuple[Quote | None, ...]]:
    raise NotImplementedError


@h.named("place")
def place_1(command: Place, world: h.World) -> Iterator[Placed]:
    cents = sum(one.cents for one in world.ask_all(quote_1, [(sku,) for sku in command.skus]))
    cents += sum(one.cents for many in world.ask(listed_1, command.skus).values() for one in many if one is not None)
    yield Placed(command.order, Decimal(cents) / 100)


def place(command: Place, world: h.World) -> Iterator[Placed]:
    quotes = world.ask_all(quote, [(sku,) for sku in command.skus])
    quotes += [one for many in world.ask(listed, command.skus).values() for one in many if one is not None]
    assert all(one.tax == Tax(Decimal("0.1")) for one in quotes)
    yield Placed(command.order, sum((one.price for one in quotes), Decimal(0)))


@h.named("place")
def gone(command: Place) -> Iterator[Placed]:
    yield Placed(command.order, Decimal(0))


def quoted(sku: str) -> Quote:
    return Quote(sku, Decimal(1), Tax(Decimal("0.1")))


def none_listed(skus: tuple[str, ...]) -> Mapping[str, tuple[Quote | None, ...]]:
    return dict.fromkeys(skus, (None,))


def price_exact(old: h.Data) -> h.Data:
    return {"sku": old["sku"], "price": str(Decimal(old["cents"]) / 100), "tax": old["tax"]}


def rate(old: h.Data) -> h.Data:
    return {"rate": str(Decimal(old["percent"]) / 100)}


once = h.App("shop", deciders=[place_1], gateways=[quote_1, listed_1], views=[Total])
UPCASTS = [h.Upcast("Quote", 1, price_exact), h.Upcast("Tax", 1, rate)]
today = h.App("shop", deciders=[place], gateways=[quote, h.Gateway(listed)], views=[Total], upcasts=UPCASTS)
without = h.App("shop", deciders=[place], gateways=[quote, listed], views=[Total])


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a log that an older release has recorded, with what it heard."""
    url = f"sqlite:///{tmp_path}/shop.db"
    with once.open(url) as running:
        running.dispatch(Place("o-1", ("nut", "bolt")), id="one")
    return url


def test_what_was_heard_is_lifted_wherever_it_lies(url: str) -> None:
    """As the whole answer, in lists and mappings, and within another value: all comes to the same, and a branch to the same log."""
    with today.open(url) as running:
        with running.branch(at=0) as branch:
            assert not branch.diff()
            assert branch.failed == ()
        with running.branch(h.Answer(position_of(running, "quote"), Quote("nut", Decimal(5), Tax(Decimal("0.1"))))) as branch:
            assert [one.total for one in branch.states(Total).values()] == [Decimal(16)]

    assert checked(today, url).same == 1


def test_what_is_heard_today_is_read_as_it_is(url: str) -> None:
    """Each answer says in which version it was recorded."""
    with today.open(url, gateways={quote: quoted, listed: none_listed}) as running:
        running.dispatch(Place("o-2", ("nut",)), id="two")
        versions = [record.body.get("values") for record in running.log.read() if record.kind == "answer"]
        with running.branch(at=0) as branch:
            assert not branch.diff()

    assert versions == [{"Quote": 1, "Tax": 1}] * 3 + [{"Quote": 2, "Tax": 2}] * 2
    assert checked(today, url).same == 2


def test_without_its_upcast_it_is_said_which_answer_can_not_be_read(url: str) -> None:
    [divergence] = checked(without, url).divergences
    assert "an answer of the gateway `quote` was recorded that can't be read" in str(divergence)


@pytest.mark.parametrize("page_rows", [250, 1])
def test_whether_answers_can_be_read_is_looked_at_without_deciding_again(url: str, page_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` says so of each gateway, with counts and positions; one that is gone is asked by nobody, and what was erased is not there."""
    monkeypatch.setattr("happened.checking.reading.PAGE_ROWS", page_rows)
    with once.open(url) as running:
        running.dispatch(Place("o-2", ("nut",)), id="two")
        answers = [(record.position, record.body["gateway"]) for record in running.log.read() if record.kind == "answer"]
        places = {name: [position for position, gateway in answers if gateway == name] for name in ("quote", "listed")}

    fine, bad = on_answers(today, url), on_answers(without, url)
    assert [(one.name, one.verdict, one.count, one.bad) for one in fine] == [("listed", "fine", 2, 0), ("quote", "fine", 3, 0)]
    assert [(one.name, one.verdict, one.first, one.last) for one in bad] == [
        (name, "impossible", places[name][0], places[name][-1]) for name in ("listed", "quote")
    ]
    assert [list(trouble.positions) for one in bad for trouble in one.troubles] == [places["listed"], places["quote"]]
    assert "an answer of the gateway `quote` was recorded that can't be read" in bad[1].troubles[0].reason
    assert not readings_of(url, without).readable
    assert on_answers(h.App("shop", deciders=[gone], views=[Total]), url) == []

    with today.open(url) as running:
        running.erase("one", actor="ann", reason="asked to")
    assert [(one.name, one.count) for one in on_answers(today, url)] == [("listed", 1), ("quote", 1)]


def on_answers(app: h.App, url: str) -> list[Verdict]:
    """Return what is said of answers."""
    return [one for one in readings_of(url, app).names if one.what == "answer"]


def checked(app: h.App, url: str) -> Checked:
    """Decide again what the log holds."""
    with closing(visit(url, app)) as log:
        return decide_again(app, log)


def position_of(running: h.Running, gateway: str) -> int:
    """Return where the first answer of a gateway lies."""
    return next(record.position for record in running.log.read() if record.kind == "answer" and record.body["gateway"] == gateway)
