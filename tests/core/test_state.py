"""A state is a fold of events by key: what touches it, how it begins and ends, and that every way of keeping it comes to the same."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import happened as h
from happened.core.state import fold_of

Sku = Annotated[str, h.Tag("sku")]
Store = Annotated[str, h.Tag("store")]
OrderNo = Annotated[str, h.Tag("order")]


class Line(h.Value):
    sku: Sku
    units: int


class Received(h.Event):
    sku: Sku
    units: int


class Placed(h.Event):
    order: OrderNo
    lines: tuple[Line, ...]


class Quoted(h.Event):
    lines: tuple[Line, ...]


class Moved(h.Event):
    source: Sku
    target: Sku
    units: int


class Dropped(h.Event):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0
    cost: Decimal = Decimal(0)

    def evolve(self, event: Received | h.Part[Placed, Line] | Moved | Dropped) -> "Stock | None":
        match event:
            case Received():
                return self.but(units=self.units + event.units, cost=self.cost + Decimal(event.units) / 8)
            case h.Part(part=line):
                return self.but(units=self.units - line.units)
            case Moved():
                gone = event.units if self.sku == event.source else 0
                come = event.units if self.sku == event.target else 0
                return self.but(units=self.units - gone + come)
            case Dropped():
                return None


class OrderLine(h.State):
    order: OrderNo
    sku: Sku
    units: int = 0

    def evolve(self, event: h.Part[Placed, Line]) -> "OrderLine":
        return self.but(units=self.units + event.part.units)


class Total(h.State):
    count: int = 0

    def evolve(self, event: Received | Placed | Moved | Dropped) -> "Total":
        return self.but(count=self.count + 1)


class BySize(h.State):
    units: int
    count: int = 0

    def evolve(self, event: h.Part[Placed, Line] | Received) -> "BySize":
        return self.but(count=self.count + 1)


class ByLetter(h.State):
    letter: str
    count: int = 0

    @staticmethod
    def key_of(event: Placed) -> Iterator[str]:
        for line in event.lines:
            if line.units:
                yield line.sku[0]

    def evolve(self, event: Placed) -> "ByLetter":
        return self.but(count=self.count + 1)


PLACED = Placed("o-1", (Line("nut", 2), Line("bolt", 3), Line("nut", 2)))


def test_the_key_of_a_state_is_its_fields_without_a_default() -> None:
    """Tagged or not; and `State(*key)` is the state before anything happened."""
    assert (fold_of(OrderLine).key, fold_of(BySize).key, fold_of(Total).key) == (("order", "sku"), ("units",), ())
    assert fold_of(OrderLine).initial(("o-1", "nut")) == OrderLine("o-1", "nut", 0)


@pytest.mark.parametrize(
    ("state", "event", "touched"),
    [
        (Stock, Received("nut", 1), [(("nut",), Received("nut", 1))]),
        (Stock, Quoted(PLACED.lines), []),
        (Stock, Moved("nut", "bolt", 1), [(("nut",), Moved("nut", "bolt", 1)), (("bolt",), Moved("nut", "bolt", 1))]),
        (Stock, Moved("nut", "nut", 1), [(("nut",), Moved("nut", "nut", 1))]),
        (
            Stock,
            PLACED,
            [
                (("nut",), h.Part(PLACED, Line("nut", 2))),
                (("bolt",), h.Part(PLACED, Line("bolt", 3))),
                (("nut",), h.Part(PLACED, Line("nut", 2))),
            ],
        ),
        (OrderLine, Placed("o-1", (Line("nut", 2),)), [(("o-1", "nut"), h.Part(Placed("o-1", (Line("nut", 2),)), Line("nut", 2)))]),
        (Total, PLACED, [((), PLACED)]),
        (BySize, Received("nut", 4), [((4,), Received("nut", 4))]),
        (BySize, Placed("o-1", (Line("nut", 2),)), [((2,), h.Part(Placed("o-1", (Line("nut", 2),)), Line("nut", 2)))]),
        (ByLetter, Placed("o-1", (Line("nut", 0), Line("bolt", 1))), [(("b",), Placed("o-1", (Line("nut", 0), Line("bolt", 1))))]),
        (ByLetter, Placed("o-1", ()), []),
    ],
    ids=[
        "a tag", "an event that is not named", "two fields of one tag", "twice the same", "parts", "a part in a whole", "no key",
        "a field", "a field of a part", "computed keys", "no computed key",
    ],
)  # fmt: skip
def test_an_event_touches_the_keys_that_it_is_about(state: type[h.State], event: h.Event, touched: Sequence[tuple[Any, Any]]) -> None:
    """Once per key, or once per part where the union names the part."""
    assert list(fold_of(state).touched(event)) == list(touched)


def test_a_state_that_is_gone_begins_anew() -> None:
    """After None comes the initial state."""
    fold = fold_of(Stock)

    gone = fold.step(Stock("nut", 5), ("nut",), Dropped("nut"))

    assert gone is None
    assert fold.step(gone, ("nut",), Received("nut", 1)) == Stock("nut", 1, Decimal("0.125"))


# --- filling ----------------------------------------------------------------------------------------------------------------


class Move(h.Command):
    source: Sku
    target: Sku
    units: int = 1


class Place(h.Command):
    order: OrderNo
    lines: tuple[Line, ...] = ()


class Receive(h.Command):
    sku: Sku
    units: int


class Drop(h.Command):
    sku: Sku


class Refill(h.Command):
    order: OrderNo


class Seen(h.Event):
    what: str


class Order(h.State):
    order: OrderNo
    sku: Sku = ""

    def evolve(self, event: Placed) -> "Order":
        return self.but(sku=event.lines[0].sku if event.lines else "")


def given_facts(decider: h.Decider, command: h.Command) -> str:
    """Let some facts happen, and return what a decider saw then."""
    with h.App("seen", records=[Received, Placed], deciders=[decider]).open() as running:
        running.record_all([Received("nut", 10), Received("bolt", 5), Placed("o-1", (Line("nut", 1), Line("bolt", 2)))])
        [event] = running.dispatch(command).events
        assert isinstance(event, Seen)
        return event.what


def test_a_parameter_named_like_a_tagged_field_has_that_key() -> None:
    """The field of the parameter's own name comes first, wherever the parameter stands."""

    def move(command: Move, target: Stock, source: Stock) -> Iterator[Seen]:
        yield Seen(f"{source.sku} {source.units} {target.sku} {target.units}")

    assert given_facts(move, Move("nut", "bolt")) == "nut 9 bolt 3"


def test_a_parameter_of_another_name_has_the_key_of_the_tag() -> None:
    """One value of the tag in the command is enough, also in a part of it."""

    class Wrapped(h.Command):
        line: Line

    def receive(command: Receive, shelf: Stock) -> Iterator[Seen]:
        yield Seen(f"{shelf.sku} {shelf.units}")

    def wrapped(command: Wrapped, shelf: Stock) -> Iterator[Seen]:
        yield Seen(f"{shelf.sku} {shelf.units}")

    assert given_facts(receive, Receive("nut", 1)) == "nut 9"
    assert given_facts(wrapped, Wrapped(Line("bolt", 1))) == "bolt 3"


def test_a_field_named_like_the_parameter_but_without_the_tag_is_no_source() -> None:
    """Only a field that carries the tag gives the key."""

    class Mark(h.Command):
        stock: str
        sku: Sku

    def mark(command: Mark, stock: Stock) -> Iterator[Seen]:
        yield Seen(f"{stock.sku} {stock.units}")

    assert given_facts(mark, Mark("bolt", "nut")) == "nut 9"


def test_a_key_may_come_from_a_state_to_the_left() -> None:
    """The order leads to the item."""

    def refill(command: Refill, order: Order, stock: Stock) -> Iterator[Seen]:
        yield Seen(f"{order.sku} {stock.sku} {stock.units}")

    assert given_facts(refill, Refill("o-1")) == "nut nut 9"


def test_what_may_be_missing_leads_to_what_may_be_missing() -> None:
    """Without the order there is neither."""

    def refill(command: Refill, order: Order | None, stock: Stock | None) -> Iterator[Seen]:
        yield Seen(f"{order} {stock}")

    assert given_facts(refill, Refill("o-2")) == "None None"


def test_a_key_of_two_tags_is_put_together() -> None:
    """One tag from the command, the other from a state before."""

    def refill(command: Refill, order: Order, line: OrderLine) -> Iterator[Seen]:
        yield Seen(f"{line.order} {line.sku} {line.units}")

    assert given_facts(refill, Refill("o-1")) == "o-1 nut 1"


def test_a_mapping_has_every_key_that_lies_together() -> None:
    """By the tag's value, or by a tuple in the order of the key; what never happened is there in its initial state."""

    def place(command: Place, stock: Mapping[str, Stock], lines: Mapping[tuple[str, str], OrderLine]) -> Iterator[Seen]:
        yield Seen(f"{[(sku, one.units) for sku, one in stock.items()]} {[(key, one.units) for key, one in lines.items()]}")

    told = given_facts(place, Place("o-1", (Line("nut", 1), Line("glue", 1), Line("nut", 5))))

    assert told == "[('nut', 9), ('glue', 0)] [(('o-1', 'nut'), 1), (('o-1', 'glue'), 0)]"


def test_a_state_without_a_key_needs_no_source() -> None:
    """There is one for the log; it is None where nothing happened and the parameter allows it."""

    def count(command: Receive, total: Total) -> Iterator[Seen]:
        yield Seen(str(total.count))

    assert given_facts(count, Receive("nut", 1)) == "3"


def test_a_state_that_never_happened_is_initial_or_none() -> None:
    """The annotation says which."""

    def both(command: Receive, stock: Stock, perhaps: Stock | None) -> Iterator[Seen]:
        yield Seen(f"{stock} {perhaps}")

    assert given_facts(both, Receive("glue", 1)) == f"{Stock('glue')} None"


# --- every fold comes to the same -------------------------------------------------------------------------------------------


def receive(command: Receive) -> Iterator[Received]:
    yield Received(command.sku, command.units)


def move(command: Move, source: Stock, target: Stock | None) -> Iterator[Moved]:
    if target is None or source.units < command.units:
        raise h.Refused("no")
    yield Moved(command.source, command.target, command.units)


def place(command: Place, stock: Mapping[str, Stock]) -> Iterator[Placed]:
    if any(line.units > stock[line.sku].units for line in command.lines):
        raise h.Refused("no")
    yield Placed(command.order, command.lines)


def drop(command: Drop, stock: Stock | None) -> Iterator[Dropped]:
    if stock is not None:
        yield Dropped(command.sku)


STATES: tuple[type[h.State], ...] = (Stock, OrderLine, Total, BySize, ByLetter)

app = h.App("folds", deciders=[receive, move, place, drop], views=STATES)

skus = st.sampled_from(["nut", "bolt", "glue"])
units = st.integers(0, 4)
line_lists = st.lists(st.builds(Line, skus, units), max_size=3).map(tuple)
commands = st.one_of(
    st.builds(Receive, skus, units),
    st.builds(Move, skus, skus, units),
    st.builds(Place, st.sampled_from(["o-1", "o-2"]), line_lists),
    st.builds(Drop, skus),
)


def folded(state: type[h.State], events: Sequence[Any]) -> dict[tuple[Any, ...], h.State]:
    """Fold events into all states of a class, the plain way."""
    fold, states = fold_of(state), dict[tuple[Any, ...], h.State]()
    for event in events:
        for key, message in fold.touched(event):
            after = fold.step(states.get(key), key, message)
            if after is None:
                states.pop(key, None)
            else:
                states[key] = after
    return states


@settings(max_examples=25, deadline=None)
@given(st.lists(commands, max_size=15))
def test_image_log_and_view_hold_the_same_states(given_commands: list[h.Command]) -> None:
    """What decisions are made on, a fold of the whole log, the rows of a view and a fold by hand are equal, key by key."""
    with app.open() as running:
        outcomes = list(running.dispatch_all(given_commands))
        events = [event for outcome in outcomes if isinstance(outcome, h.Receipt) for event in outcome.events]
        since = running.statistics()["head"]

        for state in STATES:
            expected = folded(state, events)
            rows = running.view(state).rows(since=since)
            keys = fold_of(state).key
            assert {tuple(getattr(row, field) for field in keys): row for row in rows} == expected
            assert len(rows) == len(expected)
            assert running.states(state) == expected
        for sku in ("nut", "bolt", "glue"):
            assert running.state(Stock, sku) == folded(Stock, events).get((sku,))


@settings(max_examples=10, deadline=None)
@given(st.lists(commands, max_size=12))
def test_one_at_a_time_comes_to_the_same_as_all_at_once(given_commands: list[h.Command]) -> None:
    """How commands share commits changes nothing that is decided."""

    def told(outcome: h.Receipt | h.Refused) -> object:
        return outcome.events if isinstance(outcome, h.Receipt) else str(outcome)

    def alone(running: h.Running, command: h.Command) -> object:
        try:
            return told(running.dispatch(command))
        except h.Refused as refused:
            return told(refused)

    with app.open() as one, app.open() as other:
        single = [alone(one, command) for command in given_commands]
        bulk = [told(outcome) for outcome in other.dispatch_all(given_commands)]

        assert single == bulk
        assert one.states(Stock) == other.states(Stock)


def test_a_key_that_may_be_none_is_one_key_however_many_letters_it_has() -> None:
    """An iterable of keys is several; a text or a tuple is one, also where it may be missing."""

    class Country(h.State):
        name: str
        count: int = 0

        @staticmethod
        def key_of(event: Received) -> str | None:
            return event.sku if event.units else None

        def evolve(self, event: Received) -> "Country":
            return self.but(count=self.count + 1)

    class Pair(h.State):
        first: str
        second: str
        count: int = 0

        @staticmethod
        def key_of(event: Received) -> tuple[str, str] | None:
            return (event.sku, "x") if event.units else None

        def evolve(self, event: Received) -> "Pair":
            return self.but(count=self.count + 1)

    class Each(h.State):
        letter: str
        count: int = 0

        @staticmethod
        def key_of(event: Received) -> list[str] | None:
            return list(event.sku) if event.units else None

        def evolve(self, event: Received) -> "Each":
            return self.but(count=self.count + 1)

    with h.App("keys", records=[Received]).open() as running:
        running.record_all([Received("CH", 1), Received("CH", 0), Received("FR", 2)])
        assert running.states(Country) == {("CH",): Country("CH", 1), ("FR",): Country("FR", 1)}
        assert running.states(Pair) == {("CH", "x"): Pair("CH", "x", 1), ("FR", "x"): Pair("FR", "x", 1)}
        assert sorted(running.states(Each)) == [("C",), ("F",), ("H",), ("R",)]


class OneTooMany(h.State):
    sku: str
    count: int = 0

    @staticmethod
    def key_of(event: Received) -> tuple[str, int]:
        return event.sku, 7

    def evolve(self, event: Received) -> "OneTooMany":
        return self.but(count=self.count + 1)


class OneTooManyOfTheRecord(OneTooMany):
    @staticmethod
    def key_of(event: Received, record: h.Recorded) -> tuple[str, int]:  # type: ignore[override]  # it asks for more
        return event.sku, len(record.actor)


class OneTooManyOfSeveral(OneTooMany):
    @staticmethod
    def key_of(event: Received) -> Iterator[tuple[str, int]]:  # type: ignore[override]  # it gives several
        yield event.sku, 7


class OneTooFew(h.State):
    sku: str
    shelf: str
    count: int = 0

    @staticmethod
    def key_of(event: Received) -> str:
        return event.sku

    def evolve(self, event: Received) -> "OneTooFew":
        return self.but(count=self.count + 1)


@pytest.mark.parametrize("state", [OneTooMany, OneTooManyOfTheRecord, OneTooManyOfSeveral, OneTooFew])
def test_a_computed_key_of_another_length_is_said_and_does_not_fill_the_fields_behind_it(state: type[h.State]) -> None:
    """What was too much became the value of the next field."""
    with h.App("keys", records=[Received], views=[state]).open() as running:
        running.record(Received("nut", 1))
        with pytest.raises(h.Error, match=r"`\w+.key_of` returned \('nut',.*\), and the key is \(sku(, shelf)?\)"):
            running.states(state)
        with pytest.raises(h.Error, match="key_of` returned"):
            running.view(state).rows(since=running.log.head)
