"""What the machine allows: bare syncs, bare SQLite, bare decoding and folding, with nothing of a framework around them.

Each is what a reader would write by hand with the standard library's `sqlite3` and `msgspec`, in the fewest steps.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from time import perf_counter
from uuid import UUID

import msgspec

from benchmarks import ledger
from benchmarks.ledger import Entry
from benchmarks.measure import Run, Timer, Variant

PROBE = "write 200 bytes + fdatasync"
ROW_BYTES = 600
"""A command with its event, as a row of text."""

_PAGE = 20_000


class Opened(msgspec.Struct, frozen=True, gc=False, tag="Opened"):
    """An account has been opened."""

    account: str
    branch: str


class Deposited(msgspec.Struct, frozen=True, gc=False, tag="Deposited"):
    """Money has been paid in."""

    txn: UUID
    account: str
    branch: str
    amount: Decimal
    at: datetime
    memo: str


class Withdrawn(msgspec.Struct, frozen=True, gc=False, tag="Withdrawn"):
    """Money has been drawn."""

    txn: UUID
    account: str
    branch: str
    amount: Decimal
    at: datetime
    memo: str


Event = Opened | Deposited | Withdrawn

_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(list[Event]).decode


def probe(directory: Path, writes: int) -> Variant:
    """Return the probe that stands beside every row in which the disk matters."""

    def run() -> Run:
        path = directory / "probe"
        latencies: list[float] = []
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        with Timer() as timer:
            for _ in range(writes):
                start = perf_counter()
                os.write(handle, b"x" * 200)
                os.fdatasync(handle)
                latencies.append(perf_counter() - start)
        os.close(handle)
        path.unlink()
        return timer.run(writes, latencies)

    return Variant(PROBE, "limit", run)


def inserts(path: Path, commits: int, rows: int, row_bytes: int) -> Run:
    """Insert rows of so many bytes into a durable SQLite file, so many per commit, with no index."""
    connection = _connect(path)
    body = "x" * row_bytes
    latencies: list[float] = []
    with Timer() as timer:
        for _ in range(commits):
            start = perf_counter()
            connection.execute("begin immediate")
            connection.executemany("insert into log(account, body) values (?, ?)", [(1, body)] * rows)
            connection.execute("commit")
            latencies.append(perf_counter() - start)
    connection.close()
    return timer.run(commits * rows, latencies)


def fill(path: Path, entries: Iterable[Entry]) -> None:
    """Write one row of JSON per event, and an index of the accounts."""
    connection = _connect(path)
    connection.execute("pragma synchronous = off")
    rows = ((entry.account, _ENCODE(event(entry)).decode()) for entry in entries)
    while page := list(islice(rows, _PAGE)):
        connection.execute("begin")
        connection.executemany("insert into log(account, body) values (?, ?)", page)
        connection.execute("commit")
    connection.execute("create index by_account on log(account)")
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()


def event(entry: Entry) -> Event:
    """Return an entry as an event."""
    account = f"a{entry.account}"
    branch = f"b{entry.account % ledger.BRANCHES:02}"
    if entry.visit == 0:
        return Opened(account, branch)
    txn, amount, at, memo = entry.payment
    made = Deposited if entry.visit % 2 else Withdrawn
    return made(txn, account, branch, amount, at, memo)


def body(entry: Entry) -> bytes:
    """Return the bytes that an event comes to."""
    return _ENCODE(event(entry))


def load(path: Path, accounts: Sequence[int]) -> Run:
    """Read the events of an account by its index, decode them typed, fold them."""
    connection = _connect(path)
    latencies: list[float] = []
    with Timer() as timer:
        for account in accounts:
            start = perf_counter()
            rows = connection.execute("select body from log where account = ? order by position", (account,))
            balances: dict[str, Decimal] = {}
            _fold(balances, _DECODE(_array(rows.fetchall())))
            latencies.append(perf_counter() - start)
    connection.close()
    return timer.run(len(accounts), latencies)


def fold(path: Path) -> tuple[Run, Decimal]:
    """Read all events, decode them typed, fold them into all accounts; returns their total as well."""
    connection = _connect(path)
    balances: dict[str, Decimal] = {}
    events = 0
    with Timer() as timer:
        for rows in _pages(connection, page=200):
            events += len(rows)
            _fold(balances, _DECODE(_array(rows)))
    connection.close()
    return timer.run(events), sum(balances.values(), Decimal(0))


def view(path: Path, target: Path, page: int, synchronous: str) -> tuple[Run, Decimal]:
    """Keep a table of balances, rows and position in one transaction per page; returns their total as well."""
    connection = _connect(path)
    table = sqlite3.connect(target, isolation_level=None)
    table.execute("pragma journal_mode = wal")
    table.execute(f"pragma synchronous = {synchronous}")
    table.execute("create table balance(account text primary key, cents integer, events integer) without rowid")
    table.execute("create table progress(position integer)")
    table.execute("insert into progress values (0)")
    events = 0
    with Timer() as timer:
        for rows in _pages(connection, page):
            events += len(rows)
            booked: dict[str, list[int]] = {}
            for happened in _DECODE(_array(rows)):
                row = booked.setdefault(happened.account, [0, 0])
                match happened:
                    case Deposited(amount=amount):
                        row[0] += int(amount * 100)
                    case Withdrawn(amount=amount):
                        row[0] -= int(amount * 100)
                row[1] += 1
            table.execute("begin immediate")
            table.executemany(
                "insert into balance values (?, ?, ?) on conflict(account) do update"
                " set cents = cents + excluded.cents, events = events + excluded.events",
                [(account, *row) for account, row in booked.items()],
            )
            table.execute("update progress set position = position + ?", (len(rows),))
            table.execute("commit")
    total = Decimal(table.execute("select sum(cents) from balance").fetchone()[0]) / 100
    connection.close()
    table.close()
    return timer.run(events), total


def _fold(balances: dict[str, Decimal], events: Iterable[Event]) -> None:
    for happened in events:
        match happened:
            case Opened(account=account):
                balances[account] = Decimal(0)
            case Deposited(account=account, amount=amount):
                balances[account] += amount
            case Withdrawn(account=account, amount=amount):
                balances[account] -= amount


def _pages(connection: sqlite3.Connection, page: int) -> Iterator[list[tuple[str]]]:
    cursor = connection.execute("select body from log order by position")
    while rows := cursor.fetchmany(page):
        yield rows


def _array(rows: Sequence[tuple[str]]) -> str:
    return "[" + ",".join([text for (text,) in rows]) + "]"


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("create table if not exists log(position integer primary key, account integer, body text)")
    return connection
