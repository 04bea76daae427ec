"""The whole log read with today's classes: `happened check`, beside the peer that decodes its events.

The log of `happened` holds the inputs as well, and they are read too; the rate is of events. It reads on all cores, as the command does, and
its start of other processes counts. Each side must have read all that there is.
"""

from benchmarks import ours, stores
from benchmarks import peer_eventsourcing as peer
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Row, ratio
from happened.checking.ranges import readings_of

PEER = "eventsourcing, every event decoded"
OURS = "happened check: every event and input"


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
    path, events = stores.ours(context), stores.size(context).events

    def run() -> Run:
        with Timer() as timer:
            found = readings_of(f"sqlite:///{path}", ours.BANK, named="benchmarks.ours:BANK")
        assert found.readable, "all can be read"
        assert sum(one.count for one in found.names) == 2 * events, "all events and inputs are read"
        return timer.run(events)

    return [Variant(OURS, "happened", run, PEER)]


ROWS = (
    Row(
        "read",
        "1,000,000 events and their inputs read with today's classes",
        (Goal("events", "×8", "", ratio(OURS)),),
        {"eventsourcing": _peer, "happened": _ours},
        probe=False,
    ),
)
