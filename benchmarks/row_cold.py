"""One record of a log of which all but the newest row is packed: found by its id, and read by its position, at random.

Beside the same of the log as it was. What a packed log weighs is in the row `bytes`.
"""

import random
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path
from time import perf_counter

import happened as h
from benchmarks import stores
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, p99_ms
from happened.log.compacting import compact

PACKED, PLAIN = "happened, one record by its position, packed", "happened, one record by its position"
PACKED_ID, PLAIN_ID = "happened, one by its id, packed", "happened, one by its id"


def _ours(context: Context) -> list[Variant]:
    path = stores.ours(context)
    cold = context.fresh("cold.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("vacuum into ?", (str(cold),))
    with closing(h.open_log(f"sqlite:///{cold}")) as log:
        compact(log, keep=0, rewrite=True)
    chance = random.Random(1)
    count = context.size(2_000, 20)

    def opened(file: Path) -> h.Log:
        return context.exits.enter_context(closing(h.open_log(f"sqlite:///{file}")))

    hot_log, cold_log = opened(path), opened(cold)
    head = hot_log.head
    sampled = (record for position in chance.sample(range(1, head), 4 * count) for record in hot_log.read(after=position - 1, limit=1))
    ids = list(islice((record.id for record in sampled if record.kind == "input"), count))

    def by_position(log: h.Log) -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for position in chance.sample(range(1, head), count):
                start = perf_counter()
                [record] = log.read(after=position - 1, limit=1)
                latencies.append(perf_counter() - start)
                assert record.position == position, "it is the one that was asked for"
        return timer.run(count, latencies)

    def by_id(log: h.Log) -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for id in ids:  # noqa: A001 - as everywhere
                start = perf_counter()
                found = log.find(id)
                latencies.append(perf_counter() - start)
                assert found, "it is there"
        return timer.run(count, latencies)

    return [
        Variant(PLAIN, "happened", lambda: by_position(hot_log)),
        Variant(PACKED, "happened", lambda: by_position(cold_log), PLAIN),
        Variant(PLAIN_ID, "happened", lambda: by_id(hot_log)),
        Variant(PACKED_ID, "happened", lambda: by_id(cold_log), PLAIN_ID),
    ]


def _reached(results: Results) -> str:
    middle = results[PACKED].latency_seconds(50)
    assert middle is not None, "each reading is timed"
    return f"p50 {middle * 1000:.2g} ms, {p99_ms(PACKED)(results)}"


ROWS = (
    Row(
        "cold",
        "One record of 1,000,000 commands and their events, packed",
        (Goal("one record, packed", "under 1 ms", "", _reached),),
        {"happened": _ours},
        probe=False,
    ),
)
