"""Why a row is as it is: back to the command, and on to what came from outside."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

import happened as h
from happened.edge.sight import causes_as_text
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
    assert [(one.handler, one.sender) for one in causes] == [("ask", ""), ("", "follow"), ("order", ""), ("", "")]
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


class Debtor(h.State):
    sku: Sku
    name: str = ""


class Named(h.Event):
    sku: Sku
    name: str


class Name(h.Command):
    sku: Sku
    name: str


@h.named("Debtor")
class Origin(h.State):
    sku: Sku
    name: str = ""

    def evolve(self, event: Named) -> "Origin":
        return self.but(name=event.name)


def name(command: Name) -> list[Named]:
    return [Named(command.sku, command.name)]


def lend(command: Order, debtor: Debtor, stock: Stock) -> list[Ordered]:
    return [Ordered(command.sku)]


@h.named("order")
def order_of_both(command: Order, reminders: Reminders, stock: Stock) -> list[Ordered]:
    return [Ordered(command.sku)]


@h.named("order")
def order_again(command: Order, stock: Stock) -> list[Ordered]:
    return [Ordered(command.sku)] if stock.units else []


def test_what_a_decider_had_read_is_told_as_it_was_then(tmp_path: Path) -> None:
    """By its parameters of that release, whatever they are in the one that tells it: with others, in another order, or with other code."""
    releases = [h.App("shop", records=[Received], deciders=[one, ask], views=[Stock]) for one in (order, order_of_both, order_again)]
    facts: list[int] = []
    ordered: list[int] = []
    for release in releases:
        with release.open(f"sqlite:///{tmp_path}/shop.db") as running:
            facts.append(running.record(Received("nut", 5)).position)
            ordered.append(running.dispatch(Order("nut")).position)

    for release in releases:
        with release.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
            told = [causes_of(running.log, place, release.reads())[0].reads for place in ordered]

            assert told == [(Read("Stock", facts[0]),), (Read("Reminders", 0), Read("Stock", facts[1])), (Read("Stock", facts[2]),)]


def test_what_was_read_of_a_copy_is_told_by_its_system(tmp_path: Path) -> None:
    """Its position is one of the other log; what other parameters had read keeps its name."""
    crm = h.App("crm", deciders=[name], shares=[Origin])
    lender = h.App("lender", records=[Received], deciders=[lend], views=[Stock], replicas={"crm": [Debtor]})
    url = f"sqlite:///{tmp_path}/crm.db"
    with crm.open(url) as origin, lender.open("memory:", channels={"crm": url}) as running:
        named = origin.dispatch(Name("nut", "ann"))
        running.replica(Debtor, "nut", since=named)
        fact = running.record(Received("nut", 5))
        running.dispatch(Order("nut"))

        causes = running.why(Stock, "nut", since=running.log.head)
        text = "\n".join(causes_as_text("Stock nut", causes))

    assert causes[0].reads == (Read("Debtor", named.position, "crm"), Read("Stock", fact.position))
    assert f"which had read crm/Debtor as of position {named.position} of crm\n" in text
    assert f"which had read Stock as of position {fact.position}\n" in text


class Handed(h.Event):
    sku: Sku


class Packed(h.Event):
    sku: Sku


class Sent(h.Event):
    sku: Sku


class Packages(h.State):
    sku: Sku
    count: int = 0

    def evolve(self, event: Packed) -> "Packages":
        return self.but(count=self.count + 1)


class Shipments(h.State):
    sku: Sku
    count: int = 0

    def evolve(self, event: Packed | Sent) -> "Shipments":
        return self.but(count=self.count + 1)


def in_two(handed: Handed) -> Iterator[Packed | Sent]:
    yield Packed(handed.sku)
    yield Sent(handed.sku)


def test_of_what_became_several_the_one_is_named_that_changed_the_row(tmp_path: Path) -> None:
    """They stand at one position: the last that the view follows."""
    url = f"sqlite:///{tmp_path}/log.db"
    with h.App("shop", records=[Handed]).open(url) as running:
        running.record(Handed("nut"), id="h-1")
    with h.App("shop", records=[Packed, Sent], views=[Packages, Shipments], upcasts=[in_two]).open(url) as running:
        [packed] = running.why(Packages, "nut", since=running.log.head)
        [sent] = running.why(Shipments, "nut", since=running.log.head)

    assert (packed.name, packed.id) == ("Packed", "h-1")
    assert (sent.name, sent.id) == ("Sent", "h-1.1")


def test_a_reason_that_is_erased_or_was_not_kept_says_so(running: h.Running) -> None:
    """Not that it was nothing."""
    running.record(Received("nut", 5), id="delivery")
    running.dispatch(Order("nut"), id="o-1")
    causes = running.why(Stock, "nut", since=running.log.head)

    text = "\n".join(causes_as_text("Stock nut", [msgspec.structs.replace(causes[-1], body=None)]))

    assert "its body was erased, or not kept" in text
    assert "null" not in text
