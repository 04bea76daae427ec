"""What a writer feels of snapshots: the longest that one command takes while states of 1,000,000 entities are snapped, beside the same without.

One thread dispatches without a break; the snapshots are taken in another one of the same process, as an app takes them, but without the rest between two.
Each run takes one from the one before, since commands came meanwhile. What the disk and other programs do to a commit is in both, and both go on for about as
long, since the longest of many is longer than that of a few.
The log is opened anew before, so that the memory image holds what is asked for: a million states in it make each full collection of garbage 0.1 s long,
with snapshots and without.
"""

import threading
from collections.abc import Callable
from time import perf_counter, sleep
from uuid import uuid4

from benchmarks import ledger, ours
from benchmarks.measure import Run, Timer, Variant, fact, percentile
from benchmarks.plan import Context, Goal, Results, Row
from happened.core.state import fold_of

ASKED = 50
"""Accounts that are paid into: few, since it is not their loading that is measured."""
SHARES = {"p999_ms": 99.9, "p9999_ms": 99.99}
ALONE, SNAPPED = "happened, alone", "happened, while a snapshot is taken"


def _ours(context: Context) -> list[Variant]:
    entities = context.size(1_000_000, 5_000)
    path = context.fresh("million.db")
    with ours.open_bank(path, run=False) as filling:
        filling.record_all(ours.Opened(ours.account_no(number), ours.branch_no(number)) for number in range(entities))
    running = context.exits.enter_context(ours.open_bank(path, run=False))
    fold = fold_of(ours.Account)
    running.snapshots.take(fold, running.log.head)
    ours.warm(running, ASKED)

    def wait() -> None:
        sleep(context.size(45, 1))

    def snap() -> None:
        taken = running.snapshots.take(fold, running.at(running.log.head).position)
        assert taken.states == entities, "all are in it"

    def beside(work: Callable[[], None]) -> Variant:
        def run() -> Run:
            over = threading.Event()
            latencies: list[float] = []

            def dispatch() -> None:
                while not over.is_set():
                    number = len(latencies)
                    payment = ledger.deposits()[number % ledger.POOL]._replace(txn=uuid4())
                    start = perf_counter()
                    running.dispatch(ours.command(ledger.Entry(number % ASKED, 1, payment)))
                    latencies.append(perf_counter() - start)

            writer = threading.Thread(target=dispatch)
            with Timer() as timer:
                writer.start()
                work()
                over.set()
                writer.join()
            return timer.run(
                len(latencies),
                latencies,
                longest_ms=max(latencies) * 1000,
                **{name: percentile(latencies, share) * 1000 for name, share in SHARES.items()},
            )

        return Variant(SNAPPED if work is snap else ALONE, "happened", run)

    return [beside(wait), beside(snap)]


def _longest(results: Results) -> str:
    alone, snapped = results[ALONE].facts, results[SNAPPED].facts
    shares = [f"{share} % in {snapped[name]:.3g} ms, without {alone[name]:.3g} ms" for name, share in SHARES.items()]
    return "; ".join([f"{snapped['longest_ms']:.3g} ms, without {alone['longest_ms']:.3g} ms", *shares])


ROWS = (
    Row(
        "pause",
        "Commands while 1,000,000 entities are snapped",
        (Goal("the longest that a command takes", "20 ms", "as without", _longest),),
        {"happened": _ours},
        figure=fact("longest_ms"),
        probe=False,
    ),
)
