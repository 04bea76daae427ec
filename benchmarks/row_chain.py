"""What the hash chain costs: 100 facts or commands a commit, and the same where each hash is a constant.

A fact in a row of its own takes two hashes, a command with its event three, and 100 facts in one row 101. The second is no log that could be verified. It does all else: salts, headers, and the bytes that would be hashed.
Both go on in one log, commit by commit in turns: what is asked for is less than what two runs of the same differ by.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple  # Any: facts or entries, as the kind takes them
from unittest import mock

import happened as h
from benchmarks import ledger, ours
from benchmarks.measure import Run, Variant
from benchmarks.plan import Context, Goal, Results, Row

BATCH = 100
ACCOUNTS = 1_000
BARE = ", every hash a constant"


class Kind(NamedTuple):
    """One way to record."""

    make: Callable[[int], Sequence[Any]]
    """Makes the `number`-th batch, and is not timed."""
    write: Callable[[h.Running, Sequence[Any]], None]


def _facts(number: int) -> Sequence[h.Event]:
    return [ours.fact(number * BATCH + n, ACCOUNTS, ACCOUNTS, 2) for n in range(BATCH)]


def _deposits(number: int) -> Sequence[ledger.Entry]:
    return [ledger.entry(ledger.scatter(number * BATCH + n, ACCOUNTS), 1, number * BATCH + n) for n in range(BATCH)]


KINDS = {
    "100 facts a commit": Kind(_facts, ours.append),
    "100 facts in one row": Kind(_facts, ours.append_together),
    "100 commands a commit": Kind(_deposits, ours.dispatch_entries),
}


class _Constant:
    """Stands in for a hash."""

    def digest(self) -> bytes:
        """Return the same as always."""
        return bytes(32)


_CONSTANT = _Constant()


def _no_hash(_data: bytes) -> _Constant:
    return _CONSTANT


class _Turns:
    """A round of both; whoever asks first lets it happen, and each takes its own."""

    def __init__(self, context: Context, kind: Kind) -> None:
        self._context = context
        self._kind = kind
        self._runs: dict[bool, Run] = {}

    def take(self, *, hashed: bool) -> Run:
        """Return the run of one of both."""
        if hashed not in self._runs:
            self._runs = self._together()
        return self._runs.pop(hashed)

    def _together(self) -> dict[bool, Run]:
        commits = self._context.size(300, 5)
        walls: dict[bool, list[float]] = {True: [], False: []}
        cpus: dict[bool, list[float]] = {True: [], False: []}
        path = self._context.fresh("ours.db")
        ours.fill(path, ledger.entries(2 * ACCOUNTS, ACCOUNTS))
        with ours.open_bank(path, run=False) as running:
            ours.warm(running, ACCOUNTS)
            for number in range(2 * commits):
                hashed = number % 2 == 0
                batch = self._kind.make(number)
                with nullcontext() if hashed else mock.patch("happened.log.row._sha256", _no_hash):
                    cpu, wall = process_time(), perf_counter()
                    self._kind.write(running, batch)
                    walls[hashed].append(perf_counter() - wall)
                    cpus[hashed].append(process_time() - cpu)
        return {hashed: Run(commits * BATCH, sum(walls[hashed]), sum(cpus[hashed]), walls[hashed]) for hashed in walls}


def _ours(context: Context) -> list[Variant]:
    found: list[Variant] = []
    for name, kind in KINDS.items():
        turns = _Turns(context, kind)
        found += [
            Variant(name, "happened", partial(turns.take, hashed=True), name + BARE),
            Variant(name + BARE, "happened", partial(turns.take, hashed=False)),
        ]
    return found


def _cost(name: str) -> Callable[[Results], str]:
    """Tell it by the commit in the middle: the disk holds some of them up, with or without."""

    def told(results: Results) -> str:
        with_, without = (results[one].latency_seconds(50) for one in (name, name + BARE))
        assert with_ is not None, "each commit is timed"
        assert without is not None, "each commit is timed"
        return f"{1 - without / with_:.1%} of the throughput"

    return told


ROWS = (
    Row(
        "chain",
        "What the hash chain costs",
        tuple(Goal(name, "5 %", "", _cost(name)) for name in KINDS),
        {"happened": _ours},
        probe=False,
    ),
)
