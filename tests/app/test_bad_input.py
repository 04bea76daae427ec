"""Bad input and failing code: a clear error that says what to do, and nothing recorded."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

import happened as h
from happened.testing import spec
from tests.programs import p02_order
from tests.programs.p02_order import Wish

Sku = Annotated[str, h.Tag("sku")]
EAST, WEST = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))


class Received(h.Event):
    sku: Sku
    units: int
    best_before: datetime | None = None


class Sold(h.Event):
    sku: Sku
    units: int
    price: Decimal = Decimal(1)


class Undeclared(h.Event):
    sku: Sku


class Sell(h.Command):
    sku: Sku
    units: int
    price: Decimal = Decimal(1)


class Break(h.Command):
    sku: Sku
    what: str = ""


class Unclaimed(h.Command):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Sold) -> "Stock":
        match event:
            case Received():
                return self.but(units=self.units + event.units)
            case Sold():
                return self.but(units=self.units - event.units)


class Faults:
    """What the decider of `Break` does; a test sets it."""

    def __init__(self) -> None:
        self.fault: Callable[[Break], Any] = lambda _: None


def sell(command: Sell, stock: Stock | None) -> Iterator[Sold]:
    if stock is None or command.units > stock.units:
        raise h.Refused("not enough", left=stock.units if stock else 0)
    yield Sold(command.sku, command.units, command.price)


def made(faults: Faults) -> h.App:
    def breaks(command: Break, stock: Stock) -> Iterator[Sold]:
        yield Sold(command.sku, 1)
        found = faults.fault(command)
        if isinstance(found, h.Event):
            yield found  # type: ignore[misc]  # a wrong event is a mistake that is planted

    return h.App("shop", records=[Received], deciders=[sell, breaks], views=[Stock])


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def running(faults: Faults) -> Iterator[h.Running]:
    """Open a shop that had ten nuts, and on whose log the names of all it records are."""
    with made(faults).open() as opened:
        opened.record(Received("nut", 10), id="r-1")
        opened.dispatch(Break("nut"), id="b-0")
        yield opened


def head(running: h.Running) -> int:
    found: int = running.statistics()["head"]
    return found


def nothing_recorded(running: h.Running, attempt: Callable[[], object], kind: type[Exception], match: str) -> Any:
    """Check that an attempt raises this error, leaves no record and changes no state, and return the error."""
    before, stock, rows = head(running), running.state(Stock, "nut"), running.states(Stock)
    with pytest.raises(kind, match=match) as found:
        attempt()
    assert (head(running), running.state(Stock, "nut"), running.states(Stock)) == (before, stock, rows)
    running.log.verify()
    return found.value


# --- plain data from outside ------------------------------------------------------------------------------------------------


def test_a_command_is_made_of_its_name_and_plain_data() -> None:
    """Text becomes what the fields say; a field with a default may be left out."""
    app = made(Faults())

    assert app.command("Sell", {"sku": "nut", "units": 2, "price": "2.50"}) == Sell("nut", 2, Decimal("2.50"))
    assert app.command("Sell", {"sku": "nut", "units": 2}) == Sell("nut", 2)
    assert app.event("Received", {"sku": "nut", "units": 2, "best_before": "2026-01-01T00:00:00Z"}) == Received(
        "nut", 2, datetime(2026, 1, 1, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("Sel", {"sku": "nut", "units": 1}, r"no decider.*`Sel`.*Break, Sell"),
        ("Unclaimed", {"sku": "nut"}, r"no decider.*`Unclaimed`"),
        ("", {}, r"no decider"),
        ("Sell", {"sku": "nut"}, r"`Sell`.*`units`"),
        ("Sell", {}, r"`Sell`.*`sku`"),
        ("Sell", {"sku": "nut", "units": 1, "colour": "red"}, r"`Sell`.*colour.*price, sku, units"),
        ("Sell", {"sku": "nut", "units": "1"}, r"`Sell`.*`int`.*units"),
        ("Sell", {"sku": "nut", "units": 1.5}, r"`Sell`.*`int`.*units"),
        ("Sell", {"sku": None, "units": 1}, r"`Sell`.*`str`.*sku"),
        ("Sell", {"sku": 7, "units": 1}, r"`Sell`.*`str`.*sku"),
        ("Sell", {"sku": "nut", "units": True}, r"`Sell`.*`int`.*units"),
        ("Sell", {"sku": "nut", "units": 1, "price": "cheap"}, r"`Sell`.*price"),
    ],
)
def test_a_command_that_is_not_as_its_class_says_is_invalid(name: str, data: dict[str, Any], match: str) -> None:
    """The error names the command and the field, and for unknown names those that there are."""
    with pytest.raises(h.Invalid, match=match):
        made(Faults()).command(name, data)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("Sold", {"sku": "nut", "units": 1}, r"records no event.*`Sold`.*Received"),
        ("Received", {"sku": "nut"}, r"`Received`.*`units`"),
        ("Received", {"sku": "nut", "units": 1, "colour": "red"}, r"`Received`.*colour"),
        ("Received", {"sku": "nut", "units": 1, "best_before": "soon"}, r"`Received`.*best_before"),
    ],
)
def test_an_event_that_is_not_as_its_class_says_is_invalid(name: str, data: dict[str, Any], match: str) -> None:
    """What is decided can't be recorded as a fact, also not by its name."""
    with pytest.raises(h.Invalid, match=match):
        made(Faults()).event(name, data)


@pytest.mark.parametrize("lines", [[{"sku": "nut", "units": 1, "colour": "red"}], [{"sku": "nut"}], [{"sku": "nut", "units": "1"}], "nut"])
def test_nested_data_is_as_strict_as_what_is_around_it(lines: Any) -> None:
    """A missing, surplus or mistyped field of a part is no better than one of the command."""
    with pytest.raises(h.Invalid, match=r"PlaceOrder|Wish"):
        p02_order.shop.command("PlaceOrder", {"order": "o-1", "customer": "c-1", "wishes": lines})


def test_nested_data_becomes_its_classes() -> None:
    """Lists of plain data become tuples of values."""
    data = {"order": "o-1", "customer": "c-1", "wishes": [{"sku": "nut", "units": 1}]}

    assert p02_order.shop.command("PlaceOrder", data) == p02_order.PlaceOrder("o-1", "c-1", (Wish("nut", 1),))


# --- objects ----------------------------------------------------------------------------------------------------------------

WRONG: Any = "x"
HALF = "half\ud800"


def wrong(given: Any) -> Any:
    """Return what no type checker would let through."""
    return given


WRONG_COMMANDS: list[tuple[Any, str]] = [
    (Sell("nut", WRONG), r"`Sell`.*`int`.*units"),
    (Sell(7, 1), r"`Sell`.*`str`.*sku"),  # type: ignore[arg-type]  # the mistake that is planted
    (Sell("nut", 1, object()), r"`Sell`"),  # type: ignore[arg-type]  # the mistake that is planted
    (Sell("nut", 1, 0.1), r"`Sell\b.*price"),  # type: ignore[arg-type]  # the mistake that is planted
    (Sell("nut", 1, Decimal("NaN")), r"`Sell.price` is Decimal\('NaN'\), which does not equal"),
    (Sell("nut\ud800", 1), r"`Sell`"),
]


@pytest.mark.parametrize(
    ("command", "match"), WRONG_COMMANDS, ids=["text for units", "number for sku", "object", "float", "no number", "half a letter"]
)
def test_a_command_of_wrong_types_is_not_taken(running: h.Running, command: Any, match: str) -> None:
    """Constructors check nothing, `dispatch` does; and the id stays free."""
    nothing_recorded(running, lambda: running.dispatch(command, id="s-1"), h.Invalid, match)

    assert not running.dispatch(Sell("nut", 1), id="s-1").repeated


@pytest.mark.parametrize(
    ("event", "match"),
    [
        (Received("nut", WRONG), r"`Received`.*`int`.*units"),
        (Received("nut", 1, datetime(2026, 1, 1)), r"`Received`.*best_before.*(zone|tzinfo)"),  # noqa: DTZ001 - the mistake that is planted
        (Received("nut", 1, WRONG), r"`Received`.*best_before"),
    ],
)
def test_a_fact_of_wrong_types_is_not_taken(running: h.Running, event: Any, match: str) -> None:
    """A time without a zone could be any of two dozen moments."""
    nothing_recorded(running, lambda: running.record(event, id="r-2"), h.Invalid, match)

    assert not running.record(Received("nut", 1), id="r-2").repeated


def test_two_classes_of_one_name_inside_a_message_are_named() -> None:
    """As a function makes them that is called twice."""

    def money(currency: str) -> Any:
        class Money(h.Value, tag=currency):
            cents: int

        return Money

    both: Any = msgspec.defstruct("Exchanged", [("gave", money("EUR")), ("got", money("GBP"))], bases=(h.Event,), frozen=True)

    with pytest.raises(h.Invalid, match=r"`Exchanged` holds two classes that are both called `.*money.*Money`"):
        h.App("shop", records=[both]).open()


class Described(h.Event):
    at: Annotated[datetime, msgspec.Meta(description="When it came.")]
    wish: Annotated[Wish, msgspec.Meta(title="a wish")] | None = None
    others: tuple[Annotated[datetime, msgspec.Meta(title="others")], ...] = ()
    until: Annotated[datetime, msgspec.Meta(title="until")] | None = None


def test_a_field_that_a_text_describes_is_checked_all_the_same() -> None:
    """What `msgspec.Meta` says of a field is no type of its own: times, surplus fields of parts and strange classes are found below it."""
    noon, zoneless = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1)  # noqa: DTZ001 - the mistake that is planted
    with h.App("shop", records=[Described]).open() as running:
        for event, path in (
            (Described(zoneless), "at"),
            (Described(noon, None, (noon, zoneless)), r"others\[1\]"),
            (Described(noon, None, (), zoneless), "until"),
        ):
            with pytest.raises(h.Invalid, match=rf"`Described`.*{path}.*zone"):
                running.record(event)
        assert running.log.head == 0
        with pytest.raises(h.Invalid, match=r"no field wish\.more"):
            running.app.event("Described", {"at": "2026-01-01T00:00:00Z", "wish": {"sku": "nut", "units": 1, "more": 1}})

    class Strange(h.Event):
        what: Annotated[Faults, msgspec.Meta(title="strange")]

    with pytest.raises(h.Invalid, match="type `Faults`"):
        h.App("shop", records=[Strange]).open()


@pytest.mark.parametrize("occurred", [datetime(2026, 1, 1), "2026-01-01", 5])  # noqa: DTZ001 - the mistake that is planted
def test_when_it_happened_needs_a_zone(running: h.Running, occurred: Any) -> None:
    """`occurred` is a moment."""
    nothing_recorded(running, lambda: running.record(Received("nut", 1), occurred=occurred), h.Invalid, "zone")


@pytest.mark.parametrize("occurred", [datetime.min.replace(tzinfo=EAST), datetime.max.replace(tzinfo=WEST)])
def test_when_it_happened_is_a_time_that_can_be_read_again(running: h.Running, occurred: datetime) -> None:
    """A record whose time is none in UTC would keep the log from being read."""
    for attempt in (
        lambda: running.record(Received("nut", 1), occurred=occurred),
        lambda: running.record_all([h.Message(Received("nut", 1), occurred=occurred)]),
        lambda: running.log.append(h.Message(Received("nut", 1), occurred=occurred)),
        lambda: list(running.dispatch_all([h.Message(Sell("nut", 1), occurred=occurred)])),
    ):
        nothing_recorded(running, attempt, h.Invalid, "years 1 to 9999 in UTC")

    for kept in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        running.record(Received("nut", 1), occurred=kept)
        [record] = running.log.read(backwards=True, limit=1)
        assert record.occurred == kept


def test_a_command_that_nobody_takes_is_named(running: h.Running) -> None:
    """The error says which table is meant."""
    nothing_recorded(running, lambda: running.dispatch(Unclaimed("nut")), h.Invalid, r"no decider.*`Unclaimed`.*deciders")


def test_events_are_recorded_and_commands_dispatched(running: h.Running) -> None:
    """Each says where the other belongs."""
    event: Any = Received("nut", 1)
    command: Any = Sell("nut", 1)

    nothing_recorded(running, lambda: running.dispatch(event), h.Invalid, r"`Received`.*no command.*`record`")
    nothing_recorded(running, lambda: running.enqueue(event), h.Invalid, r"`Received`.*no command")
    nothing_recorded(running, lambda: running.record(command), h.Invalid, r"`Sell`.*dispatched")
    nothing_recorded(running, lambda: running.dispatch(WRONG), h.Invalid, r"`str`.*no command")
    nothing_recorded(running, lambda: running.record(WRONG), h.Invalid, r"`str`")
    nothing_recorded(running, lambda: running.dispatch(Sell), h.Invalid, r"no command")  # type: ignore[arg-type]  # a class, not a command


def test_what_is_decided_is_no_fact(running: h.Running) -> None:
    """Only the classes in `records` are taken from outside."""
    nothing_recorded(running, lambda: running.record(Sold("nut", 1)), h.Invalid, r"`Sold`.*`records`")


def test_a_view_that_is_not_listed_is_named(running: h.Running) -> None:
    """The error says which table is meant; a key that is not the view's says what the key is."""
    nothing_recorded(running, lambda: running.view(p02_order.Stock), h.Invalid, r"Stock.*views=\[")
    asks: list[Callable[..., object]] = [running.view(Stock).get, running.view(Stock).find, partial(running.state, Stock)]
    for ask in asks:
        nothing_recorded(running, partial(ask, skew="nut"), h.Invalid, r"the key of `Stock` is \(sku\); got skew='nut'")
        nothing_recorded(running, ask, h.Invalid, r"the key of `Stock` is \(sku\); got nothing")
        nothing_recorded(running, partial(ask, "nut", "bolt"), h.Invalid, r"the key of `Stock` is \(sku\); got 'nut', 'bolt'")


def test_a_state_is_asked_for_by_its_class(running: h.Running) -> None:
    """Neither by its name, nor by an instance."""
    asks: list[Callable[[Any], object]] = [running.view, running.state]
    for ask in asks:
        nothing_recorded(running, partial(ask, "Stock"), h.Invalid, r"`'Stock'` is no State: give its class")
        nothing_recorded(running, partial(ask, Stock("nut")), h.Invalid, r"`Stock\(.*\)` is no State: give its class")
        nothing_recorded(running, partial(ask, Sold), h.Invalid, r"`Sold` is no State$")


def test_a_state_whose_fields_all_have_a_default_has_no_key() -> None:
    """Who asks for one of many is told why there is only one."""

    class Sum(h.State):
        sku: str = ""
        units: int = 0

        def evolve(self, event: Received) -> "Sum":
            return self.but(units=self.units + event.units)

    with h.App("sum", records=[Received], views=[Sum]).open() as running:
        asks: list[Callable[..., object]] = [running.view(Sum).get, partial(running.state, Sum)]
        for ask in asks:
            with pytest.raises(h.Invalid, match="`Sum` has no key, since each field has a default; got sku='nut'"):
                ask(sku="nut")


class Visited(h.Event):
    house: Annotated[UUID, h.Tag("house")]
    day: date
    floor: int


class Visits(h.State):
    house: Annotated[UUID, h.Tag("house")]
    day: date
    floor: int
    count: int = 0

    def evolve(self, event: Visited) -> "Visits":
        return self.but(count=self.count + 1)


HOUSE, DAY = UUID(int=1), date(2026, 1, 1)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ((str(HOUSE), DAY, 1), "key `house` of `Visits` is UUID, not '0000"),
        ((HOUSE, "2026-01-01", 1), "key `day` of `Visits` is date, not '2026"),
        ((HOUSE, datetime(2026, 1, 1, tzinfo=UTC), 1), "key `day` of `Visits` is date, not datetime"),
        ((HOUSE, DAY, "1"), "key `floor` of `Visits` is int, not '1'"),
        ((HOUSE, DAY, True), "key `floor` of `Visits` is int, not True"),
        ((HOUSE, DAY, None), "key `floor` of `Visits` is int, not None"),
    ],
)
def test_a_key_of_a_wrong_type_is_said(key: tuple[Any, ...], match: str) -> None:
    """It would never be found: whoever asks with it is told what is wanted, instead of that there is nothing."""
    with h.App("houses", records=[Visited], views=[Visits]).open() as running:
        receipt = running.record(Visited(HOUSE, DAY, 1))
        named = dict(zip(("house", "day", "floor"), key, strict=True))

        assert running.state(Visits, HOUSE, DAY, 1) == running.view(Visits).get(HOUSE, DAY, 1, since=receipt) == Visits(HOUSE, DAY, 1, 1)
        asks: list[Callable[[], object]] = [
            lambda: running.state(Visits, *key),
            lambda: running.state(Visits, **named),
            lambda: running.view(Visits).find(*key),
        ]
        for ask in asks:
            with pytest.raises(h.Invalid, match=match):
                ask()


def test_a_decider_that_asks_by_a_key_of_a_wrong_type_fails() -> None:
    """The world says it, too."""

    def look(command: Sell, world: h.World) -> Iterator[Sold]:
        world.state(Stock, 7)
        yield Sold(command.sku, command.units)

    with h.App("shop", records=[Received], deciders=[look]).open() as running:
        with pytest.raises(h.Invalid, match="key `sku` of `Stock` is str, not 7"):
            running.dispatch(Sell("nut", 1))
        assert head(running) == 0


def test_half_a_character_is_no_key(running: h.Running) -> None:
    """Nor is it an id, nor the value of a query: no record can have it."""
    nothing_recorded(running, lambda: running.state(Stock, HALF), h.Invalid, "`sku`.*half a character")
    nothing_recorded(running, lambda: running.view(Stock).find(HALF), h.Invalid, "`sku`.*half a character")
    nothing_recorded(running, lambda: running.log.find(HALF), h.Invalid, "`id`.*half a character")
    nothing_recorded(running, lambda: list(running.log.read(h.query(sku=HALF))), h.Invalid, "`sku`.*half a character")
    nothing_recorded(running, lambda: list(running.log.read(h.query(names=[HALF]))), h.Invalid, "half a character")


WRONG_QUERIES: list[tuple[Callable[[], Any], str]] = [
    (lambda: h.Item(wrong("Sold")), r"names are a collection of texts, not 'Sold'"),
    (lambda: h.Item(wrong([Sold])), "names are a collection of texts"),
    (lambda: h.Item(tags=wrong({"sku": "nut"})), "tags are a collection of pairs"),
    (lambda: h.Item(tags=wrong(("sku", "nut"))), "tags are a collection of pairs"),
    (lambda: h.Item(tags=wrong([("sku", None)])), "`sku` is None"),
    (lambda: h.Query(wrong(h.Item())), "items are a collection of `Item`"),
    (lambda: h.Query(wrong(["Sold"])), "items are a collection of `Item`"),
    (lambda: h.query(names=wrong("Sold")), "names are a collection"),
    (lambda: h.query(wrong(Sold)), "names are a collection"),
    (lambda: h.query(sku=["nut", "bolt"]), r"`sku` is \['nut', 'bolt'\].*one value"),
]


@pytest.mark.parametrize(("made", "match"), WRONG_QUERIES, ids=range(len(WRONG_QUERIES)))
def test_a_query_that_would_ask_for_nothing_is_none(made: Callable[[], Any], match: str) -> None:
    """As a condition it would hold whatever is there."""
    with pytest.raises(h.Invalid, match=match):
        made()


def test_an_item_takes_lists_for_sets() -> None:
    """And values of any type for their texts, as `query` does."""
    item = h.Item(wrong(["Sold"]), wrong([["sku", "nut"], ("units", 1)]))

    assert item == h.query(names=["Sold"], sku="nut", units=1).items[0]
    assert hash(item) == hash(h.query(names=["Sold"], sku="nut", units=1).items[0])


def test_what_is_no_query_and_no_condition_is_told_what_to_write(running: h.Running) -> None:
    """Nor is a text a list of facts, though it can be gone through."""
    log, fact = running.log, Received("nut", 1)
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: list(log.read(wrong(h.Item()))), r"is no `Query`: write query\("),
        (lambda: list(log.read(limit=-1)), "`limit` is -1"),
        (lambda: list(log.read(limit=wrong("x"))), "`limit` is 'x'"),
        (lambda: log.append(fact, unless=wrong(h.query(names=["Sold"]))), r"is no `Boundary`: write unless=Boundary\("),
        (lambda: log.append(wrong({"sku": "nut"})), "is no fact"),
        (lambda: log.append(wrong("Received")), "is no fact"),
        (lambda: log.append(wrong(None)), "is no fact"),
    ]
    for attempt, match in attempts:
        nothing_recorded(running, attempt, h.Invalid, match)


# --- ids --------------------------------------------------------------------------------------------------------------------


def test_an_empty_id_is_no_id(running: h.Running) -> None:
    """Without an id one is made; an empty one is a mistake."""
    for attempt in (
        lambda: running.dispatch(Sell("nut", 1), id=""),
        lambda: running.enqueue(Sell("nut", 1), id=""),
        lambda: running.record(Received("nut", 1), id=""),
        lambda: running.record_all([h.Message(Received("nut", 1), id="")]),
        lambda: list(running.dispatch_all([h.Message(Sell("nut", 1), id="")])),
    ):
        nothing_recorded(running, attempt, h.Invalid, "`id` must not be empty")


WRONG_ENVELOPES: list[tuple[str, Any, str]] = [
    ("id", 7, r"`id` is text, not 7.*str\(id\)"),
    ("id", UUID(int=7), r"`id` is text, not UUID.*str\(id\)"),
    ("id", HALF, r"`id`.*half a character"),
    ("id", "x" * 1_001, r"`id`.*1,000.*1,001"),
    ("id", "sale#1", r"`id` is 'sale#1'.*a record of the message 'sale'.*'sale-1'"),
    ("id", "sale#1#20", r"`id`.*the message 'sale#1'"),
    ("actor", None, r"`actor` is text, not None.*leave it out"),
    ("actor", 5, r"`actor` is text, not 5.*str\(actor\)"),
    ("actor", HALF, r"`actor`.*half a character"),
    ("actor", "\N{LATIN SMALL LETTER E WITH ACUTE}" * 1_001, r"`actor`.*1,000.*1,001"),
    ("correlation", 5, r"`correlation` is text, not 5"),
    ("correlation", HALF, r"`correlation`.*half a character"),
    ("correlation", "x" * 1_001, r"`correlation`.*1,000"),
    ("causation", 5, r"`causation` is text, not 5"),
    ("causation", HALF, r"`causation`.*half a character"),
    ("causation", "x" * 1_001, r"`causation`.*1,000"),
]


@pytest.mark.parametrize(("field", "value", "match"), WRONG_ENVELOPES)
def test_what_is_said_beside_a_body_is_text(running: h.Running, field: str, value: Any, match: str) -> None:
    """Id, actor, correlation and causation are texts of at most a thousand characters, by whichever way they come in: else nothing is recorded."""
    beside: dict[str, Any] = {field: value}
    command, fact = Sell("nut", 1), Received("nut", 1)
    attempts: list[Callable[[], object]] = [
        lambda: list(running.dispatch_all([h.Message(command, **beside)])),
        lambda: running.dispatch_together([h.Message(command, **beside)]),
        lambda: running.record_all([h.Message(fact, **beside)]),
        lambda: running.log.append(h.Message(fact, **beside)),
        lambda: running.log.append([fact, h.Message(fact, **beside)]),
    ]
    if field != "causation":
        attempts += [
            lambda: running.dispatch(command, **beside),
            lambda: asyncio.run(running.adispatch(command, **beside)),
            lambda: running.enqueue(command, **beside),
            lambda: running.record(fact, **beside),
            lambda: running.log.append(fact, **beside),
        ]

    for attempt in attempts:
        nothing_recorded(running, attempt, h.Invalid, match)


@pytest.mark.parametrize("id", ["#1", "sale#", "sale#one", "sale#1a", "#", "sale#1.5", "1"])
def test_an_id_that_no_part_of_a_message_is_called_is_any_text(running: h.Running, id: str) -> None:
    """It is found by that, and so are its own parts."""
    receipt = running.dispatch(Sell("nut", 1), id=id)

    assert [record.id for record in running.log.read(after=receipt.position - len(receipt.events) - 1)] == [id, f"{id}#1"]
    assert [row.last for row in running.log.find(id)] == [receipt.position]
    assert running.dispatch(Sell("nut", 1), id=id).repeated


def test_letters_of_any_script_are_text(running: h.Running) -> None:
    """A thousand characters are no thousand bytes."""
    longest = "\N{CJK UNIFIED IDEOGRAPH-4E8B}" * 1_000

    receipt = running.dispatch(Sell("nut", 1), id=longest, actor=longest, correlation=longest)

    assert running.dispatch(Sell("nut", 1), id=longest).position == receipt.position
    assert next(running.log.read(backwards=True)).actor == longest


WRONG_FACTS: list[tuple[dict[str, Any], str]] = [
    ({"name": 5}, r"`name` is text, not 5"),
    ({"name": ""}, r"`name` must not be empty"),
    ({"name": HALF}, r"`name`.*half a character"),
    ({"version": "x"}, r"version of `Seen` is 'x'"),
    ({"version": 0}, r"version of `Seen` is 0"),
    ({"version": True}, r"version of `Seen` is True"),
    ({"version": 1 << 70}, r"version of `Seen`"),
    ({"body": None}, r"body of `Seen` is None"),
    ({"body": [1]}, r"body of `Seen` is \[1\]"),
    ({"body": {"at": object()}}, r"`Seen` is no JSON data"),
    ({"body": {1: 2}}, r"`Seen` is no JSON data"),
    ({"body": {"at": HALF}}, r"`Seen` is no JSON data"),
    ({"body": {"at": [{"units": float("nan")}]}}, r"`Seen` is no JSON data: JSON has no number for nan"),
    ({"body": {"at": (None, float("-inf"))}}, r"`Seen` is no JSON data: JSON has no number for -inf"),
    ({"tags": "sku"}, r"tags of `Seen` are 'sku'.*pairs"),
    ({"tags": 5}, r"tags of `Seen` are 5.*pairs"),
    ({"tags": (("sku",),)}, r"tags of `Seen`.*pairs"),
    ({"tags": ((5, "nut"),)}, r"tags of `Seen`.*pairs"),
    ({"tags": (("", "nut"),)}, r"`tag` must not be empty"),
    ({"tags": (("s\x1fku", "nut"),)}, r"control character"),
    ({"tags": (("sku", HALF),)}, r"`sku`.*half a character"),
    ({"tags": (("sku", None),)}, r"`sku` is None"),
    ({"tags": (("sku", ("nut", "bolt")),)}, r"`sku` is \('nut', 'bolt'\).*one value"),
    ({"tags": tuple(("sku", f"{number:07}") for number in range(70_000))}, r"`Seen` with its tags.*outside"),
]


@pytest.mark.parametrize(("wrong", "match"), WRONG_FACTS)
def test_a_fact_without_a_class_is_checked_all_the_same(running: h.Running, wrong: dict[str, Any], match: str) -> None:
    """Nothing but this check stands between a tool and a log that can't be read any more."""
    given: dict[str, Any] = {"name": "Seen", "body": {}, **wrong}
    fact = h.Loose(**given)

    nothing_recorded(running, lambda: running.log.append(fact), h.Invalid, match)


@h.named("Arrived", version=2)
class Arrived(h.Event):
    sku: Sku
    units: int


def arrived(data: h.Data) -> h.Data:
    """Say how many, as the next version does."""
    return {**data, "units": 1}


HAVE_A_CLASS = [
    (h.Loose("Received", {"sku": "nut", "units": 5}, (("sku", "nut"),)), "`Received` has a class here.*instance of `Received`"),
    (h.Loose("Arrived", {"sku": "nut"}, (("sku", "nut"),)), "`Arrived` version 1 is read by upcasts here.*open_log"),
]


@pytest.mark.parametrize(("fact", "match"), HAVE_A_CLASS, ids=["class", "upcast"])
def test_a_fact_that_has_a_class_here_is_recorded_as_that(fact: h.Loose, match: str) -> None:
    """Whoever reads the log hears it as an event; the states that this process decides on would not have heard it."""
    app = h.App("shop", records=[Received, Arrived], upcasts=[h.Upcast("Arrived", 1, arrived)])
    with app.open() as running:
        nothing_recorded(running, lambda: running.log.append(fact), h.Invalid, match)
        nothing_recorded(running, lambda: running.log.append([Received("nut", 1), h.Message(fact)]), h.Invalid, match)


def test_a_fact_by_hand_keeps_what_its_message_says() -> None:
    """One message's envelope is that of its row: it is read again as it was given, and its id is known."""
    message = h.Message(Received("nut", 1), "r-2", "ann", datetime(2026, 1, 1, tzinfo=UTC), "c-1", "before")
    with made(Faults()).open() as running:
        first = running.log.append(message)

        [record] = running.log.read(h.query(names=["Received"]))
        assert (record.id, record.actor, record.correlation, record.causation) == ("r-2", "ann", "c-1", "before")
        assert record.occurred == datetime(2026, 1, 1, tzinfo=UTC)
        assert running.log.append(message).position == first.position
        assert running.log.append(Received("nut", 1), id="r-2").repeated


def test_facts_by_hand_share_who_and_why(running: h.Running) -> None:
    """A row says actor, correlation and causation once: facts that differ in one of them are not recorded together."""
    one, other = h.Message(Received("nut", 1), "m-1", "ann"), h.Message(Received("nut", 2), "m-2", "ann")
    for facts, beside, match in (
        ([one, h.Message(Received("nut", 2), actor="bob")], {}, "one actor, not 'ann', 'bob'"),
        ([one, Received("nut", 2)], {}, "one actor, not 'ann', none"),
        ([one], {"actor": "bob"}, "one actor"),
        ([one], {"id": "m-3"}, "one id"),
        ([one, h.Message(Received("nut", 2), actor="ann", correlation="c")], {}, "one correlation"),
        ([one, h.Message(Received("nut", 2), actor="ann", causation="c")], {}, "one causation"),
    ):
        nothing_recorded(running, lambda facts=facts, beside=beside: running.log.append(facts, **beside), h.Invalid, match)  # type: ignore[misc]  # bound for this turn

    running.log.append([one, other, Received("nut", 3)], actor="ann")

    last = list(running.log.read(backwards=True, limit=3))[::-1]
    assert [record.actor for record in last] == ["ann"] * 3
    assert [record.id for record in last[:2]] == ["m-1", "m-2"]


def test_a_known_id_with_another_body_is_reused(running: h.Running) -> None:
    """Every intention has its own id, whatever kind it is of."""
    running.dispatch(Sell("nut", 1), id="s-1")

    nothing_recorded(running, lambda: running.dispatch(Sell("nut", 2), id="s-1"), h.IdReused, "`s-1`.*Sell.*new id")
    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="s-1"), h.IdReused, "`s-1`")
    nothing_recorded(running, lambda: running.record(Received("nut", 1), id="s-1"), h.IdReused, "`s-1`")
    nothing_recorded(running, lambda: running.record(Received("nut", 11), id="r-1"), h.IdReused, "`r-1`")
    nothing_recorded(running, lambda: running.dispatch(Sell("nut", 1), id="r-1"), h.IdReused, "`r-1`")
    assert running.dispatch(Sell("nut", 1), id="s-1").repeated
    assert running.record(Received("nut", 10), id="r-1").repeated


def test_a_refused_id_with_another_body_is_reused(running: h.Running) -> None:
    """A refusal uses the id, too."""
    with pytest.raises(h.Refused):
        running.dispatch(Sell("nut", 1000), id="s-1")

    nothing_recorded(running, lambda: running.dispatch(Sell("nut", 1), id="s-1"), h.IdReused, "`s-1`")


def test_an_id_is_known_to_whoever_opens_the_log_next(tmp_path: Path, faults: Faults) -> None:
    """Ids are judged for the life of the log."""
    log = f"sqlite:///{tmp_path}/shop.db"
    with made(faults).open(log) as running:
        running.record(Received("nut", 10))
        first = running.dispatch(Sell("nut", 1), id="s-1")

    with made(faults).open(log) as running:
        with pytest.raises(h.IdReused, match="s-1"):
            running.dispatch(Sell("nut", 2), id="s-1")
        again = running.dispatch(Sell("nut", 1), id="s-1")

    assert (str(again), again.repeated) == (str(first), True)


# --- code that fails --------------------------------------------------------------------------------------------------------


def samples(running: h.Running) -> dict[tuple[str, str], Any]:
    return {(sample["handler"], sample["outcome"]): sample for sample in running.statistics()["executions"]}


def raise_value_error(_: Break) -> None:
    raise ValueError("the code is wrong")


def test_what_a_decider_raises_is_raised_and_nothing_is_recorded(running: h.Running, faults: Faults) -> None:
    """What it had yielded is forgotten, the id stays free, and the failure is counted with its traceback."""
    faults.fault = raise_value_error

    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), ValueError, "the code is wrong")
    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), ValueError, "the code is wrong")
    failed = samples(running)["breaks", "failed"]
    faults.fault = lambda _: None
    receipt = running.dispatch(Break("nut"), id="b-1")

    assert failed["count"] == 2
    assert "b-1" in failed["latest"]
    assert "the code is wrong" in failed["latest"]
    assert (receipt.repeated, receipt.events) == (False, (Sold("nut", 1),))


def test_a_command_that_fails_first_of_all_leaves_an_empty_log(faults: Faults) -> None:
    """Names and wiring are recorded with the first command that is, not with one that fails."""
    faults.fault = raise_value_error
    with made(faults).open() as running:
        nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), ValueError, "the code is wrong")


def test_a_command_that_fails_takes_no_other_with_it(running: h.Running, faults: Faults) -> None:
    """Commands that share a commit share no failure."""
    faults.fault = raise_value_error

    async def both() -> list[Any]:
        attempts = [running.adispatch(command) for command in (Sell("nut", 1), Break("nut"), Sell("nut", 2))]
        return await asyncio.gather(*attempts, return_exceptions=True)

    first, failed, second = asyncio.run(both())

    assert (first.events, second.events) == ((Sold("nut", 1),), (Sold("nut", 2),))
    assert isinstance(failed, ValueError)
    assert running.state(Stock, "nut") == Stock("nut", 6)


def test_an_event_that_the_decider_did_not_declare_is_not_recorded(running: h.Running, faults: Faults) -> None:
    """The error names the decider and the event; the id stays free."""
    faults.fault = lambda command: Undeclared(command.sku)

    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "breaks.*`Undeclared`")
    faults.fault = lambda command: Received(command.sku, 1)
    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "breaks.*`Received`")
    faults.fault = lambda _: None
    assert not running.dispatch(Break("nut"), id="b-1").repeated


def test_an_event_of_wrong_types_is_not_recorded(running: h.Running, faults: Faults) -> None:
    """What is yielded is checked as what comes from outside is, and it is the decider's failure."""
    faults.fault = lambda command: Sold(command.sku, WRONG)

    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "`Sold`.*`int`.*units")
    assert samples(running)["breaks", "failed"]["count"] == 1
    faults.fault = lambda _: None
    assert not running.dispatch(Break("nut"), id="b-1").repeated


def test_a_decider_can_not_dispatch(running: h.Running, faults: Faults) -> None:
    """It would wait for itself; the error says what to do instead."""
    other = made(Faults()).open()

    faults.fault = lambda command: running.dispatch(Sell(command.sku, 1))
    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "inside a decider.*yield")
    faults.fault = lambda command: running.record(Received(command.sku, 1))
    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "inside a decider.*yield")
    faults.fault = lambda command: running.enqueue(Sell(command.sku, 1))
    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "inside a decider.*yield")
    faults.fault = lambda command: other.record(Received(command.sku, 1))
    with other:
        nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "inside a decider.*yield")
        assert head(other) == 0


def test_a_decider_can_not_take_in_what_others_have_recorded(tmp_path: Path, faults: Faults) -> None:
    """It has the lock, and all of it; taking it once more would end the transaction in which others are decided with it."""
    with made(faults).open(f"sqlite:///{tmp_path}/log.db") as running:
        running.record(Received("nut", 10))
        faults.fault = lambda _: running.catch_up()

        async def at_once() -> list[Any]:
            both = running.adispatch(Break("nut"), id="b-1"), running.adispatch(Sell("nut", 1), id="s-1")
            return list(await asyncio.gather(*both, return_exceptions=True))

        broken, sold = asyncio.run(at_once())

        assert isinstance(broken, h.Invalid)
        assert "inside a decider" in str(broken)
        assert sold.events == (Sold("nut", 1),)
        assert running.log.find("b-1") == []
        running.log.verify()


class Recorder:
    """Tries to record, in every way, from wherever it is called; keeps what it heard."""

    def __init__(self) -> None:
        self.running: h.Running | None = None
        self.heard: list[str] = []

    def __call__(self) -> None:
        running = self.running
        if running is None:
            return
        attempts: list[Callable[[], object]] = [
            lambda: running.dispatch(Sell("nut", 1), wait_seconds_max=0.1),
            lambda: list(running.dispatch_all([Sell("nut", 1)])),
            lambda: running.dispatch_together([Sell("nut", 1)]),
            lambda: running.enqueue(Sell("nut", 1), wait_seconds_max=0.1),
            lambda: running.record(Received("nut", 1), wait_seconds_max=0.1),
            lambda: running.record_all([Received("nut", 1)]),
            lambda: running.log.append(Received("nut", 1), wait_seconds_max=0.1),
            lambda: asyncio.run(running.adispatch(Sell("nut", 1), wait_seconds_max=0.1)),
            lambda: asyncio.run(running.arecord(Received("nut", 1), wait_seconds_max=0.1)),
        ]
        for attempt in attempts:
            try:
                attempt()
                self.heard.append("nothing")
            except Exception as error:  # noqa: BLE001 - whatever it is, the test looks
                self.heard.append(type(error).__name__)


class Watched(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Sold) -> "Watched":
        recorder()
        return self.but(units=self.units + event.units)


class Inquire(h.Command):
    sku: Sku


recorder = Recorder()


def weather(sku: str) -> str:
    """Stand for the outside."""
    return sku


def inquire(command: Inquire, watched: Watched, world: h.World) -> Iterator[Sold]:
    world.ask(weather, command.sku)
    recorder()
    if watched.units:
        raise ValueError("run twice: outside the lock, and under it")
    yield Sold(command.sku, 1)


@pytest.mark.parametrize("where", ["decider that has asked", "load", "states", "what others recorded", "batch"])
def test_nothing_is_recorded_from_inside_evolve_or_a_decider_that_has_asked(tmp_path: Path, where: str) -> None:
    """Wherever the code of the app is run, each way to record is `Invalid` at once, and the log stays as it was."""
    recorder.running = None
    recorder.heard = []
    app = h.App("shop", records=[Received], deciders=[inquire, sell], gateways=[weather])
    url = f"sqlite:///{tmp_path}/log.db"
    with app.open(url, run=False) as first:
        first.record(Received("nut", 10))
        with app.open(url, run=False) as running:
            if where not in ("load", "states"):
                running.state(Watched, "nut")
            if where == "what others recorded":
                first.record(Received("nut", 10))
            before = head(running)
            recorder.running = running
            match where:
                case "decider that has asked":
                    with pytest.raises(ValueError, match="twice"):
                        running.dispatch(Inquire("nut"), id="x")
                case "load":
                    running.state(Watched, "nut")
                case "states":
                    running.states(Watched)
                case "what others recorded":
                    running.catch_up()
                case _:
                    before += 1
                    running.record(Received("nut", 10), wait_seconds_max=5)
            recorder.running = None

            assert set(recorder.heard) == {"Invalid"}
            assert len(recorder.heard) == (18 if where == "decider that has asked" else 9)
            assert head(running) == before
            running.log.verify()


@h.named("Shelved", version=2)
class Shelved(h.Event):
    sku: Sku
    units: int


class Shelf(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Shelved) -> "Shelf":
        return self.but(units=self.units + event.units)


def lifted(data: h.Data) -> h.Data:
    """Say how many, as the next version does."""
    recorder()
    return {**data, "units": 1}


def split(data: h.Data) -> Iterator[tuple[str, h.Data]]:
    """Come to one of them, by and by."""
    recorder()
    yield "Shelved", {**data, "units": 1}


@pytest.mark.parametrize("where", ["view", "read", "what others recorded"])
@pytest.mark.parametrize("name", ["Shelved", "Pallet"])
def test_nothing_is_recorded_from_inside_an_upcast(tmp_path: Path, where: str, name: str) -> None:
    """Whoever reads what was recorded in an older version, each way to record is `Invalid` at once, and the log stays as it was."""
    recorder.running = None
    recorder.heard = []
    upcasts = [h.Upcast("Shelved", 1, lifted), h.Upcast("Pallet", 1, split)]
    app = h.App("shop", records=[Received, Shelved], deciders=[sell], views=[Shelf], upcasts=upcasts)
    url = f"sqlite:///{tmp_path}/log.db"
    with app.open(url, run=where == "view") as running, h.open_log(url) as first:
        running.state(Shelf, "bolt")
        recorder.running = running
        before = first.append(h.Loose(name, {"sku": "nut"}, (("sku", "nut"),)))
        match where:
            case "view":
                assert running.view(Shelf).get("nut", since=before) == Shelf("nut", 1)
            case "read":
                assert [record.name for record in running.log.read(h.query(sku="nut"))] == ["Shelved"]
            case _:
                running.catch_up()
                assert running.state(Shelf, "nut") == Shelf("nut", 1)
        recorder.running = None

        assert set(recorder.heard) == {"Invalid"}
        assert running.log.head == before.position
        running.log.verify()


def test_nothing_is_recorded_from_inside_the_evolve_of_a_view(tmp_path: Path) -> None:
    """The thread that follows the log is no other: each way to record is `Invalid` at once."""
    recorder.running = None
    recorder.heard = []
    app = h.App("shop", records=[Received], deciders=[sell], views=[Watched])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        recorder.running = running
        receipt = running.record(Received("nut", 10))
        assert running.view(Watched).get("nut", since=receipt) == Watched("nut", 10)
        recorder.running = None

        assert set(recorder.heard) == {"Invalid"}
        assert running.log.head == receipt.position


def test_a_refusal_after_a_yield_withdraws_what_was_yielded(running: h.Running, faults: Faults) -> None:
    """A refused command is recorded, with no event."""

    def refuse(_: Break) -> None:
        raise h.Refused("no", why="rule", missing=Decimal("0.10"))

    faults.fault = refuse
    before, stock = head(running), running.state(Stock, "nut")

    with pytest.raises(h.Refused, match=r"^no$") as refused:
        running.dispatch(Break("nut"), id="b-1")

    assert refused.value.facts["why"] == "rule"
    assert head(running) > before
    assert running.state(Stock, "nut") == stock


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "refusal",
    [
        h.Refused("no", lock=threading.Lock()),
        h.Refused("no", sku=HALF),
        h.Refused(HALF),
        h.Refused("no", way=CIRCLE),
        h.Refused("no", left=float("inf")),
    ],
    ids=["no data", "half a character", "half a character in its text", "holds itself", "no number"],
)
def test_what_no_log_can_hold_of_a_refusal_is_the_deciders_failure(running: h.Running, faults: Faults, refusal: h.Refused) -> None:
    """A refusal is recorded with its text and facts, so they must be data; the id stays free."""

    def refuse(_: Break) -> None:
        raise refusal

    faults.fault = refuse

    nothing_recorded(running, lambda: running.dispatch(Break("nut"), id="b-1"), h.Invalid, "refused with a text or facts that can't be")
    faults.fault = lambda _: None
    assert not running.dispatch(Break("nut"), id="b-1").repeated


# --- limits -----------------------------------------------------------------------------------------------------------------

MEBIBYTE = 1 << 20


def test_a_record_has_a_limit(running: h.Running, faults: Faults) -> None:
    """What is larger than a mebibyte belongs elsewhere, whether it is asked, recorded or decided."""
    large = "x" * MEBIBYTE
    faults.fault = lambda command: Sold(large, 1) if command.what else None

    nothing_recorded(running, lambda: running.dispatch(Break("nut", large), id="b-1"), h.Invalid, "1,048,576.*outside")
    nothing_recorded(running, lambda: running.record(Received(large, 1), id="r-2"), h.Invalid, "1,048,576.*outside")
    nothing_recorded(running, lambda: running.dispatch(Break("nut", "large"), id="b-1"), h.Invalid, "1,048,576.*outside")
    assert not running.dispatch(Break("nut"), id="b-1").repeated
    assert not running.record(Received("nut", 1), id="r-2").repeated


def test_a_record_just_below_the_limit_is_kept(running: h.Running) -> None:
    """The limit is one of bytes as they are recorded."""
    receipt = running.record(Received("x" * (MEBIBYTE - 100), 1))

    assert len(receipt.events) == 1


def test_a_command_has_a_limit(running: h.Running) -> None:
    """Ten thousand records are one command's most."""

    class Many(h.Command):
        count: int

    def many(command: Many) -> Iterator[Sold]:
        for number in range(command.count):
            yield Sold(f"s-{number}", 1)

    with h.App("many", deciders=[many]).open() as opened:
        assert len(opened.dispatch(Many(9_000)).events) == 9_000
        before = head(opened)
        with pytest.raises(h.Invalid, match=r"10,000 records.*split"):
            opened.dispatch(Many(10_001))
        assert head(opened) == before


# --- bulk -------------------------------------------------------------------------------------------------------------------


def test_all_or_none_is_none_when_one_fails(running: h.Running, faults: Faults) -> None:
    """What is dispatched together is recorded together: a refusal or a failure of one is that of all."""
    faults.fault = raise_value_error

    nothing_recorded(running, lambda: running.dispatch_together([Sell("nut", 1), Sell("nut", 100)]), h.Refused, "not enough")
    nothing_recorded(running, lambda: running.dispatch_together([Sell("nut", 1), Break("nut")]), ValueError, "the code is wrong")
    nothing_recorded(running, lambda: running.dispatch_together([Sell("nut", 1), Sell("nut", WRONG)]), h.Invalid, "units")


def test_a_rehearsal_records_nothing(running: h.Running) -> None:
    """`would` says what would be decided, or refused."""
    before = head(running)

    would = running.would(Sell("nut", 1))

    assert would == (Sold("nut", 1),)
    nothing_recorded(running, lambda: running.would(Sell("nut", 100)), h.Refused, "not enough")
    assert (head(running), running.state(Stock, "nut")) == (before, Stock("nut", 9))


@pytest.mark.parametrize("bad", [Sell("nut", "many"), Unclaimed("nut"), h.Message(Sell("nut", 1), id="")])  # type: ignore[arg-type]  # a planted mistake
def test_what_stands_before_a_bad_message_is_recorded_and_said(running: h.Running, bad: Any) -> None:
    """The first two of three are good: their receipts come, then the error, and nothing of the third is recorded."""
    heard: list[h.Receipt | h.Refused] = []
    with pytest.raises(h.Invalid):
        heard.extend(running.dispatch_all([h.Message(Sell("nut", 1), id="s-1"), h.Message(Received("nut", 5), id="r-2"), bad]))
    assert [str(receipt) for receipt in heard] == [
        str(running.log.receipt_of(running.log.find(name)[0], repeated=False)) for name in ("s-1", "r-2")
    ]

    before = head(running)
    wrong = Received("nut", "many")  # type: ignore[arg-type]  # a planted mistake
    facts: list[h.Event | h.Message] = [h.Message(Received("nut", 1), id="r-3"), h.Message(Received("nut", 2), id="r-4"), wrong]
    with pytest.raises(h.Invalid):
        running.record_all(facts)
    assert [len(running.log.find(name)) for name in ("r-3", "r-4")] == [1, 1]
    assert head(running) == before + 2
    running.log.verify()


def test_a_closed_log_takes_nothing(faults: Faults) -> None:
    """The error says that it is closed."""
    running = made(faults).open()
    running.close()

    with pytest.raises(h.Closed, match="closed"):
        running.dispatch(Sell("nut", 1))
    with pytest.raises(h.Closed, match="closed"):
        running.record(Received("nut", 1))


@pytest.mark.parametrize("url", ["shop.db", "sqlite:shop.db", "mysql://somewhere", ""])
def test_an_address_that_names_no_log_is_invalid(url: str) -> None:
    """The error says how an address looks."""
    with pytest.raises(h.Invalid, match="sqlite:///path"):
        made(Faults()).open(url)


# --- what is given in place of a message -----------------------------------------------------------------------------------


def test_what_is_no_single_command_is_told_what_to_call() -> None:
    """A class, a list, a Message and plain data each have their own way in."""
    with made(Faults()).open() as running:
        dispatch: Any = running.dispatch

        for given, words in (
            (Sell, r"the class `Sell`.*`Sell\(\.\.\.\)`"),
            ([Sell("nut", 1)], r"dispatch_all\(\[\.\.\.\]\)"),
            (h.Message(Sell("nut", 1)), r"dispatch\(body, id="),
            ({"sku": "nut"}, r"App\.command\("),
            (None, "`record`"),
        ):
            with pytest.raises(h.Invalid, match=words):
                dispatch(given)
        assert running.statistics()["head"] == 0


def test_what_is_no_single_fact_is_told_what_to_call() -> None:
    """As with commands, in the words of facts."""
    with made(Faults()).open() as running:
        record: Any = running.record

        for given, words in (
            (Received, r"the class `Received`.*`Received\(\.\.\.\)`"),
            ([Received("nut", 1)], r"record_all\(\[\.\.\.\]\)"),
            (h.Message(Received("nut", 1)), r"record\(body, id="),
            ({"sku": "nut"}, r"App\.event\("),
            (Sell("nut", 1), "dispatched"),
        ):
            with pytest.raises(h.Invalid, match=words):
                record(given)
        assert running.statistics()["head"] == 0


def test_one_message_where_many_are_taken_is_told_to_stand_in_a_list() -> None:
    """Nothing is recorded of it."""
    with made(Faults()).open() as running:
        several: Any = running

        with pytest.raises(h.Invalid, match=r"record_all\(\[Received\("):
            several.record_all(Received("nut", 1))
        with pytest.raises(h.Invalid, match=r"dispatch_all\(\[Sell\("):
            list(several.dispatch_all(Sell("nut", 1)))
        with pytest.raises(h.Invalid, match=r"dispatch_together\(\[Sell\("):
            several.dispatch_together(Sell("nut", 1))
        assert running.statistics()["head"] == 0


def test_a_decider_that_forgets_to_yield_is_told() -> None:
    """Nothing would ever be decided by it: neither `None` nor a bare event is a list of events. An empty list is."""
    answers: list[Any] = [None, Sold("nut", 1), [], [Sold("nut", 1)]]

    def forgets(command: Sell) -> Iterator[Sold]:
        answer: Iterator[Sold] = answers[command.units]
        return answer

    with h.App("forgets", deciders=[forgets]).open() as running:
        with pytest.raises(h.Invalid, match="forgets` returned None: yield its events, or return an empty list"):
            running.dispatch(Sell("nut", 0))
        with pytest.raises(h.Invalid, match="forgets` returned a `Sold`: yield it"):
            running.dispatch(Sell("nut", 1))
        assert running.statistics()["head"] == 0

        assert running.dispatch(Sell("nut", 2)).events == ()
        assert running.dispatch(Sell("nut", 3)).events == (Sold("nut", 1),)


def test_each_question_is_a_tuple_of_arguments() -> None:
    """A text would be taken apart into letters, each an argument."""

    def double(units: int) -> int:
        return 2 * units

    asked: list[Any] = [[1, 2], ["ab"], 5, [(1,), (2,)]]

    def asks(command: Sell, world: h.World) -> Iterator[Sold]:
        yield Sold(command.sku, sum(world.ask_all(double, asked[command.units])))

    with h.App("asks", deciders=[asks], gateways=[double]).open() as running:
        for place, words in enumerate(
            (r"tuple of arguments: `\(1,\)`", r"tuple of arguments: `\('ab',\)`", "many questions.*`ask` takes one")
        ):
            with pytest.raises(h.Invalid, match=words):
                running.dispatch(Sell("nut", place))
        assert running.statistics()["head"] == 0

        assert running.dispatch(Sell("nut", 3)).events == (Sold("nut", 6),)


def test_a_refusal_has_the_same_facts_whenever_it_is_heard() -> None:
    """They are plain data from the first time on, so that code which reads them does not depend on who was first."""

    def refuses(command: Sell) -> Iterator[Sold]:
        yield Sold("nut", 1)
        raise h.Refused("too dear", price=Decimal("1.50"), since=datetime(2026, 1, 1, tzinfo=UTC), skus=("nut", "bolt"))

    app = h.App("refuses", deciders=[refuses])
    heard: list[dict[str, Any]] = []
    with app.open() as running:
        for _ in range(2):
            with pytest.raises(h.Refused) as refused:
                running.dispatch(Sell("nut", 1), id="sell-1")
            heard.append(refused.value.facts)

    assert heard == [{"price": "1.50", "since": "2026-01-01T00:00:00Z", "skus": ["nut", "bolt"]}] * 2
    spec(app).when(Sell("nut", 1)).then_refused("too dear", price=Decimal("1.50"), skus=("nut", "bolt"))
    spec(app).when(Sell("nut", 1)).then_refused("too dear", price="1.50")
