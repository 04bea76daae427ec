"""The state of one account after 1,000 events that lie scattered over a log of 1,000,000, read from disk or held in memory.

"From disk" means from the store with nothing of the account in the process's memory; the pages are in the system's cache.
"""

from collections.abc import Callable, Sequence

from benchmarks import ledger, limits, ours, stores
from benchmarks import peer_eventsourcing as peer
from benchmarks.callers import alone
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, ratio

DISK = "eventsourcing, from disk"
CACHE = "eventsourcing, from its cache"


def _accounts(context: Context) -> Sequence[int]:
    size = stores.size(context)
    return range(size.accounts, size.accounts + size.apart)


def _limits(context: Context) -> list[Variant]:
    path = stores.bare(context)
    return [Variant("bare index, typed decode, fold", "limit", lambda: limits.load(path, _accounts(context)), DISK)]


def _peer(context: Context) -> list[Variant]:
    path = stores.peers(context)
    disk = peer.open_bank(path, cache=False)
    cache = peer.open_bank(path, cache=True)
    context.exits.callback(disk.close)
    context.exits.callback(cache.close)
    accounts = _accounts(context)
    for number in accounts:
        assert cache.account(number).version == ledger.SCATTERED_EVENTS, "an account apart has all its events"
    calls = [number for _ in range(context.size(1_000, 10)) for number in accounts]
    return [
        Variant(DISK, "eventsourcing", lambda: alone(disk.account, accounts)),
        Variant(CACHE, "eventsourcing", lambda: _looped(cache.account, calls)),
    ]


def _ours(context: Context) -> list[Variant]:
    path = stores.ours(context)
    accounts = [ours.account_no(number) for number in _accounts(context)]

    def from_disk() -> Run:
        with ours.open_bank(path, run=False) as running:
            return alone(lambda account: running.state(ours.Account, account=account), accounts)

    running = context.exits.enter_context(ours.open_bank(path, run=False))
    for account in accounts:
        state = running.state(ours.Account, account=account)
        assert state is not None, "an account apart is there"
        assert state.payments == ledger.SCATTERED_EVENTS - 1, "an account apart has all its events"
    calls = accounts * context.size(5_000, 10)

    def from_image() -> Run:
        state = running.state
        with Timer() as timer:
            for account in calls:
                state(ours.Account, account=account)
        return timer.run(len(calls))

    return [Variant("happened, from disk", "happened", from_disk, DISK), Variant("happened, from the image", "happened", from_image, CACHE)]


def _looped(load: Callable[[int], object], calls: Sequence[int]) -> Run:
    with Timer() as timer:
        for account in calls:
            load(account)
    return timer.run(len(calls))


def _image(results: Results) -> str:
    return f"{results['happened, from the image'].each_seconds * 1e6:.2g} µs"


ROWS = (
    Row(
        "state",
        "State of 1,000 events scattered over 1,000,000",
        (Goal("from disk", "×4", "×10", ratio("happened, from disk")), Goal("from the image", "under 1 µs", "", _image)),
        {"limit": _limits, "eventsourcing": _peer, "happened": _ours},
        probe=False,
    ),
)
