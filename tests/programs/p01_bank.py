"""A bank: a transfer touches two accounts, and the one that is paid must exist."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

import happened as h

AccountNo = Annotated[str, h.Tag("account")]


class Deposited(h.Event):
    account: AccountNo
    amount: Decimal


class Transferred(h.Event):
    source: AccountNo
    target: AccountNo
    amount: Decimal


class Transfer(h.Command):
    source: AccountNo
    target: AccountNo
    amount: Decimal


class Account(h.State):
    account: AccountNo
    balance: Decimal = Decimal(0)

    def evolve(self, event: Deposited | Transferred) -> "Account":
        match event:
            case Deposited():
                return self.but(balance=self.balance + event.amount)
            case Transferred():
                gone = event.amount if self.account == event.source else Decimal(0)
                come = event.amount if self.account == event.target else Decimal(0)
                return self.but(balance=self.balance - gone + come)


def transfer(command: Transfer, source: Account, target: Account | None) -> Iterator[Transferred]:
    if target is None:
        raise h.Refused("no such account", account=command.target)
    if command.amount > source.balance:
        raise h.Refused("overdrawn", missing=command.amount - source.balance)
    yield Transferred(command.source, command.target, command.amount)


bank = h.App("bank", records=[Deposited], deciders=[transfer], views=[Account])
