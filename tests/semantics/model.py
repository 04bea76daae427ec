"""The system that these tests run: accounts, seats, and commands that misbehave on demand."""

from collections.abc import Iterator
from typing import Annotated

import happened as h

Account = Annotated[str, h.Tag("account")]
SeatNo = Annotated[str, h.Tag("seat")]


class Deposited(h.Event):
    account: Account
    amount: int


class Withdrawn(h.Event):
    account: Account
    amount: int


class Taken(h.Event):
    seat: SeatNo
    who: str


class Deposit(h.Command):
    account: Account
    amount: int


class Transfer(h.Command):
    source: Annotated[str, h.Tag("account")]
    target: Annotated[str, h.Tag("account")]
    amount: int


class Take(h.Command):
    seat: SeatNo
    who: str


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


class Seat(h.State):
    seat: SeatNo
    who: str = ""

    def evolve(self, event: Taken) -> "Seat":
        return self.but(who=event.who)


def deposit(command: Deposit) -> Iterator[Deposited]:
    """Decide without a state."""
    yield Deposited(command.account, command.amount)


def transfer(command: Transfer, source: Balance, target: Balance) -> Iterator[Withdrawn | Deposited]:
    """Move money: two events or none."""
    if command.amount > source.amount:
        raise h.Refused(f"only {source.amount} in {command.source}", left=source.amount)
    yield Withdrawn(command.source, command.amount)
    yield Deposited(command.target, command.amount)


def take(command: Take, seat: Seat) -> Iterator[Taken]:
    """Give a seat to whoever comes first."""
    if seat.who:
        raise h.Refused(f"{command.seat} is taken", by=seat.who)
    yield Taken(command.seat, command.who)


bank = h.App("bank", records=[Deposited], deciders=[deposit, transfer, take], views=[Balance, Seat])
