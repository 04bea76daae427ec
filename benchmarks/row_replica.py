"""A copy of another system's states: how fast changes are taken in, and how far behind it is in another process.

The origin has shared every change of 10,000 cards; a copy of two of their three fields is made from its log, with versions, tombstones and the digest
that proves it, from `open()` until it is proven and as of the origin's head. The limit writes the same rows, made before, by the same guarded upsert, and
nothing else: one statement each, or many at once.
Staleness is taken while the origin records facts one after the other: from the receipt until a reader of the copy, which a second process keeps, has it.
"""

import itertools
import sqlite3
from pathlib import Path
from time import monotonic, perf_counter, sleep

import happened as h
from benchmarks.cards import COPYING, ORIGIN, Copied, moves
from benchmarks.child import Child
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, p99_ms, ratio

COPY = "happened, a copy made and proven"
APART = "happened, a copy kept by a second process"
BARE = "bare, one guarded upsert a statement"
MANY = "bare, 1,000 guarded upserts a statement"

CARDS = 10_000
PAGE = 1_000
SAMPLE_SECONDS = 0.005


def _size(context: Context) -> tuple[int, int]:
    return context.size(100_000, 2_000), context.size(CARDS, 1_000)


def _origin(context: Context) -> Path:
    def make(path: Path) -> None:
        with ORIGIN.open(f"sqlite:///{path}") as upstream:
            upstream.record_all(moves(*_size(context)))
            while upstream.statistics()["shares"][0]["lag"]:
                sleep(0.01)

    return context.shared.path("origin.db", make)


def _limits(context: Context) -> list[Variant]:
    count, cards = _size(context)
    rows = [(move.card, move.country, move.visits, position) for position, move in enumerate(moves(count, cards), 1)]

    def run(*, many: bool) -> Run:
        connection = sqlite3.connect(context.fresh("bare-copy.db"), isolation_level=None)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=normal")
        connection.execute(
            "create table copy(card text primary key, country text not null, visits integer not null, position integer not null) without rowid"
        )
        upsert = (
            "insert into copy values(?, ?, ?, ?) on conflict do update set country = excluded.country, visits = excluded.visits, "
            "position = excluded.position where excluded.position > position"
        )
        with Timer() as timer:
            for start in range(0, count, PAGE):
                connection.execute("begin immediate")
                if many:
                    connection.executemany(upsert, rows[start : start + PAGE])
                else:
                    for row in rows[start : start + PAGE]:
                        connection.execute(upsert, row)
                connection.execute("commit")
        connection.close()
        return timer.run(count)

    return [
        Variant(BARE, "limit", lambda: run(many=False)),
        Variant(MANY, "limit", lambda: run(many=True), BARE),
    ]


def _ours(context: Context) -> list[Variant]:
    return [_copied(context), _behind(context)]


def _copied(context: Context) -> Variant:
    origin = _origin(context)
    count, cards = _size(context)
    with h.open_log(f"sqlite:///{origin}") as log:
        head = log.head

    def run() -> Run:
        own = context.fresh("copying.db")
        with Timer() as timer, COPYING.open(f"sqlite:///{own}", channels={"origin": f"sqlite:///{origin}"}) as running:
            running.replica(Copied, "card-00000", since=head, wait_seconds_max=600)
        with COPYING.open(f"sqlite:///{own}", run=False, channels={"origin": None}) as running:
            [told] = running.statistics()["replicas"]
            assert told["count"] == cards, "every card is there"
            assert told["equal_as_of"] > 0, "the copy was proven"
        return timer.run(count)

    return Variant(COPY, "happened", run, BARE)


def _behind(context: Context) -> Variant:
    def run() -> Run:
        origin, own = context.fresh("moving.db"), context.fresh("moved.db")
        lags: list[float] = []
        with ORIGIN.open(f"sqlite:///{origin}") as upstream:
            upstream.record_all(moves(CARDS // 10, CARDS // 10))
            owner = Child("copy", origin, own)
            with COPYING.open(f"sqlite:///{own}", run=False, channels={"origin": f"sqlite:///{origin}"}) as reading:
                reading.replica(Copied, "card-00000", since=upstream.log.head, wait_seconds_max=60)
                until = monotonic() + context.size(5, 1)
                with Timer() as timer:
                    for move in itertools.takewhile(lambda _: monotonic() < until, moves(1_000_000, CARDS // 10)):
                        receipt = upstream.record(move)
                        known = perf_counter()
                        reading.replica(Copied, move.card, since=receipt, wait_seconds_max=60)
                        lags.append(perf_counter() - known)
                        sleep(SAMPLE_SECONDS)
            owner.ask()
        return timer.run(len(lags), lags)

    return Variant(APART, "happened", run)


def _rate(results: Results) -> str:
    return f"{results[COPY].value:,.0f} changes/s"


ROWS = (
    Row(
        "replica",
        "Taking in another system's changes, with versions and digest",
        (
            Goal("rate", "50,000 changes/s", "100,000 changes/s", _rate),
            Goal("beside a bare upsert", "×0.4", "×0.6", ratio(COPY)),
            Goal("staleness in another process", "p99 under 100 ms", "under 20 ms", p99_ms(APART)),
        ),
        {"limit": _limits, "happened": _ours},
    ),
)
