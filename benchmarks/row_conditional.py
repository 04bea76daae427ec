"""Conditional appends: an event goes in only if nothing came into its boundary of two tags since its writer last looked.

Each of the concurrent writers has an account of its own, so nothing is refused; every append is checked all the same.
`umadb` is called from as many threads, each with a client of its own; `happened` from as many tasks, by hand on its log:
no decider, no state.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import happened as h
from benchmarks import ledger, limits, ours, peer_umadb
from benchmarks.callers import in_tasks, in_threads
from benchmarks.ledger import Entry
from benchmarks.measure import Run, Variant
from benchmarks.plan import Context, Goal, Row, ratio

CROWDS = (8, 64)
_FILL_PAGE = 1_000
_KEYS = 10_000


def _present(context: Context) -> int:
    return context.size(100_000, 1_000)


def _work(callers: int, appends: int) -> list[list[Entry]]:
    each = appends // callers
    return [[ledger.entry(caller, 1, caller * each + number) for number in range(each)] for caller in range(callers)]


def _umadb(context: Context) -> list[Variant]:
    server = context.exits.enter_context(peer_umadb.Server(context.fresh("uma.db")))
    client = server.client()
    for first in range(0, _present(context), _FILL_PAGE):
        page = [ledger.entry(ledger.scatter(number, _KEYS), 1, number) for number in range(first, first + _FILL_PAGE)]
        peer_umadb.append(client, [limits.body(entry) for entry in page], [_tags(entry) for entry in page])
    return [
        Variant(f"umadb, {callers} threads", "umadb", _append_there(server, _work(callers, context.size(8_000, 640)))) for callers in CROWDS
    ]


def _append_there(server: peer_umadb.Server, work: Sequence[Sequence[Entry]]) -> Callable[[], Run]:
    def run() -> Run:
        appenders = [peer_umadb.Appender(server.client(), _tags(entries[0])) for entries in work]
        bodies = [[limits.body(entry) for entry in entries] for entries in work]
        before = server.cpu_seconds()
        done = in_threads([(appender.append, own) for appender, own in zip(appenders, bodies, strict=True)])
        return replace(done, facts={"server's CPU µs": (server.cpu_seconds() - before) / done.operations * 1e6})

    return run


def _tags(entry: Entry) -> list[str]:
    return [f"account:{ours.account_no(entry.account)}", f"branch:{ours.branch_no(entry.account)}"]


class Appender:
    """Appends to one boundary, each time on condition that nothing came into it since the last."""

    def __init__(self, running: h.Running, account: int) -> None:
        self._log = running.log
        self._boundary = h.query(account=ours.account_no(account), branch=ours.branch_no(account))
        self._after: int = self._log.head

    async def append(self, entry: Entry) -> None:
        """Append one event, or raise `Conflict` where somebody else was faster."""
        receipt = await self._log.aappend([ours.event(entry)], unless=h.Boundary(self._boundary, self._after))
        self._after = receipt.position


def _ours(context: Context) -> list[Variant]:
    running = context.exits.enter_context(ours.open_bank(context.fresh("ours.db")))
    ours.record_facts(running, (ours.fact(number, _KEYS, ledger.BRANCHES, 2) for number in range(_present(context))))
    return [
        Variant(
            f"happened, {callers} tasks",
            "happened",
            _append_here(running, _work(callers, context.size(full, 640))),
            f"umadb, {callers} threads",
        )
        for callers, full in zip(CROWDS, (16_000, 40_000), strict=True)
    ]


def _append_here(running: h.Running, work: Sequence[Sequence[Entry]]) -> Callable[[], Run]:
    return lambda: in_tasks([(Appender(running, entries[0].account).append, entries) for entries in work])


ROWS = (
    Row(
        "conditional",
        "Conditional append on two tags, beside umadb",
        (
            Goal("8 concurrent tasks", "×3", "×4", ratio("happened, 8 tasks")),
            Goal("64 concurrent tasks", "×6", "×8", ratio("happened, 64 tasks")),
        ),
        {"umadb": _umadb, "happened": _ours},
    ),
)
