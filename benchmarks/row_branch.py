"""What would have been: a branch of a log of 1,000,000 records, made, asked, and saved.

One is made where its log ends, the other 1,000 records before: what these say is given again, and decided again, on states that begin with a snapshot.
A saved branch is a file of its own; it is weighed beside the log that it lies over.
"""

import shutil
from collections.abc import Callable
from time import perf_counter

from benchmarks import ours, stores
from benchmarks.measure import SECONDS, Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row
from happened.core.state import fold_of

TAIL = 10_000
"""Positions that came after the snapshot."""
BEHIND = 1_000
"""Records that the second branch does not share with its log."""
BYTES = "bytes of the branch"
OF_ALL = "bytes of the log"

END, BEFORE = "happened, a branch from the end", f"happened, a branch from {BEHIND:,} records before"


def _ours(context: Context) -> list[Variant]:
    path = context.fresh("snapped.db")
    shutil.copy(stores.ours(context), path)
    running = context.exits.enter_context(ours.open_bank(path, run=False))
    head = running.log.head
    for state in (ours.Account, ours.Branch):
        running.snapshots.take(fold_of(state), running.at(max(head - TAIL, 1)).position)
    whole = float(path.stat().st_size)

    def branch(behind: int) -> Run:
        latencies: list[float] = []
        saved = context.fresh("branch.db")
        with Timer() as timer:
            for _ in range(context.size(7, 2)):
                start = perf_counter()
                made = running.branch(at=head - behind)
                latencies.append(perf_counter() - start)
                made.close()
        with running.branch(at=head - behind) as made:
            assert not made.diff(), "the same code decides the same"
            made.save(f"sqlite:///{saved}")
        middle = sorted(latencies)[len(latencies) // 2]
        facts = {BYTES: float(saved.stat().st_size), OF_ALL: whole}
        return Run(1, middle, timer.cpu_seconds / len(latencies), latencies, facts)

    return [Variant(END, "happened", lambda: branch(0)), Variant(BEFORE, "happened", lambda: branch(BEHIND))]


def _milliseconds(name: str) -> Callable[[Results], str]:
    return lambda results: f"{results[name].value * 1000:.3g} ms"


def _weight(results: Results) -> str:
    end, before = results[END].facts, results[BEFORE].facts
    return f"{end[BYTES] / 1000:,.0f} kB, and {before[BYTES] / 1000:,.0f} kB with {BEHIND:,} records, of {end[OF_ALL] / 1e6:,.0f} MB"


ROWS = (
    Row(
        "branch",
        "A branch of 1,000,000 commands and their events",
        (
            Goal("made at the end", "under 50 ms", "", _milliseconds(END)),
            Goal(f"made {BEHIND:,} records before, and these decided again", "", "", _milliseconds(BEFORE)),
            Goal("on disk, saved", "only what differs", "", _weight),
        ),
        {"happened": _ours},
        figure=SECONDS,
        probe=False,
    ),
)
