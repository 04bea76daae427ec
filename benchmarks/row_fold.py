"""A fold of the whole log into all typed accounts, on one core, through the public interface.

The log of `happened` holds the inputs as well, so it reads two records for each event; the rate is of events. Each side's
accounts must come to the total that the ledger has.
"""

from collections.abc import Callable
from decimal import Decimal

import happened as h
from benchmarks import ledger, limits, ours, stores
from benchmarks import peer_eventsourcing as peer
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, every, ratio

PEER = "eventsourcing"
OURS = "happened"


def _limits(context: Context) -> list[Variant]:
    path = stores.bare(context)
    total = ledger.total(*stores.size(context))

    def run() -> Run:
        done, found = limits.fold(path)
        assert found == total, "the fold comes to the ledger's total"
        return done

    return [Variant("bare rows, typed decode, fold", "limit", run, PEER)]


def _peer(context: Context) -> list[Variant]:
    bank = peer.open_bank(stores.peers(context), cache=False)
    context.exits.callback(bank.close)
    events = context.size(100_000, 5_000)
    total = ledger.total(*stores.size(context), events)

    def run() -> Run:
        with Timer() as timer:
            accounts = peer.fold(bank, events)
        assert sum(account.balance for account in accounts.values()) == total, "the fold comes to the ledger's total"
        return timer.run(events)

    return [Variant(PEER, "eventsourcing", run)]


def _ours(context: Context) -> list[Variant]:
    path = stores.ours(context)
    size = stores.size(context)
    total = ledger.total(*size)

    def run(fold: Callable[[h.Running], Decimal]) -> Run:
        with ours.open_bank(path, run=False) as running, Timer() as timer:
            found = fold(running)
        assert found == total, "the fold comes to the ledger's total"
        return timer.run(size.events)

    return [
        Variant(OURS, "happened", lambda: run(ours.fold), PEER),
        Variant("happened, every record read and folded by hand", "happened", lambda: run(ours.fold_by_hand), PEER),
    ]


def _million(results: Results) -> str:
    return f"{results[OURS].each_seconds * 1e6:.3g} s"


ROWS = (
    Row(
        "fold",
        "Fold of 1,000,000 events and their inputs into typed states",
        (Goal("one core", "×6", "under 1.8 s", every(ratio(OURS), _million)),),
        {"limit": _limits, "eventsourcing": _peer, "happened": _ours},
        probe=False,
    ),
)
