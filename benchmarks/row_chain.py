"""What the hash chain costs: appends of 100 facts a commit, and the same where each hash is a constant.

The second is no log that could be verified. It does all else: salts, headers, and the bytes that would be hashed.
"""

from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

from benchmarks import ours
from benchmarks.callers import alone
from benchmarks.measure import Run, Variant
from benchmarks.plan import Context, Goal, Results, Row

BATCH = 100
ACCOUNTS = 1_000
WITH, WITHOUT = "happened", "happened, every hash a constant"


class _Constant:
    """Stands in for a hash."""

    def digest(self) -> bytes:
        """Return the same as always."""
        return bytes(32)


_CONSTANT = _Constant()


def _no_hash(_data: bytes) -> _Constant:
    return _CONSTANT


def _ours(context: Context) -> list[Variant]:
    commits = context.size(300, 5)

    def run(*, hashed: bool) -> Run:
        batches = [[ours.fact(number * BATCH + n, ACCOUNTS, ACCOUNTS, 2) for n in range(BATCH)] for number in range(commits)]
        with ExitStack() as exits:
            if not hashed:
                exits.enter_context(mock.patch("happened.log.row._sha256", _no_hash))
            running = exits.enter_context(ours.open_bank(context.fresh("ours.db"), run=False))
            done = alone(lambda facts: ours.append(running, facts), batches)
        return replace(done, operations=commits * BATCH)

    return [
        Variant(WITH, "happened", lambda: run(hashed=True), WITHOUT),
        Variant(WITHOUT, "happened", lambda: run(hashed=False)),
    ]


def _cost(results: Results) -> str:
    """Tell it by processor time: the disk, which both wait for, differs by more from run to run."""
    return f"{1 - results[WITHOUT].cpu_seconds / results[WITH].cpu_seconds:.1%} of the processor's time"


ROWS = (
    Row(
        "chain",
        "What the hash chain costs",
        (Goal("of an append, 100 facts a commit", "5 %", "", _cost),),
        {"happened": _ours},
        probe=False,
    ),
)
