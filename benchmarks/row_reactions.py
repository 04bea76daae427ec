"""Reactions that send one command each, beside a bare loop of `dispatch_all` of the same commands; and how long it takes from an event to what it causes.

The events are there before the reaction is (`since=0`), so that nothing but the reaction is timed: from `open()` until all that they cause is settled.
The lag is taken at half the rate that the first part came to: an event is recorded every so often, in the same process, and its time and that of the
event which its command came to are those of the log.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import happened as h
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, every, ratio

LOOP = "a bare loop of dispatch_all"
REACTIONS = "reactions, one command each"
LAG = "events at half that rate"
SETTLE_SECONDS_MAX = 600
BURST = 20
"""Events recorded together while the lag is taken."""
HALF = 10_000
"""Half of the rate that the first part must reach."""

OrderNo = Annotated[str, h.Tag("order")]


class Placed(h.Event):
    """An order was placed."""

    order: OrderNo


class Ship(h.Command):
    """Send it."""

    order: OrderNo


class Shipped(h.Event):
    """It was sent."""

    order: OrderNo


class Order(h.State):
    """What is known of an order."""

    order: OrderNo
    shipped: bool = False

    def evolve(self, event: Shipped) -> "Order":
        """It is on its way."""
        return self.but(shipped=True)


def ship(command: Ship, order: Order) -> Iterator[Shipped]:
    """Send what was not sent yet."""
    if not order.shipped:
        yield Shipped(command.order)


def on_placed(event: Placed) -> Iterator[Ship]:
    """Have it sent."""
    yield Ship(event.order)


loop = h.App("orders", records=[Placed], deciders=[ship])
reacting = h.App("orders", records=[Placed], deciders=[ship], reactions=[h.Reaction(on_placed, since=0)])


def _ours(context: Context) -> list[Variant]:
    count = context.size(50_000, 500)

    def bare() -> Run:
        with loop.open(_url(context.fresh("loop.db"))) as running:
            commands = [Ship(str(number)) for number in range(count)]
            with Timer() as timer:
                for _ in running.dispatch_all(commands):
                    pass
        return timer.run(count)

    def react() -> Run:
        url = _url(context.fresh("reactions.db"))
        with loop.open(url, run=False) as running:
            running.record_all(Placed(str(number)) for number in range(count))
        with Timer() as timer, reacting.open(url) as running:
            running.settled(wait_seconds_max=SETTLE_SECONDS_MAX)
        _check(url, count)
        return timer.run(count)

    def lag() -> Run:
        url = _url(context.fresh("lag.db"))
        events = context.size(50_000, 500) // BURST
        with reacting.open(url) as running, Timer() as timer:
            began = time.perf_counter()
            for burst in range(events):
                running.record_all(Placed(f"{burst}-{number}") for number in range(BURST))
                time.sleep(max(0.0, began + (burst + 1) * BURST / HALF - time.perf_counter()))
            running.settled(wait_seconds_max=SETTLE_SECONDS_MAX)
        return timer.run(events * BURST, list(_lags(url)))

    return [Variant(LOOP, "limit", bare), Variant(REACTIONS, "happened", react, LOOP), Variant(LAG, "happened", lag)]


def _check(url: str, count: int) -> None:
    with h.open_log(url) as log:
        shipped = [record.body["order"] for record in log.read(h.query(names=["Shipped"]))]
    assert shipped == [str(number) for number in range(count)], "every order is sent once, in order"


def _lags(url: str) -> Iterator[float]:
    """Yield for each event how many seconds later the event was recorded that it caused."""
    with h.open_log(url) as log:
        placed: dict[str, float] = {}
        for record in log.read(h.query(names=["Placed", "Shipped"])):
            seconds = record.time.timestamp()
            if record.name == "Placed":
                placed[record.body["order"]] = seconds
            else:
                yield seconds - placed.pop(record.body["order"])
        assert not placed, "every order is sent"


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


def _rate(results: Results) -> str:
    return f"{results[REACTIONS].value:,.0f} a second"


def _p99(results: Results) -> str:
    seconds = results[LAG].latency_seconds(99)
    return "not timed" if seconds is None else f"p99 {seconds * 1000:.2g} ms at {results[LAG].value:,.0f} a second"


ROWS = (
    Row(
        "reactions",
        "Reactions that send one command each",
        (
            Goal("beside a bare loop of dispatch_all", "×0.4, 20,000 a second", "–", every(ratio(REACTIONS), _rate)),
            Goal("lag from the event to the caused event", "p99 under 50 ms at half that rate", "–", _p99),
        ),
        {"happened": _ours},
    ),
)
