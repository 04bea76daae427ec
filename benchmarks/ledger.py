"""The work that all sides share: the ledger of a bank, the same on every machine.

An event is about 200 bytes of JSON: a UUID, a Decimal, a datetime with a zone, a memo of 60 characters, and two things
that it is about, an account and its branch. Every account is opened, then paid into and drawn from in turn; it never
gets below zero, so that every command is accepted.
"""

import gc
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import islice
from typing import NamedTuple
from uuid import UUID

POOL = 20_000
"""So many different payments there are; a longer ledger uses them again."""

BRANCHES = 100
SCATTERED_EVENTS = 1_000
"""An account apart has so many events, spread evenly over the ledger."""

_START = datetime(2026, 1, 1, tzinfo=UTC)
_STRIDE = 7919
"""A prime: successive entries concern accounts that lie far apart, and each account in turn."""


class Payment(NamedTuple):
    """What is paid in or drawn."""

    txn: UUID
    amount: Decimal
    at: datetime
    memo: str


class Entry(NamedTuple):
    """One event of the ledger: the account's `visit` 0 opens it, an odd one pays in, an even one draws."""

    account: int
    visit: int
    payment: Payment


@cache
def deposits() -> tuple[Payment, ...]:
    """Return payments of 100.00 to 755.35."""
    return _kept(_payments(seed=1, least=Decimal(100), cents_max=65_535))


@cache
def withdrawals() -> tuple[Payment, ...]:
    """Return payments of 0.01 to 99.99."""
    return _kept(_payments(seed=2, least=Decimal("0.01"), cents_max=9_998))


def entries(count: int, accounts: int, apart: int = 0) -> Iterator[Entry]:
    """Return `count` entries over `accounts` accounts, and in between those of `apart` more accounts.

    Each of the accounts apart has `SCATTERED_EVENTS` events, spread evenly; their numbers follow the others.
    """
    assert not apart or count >= apart * SCATTERED_EVENTS, "too short to scatter so many accounts over it"
    every = count // (apart * SCATTERED_EVENTS) if apart else 0
    scattered = 0
    for number in range(count):
        yield entry(number * _STRIDE % accounts, number // accounts, number)
        if every and number % every == every - 1 and scattered < apart * SCATTERED_EVENTS:
            yield entry(accounts + scattered % apart, scattered // apart, number)
            scattered += 1


def entry(account: int, visit: int, number: int) -> Entry:
    """Return the entry that an account has at its `visit`."""
    payments = deposits() if visit % 2 else withdrawals()
    return Entry(account, visit, payments[number % POOL])


def signed(entry: Entry) -> Decimal:
    """Return what an entry adds to its account."""
    if entry.visit == 0:
        return Decimal(0)
    return entry.payment.amount if entry.visit % 2 else -entry.payment.amount


@cache
def total(count: int, accounts: int, apart: int, first: int | None = None) -> Decimal:
    """Return what all accounts have together after the `first` entries, or all: every fold must come to it."""
    return sum(map(signed, islice(entries(count, accounts, apart), first)), Decimal(0))


def length(count: int, apart: int) -> int:
    """Return how many entries there are, those apart included."""
    return count + apart * SCATTERED_EVENTS


def scatter(number: int, among: int) -> int:
    """Return a pseudo-random key for the `number`-th event: no two neighbours are near each other."""
    return number * 2_654_435_761 % 4_294_967_291 % among


def _kept(payments: Iterator[Payment]) -> tuple[Payment, ...]:
    """Return payments that are there for good. The garbage collector passes them over: it would take 40 ms of whoever is measured to look at them."""
    found = tuple(payments)
    gc.freeze()
    return found


def _payments(seed: int, least: Decimal, cents_max: int) -> Iterator[Payment]:
    chance = random.Random(seed)
    for number in range(POOL):
        memo = f"payment for invoice 2026/{number:07d}, customer {chance.randrange(10**6):06d}, thanks P."
        assert len(memo) == 60, "the memo has 60 characters"
        yield Payment(
            UUID(int=chance.getrandbits(128), version=4),
            least + Decimal(chance.randint(0, cents_max)) / 100,
            _START + timedelta(microseconds=number * 1_001_001),
            memo,
        )
