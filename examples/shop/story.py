"""A few days at the counter, played on a clock that is set, so that they take no time: what follows from what, and how one sees it.

The log is the story's own and is thrown away. In it runs what runs in earnest: the reactions, the timer, the views.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import happened as h
from happened.edge.main import main as command
from happened.notification.story import Story as Trace
from happened.notification.why import Cause
from happened.testing import Clock

from .model import CustomerMoved, Order, PaymentArrived, PlaceOrder, Stock, StockReceived, shop

WAIT_SECONDS = 0.05

MONDAY = datetime(2026, 1, 5, 9, tzinfo=UTC)


class Story(msgspec.Struct, frozen=True):
    """What has become of two orders, and what the log says of that."""

    stock: int
    orders: dict[str, str]
    flow: h.Flow
    trace: Trace
    why: tuple[Cause, ...]


def play(folder: Path, before: Iterable[h.Message]) -> Story:
    """Let it happen: what was before, a delivery, two orders that leave too little, one payment, three days, and the delivery that was ordered."""
    clock = Clock(MONDAY)
    with shop.open(log_in(folder), source=clock) as running:
        for _ in running.dispatch_all(before):
            pass  # refusals are results, too
        running.record(CustomerMoved("c-1", "Ada", "Rue 1", "France"), id="customer-1")
        running.record(StockReceived("widget", 20), id="delivery-1")
        for number, units in (("o-1", 12), ("o-2", 3)):  # the first leaves less than there should be, and more is ordered
            running.dispatch(PlaceOrder(number, "widget", units, "c-1"), id=f"order-{number}")
            running.settled()
        running.record(PaymentArrived("o-2"), id="payment-o-2")
        while timers := running.settled().timers:  # nobody pays the first: it is cancelled when its time is over
            clock.set(timers[0])
        delivered = running.record(StockReceived("widget", 100), id="delivery-2")
        while any(one["lag"] for one in (*running.statistics()["publications"], *running.statistics()["shares"])):
            running.log.wait(running.log.head, WAIT_SECONDS)  # other systems are told, too
        return Story(
            stock=running.view(Stock).get(sku="widget", since=delivered).units,
            orders={order.order: order.standing for order in running.view(Order).order_by("order").rows(since=delivered)},
            flow=running.flow(),
            trace=running.trace("order-o-1"),
            why=running.why(Order, "o-1"),
        )


def tell(story: Story, folder: Path) -> None:
    """Say what came of it, and show what the command line shows of such a log."""
    print(
        "\nAt the counter, on a clock that is set: 20 widgets came, Ada's o-1 took 12 and o-2 took 3, o-2 was paid, and the days went by."
    )
    print(f"Now {', '.join(f'{order} is {standing}' for order, standing in story.orders.items())}, and {story.stock} widgets are there.")
    app, log = f"{__package__}.model:shop", log_in(folder)
    for question, arguments in (
        ("Who says what, and who listens?", ["flow", app]),
        ("What came of one order?", ["trace", "order-o-1"]),
        ("Why is it cancelled?", ["why", "Order", "o-1", "--app", app]),
    ):
        print(f"\n{question}  happened {' '.join(arguments)}\n", flush=True)
        command([*arguments, "--log", log])


def log_in(folder: Path) -> str:
    """Return where the story's log is."""
    return f"sqlite:///{folder}/story.db"
