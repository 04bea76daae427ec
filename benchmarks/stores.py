"""The big ledger that several rows read and none changes: written once in a run, on each side that is asked for.

1,000,000 entries over 10,000 accounts, and 20 accounts more whose 1,000 events each lie scattered between them.
"""

from pathlib import Path
from typing import NamedTuple

from benchmarks import ledger, limits
from benchmarks import ours as our_side
from benchmarks import peer_eventsourcing as peer
from benchmarks.plan import Context


class Size(NamedTuple):
    """How big the ledger is."""

    ordinary: int
    accounts: int
    apart: int

    @property
    def events(self) -> int:
        """How many events that makes."""
        return ledger.length(self.ordinary, self.apart)


def size(context: Context) -> Size:
    """Return the size of the big ledger in this run."""
    return Size(20_000, 200, 2) if context.options.quick else Size(1_000_000, 10_000, 20)


def bare(context: Context) -> Path:
    """Return the ledger as bare rows."""
    return context.shared.path("bare.db", lambda path: limits.fill(path, ledger.entries(*size(context))))


def peers(context: Context) -> Path:
    """Return the ledger of `eventsourcing`."""
    return context.shared.path("peer.db", lambda path: peer.fill(path, ledger.entries(*size(context))))


def ours(context: Context) -> Path:
    """Return the ledger of `happened`: commands and what came of them."""
    return context.shared.path("ours.db", lambda path: our_side.fill(path, ledger.entries(*size(context))))


def facts(context: Context) -> Path:
    """Return the events of that ledger as facts: nobody asked for them, and the log holds what the peer's does."""
    return context.shared.path("facts.db", lambda path: our_side.fill_facts(path, ledger.entries(*size(context))))
