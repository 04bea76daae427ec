"""Every recorded input of the shop decided again and compared: `happened check --decide`, beside a bare loop that decodes and decides.

The bare loop reads the same rows, decodes input and event with the shop's classes, keeps two kinds of states in dicts, calls the deciders by hand and
compares what they yield. It knows what the log holds; it checks no answers, no refusals' facts, no reactions, and tells nothing of what differs.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

import happened as h
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row
from examples.shop.model import Bought, CancelLine, LineCancelled, LineSold, StockReceived, cancel_line, freight, shop
from examples.shop.model import PlaceOrder as Place
from happened.checking.decisions import decide_again

BARE = "bare loop: decode, decide, compare"
OURS = "happened check --decide"
CUSTOMERS, ITEMS = 1_000, 20


def _messages(count: int) -> Iterator[h.Message]:
    for customer in range(CUSTOMERS):
        for item in range(ITEMS):
            yield h.Message(LineSold(1, "i", f"s{item}", "thing", count // 25_000 + 4, Decimal("1.50"), f"c{customer}", "UK"))
    for number in range(count):
        place = number * 7919 % (CUSTOMERS * ITEMS)
        yield h.Message(CancelLine(f"c{place % CUSTOMERS}", f"s{place // CUSTOMERS}", 1), id=f"cancel-{number}")


def _make(path: Path, cancels: int, orders: int) -> None:
    with shop.open(f"sqlite:///{path}", run=False, gateways={freight: lambda _units: Decimal(5)}) as running:
        for _ in running.dispatch_all(_messages(cancels)):
            pass
        running.record(StockReceived("s0", orders))
        for number in range(orders):
            running.dispatch(Place(f"o{number}", "s0", 1, f"c{number % CUSTOMERS}"), id=f"order-{number}")


def _log(context: Context) -> tuple[Path, int]:
    cancels, orders = context.size(100_000, 500), context.size(2_000, 20)
    return context.shared.path(f"shop-{cancels}.db", lambda path: _make(path, cancels, orders)), cancels + orders


def _bare(context: Context) -> list[Variant]:
    path, _ = _log(context)
    cancel_of = msgspec.json.Decoder(tuple[int, CancelLine]).decode
    cancelled_of = msgspec.json.Decoder(list[tuple[int, LineCancelled]]).decode
    sold_of = msgspec.json.Decoder(list[tuple[int, LineSold]]).decode

    def run() -> Run:
        bought: dict[tuple[str, str], Bought] = {}
        decided = 0
        with closing(sqlite3.connect(path)) as connection, Timer() as timer:
            for asked, records in connection.execute("select input, records from log order by position"):
                if asked is None:
                    if '"invoice":"i"' in records:
                        [(_, sold)] = sold_of(records)
                        key = (sold.customer, sold.sku)
                        bought[key] = bought.get(key, Bought(*key)).evolve(sold)
                elif '"order"' not in asked:
                    _, command = cancel_of(asked)
                    key = (command.customer, command.sku)
                    events: list[Any] = list(_decided(command, bought[key]))
                    if events:
                        [(_, then)] = cancelled_of(records)
                        assert events == [then], "what was decided is decided again"
                        bought[key] = bought[key].evolve(then)
                    decided += 1
        return timer.run(decided)

    return [Variant(BARE, "limit", run)]


def _decided(command: CancelLine, bought: Bought) -> list[LineCancelled]:
    try:
        return list(cancel_line(command, bought))
    except h.Refused:
        return []


def _ours(context: Context) -> list[Variant]:
    path, inputs = _log(context)

    def run() -> Run:
        with h.open_log(f"sqlite:///{path}") as log, Timer() as timer:
            checked = decide_again(shop, log)
        assert (checked.inputs, checked.diverged) == (inputs, 0), "all come to the same"
        return timer.run(inputs)

    return [Variant(OURS, "happened", run, BARE)]


def _reached(results: Results) -> str:
    ours = results[OURS]
    return f"{1 / ours.each_seconds:,.0f} inputs a second; ×{ours.each_seconds / results[BARE].each_seconds:.1f} the time of the bare loop"


ROWS = (
    Row(
        "check",
        "Every recorded input of the shop decided again and compared",
        (Goal("one core", "50,000 inputs a second", "twice the bare loop", _reached),),
        {"limit": _bare, "happened": _ours},
        probe=False,
    ),
)
