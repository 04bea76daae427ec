"""A shop, as events."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

import happened as h

Sku = Annotated[str, h.Tag("sku")]
OrderNo = Annotated[str, h.Tag("order")]


class StockReceived(h.Event):
    sku: Sku
    units: int


class OrderPlaced(h.Event):
    order: OrderNo
    sku: Sku
    units: int
    total: Decimal


class PlaceOrder(h.Command):
    order: OrderNo
    sku: Sku
    units: int


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: StockReceived | OrderPlaced) -> "Stock":
        match event:
            case StockReceived():
                return self.but(units=self.units + event.units)
            case OrderPlaced():
                return self.but(units=self.units - event.units)


def freight(units: int) -> Decimal:
    return Decimal(5)


def place_order(command: PlaceOrder, stock: Stock, world: h.World) -> Iterator[OrderPlaced]:
    if command.units > stock.units:
        raise h.Refused(f"only {stock.units} of {command.sku} left")
    yield OrderPlaced(command.order, command.sku, command.units, total=2 * command.units + world.ask(freight, command.units))


shop = h.App("shop", records=[StockReceived], deciders=[place_order], gateways=[freight], views=[Stock])


def main(log: str = "sqlite:///shop.db") -> None:
    with shop.open(log) as running:
        running.record(StockReceived("widget", 100), id="delivery-1")
        receipt = running.dispatch(PlaceOrder("o-1", "widget", 15), id="order-1")
        print(running.view(Stock).get(sku="widget", since=receipt).units)  # 85, however often it is run


if __name__ == "__main__":
    main()
