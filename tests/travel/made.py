"""An app with every kind of state: keyed, with two tags, of the whole log, of parts, with a computed key, with an end, with joins; and random histories for it."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import happened as h

Sku = Annotated[str, h.Tag("sku")]
OrderNo = Annotated[str, h.Tag("order")]


class Line(h.Value):
    sku: Sku
    units: int


class Received(h.Event):
    sku: Sku
    units: int
    price: Decimal


class Ordered(h.Event):
    order: OrderNo
    country: str
    lines: tuple[Line, ...]


class Cancelled(h.Event):
    order: OrderNo


class Cancel(h.Command):
    order: OrderNo


class Stock(h.State):
    """Keyed by a tag, from whole events and from parts."""

    sku: Sku
    units: int = 0
    price: Decimal = Decimal(0)

    def evolve(self, event: Received | h.Part[Ordered, Line]) -> "Stock":
        match event:
            case Received():
                return self.but(units=self.units + event.units, price=event.price)
            case h.Part(part=line):
                return self.but(units=self.units - line.units)


class Order(h.State):
    """Ends, and may begin anew."""

    order: OrderNo
    country: str = ""
    lines: tuple[Line, ...] = ()
    skus: frozenset[str] = frozenset()

    def evolve(self, event: Ordered | Cancelled) -> "Order | None":
        match event:
            case Ordered():
                return self.but(country=event.country, lines=event.lines, skus=frozenset(line.sku for line in event.lines))
            case Cancelled():
                return None


class Total(h.State):
    """One for the log, which asks for the envelope."""

    orders: int = 0
    latest: datetime | None = None

    def evolve(self, event: Ordered | Cancelled, record: h.Recorded) -> "Total":
        return self.but(orders=self.orders + (1 if isinstance(event, Ordered) else -1), latest=record.time)


class OfOrder(h.State):
    """Keyed by two tags that lie together."""

    sku: Sku
    order: OrderNo
    units: int = 0

    def evolve(self, event: h.Part[Ordered, Line]) -> "OfOrder":
        return self.but(units=self.units + event.part.units)


class ByCountry(h.State):
    """Has a computed key."""

    country: str
    orders: int = 0

    @staticmethod
    def key_of(event: Ordered) -> str:
        return event.country.lower()

    def evolve(self, event: Ordered) -> "ByCountry":
        return self.but(orders=self.orders + 1)


class Home(h.State):
    """What stays known of an order that is gone."""

    order: OrderNo
    country: str = ""

    def evolve(self, event: Ordered) -> "Home":
        return self.but(country=event.country)


class Returned(h.State):
    """Joins another state: a cancellation has no country, its order knows it."""

    country: str
    cancelled: int = 0

    @staticmethod
    def key_of(event: Cancelled, home: Home) -> str:
        return home.country

    def evolve(self, event: Cancelled) -> "Returned":
        return self.but(cancelled=self.cancelled + 1)


def cancel(command: Cancel, order: Order | None) -> Iterator[Cancelled]:
    if order is None:
        raise h.Refused("no such order")
    yield Cancelled(command.order)


ALONE: tuple[type[h.State], ...] = (Stock, Order, Total, OfOrder, ByCountry, Home)
VIEWS: tuple[type[h.State], ...] = (*ALONE, Returned)

shop = h.App("shop", records=[Received, Ordered, Cancelled], deciders=[cancel], views=VIEWS)


def history(running: h.Running, seed: int, length: int) -> None:
    """Record a random history: facts alone and in rows of several, commands that are accepted and refused."""
    chance = random.Random(seed)
    for _ in range(length):
        match chance.randrange(4):
            case 0:
                running.record(Received(_sku(chance), chance.randrange(9), Decimal(chance.randrange(999)) / 100))
            case 1:
                running.record(_ordered(chance))
            case 2:
                running.log.append([_ordered(chance), Received(_sku(chance), 1, Decimal("1.50")), Cancelled(_order(chance))])
            case _:
                try:
                    running.dispatch(Cancel(_order(chance)))
                except h.Refused:
                    continue


def _ordered(chance: random.Random) -> Ordered:
    lines = tuple(Line(sku, chance.randrange(1, 5)) for sku in {_sku(chance) for _ in range(3)})
    return Ordered(_order(chance), chance.choice(["CH", "DE", "ch"]), lines)


def _sku(chance: random.Random) -> str:
    return f"sku-{chance.randrange(4)}"


def _order(chance: random.Random) -> str:
    return f"o-{chance.randrange(5)}"


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
