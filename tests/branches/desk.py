"""A system that has something of everything, for branches: refusals, chance, the clock, questions, reactions that read states, timers, what is enqueued."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

import happened as h

Account = Annotated[str, h.Tag("account")]


class Opened(h.Event):
    account: Account
    owner: str = ""


class Paid(h.Event):
    account: Account
    amount: Decimal


class Drawn(h.Event):
    account: Account
    amount: Decimal
    slip: str


class Warned(h.Event):
    account: Account
    balance: Decimal


class Charged(h.Event):
    account: Account
    fee: Decimal
    at: str


class Draw(h.Command):
    account: Account
    amount: Decimal


class Warn(h.Command):
    account: Account


class Charge(h.Command):
    account: Account


class Balance(h.State):
    account: Account
    amount: Decimal = Decimal(0)
    warned: int = 0

    def evolve(self, event: Paid | Drawn | Warned | Charged) -> "Balance":
        match event:
            case Paid():
                return self.but(amount=self.amount + event.amount)
            case Drawn():
                return self.but(amount=self.amount - event.amount)
            case Warned():
                return self.but(warned=self.warned + 1)
            case Charged():
                return self.but(amount=self.amount - event.fee)


class Total(h.State):
    drawn: Decimal = Decimal(0)
    warnings: int = 0

    def evolve(self, event: Drawn | Warned) -> "Total":
        match event:
            case Drawn():
                return self.but(drawn=self.drawn + event.amount)
            case Warned():
                return self.but(warnings=self.warnings + 1)


def tariff(account: str, amount: Decimal) -> Decimal:
    """Say what the outside says of a fee."""
    return Decimal(len(account)) + amount / 100


def draw(command: Draw, balance: Balance, world: h.World) -> Iterator[Drawn]:
    if command.amount > balance.amount + 50:
        raise h.Refused("too much", missing=str(command.amount - balance.amount))
    yield Drawn(command.account, command.amount, f"{world.new_id()} {world.random():.3f}")


def warn(command: Warn, balance: Balance) -> Iterator[Warned]:
    if balance.warned >= 3:
        raise h.Refused("warned often enough")
    yield Warned(command.account, balance.amount)


def charge(command: Charge, balance: Balance, world: h.World) -> Iterator[Charged]:
    if balance.amount >= 0:
        raise h.Refused("nothing is owed")
    yield Charged(command.account, world.ask(tariff, command.account, balance.amount), f"{world.now:%Y-%m-%d %H:%M}")


def watch(event: Drawn, balance: Balance) -> Iterator[Warn | h.Later[Charge]]:
    """Read a state as of when it runs."""
    if balance.amount < 0:
        yield Warn(event.account)
        yield h.Later(Charge(event.account), after=timedelta(minutes=3))


def remind(event: Warned) -> Iterable[h.Later[Warn]]:
    return [h.Later(Warn(event.account), after=timedelta(minutes=1))]


class Overdrawn(h.Event):
    account: Account
    balance: Decimal


class Slip(h.Event):
    account: Account
    said: str


def overdrawn(event: Drawn, balance: Balance) -> Overdrawn | None:
    """Say something of few, by a state as of when it runs."""
    return Overdrawn(event.account, balance.amount) if balance.amount < 0 else None


def slip(event: Paid | Charged, recorded: h.Recorded) -> Slip:
    """Say something of each."""
    return Slip(event.account, f"{recorded.id} {recorded.occurred:%Y-%m-%d %H:%M}")


desk = h.App(
    "desk",
    records=[Opened, Paid],
    deciders=[draw, warn, charge],
    gateways=[tariff],
    reactions=[watch, remind],
    views=[Balance, Total],
)

telling = h.App(
    "desk",
    records=[Opened, Paid],
    deciders=[draw, warn, charge],
    gateways=[tariff],
    reactions=[watch, remind],
    views=[Balance, Total],
    publications=[overdrawn, slip],
)
"""The desk, and what it says to other systems."""

sharing = h.App(
    "desk",
    records=[Opened, Paid],
    deciders=[draw, warn, charge],
    gateways=[tariff],
    reactions=[watch, remind],
    views=[Balance, Total],
    shares=[Balance, Total],
)
"""The desk, and the states that other systems may copy."""
