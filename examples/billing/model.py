"""Billing: what it hears of the shop, the copy of the customers that it keeps, and how it decides whether to bill.

Two things come from the shop. `OrderAccepted` is a *notification*: it says that an order is there to be billed, and of whom. It becomes a fact in this log,
and the reaction `bill_order` sends a command on it. `CustomerCard` is a *shared state*, and `Debtor` the copy of it: of its fields those that a bill needs.

So billing decides without asking the shop, and goes on deciding when the shop is down. What it decides on may be old, and how old it is, it knows: a debtor
who is unknown, or a copy that has not heard of the shop for too long, is no ground for a bill. What was read of the copy is recorded with the decision.
"""

from collections.abc import Iterator
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated

import happened as h

OrderNo = Annotated[str, h.Tag("order")]
CustomerNo = Annotated[str, h.Tag("customer")]

COPY_AGE_MAX = timedelta(hours=1)
"""A copy of the customers that is older is not billed by."""

TRIES_LATER = (timedelta(minutes=1), timedelta(days=1))
"""A notification may be here before the copy has what it is about. So an order that can't be billed at once is tried again so much later."""

VAT = {"France": Decimal("0.20"), "Germany": Decimal("0.19")}
"""By country; what goes elsewhere is exported without."""


class OrderAccepted(h.Event):
    """From the shop: an order was accepted, for so much without taxes."""

    order: OrderNo
    customer: CustomerNo
    total: Decimal


@h.named("CustomerCard")
class Debtor(h.State):
    """From the shop, as a copy: who a customer is. The shop's card has a street, too, which no bill needs that is sent by mail."""

    customer: CustomerNo
    name: str = ""
    country: str = ""


class Bill(h.Command):
    """Bill an order, where the customer is known well enough."""

    order: OrderNo
    customer: CustomerNo
    net: Decimal


class Billed(h.Event):
    """The bill is written."""

    order: OrderNo
    customer: CustomerNo
    name: str
    net: Decimal
    vat: Decimal

    @property
    def gross(self) -> Decimal:
        """What is to be paid."""
        return self.net + self.vat


class OpenBill(h.State):
    """What is to be paid for an order: one that has been accepted and could not be billed has nothing but an owner and a sum."""

    order: OrderNo
    customer: Annotated[str, h.Index()] = ""
    name: str = ""
    net: Decimal = Decimal(0)
    gross: Decimal = Decimal(0)
    billed: bool = False

    def evolve(self, event: OrderAccepted | Billed) -> "OpenBill":
        """Begin with what the shop says, end with the bill."""
        match event:
            case OrderAccepted():
                return self.but(customer=event.customer, net=event.total)
            case Billed():
                return self.but(customer=event.customer, name=event.name, net=event.net, gross=event.gross, billed=True)


def bill_order(event: OrderAccepted) -> Iterator[Bill | h.Later[Bill]]:
    """Have every order billed that the shop has accepted: now, and in case that it can't be, later."""
    command = Bill(event.order, event.customer, event.total)
    yield command
    for after in TRIES_LATER:
        yield h.Later(command, after=after)


def bill(command: Bill, bill: OpenBill, debtor: h.Replica[Debtor]) -> Iterator[Billed]:
    """Bill an order once, if the customer is known, and not by an old copy. What is refused now may be asked for again."""
    if bill.billed:
        return
    if debtor.state is None:
        raise h.Refused("the customer is unknown", customer=command.customer)
    if debtor.age > COPY_AGE_MAX:
        raise h.Refused("the copy of the customers is too old", age=debtor.age)
    rate = VAT.get(debtor.state.country, Decimal(0))
    vat = (command.net * rate).quantize(Decimal("0.01"), ROUND_HALF_UP)
    yield Billed(command.order, command.customer, debtor.state.name, command.net, vat)


billing = h.App(
    "billing",
    deciders=[bill],
    reactions=[bill_order],
    views=[OpenBill],
    subscriptions={"shop": [OrderAccepted]},
    replicas={"shop": [Debtor]},
)
