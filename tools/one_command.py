"""Follow one command from `dispatch` to the answer of a view, and say which files of the package it runs through.

A gauge of how much a reader must open: fewer files, each with a whole idea in it, are easier to follow.
"""

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import happened as h
from tools.house import PACKAGE

AccountNo = Annotated[str, h.Tag("account")]


class Deposited(h.Event):
    """Money has come in."""

    account: AccountNo
    cents: int


class Deposit(h.Command):
    """Take money in."""

    account: AccountNo
    cents: int


class Account(h.State):
    """What an account holds."""

    account: AccountNo
    cents: int = 0

    def evolve(self, event: Deposited) -> "Account":
        """Add what came in."""
        return self.but(cents=self.cents + event.cents)


def deposit(command: Deposit, account: Account) -> Iterator[Deposited]:
    """Take any sum that does not overflow the account."""
    if account.cents + command.cents > 1_000_000:
        raise h.Refused("too much money", cents=account.cents)
    yield Deposited(command.account, command.cents)


bank = h.App("bank", deciders=[deposit], views=[Account])


def files_followed() -> list[str]:
    """Return the files that ran between the command and the answer, in the order of their names; `__init__.py` is none."""
    prefix = f"{PACKAGE}/"
    seen = set[str]()
    following = threading.Event()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and following.is_set():
            seen.add(frame.f_code.co_filename)

    threading.setprofile(look)  # for the threads that open() starts
    sys.setprofile(look)
    try:
        with bank.open() as running:
            following.set()
            receipt = running.dispatch(Deposit("a-1", 100))
            found = running.view(Account).get(account="a-1", since=receipt)
            following.clear()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert found.cents == 100, "the view has seen the deposit"
    return sorted(name.removeprefix(prefix) for name in seen if name.startswith(prefix) and not name.endswith("__init__.py"))
