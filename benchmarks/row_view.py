"""A view catching up with the log, exactly once, into a table of SQLite: on its way (live), or built from the start (rebuild).

The table has a row per account with its exact balance. The peer commits each event with its position: it has no other way.
`happened` is timed from `open()` until the view answers with all that the log held.
"""

from itertools import islice

from benchmarks import ledger, limits, ours, stores
from benchmarks import peer_eventsourcing as peer
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, every, ratio

PEER = "eventsourcing"
REBUILD = "happened, rebuild"


def _limits(context: Context) -> list[Variant]:
    path = stores.bare(context)
    total = ledger.total(*stores.size(context))

    def run(page: int, synchronous: str) -> Run:
        done, found = limits.view(path, context.fresh("bare-view.db"), page, synchronous)
        assert found == total, "the view comes to the ledger's total"
        return done

    return [
        Variant("bare, 1,000 events per commit, FULL", "limit", lambda: run(1_000, "full"), PEER),
        Variant("bare, 50,000 events per commit, NORMAL", "limit", lambda: run(50_000, "normal"), PEER),
    ]


def _peer(context: Context) -> list[Variant]:
    bank = peer.open_bank(stores.peers(context), cache=False)
    context.exits.callback(bank.close)
    events = context.size(3_000, 200)
    total = ledger.total(*stores.size(context), events)

    def run() -> Run:
        view = peer.open_view(context.fresh("peer-view.db"))
        with Timer() as timer:
            for _ in islice(peer.follow(bank, view, 0), events):
                pass
        assert view.total() == total, "the view comes to the ledger's total"
        return timer.run(events)

    return [Variant(PEER, "eventsourcing", run)]


def _ours(context: Context) -> list[Variant]:
    return [_live(context), _rebuild(context)]


def _live(context: Context) -> Variant:
    path = context.fresh("live.db")
    count = context.size(100_000, 2_000)
    accounts = context.size(10_000, 100)
    rounds = iter(range(context.options.rounds + 1))
    entries = ledger.entries(count * (context.options.rounds + 1), accounts)

    def behind() -> None:
        next(rounds)
        with ours.open_bank(path, ours.VIEWED, run=False) as running:
            ours.dispatch_entries(running, islice(entries, count))

    behind()
    ours.catch_up(path)

    def run() -> Run:
        behind()
        return ours.catch_up(path).run(count)

    return Variant("happened, live", "happened", run, PEER)


def _rebuild(context: Context) -> Variant:
    path = stores.ours(context)
    size = stores.size(context)
    total = ledger.total(*size)

    def run() -> Run:
        ours.forget_views(path)
        timer = ours.catch_up(path)
        assert ours.held(path) == total, "the view comes to the ledger's total"
        return timer.run(size.events)

    return Variant(REBUILD, "happened", run, PEER)


def _million(results: Results) -> str:
    return f"1,000,000 events in {results[REBUILD].each_seconds * 1e6:.3g} s"


ROWS = (
    Row(
        "view",
        "View catch-up, exactly once, into a SQLite table",
        (
            Goal("live", "×35", "×50", ratio("happened, live")),
            Goal("rebuild", "×70", "1,000,000 events under 3 s", every(ratio(REBUILD), _million)),
        ),
        {"limit": _limits, "eventsourcing": _peer, "happened": _ours},
    ),
)
