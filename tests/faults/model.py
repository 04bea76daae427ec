"""The system under fault: accounts and a shop, whose decisions overlap by account, by order and by article; and a client that asks at random."""

import random
from collections.abc import Iterator
from typing import Annotated

import happened as h
from happened.testing.history import Session

Account = Annotated[str, h.Tag("account")]
OrderNo = Annotated[str, h.Tag("order")]
Sku = Annotated[str, h.Tag("sku")]
ACCOUNTS, SKUS, ORDERS = "abcd", "xyz", 12


class Deposited(h.Event):
    account: Account
    amount: int


class Withdrawn(h.Event):
    account: Account
    amount: int


class Received(h.Event):
    sku: Sku
    units: int


class Ordered(h.Event):
    order: OrderNo
    sku: Sku
    units: int


class Cancelled(h.Event):
    order: OrderNo
    sku: Sku
    units: int


class Transfer(h.Command):
    source: Account
    target: Account
    amount: int


class Order(h.Command):
    order: OrderNo
    sku: Sku
    units: int


class Cancel(h.Command):
    order: OrderNo


class Balance(h.State):
    account: Account
    amount: int = 0
    changes: int = 0

    def evolve(self, event: Deposited | Withdrawn) -> "Balance":
        match event:
            case Deposited():
                return self.but(amount=self.amount + event.amount, changes=self.changes + 1)
            case Withdrawn():
                return self.but(amount=self.amount - event.amount, changes=self.changes + 1)


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Ordered | Cancelled) -> "Stock":
        match event:
            case Received() | Cancelled():
                return self.but(units=self.units + event.units)
            case Ordered():
                return self.but(units=self.units - event.units)


class Placed(h.State):
    order: OrderNo
    sku: str = ""
    units: int = 0

    def evolve(self, event: Ordered | Cancelled) -> "Placed | None":
        match event:
            case Ordered():
                return self.but(sku=event.sku, units=event.units)
            case Cancelled():
                return None


def transfer(command: Transfer, source: Balance, target: Balance) -> Iterator[Withdrawn | Deposited]:
    """Move money: two events or none."""
    if command.amount > source.amount:
        raise h.Refused("too little", left=source.amount)
    yield Withdrawn(command.source, command.amount)
    yield Deposited(command.target, command.amount)


def order(command: Order, stock: Stock, placed: Placed | None) -> Iterator[Ordered]:
    """Order once, and no more than there is."""
    if placed is not None:
        raise h.Refused("it is placed", units=placed.units)
    if command.units > stock.units:
        raise h.Refused("too few", left=stock.units)
    yield Ordered(command.order, command.sku, command.units)


def cancel(command: Cancel, placed: Placed | None) -> Iterator[Cancelled]:
    """Put back what was ordered."""
    if placed is None:
        raise h.Refused("there is no such order")
    yield Cancelled(command.order, placed.sku, placed.units)


app = h.App("faults", records=[Deposited, Received], deciders=[transfer, order, cancel], views=[Balance, Stock])


def begin(running: h.Running, session: Session) -> None:
    """Record what there is to be had."""
    for account in ACCOUNTS:
        session.record(running, Deposited(account, 100))
    for sku in SKUS:
        session.record(running, Received(sku, 20))


def act(running: h.Running, session: Session, chance: random.Random, latest: h.Receipt | None) -> h.Receipt | None:
    """Ask one thing at random; return the latest receipt. What is refused, or does not come in time, is part of the game."""
    try:
        match chance.randrange(10):
            case 0 | 1 | 2:
                source, target = chance.sample(ACCOUNTS, 2)
                return session.dispatch(running, Transfer(source, target, chance.randrange(1, 60)))
            case 3 | 4:
                return session.dispatch(running, Order(f"o-{chance.randrange(ORDERS)}", chance.choice(SKUS), chance.randrange(1, 12)))
            case 5:
                return session.dispatch(running, Cancel(f"o-{chance.randrange(ORDERS)}"))
            case 6:
                transfers = [Transfer(source, chance.choice(ACCOUNTS), chance.randrange(1, 20)) for source in chance.sample(ACCOUNTS, 2)]
                return session.dispatch_together(running, transfers)[-1]
            case 7:
                session.rows(running.view(chance.choice([Balance, Stock])), since=latest, wait_seconds_max=5)
            case 8:
                session.state(running, Placed, f"o-{chance.randrange(ORDERS)}", since=latest)
            case _:
                session.state(running, Balance, chance.choice(ACCOUNTS))
    except (h.Refused, h.Late, h.Overloaded, h.StoreFailed, h.OutcomeUnknown):
        pass
    return latest


def others_go_on(running: h.Running, other: h.Running) -> None:
    """See to it that what one records after a first deposit another waits for, reads and folds, at once: whatever somebody else holds open."""
    for place in range(5):
        head = running.log.head
        receipt = other.record(Deposited("a", 1))
        assert running.log.wait(head, 5) == receipt.position
        assert running.view(Balance).get("a", since=receipt).changes == place + 2
        assert [record.position for record in running.log.read(after=head)] == [receipt.position]
