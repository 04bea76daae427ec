"""A world for a decider that is called by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import pytest

import happened as h
from happened.testing import World

Sku = Annotated[str, h.Tag("sku")]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Sold(h.Event):
    sku: Sku
    price: Decimal
    id: UUID
    at: datetime
    lucky: bool
    left: int


class Sell(h.Command):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Sold) -> "Stock":
        return self.but(units=self.units - 1)


def price(sku: str) -> Decimal:
    raise NotImplementedError


def keyed(sku: str, key: h.CallId) -> Decimal:
    raise NotImplementedError


def length(sku: str) -> Decimal:
    return Decimal(len(sku))


async def rebate(sku: str) -> Decimal:
    raise NotImplementedError


def sell(command: Sell, stock: Stock, world: h.World) -> Iterator[Sold]:
    try:
        [asked] = world.ask_all(price, [(command.sku,)])
        asked -= world.ask(rebate, command.sku)
    except h.GatewayFailed:
        asked = Decimal(0)
    left = world.state(Stock, command.sku).units
    yield Sold(command.sku, asked, world.new_id(), world.now, world.random() < 1, left)


def sold(world: World) -> Sold:
    """Call the decider as any function."""
    [event] = sell(Sell("nut"), Stock("nut", 5), world)
    return event


def test_a_decider_is_called_as_any_function() -> None:
    """What it sees of the world is what it is given: time, answers and states."""
    world = World(now=NOON, answers={price: length, rebate: Decimal(1)}, states=[Stock("nut", 7)])

    event = sold(world)

    assert (event.price, event.at, event.lucky, event.left) == (Decimal(2), NOON, True, 7)


def test_a_state_that_was_not_given_is_as_before_anything_happened() -> None:
    """As in the engine; its key may be named."""
    world = World(states=[Stock("nut", 7)])

    assert (world.state(Stock, "bolt"), world.state(Stock, sku="nut")) == (Stock("bolt"), Stock("nut", 7))


def test_ids_and_numbers_are_the_same_in_every_run() -> None:
    """They are drawn from the id of the command, one after the other."""
    first, second, other = World(), World(), World(id="another")

    drawn = [first.new_id(), first.new_id(), first.random()]

    assert drawn == [second.new_id(), second.new_id(), second.random()]
    assert drawn[0] not in (drawn[1], other.new_id())


def test_an_answer_that_is_an_error_is_heard_as_in_the_engine() -> None:
    """A decider can catch it; so can it catch what a function raises."""

    def fails(sku: str) -> Decimal:
        raise TimeoutError("no answer")

    for answer in (TimeoutError("no answer"), fails):
        assert sold(World(answers={price: answer})).price == 0
    with pytest.raises(h.GatewayFailed, match="gateway `price` failed: TimeoutError: no answer"):
        World(answers={price: fails}).ask(price, "nut")


def test_a_gateway_without_an_answer_is_named() -> None:
    """Nothing is asked outside."""
    with pytest.raises(h.Unanswered, match=r"`price` is asked \('nut',\).*World\(answers="):
        World().ask(price, "nut")


def test_what_the_engine_would_refuse_is_refused() -> None:
    """A question that is no tuple, a time without a zone, an answer that nothing awaits."""
    world = World(answers={price: Decimal(1), rebate: rebate})

    with pytest.raises(h.Invalid, match="tuple of arguments"):
        world.ask_all(price, ["nut"])  # type: ignore[list-item]  # the mistake that is planted  # pyright: ignore[reportArgumentType]
    with pytest.raises(h.Invalid, match="async"):
        world.ask(rebate, "nut")
    with pytest.raises(h.Invalid, match="zone"):
        World(now=datetime(2026, 3, 1))  # noqa: DTZ001 - the mistake that is planted


def test_the_id_of_a_question_is_given_to_the_function_that_answers() -> None:
    """Where the gateway has a parameter for it."""
    heard: list[str] = []

    def answer(sku: str, key: h.CallId) -> Decimal:
        heard.append(key)
        return Decimal(1)

    World(answers={keyed: answer}, id="sell-1").ask(keyed, "nut")

    assert heard == ["sell-1:keyed"]
