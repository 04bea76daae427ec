"""The ledger on `happened`, with everything on: inputs kept, full envelope, boundary over two tags, types checked.

What is special about an account is said by its types; there is nothing here that was written for the benchmark.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from uuid import UUID

import happened as h
from benchmarks import ledger
from benchmarks.ledger import Entry
from benchmarks.measure import Timer

CATCH_UP_SECONDS_MAX = 600
"""How long a view may take until it holds all that the log does."""

AccountNo = Annotated[str, h.Tag("account")]
BranchNo = Annotated[str, h.Tag("branch")]
TellerNo = Annotated[str, h.Tag("teller")]
ProductNo = Annotated[str, h.Tag("product")]
RegionNo = Annotated[str, h.Tag("region")]


class Open(h.Command):
    """Open an account at a branch."""

    account: AccountNo
    branch: BranchNo


class Opened(h.Event):
    """An account has been opened."""

    account: AccountNo
    branch: BranchNo


class Deposit(h.Command):
    """Pay money in."""

    txn: UUID
    account: AccountNo
    branch: BranchNo
    amount: Decimal
    at: datetime
    memo: str


class Deposited(h.Event):
    """Money has been paid in."""

    txn: UUID
    account: AccountNo
    branch: BranchNo
    amount: Decimal
    at: datetime
    memo: str


class Withdraw(h.Command):
    """Draw money."""

    txn: UUID
    account: AccountNo
    branch: BranchNo
    amount: Decimal
    at: datetime
    memo: str


class Withdrawn(h.Event):
    """Money has been drawn."""

    txn: UUID
    account: AccountNo
    branch: BranchNo
    amount: Decimal
    at: datetime
    memo: str


class Untagged(h.Event):
    """A payment that is about nothing: the store has nothing to index."""

    txn: UUID
    account: str
    branch: str
    amount: Decimal
    at: datetime
    memo: str


class Noted(h.Event):
    """A payment that is about five things."""

    txn: UUID
    account: AccountNo
    branch: BranchNo
    teller: TellerNo
    product: ProductNo
    region: RegionNo
    amount: Decimal
    at: datetime
    memo: str


class Account(h.State):
    """What is on an account."""

    account: AccountNo
    branch: str = ""
    balance: Decimal = Decimal(0)
    payments: int = 0

    def evolve(self, event: Opened | Deposited | Withdrawn) -> "Account":
        """Book an event."""
        match event:
            case Opened():
                return self.but(branch=event.branch)
            case Deposited():
                return self.but(balance=self.balance + event.amount, payments=self.payments + 1)
            case Withdrawn():
                return self.but(balance=self.balance - event.amount, payments=self.payments + 1)


class Branch(h.State):
    """What all accounts of a branch hold."""

    branch: BranchNo
    held: Decimal = Decimal(0)

    def evolve(self, event: Deposited | Withdrawn) -> "Branch":
        """Book an event."""
        match event:
            case Deposited():
                return self.but(held=self.held + event.amount)
            case Withdrawn():
                return self.but(held=self.held - event.amount)


def open_account(command: Open, account: Account | None) -> Iterator[Opened]:
    """An account is opened once."""
    if account is None:
        yield Opened(command.account, command.branch)


def deposit(command: Deposit, account: Account | None, branch: Branch) -> Iterator[Deposited]:
    """Only into an account that is there."""
    if account is None:
        raise h.Refused("no such account", account=command.account)
    if command.amount <= 0 or branch.held < 0:
        raise h.Refused("nothing to pay in")
    yield Deposited(command.txn, command.account, command.branch, command.amount, command.at, command.memo)


def withdraw(command: Withdraw, account: Account | None, branch: Branch) -> Iterator[Withdrawn]:
    """Only what is there."""
    if account is None:
        raise h.Refused("no such account", account=command.account)
    if command.amount > account.balance or command.amount > branch.held:
        raise h.Refused("overdrawn", missing=command.amount - account.balance)
    yield Withdrawn(command.txn, command.account, command.branch, command.amount, command.at, command.memo)


BANK = h.App("bank", records=[Opened, Deposited, Withdrawn, Untagged, Noted], deciders=[open_account, deposit, withdraw])
"""The bank that decides, and keeps no view."""

VIEWED = h.App("bank", records=[Opened, Deposited, Withdrawn, Untagged, Noted], deciders=[open_account, deposit, withdraw], views=[Account])
"""The same bank with a table of accounts."""


def open_bank(place: Path | str, app: h.App = BANK, *, run: bool = True) -> h.Running:
    """Open a bank on a file, or on what a URL names."""
    return app.open(place if isinstance(place, str) else f"sqlite:///{place}", run=run)


def command(entry: Entry) -> Open | Deposit | Withdraw:
    """Return what is asked for by an entry."""
    account, branch = _names(entry)
    if entry.visit == 0:
        return Open(account, branch)
    made = Deposit if entry.visit % 2 else Withdraw
    txn, amount, at, memo = entry.payment
    return made(txn, account, branch, amount, at, memo)


def event(entry: Entry) -> Opened | Deposited | Withdrawn:
    """Return what an entry says has happened."""
    account, branch = _names(entry)
    if entry.visit == 0:
        return Opened(account, branch)
    made = Deposited if entry.visit % 2 else Withdrawn
    txn, amount, at, memo = entry.payment
    return made(txn, account, branch, amount, at, memo)


def fact(number: int, accounts: int, among: int, tags: int) -> h.Event:
    """Return the `number`-th payment on random keys, with 0, 2 or 5 tags."""
    txn, amount, at, memo = ledger.deposits()[number % ledger.POOL]
    account = account_no(ledger.scatter(number, accounts))
    branch = f"b{ledger.scatter(number + 1, among)}"
    match tags:
        case 0:
            return Untagged(txn, account, branch, amount, at, memo)
        case 2:
            return Deposited(txn, account, branch, amount, at, memo)
        case _:
            teller, product, region = (f"{letter}{ledger.scatter(number + n, among)}" for n, letter in enumerate("tpr", 2))
            return Noted(txn, account, branch, teller, product, region, amount, at, memo)


def dispatch_entries(running: h.Running, entries: Iterable[Entry]) -> None:
    """Ask for every entry, in order; each must be accepted."""
    for outcome in running.dispatch_all(map(command, entries)):
        if isinstance(outcome, h.Refused):
            raise outcome


def record_facts(running: h.Running, facts: Iterable[h.Event]) -> None:
    """Record facts, as many in a commit as the engine takes."""
    running.record_all(facts)


def append(running: h.Running, facts: Sequence[h.Event]) -> None:
    """Record facts, each in a row and under an id of its own: so few go into one commit."""
    record_facts(running, facts)


def append_together(running: h.Running, facts: Sequence[h.Event]) -> None:
    """Record facts in one row, all or none."""
    running.log.append(facts)


def fill(place: Path | str, entries: Iterable[Entry]) -> None:
    """Write a ledger of commands and their events."""
    with open_bank(place) as running:
        dispatch_entries(running, entries)


def fill_facts(place: Path | str, entries: Iterable[Entry]) -> None:
    """Write the events of a ledger alone."""
    with open_bank(place, run=False) as running:
        record_facts(running, map(event, entries))


def warm(running: h.Running, accounts: int) -> None:
    """Bring all states that the commands decide on into the image."""
    for number in range(accounts):
        running.state(Account, account=account_no(number))
    for number in range(ledger.BRANCHES):
        running.state(Branch, branch=branch_no(number))


def account_no(number: int) -> str:
    """Return the name of account `number`."""
    return f"a{number}"


def branch_no(number: int) -> str:
    """Return the name of the branch that keeps account `number`."""
    return f"b{number % ledger.BRANCHES:02}"


def fold(running: h.Running) -> Decimal:
    """Let the engine fold the whole log into all accounts; returns their total."""
    return sum((account.balance for account in running.states(Account).values()), Decimal(0))


def fold_by_hand(running: h.Running) -> Decimal:
    """Read the whole log, every record typed, and fold it into all accounts; returns their total."""
    accounts: dict[str, Account] = {}
    for record in running.log.read():
        match record.body:
            case Opened() | Deposited() | Withdrawn() as event:
                account = accounts.get(event.account) or Account(event.account)
                accounts[event.account] = account.evolve(event)
    return sum((account.balance for account in accounts.values()), Decimal(0))


def catch_up(place: Path | str) -> Timer:
    """Open the bank with its view and wait until the view holds all that the log does; returns how long that took, without the close."""
    with ExitStack() as exits:
        with Timer() as timer:
            running = exits.enter_context(open_bank(place, VIEWED))
            running.view(Account).rows(limit=1, since=running.log.head, wait_seconds_max=CATCH_UP_SECONDS_MAX)
        return timer


def held(place: Path | str) -> Decimal:
    """Return what the view says that all accounts have together."""
    with open_bank(place, VIEWED) as running:
        rows = running.view(Account).rows(limit=1_000_000, since=running.log.head, wait_seconds_max=CATCH_UP_SECONDS_MAX)
        return sum((row.balance for row in rows), Decimal(0))


def forget_views(path: Path) -> None:
    """Delete every file beside the log that isn't the log."""
    for beside in path.parent.glob(f"{path.stem}*"):
        if beside not in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            beside.unlink()


def event_share(path: Path) -> float:
    """Return which part of the rows is what was decided; the rest is what was asked."""
    connection = sqlite3.connect(path)
    asked, decided = connection.execute("select sum(length(input)), sum(length(records)) from log").fetchone()
    connection.close()
    return float(decided / (asked + decided))


def _names(entry: Entry) -> tuple[str, str]:
    return account_no(entry.account), branch_no(entry.account)
