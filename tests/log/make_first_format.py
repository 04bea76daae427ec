"""Make the log of the first format that is kept as a test: `python -m tests.log.make_first_format PATH`. Run once; what it made is never made anew.

It has every kind of row there is: facts, a command that was accepted and one that was refused, answers of the outside, a command that was kept and
decided and one that waits, facts without a class, and bodies that were erased. Clock, ids and salts are set; only how long a decider ran is not.
"""

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import happened as h
from happened.testing.world import Clock
from tests.log.erase import erase

Sku = Annotated[str, h.Tag("sku")]
OrderNo = Annotated[str, h.Tag("order")]


class Line(h.Value):
    sku: Sku
    units: int


class Received(h.Event):
    sku: Sku
    units: int


class Ordered(h.Event):
    order: OrderNo
    lines: tuple[Line, ...]
    price: Decimal
    due: datetime | None = None


class Order(h.Command):
    order: OrderNo
    lines: tuple[Line, ...]


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | h.Part[Ordered, Line]) -> "Stock":
        match event:
            case Received():
                return self.but(units=self.units + event.units)
            case h.Part(part=line):
                return self.but(units=self.units - line.units)


def price(sku: str, units: int) -> Decimal:
    """Stand for the price list."""
    return Decimal(units) * Decimal("1.50") + len(sku)


def order(command: Order, world: h.World) -> Iterator[Ordered]:
    """Sell what is there."""
    short = [line.sku for line in command.lines if world.state(Stock, line.sku).units < line.units]
    if short:
        raise h.Refused("not enough", skus=short)
    yield Ordered(command.order, command.lines, sum((world.ask(price, line.sku, line.units) for line in command.lines), Decimal(0)))


shop = h.App("shop", records=[Received], deciders=[order], gateways=[price], views=[Stock])


def main(path: str) -> None:
    """Make it."""
    url = f"sqlite:///{path}"
    clock = Clock(name="first")
    with shop.open(url, run=False, source=clock, views="memory:") as running:
        running.record(Received("nut", 10), id="delivery-1", actor="ann", occurred=datetime(2025, 12, 31, tzinfo=UTC))
        running.record(Received("bolt", 5), id="delivery-2", correlation="ship-1", occurred=datetime(2025, 12, 31, tzinfo=UTC))
        running.dispatch(Order("o-1", (Line("nut", 2), Line("bolt", 1))), id="order-1", actor="bob", correlation="cart-1")
        with contextlib.suppress(h.Refused):
            running.dispatch(Order("o-2", (Line("nut", 100),)), id="order-2")
        running.enqueue(Order("o-3", (Line("bolt", 1),)), id="order-3")
        running.log.append(
            [h.Loose("Noted", {"text": "\N{GREEK SMALL LETTER ALPHA}"}, (("sku", "nut"),)), h.Message(Received("nut", 1), id="found")],
            id="by-hand",
        )
    with shop.open(url, source=clock, views="memory:") as running:
        running.outcome(running.enqueue(Order("o-3", (Line("bolt", 1),)), id="order-3"))
    with shop.open(url, run=False, source=clock, views="memory:") as running:
        running.record_all([h.Message(Received("nut", 7), id="delivery-3", actor="ann", causation="delivery-1")])
        running.enqueue(Order("o-4", (Line("nut", 1),)), id="order-4")
        gone = {record.id: record.position for record in running.log.read()}
    erase(path, gone["delivery-3"], [("sku", "nut")])
    erase(path, gone["order-1"])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("run", "covered", "block", "shelf", "sample"):
            connection.execute(f"delete from {table}")
        connection.execute("vacuum")


if __name__ == "__main__":
    main(sys.argv[1])
