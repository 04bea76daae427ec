"""Program 7 of the public API: versions."""

from decimal import Decimal
from typing import Annotated

import happened as h

OrderNo = Annotated[str, h.Tag("order")]


@h.named("Address", version=2)
class Address(h.Value):
    street: str
    house: str
    country: str


@h.named("OrderPlaced", version=2)
class OrderPlaced(h.Event):
    order: OrderNo
    price: Decimal
    currency: str
    ship_to: Address


class CustomerMoved(h.Event):
    customer: str
    to: Address


@h.named("OrderSent", version=2)  # was OrderShipped
class OrderSent(h.Event):
    order: OrderNo
    to: Address


def with_currency(old: h.Data) -> h.Data:
    return old | {"price": str(old["price"]), "currency": "GBP"}


def with_house(old: h.Data) -> h.Data:
    street, _, house = str(old["street"]).rpartition(" ")
    return old | {"street": street, "house": house}


@h.named("StockTaken", version=1)
class StockTaken1(h.Event):
    sku: str
    missing: int


@h.named("StockTaken", version=2)
class StockTaken(h.Event):
    sku: str
    units: int


def stock_taken_2(old: StockTaken1) -> StockTaken:
    """Typed form: the annotations say from what to what; the old class stays, the function is plain."""
    return StockTaken(old.sku, -old.missing)


UPCASTS: tuple[h.UpcastEntry, ...] = (
    stock_taken_2,
    h.Upcast("OrderPlaced", 1, with_currency),
    h.Upcast("Address", 1, with_house),  # wherever an Address lies, in any event
    h.Upcast("OrderShipped", 1, to="OrderSent"),
    h.Retired("OrderViewed"),
)
shop = h.App("shop", records=[OrderPlaced, CustomerMoved, OrderSent], upcasts=UPCASTS)
