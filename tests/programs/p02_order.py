"""An order with lines: each line touches the stock of its item, and prices are asked for outside."""

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated

import happened as h

Sku = Annotated[str, h.Tag("sku")]
OrderNo = Annotated[str, h.Tag("order")]
CustomerNo = Annotated[str, h.Tag("customer")]


class Wish(h.Value):
    sku: Sku
    units: int


class Line(h.Value):
    sku: Sku
    units: int
    price: Decimal


class StockReceived(h.Event):
    sku: Sku
    units: int


class PlaceOrder(h.Command):
    order: OrderNo
    customer: CustomerNo
    wishes: tuple[Wish, ...]


class OrderPlaced(h.Event):
    order: OrderNo
    customer: CustomerNo
    lines: tuple[Line, ...]


class CancelLine(h.Command):
    customer: CustomerNo
    sku: Sku
    units: int


class LineCancelled(h.Event):
    customer: CustomerNo
    sku: Sku
    units: int


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: StockReceived | h.Part[OrderPlaced, Line] | LineCancelled) -> "Stock":
        match event:
            case StockReceived() | LineCancelled():
                return self.but(units=self.units + event.units)
            case h.Part(part=line):
                return self.but(units=self.units - line.units)


class Bought(h.State):
    customer: CustomerNo
    sku: Sku
    units: int = 0

    def evolve(self, event: h.Part[OrderPlaced, Line] | LineCancelled) -> "Bought":
        match event:
            case h.Part(part=line):
                return self.but(units=self.units + line.units)
            case LineCancelled():
                return self.but(units=self.units - event.units)


async def price(sku: str, units: int) -> Decimal:
    raise NotImplementedError


def place_order(command: PlaceOrder, stock: Mapping[Sku, Stock], world: h.World) -> Iterator[OrderPlaced]:
    wanted = Counter[str]()
    for wish in command.wishes:  # one item may be wished for twice
        wanted[wish.sku] += wish.units
    short = [sku for sku, units in wanted.items() if units > stock[sku].units]
    if short:
        raise h.Refused("not enough in stock", skus=short)
    prices = world.ask_all(price, [(wish.sku, wish.units) for wish in command.wishes])
    lines = (Line(wish.sku, wish.units, price) for wish, price in zip(command.wishes, prices, strict=True))
    yield OrderPlaced(command.order, command.customer, tuple(lines))


def cancel_line(command: CancelLine, bought: Bought) -> Iterator[LineCancelled]:
    if command.units > bought.units:
        raise h.Refused("more than was bought", bought=bought.units)
    yield LineCancelled(command.customer, command.sku, command.units)


shop = h.App(
    "shop",
    records=[StockReceived],
    deciders=[place_order, cancel_line],
    gateways=[h.Gateway(price, wait_seconds_max=2, attempts_max=3)],
    views=[Stock, Bought],
)
