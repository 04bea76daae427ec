"""Durable commands: load, decide, append, and an answer that means "on disk".

100,000 events over 1,000 accounts are there when it starts, and both sides have all accounts in memory. The peer has no
asynchronous face; its threads stand behind a lock. All ratios are to its single caller, which is as good as its threads.
"""

import threading
from collections.abc import Sequence
from functools import partial

import happened as h
from benchmarks import ledger, limits, ours
from benchmarks import peer_eventsourcing as peer
from benchmarks.callers import alone, dealt, in_tasks, in_threads
from benchmarks.ledger import Entry
from benchmarks.measure import Variant
from benchmarks.plan import Build, Context, Goal, Row, every, p99_ms, ratio

ALONE = "eventsourcing, 1 caller"


def _accounts(context: Context) -> int:
    return context.size(1_000, 100)


def _present(context: Context) -> int:
    return context.size(100_000, 2_000)


def _deposits(context: Context, full: int, quick: int) -> list[Entry]:
    accounts = _accounts(context)
    return [ledger.entry(ledger.scatter(number, accounts), 1, number) for number in range(context.size(full, quick))]


def _limits(context: Context) -> list[Variant]:
    commits = context.size(2_000, 50)
    return [
        Variant(
            "bare insert of a row of 600 bytes",
            "limit",
            lambda: limits.inserts(context.fresh("bare.db"), commits, 1, limits.ROW_BYTES),
            ALONE,
        )
    ]


def _peer(*crowds: int) -> Build:
    def build(context: Context) -> list[Variant]:
        path = context.fresh("peer.db")
        accounts = _accounts(context)
        peer.fill(path, ledger.entries(_present(context), accounts))
        bank = peer.open_bank(path, cache=True)
        context.exits.callback(bank.close)
        for number in range(accounts):
            bank.account(number)
        return peers(bank, _deposits(context, 2_000, 100), crowds)

    return build


def peers(bank: peer.Bank, deposits: Sequence[Entry], crowds: Sequence[int]) -> list[Variant]:
    """Return the peer with a single caller, and with these numbers of threads behind a lock, wherever it keeps its events."""
    one_at_a_time = threading.Lock()

    def deposit(entry: Entry) -> None:
        bank.deposit(entry.account, entry.payment)

    def locked(entry: Entry) -> None:
        with one_at_a_time:
            bank.deposit(entry.account, entry.payment)

    several = [
        Variant(
            f"eventsourcing, {count} threads behind a lock", "eventsourcing", partial(in_threads, dealt(locked, deposits, count)), ALONE
        )
        for count in crowds
    ]
    return [Variant(ALONE, "eventsourcing", lambda: alone(deposit, deposits)), *several]


def _open(context: Context) -> h.Running:
    path = context.fresh("ours.db")
    ours.fill(path, ledger.entries(_present(context), _accounts(context)))
    running = context.exits.enter_context(ours.open_bank(path))
    ours.warm(running, _accounts(context))
    return running


def _one(context: Context) -> list[Variant]:
    running = _open(context)
    deposits = _deposits(context, 4_000, 100)
    return [Variant("happened, 1 caller", "happened", lambda: alone(lambda entry: running.dispatch(ours.command(entry)), deposits), ALONE)]


def _eight(context: Context) -> list[Variant]:
    running = _open(context)
    deposits = _deposits(context, 16_000, 200)
    return [
        Variant(
            "happened, 8 threads",
            "happened",
            lambda: in_threads(dealt(lambda entry: running.dispatch(ours.command(entry)), deposits, 8)),
            ALONE,
        ),
        Variant(
            "happened, 8 tasks",
            "happened",
            lambda: in_tasks(dealt(lambda entry: running.adispatch(ours.command(entry)), deposits, 8)),
            ALONE,
        ),
    ]


def _hundred(context: Context) -> list[Variant]:
    running = _open(context)
    deposits = _deposits(context, 60_000, 1_000)
    return [
        Variant(
            "happened, 100 tasks",
            "happened",
            lambda: in_tasks(dealt(lambda entry: running.adispatch(ours.command(entry)), deposits, 100)),
            ALONE,
        )
    ]


ROWS = (
    Row(
        "commands-1",
        "Durable command (load, decide, append), 1 caller",
        (Goal("1 caller", "×1.7", "×2.3", ratio("happened, 1 caller")),),
        {"limit": _limits, "eventsourcing": _peer(), "happened": _one},
    ),
    Row(
        "commands-8",
        "Durable commands, 8 callers",
        (Goal("8 threads", "×4", "×5", ratio("happened, 8 threads")), Goal("8 tasks", "×8", "×10", ratio("happened, 8 tasks"))),
        {"eventsourcing": _peer(8), "happened": _eight},
    ),
    Row(
        "commands-100",
        "Durable commands, 100 asynchronous callers",
        (
            Goal(
                "100 tasks",
                "×18, p99 under 12 ms",
                "×25, p99 under 5 ms",
                every(ratio("happened, 100 tasks"), p99_ms("happened, 100 tasks")),
            ),
        ),
        {"eventsourcing": _peer(), "happened": _hundred},
    ),
)
