"""Appends of 100 events per commit on random keys, with many records present, and what their tags cost.

`happened` records each event in a row and under an id of its own; "in one row" is `log.append`, all or none under one id.
The peer is driven below its own layers: events encoded beforehand and handed to its store, which is its best. `umadb`
gets its bytes encoded beforehand, too. `happened` is handed typed facts, checks them, and encodes them in the measured time.
A round opens our log anew: of six apps that are open at a time each takes its snapshots while another one is measured, or the peer.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TypeVar

from eventsourcing.persistence import StoredEvent

import happened as h
from benchmarks import ledger, limits, ours, peer_umadb
from benchmarks import peer_eventsourcing as peer
from benchmarks.callers import alone
from benchmarks.ledger import Entry
from benchmarks.measure import Run, Variant
from benchmarks.plan import Context, Goal, Results, Row, every, p99_ms, ratio

BATCH = 100
VALUES = 5_000
"""So many different values every tag but the account has."""

_FILL_PAGE = 1_000
PEER = "eventsourcing"

B = TypeVar("B")


def _present(context: Context) -> int:
    return context.size(1_000_000, 10_000)


def _commits(context: Context) -> int:
    return context.size(500, 5)


def _limits(context: Context) -> list[Variant]:
    return [
        Variant(
            "bare insert of 100 rows of 300 bytes",
            "limit",
            lambda: limits.inserts(context.fresh("bare.db"), _commits(context), BATCH, 300),
            PEER,
        )
    ]


def _peer(context: Context) -> list[Variant]:
    present = _present(context)
    accounts = present // 100
    path = context.fresh("peer.db")
    peer.fill(path, ledger.entries(present, accounts))
    bank = peer.open_bank(path, cache=False)
    context.exits.callback(bank.close)
    encoder = peer.Encoder(bank)
    visits: dict[int, int] = {}
    numbers = count()

    def batch() -> list[StoredEvent]:
        made: list[StoredEvent] = []
        for number in (next(numbers) for _ in range(BATCH)):
            account = ledger.scatter(number, accounts)
            visits[account] = visit = visits.get(account, present // accounts - 1) + 1
            made.append(encoder.stored(Entry(account, visit, ledger.deposits()[number % ledger.POOL])))
        return made

    return [Variant(PEER, "eventsourcing", _timed(batch, lambda events: peer.insert(bank, events), _commits(context)))]


def _umadb(context: Context) -> list[Variant]:
    return [_uma_variant(context, tags) for tags in (0, 2, 5)]


def _uma_variant(context: Context, tags: int) -> Variant:
    present = _present(context)
    server = context.exits.enter_context(peer_umadb.Server(context.fresh("uma.db")))
    client = server.client()
    numbers = count()

    def batch(size: int = BATCH) -> list[tuple[bytes, list[str]]]:
        return [_uma_event(next(numbers), present // 100, tags) for _ in range(size)]

    def append(events: list[tuple[bytes, list[str]]]) -> None:
        peer_umadb.append(client, [body for body, _ in events], [own for _, own in events])

    filled = context.size(100_000, 1_000)
    for _ in range(0, filled, _FILL_PAGE):
        append(batch(_FILL_PAGE))
    return Variant(f"umadb, {_say(tags)}, {filled:,} present", "umadb", _timed(batch, append, _commits(context)), PEER)


def _uma_event(number: int, accounts: int, tags: int) -> tuple[bytes, list[str]]:
    account = ledger.scatter(number, accounts)
    keys = [f"account:{account}", *(f"{letter}:{ledger.scatter(number + n, VALUES)}" for n, letter in enumerate("btpr", 1))]
    return limits.body(ledger.entry(account, 1, number)), keys[:tags]


def _ours(context: Context) -> list[Variant]:
    present = _present(context)
    return [
        *(_our_variant(context, tags, present, f"happened, {_say(tags)}", PEER) for tags in (0, 2, 5)),
        _our_variant(context, 2, present, "happened, 2 tags, in one row", PEER, ours.append_together),
    ]


def _our_variant(
    context: Context, tags: int, present: int, name: str, base: str, append: Callable[[h.Running, list[h.Event]], None] = ours.append
) -> Variant:
    accounts = max(present // 100, 100)
    numbers = count()
    path = context.fresh("ours.db")
    with ours.open_bank(path) as running:
        ours.record_facts(running, (ours.fact(next(numbers), accounts, VALUES, tags) for _ in range(present)))

    def batch() -> list[h.Event]:
        return [ours.fact(next(numbers), accounts, VALUES, tags) for _ in range(BATCH)]

    def run() -> Run:
        with ours.open_bank(path) as running:
            return _timed(batch, lambda facts: append(running, facts), _commits(context))()

    return Variant(name, "happened", run, base)


def _timed(batch: Callable[[], B], append: Callable[[B], object], commits: int) -> Callable[[], Run]:
    def run() -> Run:
        batches = [batch() for _ in range(commits)]
        done = alone(append, batches)
        return replace(done, operations=done.operations * BATCH)

    return run


def _say(tags: int) -> str:
    return f"{tags} tags" if tags else "no tags"


def _cost(name: str) -> Callable[[Results], str]:
    def reached(results: Results) -> str:
        return f"{1 - results[name].value / results['happened, no tags'].value:.0%}"

    return reached


def _growth(context: Context) -> list[Variant]:
    smallest = _name(min(context.options.present))
    return [_our_variant(context, 2, present, _name(present), smallest) for present in context.options.present]


def _name(present: int) -> str:
    return f"happened, 2 tags, {present:,} present"


def _flat(results: Results) -> str:
    ratios = [result.ratio for result in results.values() if result.ratio is not None]
    return f"{min(ratios, default=1) - 1:+.0%} at worst"


ROWS = (
    Row(
        "append",
        "Append 100 events per commit on random keys",
        (
            Goal(
                "2 tags, 1,000,000 records present", "×6", "p99 under 10 ms", every(ratio("happened, 2 tags"), p99_ms("happened, 2 tags"))
            ),
            Goal("what 2 tags cost", "", "under 25 %", _cost("happened, 2 tags")),
            Goal("what 5 tags cost", "", "under 50 %", _cost("happened, 5 tags")),
        ),
        {"limit": _limits, "eventsourcing": _peer, "umadb": _umadb, "happened": _ours},
    ),
    Row(
        "growth",
        "The same from 10,000 to 10,000,000 records present",
        (Goal("2 tags, against the smallest", "within 15 %", "flat", _flat),),
        {"happened": _growth},
    ),
)
