"""Why a row is as it is: back to the command, and on to what came from outside."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.notification.why import Read, causes_of

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku
    units: int


class Asked(h.Event):
    sku: Sku


class Order(h.Command):
    sku: Sku


class Ask(h.Command):
    sku: Sku
    others: tuple[Sku, ...] = ()


class Ordered(h.Event):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Ordered) -> "Stock":
        return self.but(units=self.units + (event.units if isinstance(event, Received) else -1))


class Reminders(h.State):
    sku: Sku
    count: int = 0

    def evolve(self, event: Asked) -> "Reminders | None":
        return self.but(count=self.count + 1) if event.sku != "gone" else None


def order(command: Order, stock: Stock) -> list[Ordered]:
    return [Ordered(command.sku)]


def ask(command: Ask, stock: Mapping[str, Stock], world: h.World) -> list[Asked]:
    world.state(Reminders, "nut")
    return [Asked(command.sku)]


def follow(event: Ordered, stock: Stock) -> Iterator[Ask | h.Later[Ask]]:
    yield Ask(event.sku)
    if stock.units < 2:
        yield h.Later(Ask(event.sku), after=timedelta(microseconds=1))


shop = h.App("shop", records=[Received], deciders=[order, ask], reactions=[follow], views=[Stock, Reminders])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[h.Running]:
    """Open the shop."""
    with shop.open(f"sqlite:///{tmp_path}/shop.db") as running:
        yield running


def test_a_row_leads_back_to_what_came_from_outside(running: h.Running) -> None:
    """From the row to the event, its command, the event that this was a reaction to, and the command that a person gave."""
    fact = running.record(Received("nut", 5), id="delivery", actor="carrier")
    receipt = running.dispatch(Order("nut"), id="o-1", actor="ann")
    running.settled(receipt)

    causes = running.why(Reminders, "nut", since=running.log.head)

    assert [(one.kind, one.name) for one in causes] == [
        ("internal", "Asked"),
        ("input", "Ask"),
        ("internal", "Ordered"),
        ("input", "Order"),
    ]
    asked, sent, ordered, given = causes
    assert (asked.handler, sent.sender, ordered.handler, given.sender) == ("ask", "follow", "order", "")
    assert (given.id, given.actor, given.cause, given.body) == ("o-1", "ann", "", Order("nut"))
    assert ordered.reads == (Read("Stock", fact.position),)
    assert asked.reads == (Read("Stock", ordered.position), Read("Reminders", 0))
    assert all(one.waited_us is not None and one.ran_us is not None for one in (asked, sent, ordered))
    assert [one.position for one in causes] == sorted((one.position for one in causes), reverse=True)


def test_a_fact_is_its_own_reason(running: h.Running) -> None:
    """It came from outside: one step."""
    running.record(Received("nut", 5), id="delivery", actor="carrier")

    [cause] = running.why(Stock, sku="nut", since=running.log.head)

    assert (cause.name, cause.id, cause.actor, cause.handler, cause.waited_us) == ("Received", "delivery", "carrier", "", None)


def test_a_timer_leads_back_to_who_set_it(running: h.Running) -> None:
    """Through the record of the timer to the event."""
    running.record(Received("nut", 1))
    running.dispatch(Order("nut"), id="o-1")
    while running.state(Reminders, "nut") != Reminders("nut", 2):
        running.catch_up()
        running.log.wait(running.log.head, 0.05)

    causes = running.why(Reminders, "nut", since=running.log.head)

    assert [one.name for one in causes] == ["Asked", "Ask", "schedule", "Ordered", "Order"]
    assert (causes[1].sender, causes[2].sender) == ("follow", "follow")


def test_what_has_no_row_is_said(running: h.Running) -> None:
    """Never there, or gone."""
    running.dispatch(Ask("gone"))

    for key in ("nut", "gone"):
        with pytest.raises(h.NotThere, match=key):
            running.why(Reminders, key, since=running.log.head)
    with pytest.raises(h.NotThere, match="99"):
        causes_of(running.log, 99, {})


def test_a_cause_that_is_not_in_this_log_ends_the_way(running: h.Running) -> None:
    """It is a text that somebody gave, or another log's; also one that names what stands behind it."""
    running.log.append(h.Message(Received("nut", 1), causation="other/log#7"))
    [cause] = running.why(Stock, "nut", since=running.log.head)
    running.log.append(h.Message(Received("nut", 1), id="own", causation="own"))
    [later] = running.why(Stock, "nut", since=running.log.head)

    assert cause.cause == "other/log#7"
    assert later.cause == "own"
