"""The whole log read with today's classes: `happened check`, beside the peer that decodes its events.

Twice: a log of facts holds what the peer's does, its events. A log of commands holds as many events, and of each the input that it came of; that is
read, too, while the rate is of events. It reads on all cores, as the command does, and its start of other processes counts. Each side must have read all
that there is.
"""

from pathlib import Path

from benchmarks import ours, stores
from benchmarks import peer_eventsourcing as peer
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Row, ratio
from happened.checking.ranges import readings_of

PEER = "eventsourcing, every event decoded"
FACTS = "happened check: every event"
ASKED = "happened check: every event and its input"


def _peer(context: Context) -> list[Variant]:
    bank = peer.open_bank(stores.peers(context), cache=False)
    context.exits.callback(bank.close)
    events = stores.size(context).events

    def run() -> Run:
        with Timer() as timer:
            found = sum(1 for _ in peer.read(bank))
        assert found == events, "all events are read"
        return timer.run(events)

    return [Variant(PEER, "eventsourcing", run)]


def _ours(context: Context) -> list[Variant]:
    events = stores.size(context).events

    def run(path: Path, records: int) -> Run:
        with Timer() as timer:
            found = readings_of(f"sqlite:///{path}", ours.BANK, named="benchmarks.ours:BANK")
        assert found.readable, "all can be read"
        assert sum(one.count for one in found.names) == records, "all of them are read"
        return timer.run(events)

    facts, asked = stores.facts(context), stores.ours(context)
    return [
        Variant(FACTS, "happened", lambda: run(facts, events), PEER),
        Variant(ASKED, "happened", lambda: run(asked, 2 * events), PEER),
    ]


ROWS = (
    Row(
        "read",
        "1,000,000 events read with today's classes, alone and with their inputs",
        (Goal("events", "×8", "", ratio(FACTS)), Goal("events, and the input of each", "–", "", ratio(ASKED))),
        {"eventsourcing": _peer, "happened": _ours},
        probe=False,
    ),
)
