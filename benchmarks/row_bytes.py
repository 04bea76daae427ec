"""Bytes on disk per event, with indexes and envelopes, after a clean close.

A command that `happened` keeps beside its event is extra: shown apart. "Its event alone" is the part of the same file that
the decided records have of the rows; a fact has no command beside it.
"""

from itertools import islice
from pathlib import Path

from benchmarks import ledger, ours, stores
from benchmarks.measure import Run, Variant, fact
from benchmarks.plan import Context, Goal, Row, ratio

PEER = "eventsourcing"
EVENT = "happened, a command's event alone"
BOTH = "happened, command and event"
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
    return [
        Variant(EVENT, "happened", lambda: _weighed(path, size.events, ours.event_share(path)), PEER),
        Variant("happened, a fact", "happened", lambda: _weighed(facts, count), PEER),
        Variant(BOTH, "happened", lambda: _weighed(path, size.events), PEER),
    ]


ROWS = (
    Row(
        "bytes",
        "Bytes on disk per event",
        (
            Goal("the event", "×0.65", "", ratio(EVENT)),
            Goal("command and event", "reported", "×0.25 with cold parts compacted", ratio(BOTH)),
        ),
        {"limit": _limits, "eventsourcing": _peer, "happened": _ours},
        figure=fact(BYTES),
        probe=False,
    ),
)
