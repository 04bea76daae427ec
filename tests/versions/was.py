"""The first release of the shop of program 7: classes as they were once."""

from typing import Annotated

import happened as h

OrderNo = Annotated[str, h.Tag("order")]


class Address(h.Value):
    street: str
    country: str


class OrderPlaced(h.Event):
    order: OrderNo
    price: float
    ship_to: Address


class CustomerMoved(h.Event):
    customer: str
    to: Address


class OrderShipped(h.Event):
    order: OrderNo
    to: Address


class OrderViewed(h.Event):
    order: OrderNo
