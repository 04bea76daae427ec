"""Orders that are cancelled where nobody pays within three days: a process manager."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import happened as h

OrderNo = Annotated[str, h.Tag("order")]


class OrderPlaced(h.Event):
    order: OrderNo


class PaymentArrived(h.Event):
    order: OrderNo


class CancelUnpaid(h.Command):
    order: OrderNo


class OrderCancelled(h.Event):
    order: OrderNo


class Order(h.State):
    order: OrderNo
    paid: bool = False
    cancelled: bool = False

    def evolve(self, event: OrderPlaced | PaymentArrived | OrderCancelled) -> "Order":
        match event:
            case OrderPlaced():
                return self
            case PaymentArrived():
                return self.but(paid=True)
            case OrderCancelled():
                return self.but(cancelled=True)


def expect_payment(event: OrderPlaced) -> Iterator[h.Later[CancelUnpaid]]:
    """Look again in three days."""
    yield h.Later(CancelUnpaid(event.order), after=timedelta(days=3))


def cancel_unpaid(command: CancelUnpaid, order: Order) -> Iterator[OrderCancelled]:
    """Cancel it unless it was paid."""
    if not order.paid and not order.cancelled:
        yield OrderCancelled(command.order)


orders = h.App("orders", records=[OrderPlaced, PaymentArrived], deciders=[cancel_unpaid], reactions=[expect_payment])
