"""Two systems: what one says of its customers, another bills by. Billing imports nothing of crm; its classes have the names that crm publishes."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

import happened as h

CustomerNo = Annotated[str, h.Tag("customer")]

# --- crm


class CustomerMoved(h.Event):
    customer: CustomerNo
    street: str
    country: str


class CustomerCard(h.State):
    customer: CustomerNo
    street: str = ""
    country: str = ""

    def evolve(self, event: CustomerMoved) -> "CustomerCard":
        return self.but(street=event.street, country=event.country)


@h.named("AddressChanged")
class AddressChanged(h.Event):
    customer: CustomerNo


def address_changed(event: CustomerMoved) -> AddressChanged:
    return AddressChanged(event.customer)


crm = h.App("crm", records=[CustomerMoved], publications=[address_changed], shares=[CustomerCard])

# --- billing


@h.named("CustomerCard")
class Debtor(h.State):
    customer: CustomerNo
    country: str = ""


@h.named("AddressChanged")
class DebtorMoved(h.Event):
    customer: CustomerNo


class Bill(h.Command):
    customer: CustomerNo
    net: Decimal


class Billed(h.Event):
    customer: CustomerNo
    gross: Decimal


class ReviewTax(h.Command):
    customer: CustomerNo


class TaxReviewed(h.Event):
    customer: CustomerNo
    country: str


def bill(command: Bill, debtor: h.Replica[Debtor]) -> Iterator[Billed]:
    if debtor.state is None or debtor.age > timedelta(hours=1):
        raise h.Refused("customer unknown or too old", age=debtor.age)
    rate = Decimal("0.19") if debtor.state.country == "Germany" else Decimal(0)
    yield Billed(command.customer, command.net * (1 + rate))


def review_tax(command: ReviewTax, debtor: Debtor | None) -> Iterator[TaxReviewed]:
    if debtor is not None:
        yield TaxReviewed(command.customer, debtor.country)


class Moves(h.State):
    """How often a customer has moved, as crm said."""

    customer: CustomerNo
    moves: int = 0

    def evolve(self, event: DebtorMoved) -> "Moves":
        return self.but(moves=self.moves + 1)


billing = h.App("billing", deciders=[bill, review_tax], views=[Moves], subscriptions={"crm": [DebtorMoved]}, replicas={"crm": [Debtor]})


def main(crm_log: str, billing_log: str) -> None:
    """Say that a customer moved, look at the copy of it, and bill."""
    with crm.open(crm_log) as upstream, billing.open(billing_log, channels={"crm": upstream}) as running:
        receipt = upstream.record(CustomerMoved("c-1", "Rue 1", "France"), id="move-1")
        copy = running.replica(Debtor, since=receipt, customer="c-1")
        print(copy.state)
        print(running.dispatch(Bill("c-1", Decimal(100)), id="bill-1").events)


if __name__ == "__main__":
    main(*sys.argv[1:])
