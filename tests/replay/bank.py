"""A bank whose code is changed between recording and checking, by its text."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated

import happened as h

Account = Annotated[str, h.Tag("account")]


class Opened(h.Event):
    account: Account
    limit: int


class Pay(h.Command):
    account: Account
    cents: int


class Paid(h.Event):
    account: Account
    cents: int
    rate: int
    number: str
    lot: float
    at: datetime


class Warned(h.Event):
    account: Account
    left: int


class Warn(h.Command):
    account: Account
    left: int


class Remind(h.Command):
    account: Account


class Reminded(h.Event):
    account: Account


class Spent(h.State):
    account: Account
    limit: int = 0
    cents: int = 0

    def evolve(self, event: Opened | Paid) -> "Spent":
        match event:
            case Opened():
                return self.but(limit=event.limit)
            case Paid():
                return self.but(cents=self.cents + event.cents)


class Fees(h.State):
    account: Account
    cents: int = 0

    def evolve(self, event: Paid) -> "Fees":
        return self.but(cents=self.cents + event.rate)


class Warnings(h.State):
    account: Account
    count: int = 0

    def evolve(self, event: Warned) -> "Warnings":
        return self.but(count=self.count + 1)


def rate(account: str) -> int:
    if account == "down":
        raise ConnectionError("nobody there")
    return len(account)


def tell(account: str, left: int) -> str:
    return f"{account} has {left}"


def pay(command: Pay, spent: Spent, world: h.World) -> Iterator[Paid]:
    if spent.cents + command.cents > spent.limit:
        raise h.Refused("too much", left=spent.limit - spent.cents)
    try:
        asked = world.ask(rate, command.account)
    except h.GatewayFailed:
        asked = -1
    fees = world.state(Fees, command.account)
    yield Paid(command.account, command.cents, asked + fees.cents, str(world.new_id()), world.random(), world.now)


def warn(command: Warn, warnings: Warnings) -> Iterator[Warned]:
    if warnings.count < 2:
        yield Warned(command.account, command.left)


def remind(command: Remind) -> Iterator[Reminded]:
    yield Reminded(command.account)


def watch(event: Paid, spent: Spent, world: h.World) -> Iterator[Warn | h.Later[Remind]]:
    left = spent.limit - spent.cents
    if left < 50:
        world.ask(tell, event.account, left)
        yield Warn(event.account, left)
        yield h.Later(Remind(event.account), after=timedelta(days=1))


app = h.App("bank", records=[Opened], deciders=[pay, warn, remind], gateways=[rate, tell], reactions=[watch], views=[Spent, Warnings])
