"""Some days of the shop: every branch of its deciders and evolves is taken."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import happened as h
from examples.shop.model import (
    CancelLine,
    CancelUnpaid,
    LineCredited,
    LineSold,
    PaymentArrived,
    PlaceOrder,
    StockReceived,
    shop,
)
from happened.core.world import moment
from happened.notification.timer import next_due
from happened.testing.world import Clock
from tests.replay.made import folded

SOLD = datetime(2011, 8, 30, tzinfo=UTC)

Given = h.Event | h.Command | timedelta


def fill(url: str) -> int:
    """Record it; return how many commands were given. Views have come to it, and all that follows from it is done."""
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    commands = 0
    with shop.open(url, source=clock) as running:
        for number, given in enumerate(days()):
            match given:
                case timedelta():
                    until = clock.now + given
                    while (due := next_due(running.log.engine)) is not None and moment(due) <= until:
                        clock.set(max(moment(due), clock.now))
                        running.settled()
                    clock.set(until)
                case h.Command():
                    commands += 1
                    try:
                        running.dispatch(given, id=f"given-{number}")
                    except h.Refused:
                        continue
                case _:
                    occurred = SOLD + timedelta(days=number) if isinstance(given, LineSold | LineCredited) else None
                    running.log.append(h.Message(given, id=f"given-{number}", occurred=occurred))
            running.settled()
        folded(running)
    return commands


def days() -> Iterator[Given]:
    """Yield what comes to the shop, and how time passes between."""
    yield StockReceived("widget", 30)
    yield _sold("widget", 10, "c-1")
    yield _sold("widget", -3, "c-1")
    yield CancelLine("c-1", "widget", 8)  # more than is left if the correction counted
    yield CancelLine("c-1", "widget", 2)  # all that is left
    yield CancelLine("c-1", "widget", 1)  # refused: nothing is left
    yield _sold("gadget", 4, None)
    yield LineCredited(9, "C-1", "widget", "a widget", -2, Decimal("2.50"), "c-1", "UK")
    yield PlaceOrder("o-1", "widget", 5, "c-1")
    yield PaymentArrived("o-1")
    yield PlaceOrder("o-2", "widget", 26)  # refused: one more than there is
    yield PlaceOrder("o-3", "widget", 17, "c-2")  # leaves 8: reordered
    yield PlaceOrder("o-4", "widget", 1)  # leaves 7: nothing more is reordered
    yield CancelUnpaid("o-9")  # nobody has placed it
    yield timedelta(days=4)  # o-3 and o-4 are cancelled: there are 25
    yield PaymentArrived("o-3")  # too late
    yield StockReceived("widget", 100)
    yield PlaceOrder("o-5", "widget", 120, "c-2")  # leaves 5: reordered again
    yield PlaceOrder("o-6", "widget", 6)  # refused


def _sold(sku: str, units: int, customer: str | None) -> LineSold:
    return LineSold(1, "i-1", sku, f"a {sku}", units, Decimal("2.50"), customer, "UK")
