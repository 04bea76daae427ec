"""Given, when, then: what it accepts, and what it says where the app does otherwise."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

import happened as h
from happened.testing import Clock, spec

Sku = Annotated[str, h.Tag("sku")]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class StockReceived(h.Event):
    sku: Sku
    count: int


class Ordered(h.Event):
    sku: Sku
    count: int
    at: datetime
    price: int = 0


class Parcelled(h.Event):
    sku: Sku


class Unrelated(h.Event):
    sku: Sku


class Order(h.Command):
    sku: Sku
    count: int


class Clear(h.Command):
    sku: Sku


class Break(h.Command):
    sku: Sku


class Stock(h.State):
    sku: Sku
    left: int = 0
    sold: int = 0

    def evolve(self, event: StockReceived | Ordered) -> "Stock | None":
        match event:
            case StockReceived():
                return self.but(left=self.left + event.count)
            case Ordered():
                return self.but(left=self.left - event.count, sold=self.sold + event.count) if event.count < self.left else None


class Moved(h.State):
    sku: Sku
    times: int = 0
    latest: datetime = NOON

    def evolve(self, event: StockReceived | Ordered, recorded: h.Recorded) -> "Moved":
        return self.but(times=self.times + 1, latest=recorded.occurred)


def price_of(sku: str) -> int:
    raise NotImplementedError


def order(command: Order, stock: Stock, world: h.World) -> Iterator[Ordered | Parcelled]:
    if command.count > stock.left:
        raise h.Refused(f"only {stock.left} left", left=stock.left)
    price = world.ask(price_of, command.sku)
    yield Ordered(command.sku, command.count, world.now, price)
    yield Parcelled(command.sku)


def clear(command: Clear, stock: Stock | None) -> Iterator[Ordered]:
    if stock is not None:
        yield Ordered(command.sku, stock.left, NOON)


def broken(command: Break) -> Iterator[Parcelled]:
    if command.sku:
        raise ZeroDivisionError("a mistake")
    yield Parcelled(command.sku)


shop = h.App("shop", records=[StockReceived], deciders=[order, clear, broken], gateways=[price_of], views=[Stock, Moved])
priced = spec(shop, now=NOON, answers={price_of: 7})


def test_what_is_decided_is_compared_in_order() -> None:
    """`then` takes all events that the command yields, as the set clock and the given answer make them."""
    given = priced.given(StockReceived("w", 5), timedelta(hours=2))

    when = given.when(Order("w", 3))

    when.then(Ordered("w", 3, NOON + timedelta(hours=2), 7), Parcelled("w"))


def test_then_can_be_followed_by_more() -> None:
    """One outcome is looked at from several sides."""
    given = priced.given(StockReceived("w", 5))

    when = given.when(Order("w", 3))

    when.then(Ordered("w", 3, NOON, 7), Parcelled("w")).then_state(Stock("w", 2, 3)).then_view(Stock("w", 2, 3)).then_view(
        Moved("w", 2, NOON)
    )


def test_a_refusal_is_compared_by_text_and_facts() -> None:
    """Facts are looked at where they are named."""
    given = priced.given(StockReceived("w", 1))

    when = given.when(Order("w", 3))

    when.then_refused("only 1 left").then_refused("only 1 left", left=1).then_state(Stock("w", 1))


def test_nothing_may_come_of_it() -> None:
    """A command may decide nothing; a fact and the passing of time decide nothing either."""
    given = priced.given(StockReceived("w", 1))

    for when in (given.when(Clear("other")), given.when(StockReceived("w", 1)), given.when(timedelta(days=3))):
        when.then_nothing()


def test_events_of_deciders_can_be_given() -> None:
    """History need not be made by commands; a message gives an event the time it happened."""
    given = priced.given(StockReceived("w", 5), h.Message(Ordered("w", 1, NOON), occurred=NOON - timedelta(days=1)))

    given.then_state(Stock("w", 4, 1)).then_view(Moved("w", 2, NOON - timedelta(days=1)))


def test_a_common_beginning_is_kept() -> None:
    """`given` and `when` change nothing of what they start from."""
    given = priced.given(StockReceived("w", 5))

    given.given(StockReceived("w", 5)).when(StockReceived("w", 1)).then_state(Stock("w", 11))
    given.when(StockReceived("w", 2)).then_state(Stock("w", 7))

    given.then_state(Stock("w", 5))


def test_an_answer_may_be_a_function() -> None:
    """It is called with what the gateway is asked."""
    given = spec(shop, now=NOON, answers={price_of: len}).given(StockReceived("four", 5))

    when = given.when(Order("four", 1))

    when.then(Ordered("four", 1, NOON, 4), Parcelled("four"))


def test_an_answer_may_be_an_error() -> None:
    """The gateway fails, as the decider would see it."""
    given = spec(shop, answers={price_of: OSError("no line")}).given(StockReceived("w", 5))

    with pytest.raises(h.GatewayFailed, match="no line"):
        given.when(Order("w", 1))


def test_nothing_is_asked_outside() -> None:
    """A gateway without an answer is an error that names it."""
    given = spec(shop).given(StockReceived("w", 5))

    with pytest.raises(h.Unanswered, match=r"`price_of` is asked .*'w'.*answers="):
        given.when(Order("w", 1))


def test_what_is_raised_comes_through() -> None:
    """Only a refusal is an outcome."""
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        priced.when(Break("w"))


def test_a_message_gives_a_command_its_envelope() -> None:
    """A command that is repeated under its id is the same command."""
    sold = priced.given(StockReceived("w", 5)).when(h.Message(Order("w", 3), id="o-1", actor="anna"))

    sold.then(Ordered("w", 3, NOON, 7), Parcelled("w"))
    with pytest.raises(h.Invalid, match="`Order` is a command"):
        priced.given(h.Message(Order("w", 3), id="o-1")).when(timedelta(1))


def test_a_command_can_not_be_given() -> None:
    """What happened is given; what is asked for is done."""
    with pytest.raises(h.Invalid, match="`Clear` is a command"):
        priced.given(Clear("w")).then_state(Stock("w"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # the mistake is the test


def test_other_events_are_shown_field_by_field() -> None:
    """The message has both lists, and of events of one class the fields that differ."""
    when = priced.given(StockReceived("w", 5)).when(Order("w", 3))

    with pytest.raises(AssertionError) as failed:
        when.then(Ordered("w", 4, NOON, 7))

    assert str(failed.value).splitlines()[0] == "the events differ"
    assert "  count: expected 4, got 3" in str(failed.value).splitlines()
    assert "price:" not in str(failed.value)
    assert "event 2: expected nothing, got Parcelled(sku='w')" in str(failed.value)


def test_another_state_is_shown_field_by_field() -> None:
    """The message has both states whole, and the fields that differ."""
    given = priced.given(StockReceived("w", 5))

    for then in (given.then_state, given.then_view):
        with pytest.raises(
            AssertionError, match=r"(?s)differs\nexpected Stock.*left=6.*\n     got Stock.*left=5.*\n  left: expected 6, got 5$"
        ):
            then(Stock("w", 6))


def test_a_state_that_is_not_there_is_named() -> None:
    """A state that never happened or is gone is not the initial one; the message has the keys that are there."""
    gone = priced.given(StockReceived("w", 5), StockReceived("x", 5)).when(Clear("w"))

    for then in (gone.then_state, gone.then_view):
        with pytest.raises(AssertionError, match=r"is not there\n.*\n.*there are: 'x'"):
            then(Stock("w"))


def test_a_refusal_is_no_nothing() -> None:
    """Who expects events or nothing is shown the refusal; who expects a refusal is shown the events."""
    refused, accepted = priced.when(Order("w", 3)), priced.given(StockReceived("w", 5)).when(Order("w", 3))

    for then in (refused.then_nothing, lambda: refused.then(Parcelled("w"))):
        with pytest.raises(AssertionError, match=r"got a refusal: 'only 0 left' {'left': 0}"):
            then()
    with pytest.raises(AssertionError, match=r"expected a refusal: 'no'\n +got Ordered"):
        accepted.then_refused("no")
    with pytest.raises(AssertionError, match=re.escape("expected 'only 1 left'\n     got 'only 0 left'")):
        refused.then_refused("only 1 left")
    with pytest.raises(AssertionError, match=r"  left: expected 1, got 0\n  why: expected 'x', got '\(no such fact\)'"):
        refused.then_refused("only 0 left", left=1, why="x")


def test_a_state_that_is_no_view_is_named() -> None:
    """`then_view` looks at tables of the app."""
    app = h.App("bare", records=[StockReceived])

    with pytest.raises(h.Invalid, match="`Stock` is not among the app's views"):
        spec(app).given(StockReceived("w", 1)).then_view(Stock("w", 1))


def test_an_event_that_the_app_does_not_know_is_refused() -> None:
    """A history that the app could not have is a mistake in the test."""
    with pytest.raises(h.Invalid, match="`Unrelated` can't be recorded"):
        priced.given(Unrelated("w")).then_state(Stock("w"))


def test_a_clock_stands_until_it_is_moved() -> None:
    """Its time is what was set, its ids and salts are the same in every run."""
    clock, other = Clock(NOON), Clock(NOON)

    moved = clock.move(timedelta(microseconds=1))
    clock.set(moved - timedelta(days=1))

    assert moved == NOON + timedelta(microseconds=1)
    assert (other.now, clock.now) == (NOON, moved - timedelta(days=1))
    assert (clock.new_id(), clock.new_id(), other.new_id()) == ("clock-1", "clock-2", "clock-1")
    assert clock.salt(16) == other.salt(16) != clock.salt(16)
    assert not clock.gone(other.owner())
    with pytest.raises(h.Invalid, match="needs a zone"):
        clock.set(NOON.replace(tzinfo=None))


def test_wrong_use_says_what_to_write() -> None:
    """A test that is written wrongly fails with the right way to say it, not from within."""
    untyped: Any = spec
    begun: Any = spec(shop)
    done: Any = spec(shop).given(StockReceived("nut", 5)).when(Clear("nut"))

    mistakes: list[tuple[Callable[[], Any], str]] = [
        (lambda: untyped(Stock), r"takes an app.*the class `Stock`.*then_state"),
        (lambda: begun.when([Order("nut", 1)]), r"`when` does one thing.*`given`, not `list`"),
        (lambda: begun.when(Order), "not the class `Order`"),
        (lambda: begun.given([StockReceived("nut", 5)]), r"given\(A\(\.\.\.\), B\(\.\.\.\)\)`, not `list`"),
        (lambda: done.then([]), r"then\(A\(\.\.\.\), B\(\.\.\.\)\)`, not `list`"),
        (lambda: done.then_state(Stock), r"the state as it should be.*not the class `Stock`"),
        (lambda: done.then_view(Stock), r"the state as it should be.*not the class `Stock`"),
    ]
    for wrong, words in mistakes:
        with pytest.raises(h.Invalid, match=words):
            wrong()


def test_then_comes_after_when() -> None:
    """Before an act nothing has come of it; other words that it does not know are named, too."""
    begun: Any = spec(shop)

    for name in ("then", "then_nothing", "then_refused"):
        with pytest.raises(AttributeError, match=rf"say `\.when\(\.\.\.\)` before `\.{name}"):
            getattr(begun, name)
    with pytest.raises(AttributeError, match="has no `than`"):
        _ = begun.than


class Debtor(h.State):
    sku: Sku
    country: str = ""


class Bill(h.Command):
    sku: Sku


class Billed(h.Event):
    sku: Sku
    country: str


def bill(command: Bill, debtor: h.Replica[Debtor]) -> Iterator[Billed]:
    if debtor.state is None:
        raise h.Refused("unknown", position=debtor.position)
    if debtor.age > timedelta(hours=1):
        raise h.Refused("too old", position=debtor.position)
    yield Billed(command.sku, debtor.state.country)


def bill_what_came(event: StockReceived) -> Iterator[Bill]:
    yield Bill(event.sku)


def test_a_copy_of_another_systems_state_says_what_was_told() -> None:
    """At once, with the position and age that are told, else now; of a key that nobody has told of the origin has nothing. Also to what a reaction sends."""
    billing = h.App("billing", records=[StockReceived], deciders=[bill], reactions=[bill_what_came], replicas={"crm": [Debtor]})
    nut = Debtor("nut", "France")
    untyped: Any = spec

    spec(billing, copies=[nut]).when(Bill("nut")).then(Billed("nut", "France"))
    spec(billing, copies=[nut]).when(StockReceived("nut", 5)).then(Billed("nut", "France"))
    spec(billing, copies=[h.Replica(nut, 7, timedelta(hours=2))]).given().when(Bill("nut")).then_refused("too old", position=7)
    spec(billing, copies=[nut]).when(Bill("bolt")).then_refused("unknown", position=0)
    spec(billing).when(Bill("nut")).then_refused("unknown")
    mistakes: list[Any] = [Stock("nut"), h.Replica(None, 7, timedelta(0)), Debtor]
    for wrong in mistakes:
        with pytest.raises(h.Invalid, match="`copies` takes states of the app's replicas"):
            untyped(billing, copies=[wrong])
