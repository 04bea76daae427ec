"""How far a view is behind while the log takes all that it can: from the receipt of a command until the view shows it.

100 tasks hand in commands without pause. Beside them a sampler takes the newest receipt, asks the view `since=` it, and
notes how long after the receipt the answer came: what a reader of its own write waits. Each receipt is asked for once,
since the newest grows old where the writer stands still. The view is kept in the same process, or in a second one. The
peer's view is kept by a second process that polls, while one caller writes.
The rate is of commands; p50 and p99 are the lag.
"""

import asyncio
from pathlib import Path
from time import monotonic, perf_counter

import happened as h
from benchmarks import ledger, ours
from benchmarks import peer_eventsourcing as peer
from benchmarks.child import Child
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Row, p99_ms

HERE = "happened, view in the same process"
APART = "happened, view in a second process"

CALLERS = 100
ACCOUNTS = 1_000
PRESENT = 2 * ACCOUNTS
SAMPLE_SECONDS = 0.01


def _peer(context: Context) -> list[Variant]:
    def run() -> Run:
        path = context.fresh("peer.db")
        peer.fill(path, ledger.entries(PRESENT, ACCOUNTS))
        bank = peer.open_bank(path, cache=True)
        for number in range(ACCOUNTS):
            bank.account(number)
        follower = Child("follow", path, context.fresh("peer-view.db"))
        recorded: list[float] = []
        with Timer() as timer:
            until = monotonic() + context.size(5, 1)
            while monotonic() < until:
                number = len(recorded)
                bank.deposit(ledger.scatter(number, ACCOUNTS), ledger.deposits()[number % ledger.POOL])
                recorded.append(monotonic())
        bank.close()
        shown = follower.ask(str(PRESENT + len(recorded)))[PRESENT:]
        return timer.run(len(recorded), [max(0.0, seen - known) for seen, known in zip(shown, recorded, strict=True)])

    return [Variant("eventsourcing, polled by a second process", "eventsourcing", run)]


def _ours(context: Context) -> list[Variant]:
    def here() -> Run:
        with ours.open_bank(_bank(context), ours.VIEWED) as running:
            return asyncio.run(_under_load(running, context.size(5, 1)))

    def apart() -> Run:
        path = _bank(context)
        owner = Child("own", path)
        with ours.open_bank(path, ours.VIEWED, run=False) as running:
            done = asyncio.run(_under_load(running, context.size(5, 1)))
        owner.ask()
        return done

    return [Variant(HERE, "happened", here), Variant(APART, "happened", apart)]


def _bank(context: Context) -> Path:
    path = context.fresh("ours.db")
    ours.fill(path, ledger.entries(PRESENT, ACCOUNTS))
    return path


async def _under_load(running: h.Running, seconds: float) -> Run:
    newest: list[tuple[float, h.Receipt]] = []
    counts = [0] * CALLERS
    lags: list[float] = []
    until = monotonic() + seconds

    async def call(caller: int) -> None:
        while monotonic() < until:
            number = counts[caller] * CALLERS + caller
            receipt = await running.adispatch(ours.command(ledger.entry(ledger.scatter(number, ACCOUNTS), 1, number)))
            newest[:] = [(perf_counter(), receipt)]
            counts[caller] += 1

    async def sample() -> None:
        asked: h.Receipt | None = None
        while monotonic() < until:
            await asyncio.sleep(SAMPLE_SECONDS)
            if newest and newest[0][1] is not asked:
                known, asked = newest[0]
                await running.view(ours.Account).aget(account=ours.account_no(0), since=asked)
                lags.append(perf_counter() - known)

    with Timer() as timer:
        await asyncio.gather(sample(), *map(call, range(CALLERS)))
    return timer.run(sum(counts), lags)


ROWS = (
    Row(
        "lag",
        "Lag of a view under full write load",
        (
            Goal("in the same process", "p99 under 20 ms", "under 10 ms", p99_ms(HERE)),
            Goal("in a second process", "p99 under 20 ms", "under 10 ms", p99_ms(APART)),
        ),
        {"eventsourcing": _peer, "happened": _ours},
    ),
)
