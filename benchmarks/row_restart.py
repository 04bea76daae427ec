"""Restart on a log of 1,000,000 events: until the first command is answered; and the past at random depths, with snapshots.

The peer is given what it would need to answer any command as fast: all its aggregates in its cache, from its events or from its own snapshots. It loads 300
of them, and the time is scaled up. Ours opens the log, and decides and records a deposit: it needs an account and a branch of 10,000 events, nothing else.
It loads them by the index; with snapshots it begins with the latest, which it proves from the one before. "After a crash" is in a process of its own, on a
log that another process had written to and left without closing it: neither its WAL nor its index is what a close makes of them.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from benchmarks import ledger, ours, stores
from benchmarks import peer_eventsourcing as peer
from benchmarks.child import Child
from benchmarks.measure import SECONDS, Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row
from happened.core.state import fold_of

SAMPLE = 300
TAIL = 10_000
"""Positions that came after the last snapshot."""
DEPTHS = 32
"""Snapshots that lie in the log, as many as are kept."""

PEER_COLD, PEER_SNAPS = "eventsourcing, all into its cache", "eventsourcing, all from its snapshots"
COLD = "happened, first command, without snapshots"
FIRST, CRASHED = "happened, first command", "happened, first command after a crash"
REPLAY, PAST_NEAR, PAST_FAR = "happened, full replay", "happened, at() in the first tenth", "happened, at() in the last tenth"
PAST = "happened, at() at any depth"


def _peer(context: Context) -> list[Variant]:
    path, size = stores.peers(context), stores.size(context)
    snapped = context.fresh("peer.db")
    shutil.copy(path, snapped)
    sample = min(SAMPLE, size.accounts)
    numbers = [number * size.accounts // sample for number in range(sample)]
    taking = peer.Bank(env={**peer.settings(snapped, cache=False), "IS_SNAPSHOTTING_ENABLED": "y"})
    for number in numbers:
        taking.take_snapshot(peer.account_id(number))
    taking.close()

    def load(file: Path, *, snapshots: bool) -> Run:
        env = {**peer.settings(file, cache=True), **({"IS_SNAPSHOTTING_ENABLED": "y"} if snapshots else {})}
        bank = peer.Bank(env=env)
        start = perf_counter()
        for number in numbers:
            bank.account(number)
        seconds = (perf_counter() - start) * size.accounts / sample
        bank.close()
        return Run(1, seconds, 0.0)

    return [
        Variant(PEER_COLD, "eventsourcing", lambda: load(path, snapshots=False)),
        Variant(PEER_SNAPS, "eventsourcing", lambda: load(snapped, snapshots=True)),
    ]


def _ours(context: Context) -> list[Variant]:
    cold, snapped = context.fresh("cold.db"), context.fresh("snapped.db")
    for file in (cold, snapped):
        shutil.copy(stores.ours(context), file)
    folds = [fold_of(ours.Account), fold_of(ours.Branch)]
    with ours.open_bank(snapped, run=False) as running:
        end = max(running.log.head - TAIL, 1)
        for part in range(1, DEPTHS + 1):
            for fold in folds:
                running.snapshots.take(fold, running.at(end * part // DEPTHS).position)
    travelling = context.exits.enter_context(ours.open_bank(snapped, run=False))
    chance = random.Random(1)
    head = travelling.log.head

    def first(file: Path) -> Run:
        payment = ledger.deposits()[0]._replace(txn=uuid4())
        with Timer() as timer:
            running = ours.open_bank(file, run=False)
            running.dispatch(ours.command(ledger.Entry(7, 1, payment)))
        running.close()
        return timer.run(1)

    left = context.fresh("left.db")
    for file in (snapped, snapped.with_suffix(".snapshots.db")):
        shutil.copy(file, left.with_name(file.name.replace(snapped.stem, left.stem)))
    Child("leave", left, context.size(5_000, 500)).ask()

    def crashed() -> Run:
        [wall, cpu] = Child("first", left).ask()
        return Run(1, wall, cpu)

    def past(low: float, high: float) -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for _ in range(context.size(7, 2)):
                start = perf_counter()
                travelling.at(int(head * chance.uniform(low, high))).states(ours.Account)
                latencies.append(perf_counter() - start)
        middle = sorted(latencies)[len(latencies) // 2]
        return Run(1, middle, timer.cpu_seconds / len(latencies), latencies)

    def replay() -> Run:
        with Timer() as timer:
            travelling.states(ours.Account)
        return timer.run(1)

    return [
        Variant(COLD, "happened", lambda: first(cold)),
        Variant(FIRST, "happened", lambda: first(snapped)),
        Variant(CRASHED, "happened", crashed),
        Variant(REPLAY, "happened", replay),
        Variant(PAST, "happened", lambda: past(0, 1)),
        Variant(PAST_NEAR, "happened", lambda: past(0, 0.1)),
        Variant(PAST_FAR, "happened", lambda: past(0.9, 1)),
    ]


def _faster(name: str, than: str) -> Callable[[Results], str]:
    def reached(results: Results) -> str:
        if than not in results:
            return f"{results[name].value * 1000:.3g} ms"
        return f"×{results[than].value / results[name].value:.3g}, {results[name].value * 1000:.3g} ms"

    return reached


def _part(name: str, of: str) -> Callable[[Results], str]:
    return lambda results: f"{results[name].value / results[of].value:.2g} of it"


ROWS = (
    Row(
        "restart",
        "Restart on 1,000,000 events, and the past",
        (
            Goal("first command, against the peer's snapshots", "×25, under 50 ms", "", _faster(FIRST, PEER_SNAPS)),
            Goal("first command after a crash, against the peer's snapshots", "×25, under 50 ms", "", _faster(CRASHED, PEER_SNAPS)),
            Goal("first command without snapshots, against filling the peer's cache", "×12", "", _faster(COLD, PEER_COLD)),
            Goal("all states at a random depth, against a full replay", "a tenth", "", _part(PAST, REPLAY)),
            Goal("at() in the last tenth, against the first", "no more", "", _part(PAST_FAR, PAST_NEAR)),
        ),
        {"eventsourcing": _peer, "happened": _ours},
        figure=SECONDS,
        probe=False,
    ),
)
