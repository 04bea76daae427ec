"""The ledger on `eventsourcing` with SQLite, at its best safe settings.

Its SQLite store opens the file in WAL mode and leaves `synchronous` at FULL, so a saved event is on disk: as durable as
`happened`. Its best for a single process is a cache of all aggregates that is neither brought up to date from the
store (`AGGREGATE_CACHE_FASTFORWARD`) nor copied at each use (`DEEPCOPY_FROM_AGGREGATE_CACHE`). With several threads a
lock around the whole command is its best: without one, two commands on one account fail, and without the cache each
command reads its account from the start.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, StoredEvent, Tracking
from eventsourcing.projection import Projection
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment

from benchmarks import ledger
from benchmarks.ledger import Entry, Payment

CACHE_MAX = 1_000
PAGE = 100
"""Notifications that its own projection runner reads at a time."""

READ_PAGE = 1_000
"""Notifications read at a time where all are read: it makes no difference beyond a hundred."""

_FILL_PAGE = 20_000


class Account(Aggregate):
    """An account, and the branch that keeps it."""

    @event("Opened")
    def __init__(self, branch: str) -> None:
        self.branch = branch
        self.balance = Decimal(0)

    def pay_in(self, payment: Payment) -> None:
        """Decide on a deposit."""
        if payment.amount <= 0:
            raise ValueError("nothing to pay in")
        self.deposit(payment.txn, payment.amount, payment.memo, self.branch)

    @event("Deposited")
    def deposit(self, txn: UUID, amount: Decimal, memo: str, branch: str) -> None:
        """Record a deposit. The time of the payment is the event's own timestamp."""
        self.balance += amount

    @event("Withdrawn")
    def withdraw(self, txn: UUID, amount: Decimal, memo: str, branch: str) -> None:
        """Record a withdrawal."""
        self.balance -= amount


class Bank(Application[UUID]):
    """The bank as an application of the peer."""

    def account(self, number: int) -> Account:
        """Load an account."""
        return cast("Account", self.repository.get(account_id(number)))  # its repository gives any aggregate

    def deposit(self, number: int, payment: Payment) -> None:
        """Load, decide, append."""
        account = self.account(number)
        account.pay_in(payment)
        self.save(account)


def account_id(number: int) -> UUID:
    """Return the id of account `number`."""
    return UUID(int=(0xACC << 116) | (4 << 76) | (2 << 62) | number)


def branch_name(number: int) -> str:
    """Return the name of the branch that keeps account `number`."""
    return f"b{number % ledger.BRANCHES:02}"


def open_bank(path: Path, *, cache: bool) -> Bank:
    """Open the bank on a file: at its best with `cache`, or reading every account from the store."""
    return Bank(env=settings(path, cache=cache))


def settings(path: Path, *, cache: bool) -> dict[str, str]:
    """Return the peer's settings for that."""
    found = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    if cache:
        found |= {
            "AGGREGATE_CACHE_MAXSIZE": str(CACHE_MAX),
            "AGGREGATE_CACHE_FASTFORWARD": "n",
            "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
        }
    return found


def fill(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries as the peer itself would: same rows, same bytes, without waiting for each sync."""
    bank = open_bank(path, cache=False)
    rows = _rows(bank, entries)
    statement = bank.recorder.insert_events_statement  # type: ignore[attr-defined]  # of its SQLite recorder
    bank.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma synchronous = off")
    while page := list(islice(rows, _FILL_PAGE)):
        connection.execute("begin")
        connection.executemany(statement, page)
        connection.execute("commit")
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()


class Encoder:
    """Makes stored events with the peer's own mapper; the same payment is encoded once."""

    def __init__(self, bank: Bank) -> None:
        self._mapper = bank.mapper
        self._encoded: dict[tuple[UUID, int], tuple[str, bytes]] = {}

    def stored(self, entry: Entry) -> StoredEvent:
        """Return the entry as the store takes it."""
        branch = branch_name(entry.account)
        key = (entry.payment.txn, entry.account % ledger.BRANCHES) if entry.visit else (UUID(int=0), entry.account % ledger.BRANCHES)
        if key not in self._encoded:
            event = self._mapper.to_stored_event(_event(entry, branch))
            self._encoded[key] = (event.topic, event.state)
        return StoredEvent(account_id(entry.account), entry.visit + 1, *self._encoded[key])


def _rows(bank: Bank, entries: Iterable[Entry]) -> Iterator[tuple[str, int, str, bytes]]:
    encoder = Encoder(bank)
    for entry in entries:
        event = encoder.stored(entry)
        number = cast("UUID", event.originator_id)  # it may be text elsewhere, not here
        yield number.hex, event.originator_version, event.topic, event.state


def _event(entry: Entry, branch: str) -> Any:  # its event classes are made by the decorator
    account = Account(branch=branch)
    if entry.visit == 0:
        return account.pending_events[0]
    write = account.deposit if entry.visit % 2 else account.withdraw
    write(entry.payment.txn, entry.payment.amount, entry.payment.memo, branch)
    return account.pending_events[-1]


class BalanceView(SQLiteTrackingRecorder):
    """A table of balances in exact cents, and how far it has come, in one transaction."""

    def construct_create_table_statements(self) -> list[str]:
        """Add the table of balances to the peer's own table of positions."""
        return [
            *super().construct_create_table_statements(),
            "create table if not exists balance(account text primary key, cents integer, events integer) without rowid",
        ]

    def add(self, account: UUID, amount: Decimal, tracking: Tracking) -> None:
        """Book one event and its position."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "insert into balance values (?, ?, 1) on conflict(account) do update"
                " set cents = cents + excluded.cents, events = events + 1",
                (account.hex, int(amount * 100)),
            )

    def total(self) -> Decimal:
        """Return what all accounts have together."""
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute("select sum(cents) from balance")
            return Decimal(cursor.fetchone()[0]) / 100


def open_view(path: Path) -> BalanceView:
    """Open a view in its own file."""
    settings = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    factory = InfrastructureFactory.construct(Environment("balances", settings))
    return cast("BalanceView", factory.tracking_recorder(BalanceView))  # it makes what it is given


class Balances(Projection[BalanceView]):
    """The peer's way to write a view: a function per type of event, chosen by the type."""

    name = "balances"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:  # Any: what its base class says
        """Take what changes no balance."""
        self.view.insert_tracking(tracking)

    @process_event.register
    def _(self, domain_event: Account.Deposited, tracking: Tracking) -> None:  # type: ignore[name-defined]  # made by the decorator
        self.view.add(domain_event.originator_id, domain_event.amount, tracking)

    @process_event.register
    def _(self, domain_event: Account.Withdrawn, tracking: Tracking) -> None:  # type: ignore[name-defined]  # made by the decorator
        self.view.add(domain_event.originator_id, -domain_event.amount, tracking)


def follow(bank: Bank, view: BalanceView, after: int) -> Iterator[int]:
    """Bring the view up to date: each event in a transaction of its own, as the peer's runner does; yields positions.

    Its SQLite recorder has no `subscribe`, so its runner can't be used: this is its loop, without the threads.
    """
    balances = Balances(view)
    while notifications := bank.recorder.select_notifications(after + 1, PAGE):
        for notification in notifications:
            balances.process_event(bank.mapper.to_domain_event(notification), Tracking(bank.name, notification.id))
            after = notification.id
            yield after


def fold(bank: Bank, events_max: int) -> dict[UUID, Account]:
    """Fold the first events of the log into all accounts, with the peer's own mutators."""
    accounts: dict[UUID, Account] = {}
    for happened in islice(read(bank), events_max):
        accounts[happened.originator_id] = happened.mutate(accounts.get(happened.originator_id))
    return accounts


def read(bank: Bank) -> Iterator[Any]:
    """Read all events of the log, typed."""
    after = 0
    while notifications := bank.recorder.select_notifications(after + 1, READ_PAGE):
        for notification in notifications:
            yield bank.mapper.to_domain_event(notification)
        after = notifications[-1].id


def insert(bank: Bank, events: Sequence[StoredEvent]) -> None:
    """Append events in one commit, past all of the peer's layers but its store."""
    bank.recorder.insert_events(events)
