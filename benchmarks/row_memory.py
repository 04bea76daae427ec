"""Memory while all records of a long log are read one after the other, against a tenth of them.

Memory is constant where both take the same. Each reading is a process of its own.
"""

from functools import partial
from pathlib import Path

from benchmarks import stores
from benchmarks.child import Child
from benchmarks.measure import Run, Variant, fact
from benchmarks.plan import Context, Goal, Results, Row

PEAK = "peak MB"
TENTH, ALL = "happened, a tenth of the records", "happened, all records"


def _read(what: str, path: Path, records_max: int) -> Run:
    records, seconds, peak_mb = Child(what, path, records_max).ask()
    return Run(int(records), seconds, 0.0, facts={PEAK: peak_mb})


def _peer(context: Context) -> list[Variant]:
    path, events = stores.peers(context), stores.size(context).events
    return [
        Variant("eventsourcing, a tenth of the events", "eventsourcing", partial(_read, "stream-peer", path, events // 10)),
        Variant("eventsourcing, all events", "eventsourcing", partial(_read, "stream-peer", path, events)),
    ]


def _ours(context: Context) -> list[Variant]:
    path, records = stores.ours(context), 2 * stores.size(context).events  # a command and an event each
    return [
        Variant(TENTH, "happened", partial(_read, "stream", path, records // 10)),
        Variant(ALL, "happened", partial(_read, "stream", path, records)),
    ]


def _more(results: Results) -> str:
    return f"{results[ALL].value - results[TENTH].value:+.2g} MB on {results[TENTH].value:.3g} MB"


ROWS = (
    Row(
        "memory",
        "Streaming 1,000,000 records",
        (Goal("ten times as many records", "constant memory", "", _more),),
        {"eventsourcing": _peer, "happened": _ours},
        figure=fact(PEAK),
        probe=False,
    ),
)
