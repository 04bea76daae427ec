"""Bytes on disk per event, with indexes and envelopes, after a clean close.

A command that `happened` keeps beside its event is extra: shown apart. "Its event alone" is the part of the same file that
the decided records have of the rows; a fact has no command beside it. Compacted is a copy of the same file, all packed but the newest row.
"""

import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import happened as h
from benchmarks import ledger, ours, stores
from benchmarks.measure import Run, Variant, fact
from benchmarks.plan import Context, Goal, Row, ratio
from happened.log.compacting import compact

PEER = "eventsourcing"
EVENT = "happened, a command's event alone"
BOTH = "happened, command and event"
COLD = "happened, command and event, compacted"
BYTES = "bytes per event"


def _weighed(path: Path, events: int, share: float = 1.0) -> Run:
    return Run(events, 0.0, 0.0, facts={BYTES: path.stat().st_size * share / events})


def _limits(context: Context) -> list[Variant]:
    path, events = stores.bare(context), stores.size(context).events
    return [Variant("bare rows of JSON with an index of accounts", "limit", lambda: _weighed(path, events), PEER)]


def _peer(context: Context) -> list[Variant]:
    path, events = stores.peers(context), stores.size(context).events
    return [Variant(PEER, "eventsourcing", lambda: _weighed(path, events))]


def _ours(context: Context) -> list[Variant]:
    path, size = stores.ours(context), stores.size(context)
    facts = context.fresh("facts.db")
    count = context.size(200_000, 5_000)
    with ours.open_bank(facts) as running:
        ours.record_facts(running, map(ours.event, islice(ledger.entries(*size), count)))
    cold = context.fresh("cold.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("vacuum into ?", (str(cold),))
    with closing(h.open_log(f"sqlite:///{cold}")) as log:
        compact(log, keep=0, rewrite=True)
    return [
        Variant(EVENT, "happened", lambda: _weighed(path, size.events, ours.event_share(path)), PEER),
        Variant("happened, a fact", "happened", lambda: _weighed(facts, count), PEER),
        Variant(BOTH, "happened", lambda: _weighed(path, size.events), PEER),
        Variant(COLD, "happened", lambda: _weighed(cold, size.events), PEER),
    ]


ROWS = (
    Row(
        "bytes",
        "Bytes on disk per event",
        (
            Goal("the event", "×0.65", "", ratio(EVENT)),
            Goal("command and event", "reported", "", ratio(BOTH)),
            Goal("command and event, compacted", "×0.25", "×0.2", ratio(COLD)),
        ),
        {"limit": _limits, "eventsourcing": _peer, "happened": _ours},
        figure=fact(BYTES),
        probe=False,
    ),
)
