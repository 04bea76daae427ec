"""What is wired wrongly is said when `App(...)` is made: which name is meant, and what to do."""

import dataclasses
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, NewType, TypedDict
from uuid import UUID

import msgspec
import pytest

import happened as h
from tests.app import future

Sku = Annotated[str, h.Tag("sku")]
OrderNo = Annotated[str, h.Tag("order")]
CustomerNo = Annotated[str, h.Tag("customer")]


class Sold(h.Event):
    sku: Sku
    units: int


class Counted(h.Event):
    units: int


class Moved(h.Event):
    source: Sku
    target: Sku


class Sell(h.Command):
    sku: Sku
    units: int


class Move(h.Command):
    source: Sku
    target: Sku


class Count(h.Command):
    units: int


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Sold) -> "Stock":
        return self.but(units=self.units - event.units)


def sell(command: Sell, stock: Stock) -> Iterator[Sold]:
    yield Sold(command.sku, command.units)


def refused(*words: str, **tables: Any) -> h.Invalid:
    """Make an app of these tables, and check that it is refused with each of these words."""
    with pytest.raises(h.Invalid) as found:
        h.App("wrong", **tables)
    missing = [word for word in words if not re.search(word, str(found.value))]
    assert not missing, f"{missing} not said in: {found.value}"
    return found.value


def test_a_table_that_no_app_has_is_said_with_those_that_there_are() -> None:
    tables: Any = {"view": [], "record": []}

    with pytest.raises(h.Invalid, match=r"`App\(view=\.\.\.\)`: an app has `records`, .*`views`, .*`store`$") as error:
        h.App("shop", **tables)

    assert error.value.facts["unknown"] == ["view", "record"]


def test_what_is_wired_rightly_is_taken() -> None:
    """The tables that the others bend are right by themselves."""
    app = h.App("right", deciders=[sell], views=[Stock])

    assert app.topology()["deciders"][0]["yields"] == ["Sold"]


# --- deciders ---------------------------------------------------------------------------------------------------------------


def test_two_deciders_for_one_command_are_named() -> None:
    """A command is decided once."""

    def sell_dear(command: Sell) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("`Sell`", "`sell`", "sell_dear", deciders=[sell, sell_dear])


def test_a_decider_must_say_what_it_yields() -> None:
    """A bare `Iterator` says nothing about the events."""

    def bare(command: Sell) -> Iterator:  # type: ignore[type-arg]  # the mistake that is planted
        yield Sold(command.sku, command.units)

    def silent(command: Sell):  # type: ignore[no-untyped-def]  # the mistake that is planted
        yield Sold(command.sku, command.units)

    refused("bare", "yields", "Iterator", deciders=[bare])
    refused("silent", "annotate", deciders=[silent])


def test_a_decider_that_yields_no_event_is_named() -> None:
    """What is decided is events: neither commands nor plain data, nor whatever event there is."""

    def again(command: Sell) -> Iterator[Sell]:
        yield command

    def plain(command: Sell) -> Iterator[int]:
        yield 1

    def whatever(command: Sell) -> Iterator[h.Event]:
        yield Sold(command.sku, command.units)

    refused("again", "Sell", "no event", deciders=[again])
    refused("plain", "int", "no event", deciders=[plain])
    refused("whatever", "Event", "name the events", deciders=[whatever])


def test_a_union_of_event_and_something_else_is_no_union_of_events() -> None:
    """Every member counts."""

    def mixed(command: Sell) -> Iterator[Sold | Sell]:
        yield command

    refused("mixed", "Sell", "no event", deciders=[mixed])


def test_a_decider_takes_a_command_first() -> None:
    """A function of events is listed elsewhere, and one without parameters nowhere."""

    def react(event: Sold) -> Iterator[Counted]:
        yield Counted(event.units)

    def nothing() -> Iterator[Counted]:
        yield Counted(1)

    def untyped(command) -> Iterator[Counted]:  # type: ignore[no-untyped-def]  # the mistake that is planted
        yield Counted(1)

    def all_of_them(command: h.Command) -> Iterator[Counted]:
        yield Counted(1)

    refused("react", "command, not `Sold`", deciders=[react])
    refused("nothing", "first parameter", "command", deciders=[nothing])
    refused("untyped", "`command`", "annotation", deciders=[untyped])
    refused("all_of_them", "command", deciders=[all_of_them])


def test_a_parameter_of_no_known_kind_is_named() -> None:
    """A decider may ask for states and the `World`."""

    def limited(command: Sell, limit: int) -> Iterator[Sold]:
        yield Sold(command.sku, limit)

    def recorded(command: Sell, record: h.Recorded) -> Iterator[Sold]:
        yield Sold(command.sku, 1)

    refused("`limit`", "limited", "states", deciders=[limited])
    refused("recorded", "Recorded", "World", deciders=[recorded])


def test_what_partial_has_filled_needs_no_source() -> None:
    """A limit given by `partial` is no mistake."""

    def limited(command: Sell, stock: Stock, limit: int) -> Iterator[Sold]:
        yield Sold(command.sku, limit)

    app = h.App("right", deciders=[functools.partial(limited, limit=1)])

    with app.open() as running:
        assert running.dispatch(Sell("nut", 5)).events == (Sold("nut", 1),)


def test_a_decider_is_a_plain_function() -> None:
    """What waits for the outside is a gateway; a class and a number are no functions."""

    async def later(command: Sell) -> Iterator[Sold]:
        return iter(())

    async def stepwise(command: Sell) -> AsyncIterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("later", "async", "gateway", deciders=[later])
    refused("stepwise", "async", "gateway", deciders=[stepwise])
    refused("Sold", "no function", deciders=[Sold])
    refused("5", "no function", deciders=[5])


def test_one_entry_where_many_are_taken_is_told_to_stand_in_a_list() -> None:
    """A text, too, would be taken apart into letters."""

    def price(sku: str) -> Decimal:
        return Decimal(1)

    refused(re.escape("deciders=[sell]"), deciders=sell)
    refused(re.escape("records=[Sold]"), records=Sold)
    refused(re.escape("views=[Stock]"), views=Stock)
    refused(re.escape("gateways=["), "price", gateways=price)
    refused(re.escape("ignores=['Old']"), ignores="Old")


def test_a_name_is_a_text() -> None:
    """The log knows things by it: neither a number nor nothing will do."""
    wrong: Any = h.named
    app: Any = h.App

    for given in ({"name": 5}, {"name": ""}, {"name": "Sold", "version": 0}, {"name": "Sold", "version": "2"}):
        with pytest.raises(h.Invalid, match="a name is a text"):
            wrong(**given)
    for name in ("", 5):
        with pytest.raises(h.Invalid, match="needs a name"):
            app(name)


# --- keys of parameters -----------------------------------------------------------------------------------------------------


def test_a_parameter_without_a_source_for_its_key_is_named() -> None:
    """Neither the command nor a state before it has the tag."""

    def count(command: Count, stock: Stock) -> Iterator[Counted]:
        yield Counted(stock.units)

    def count_all(command: Count, stock: Mapping[str, Stock]) -> Iterator[Counted]:
        yield Counted(len(stock))

    refused("`stock`", "count", "`Stock`", "`sku`", "`Count`", "[Aa]dd|to the left", deciders=[count])
    refused("`stock`", "count_all", "`Stock`", "`sku`", "`Count`", deciders=[count_all])


def test_a_parameter_with_two_sources_for_its_key_is_named() -> None:
    """The name of the parameter says which one is meant, or a Mapping takes both."""

    def move(command: Move, stock: Stock) -> Iterator[Moved]:
        yield Moved(command.source, command.target)

    refused("`stock`", "move", "`Move`", "`sku`", "Mapping", "call the parameter like the field", deciders=[move])


def test_a_collection_of_tags_needs_a_mapping() -> None:
    """Any number of values is more than one."""

    class Clear(h.Command):
        skus: tuple[Sku, ...]

    def clear(command: Clear, stock: Stock) -> Iterator[Counted]:
        yield Counted(stock.units)

    refused("`stock`", "clear", "`sku`", "Mapping", deciders=[clear])


class Order(h.State):
    order: OrderNo
    customer: CustomerNo = ""

    def evolve(self, event: "Ordered") -> "Order":
        return self.but(customer=event.customer)


class Customer(h.State):
    customer: CustomerNo
    blocked: bool = False

    def evolve(self, event: "Ordered") -> "Customer":
        return self


class Ordered(h.Event):
    order: OrderNo
    customer: CustomerNo


class Pay(h.Command):
    order: OrderNo


def test_a_state_that_leads_on_stands_to_the_left() -> None:
    """The order of the parameters matters, and the error says so."""

    def pay(command: Pay, customer: Customer, order: Order) -> Iterator[Ordered]:
        yield Ordered(command.order, customer.customer)

    refused("`customer`", "pay", "left", deciders=[pay])


def test_a_state_reached_through_one_that_may_be_missing_may_be_missing() -> None:
    """Without the order there is no customer."""

    def pay(command: Pay, order: Order | None, customer: Customer) -> Iterator[Ordered]:
        yield Ordered(command.order, customer.customer)

    refused("`customer`", "pay", re.escape("`Customer | None`"), deciders=[pay])


def test_two_states_that_lead_on_to_the_same_tag_are_named() -> None:
    """The customer of the order may be another than that of the bill."""

    class Bill(h.State):
        order: OrderNo
        customer: CustomerNo = ""

        def evolve(self, event: Ordered) -> "Bill":
            return self

    def pay(command: Pay, order: Order, bill: Bill, customer: Customer) -> Iterator[Ordered]:
        yield Ordered(command.order, customer.customer)

    refused("`customer`", "pay", "order", "bill", deciders=[pay])


def test_an_untagged_key_can_not_decide() -> None:
    """No boundary follows from it; a view may have it."""

    class Size(h.State):
        units: int
        count: int = 0

        def evolve(self, event: Sold) -> "Size":
            return self.but(count=self.count + 1)

    def sell_size(command: Sell, size: Size) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("`Size`", "sell_size", "`units`", "[Gg]ive `units` a tag", deciders=[sell_size])
    assert h.App("right", records=[Sold], views=[Size]).views == (Size,)


def test_a_computed_key_can_not_decide() -> None:
    """What `key_of` computes is no tag."""

    class Half(h.State):
        sku: Sku
        count: int = 0

        @staticmethod
        def key_of(event: Sold) -> str:
            return event.sku[:1]

        def evolve(self, event: Sold) -> "Half":
            return self.but(count=self.count + 1)

    def sell_half(command: Sell, half: Half) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("`Half`", "sell_half", "key_of", deciders=[sell_half])


def test_a_state_that_asks_for_others_can_not_decide() -> None:
    """Its boundary would not be known before it is read."""

    class Joined(h.State):
        sku: Sku
        count: int = 0

        def evolve(self, event: Sold, stock: Stock) -> "Joined":
            return self.but(count=stock.units)

    def sell_joined(command: Sell, joined: Joined) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("`Joined`", "Recorded", deciders=[sell_joined])


# --- tags -------------------------------------------------------------------------------------------------------------------

OrderUuid = NewType("OrderUuid", UUID)


class Shipped(h.Event):
    order: Annotated[OrderUuid, h.Tag("order")] | None = None


class Packed(h.Event):
    orders: tuple[Annotated[UUID, h.Tag("order")], ...]


class Listed(h.Value):
    order: Annotated[int, h.Tag("order")]


class Printed(h.Event):
    lists: tuple[Listed, ...]


class Parcel(h.State):
    order: Annotated[UUID, h.Tag("order")]

    def evolve(self, event: Shipped | Packed) -> "Parcel":
        return self


class Letter(h.State):
    order: OrderNo

    def evolve(self, event: Shipped) -> "Letter":
        return self


def test_a_tag_has_one_type() -> None:
    """A text and a UUID have one text and are not equal: a state keyed by one would never meet an event tagged with the other."""

    class Ship(h.Command):
        order: OrderNo

    def ship(command: Ship) -> Iterator[Shipped]:
        yield Shipped()

    assert h.App("right", records=[Shipped, Packed], views=[Parcel]).views == (Parcel,)
    refused("tag `order` is UUID in `Shipped.order` and str in `Ordered.order`: give it one type", records=[Shipped, Ordered])
    refused("tag `order` is UUID in `Packed.orders` and str in `Ordered.order`", records=[Packed, Ordered])
    refused("tag `order` is UUID in `Packed.orders` and int in `Listed.order`", records=[Packed, Printed])
    refused("tag `order` is UUID in `Shipped.order` and str in `Letter.order`", records=[Shipped], views=[Letter])
    refused("tag `order` is UUID in `Shipped.order` and str in `Ship.order`", deciders=[ship])


def test_a_tag_is_on_values_not_on_collections() -> None:
    """The text of a whole list is nobody's key; the error shows how it is written."""

    class All(h.Event):
        skus: Annotated[tuple[str, ...], h.Tag("sku")]

    refused("`All.skus`", "`sku`", "members", re.escape('tuple[Annotated[str, Tag("sku")], ...]'), records=[All])


@pytest.mark.parametrize(("mark", "written"), [(h.Tag, 'Tag("sku")'), (h.Index, "Index()"), (h.Places, "Places(2)")])
def test_a_mark_is_an_instance(mark: Any, written: str) -> None:
    """A class as a mark would say nothing, in silence."""
    marked: Any = type("Marked", (h.Event,), {"__annotations__": {"sku": Annotated[str, mark]}})

    refused("`Marked.sku`", re.escape(written), records=[marked])


@pytest.mark.parametrize("name", ["", "s\x1fku", 5, None])
def test_a_tag_has_a_name(name: Any) -> None:
    """A name that could not be told from its value is refused where it is written."""
    with pytest.raises(h.Invalid, match="no name of a tag"):
        h.Tag(name)


def test_states_are_given_to_read_not_to_change() -> None:
    """A dict could be changed, and nothing would come of it."""

    def count(command: Move, stock: dict[str, Stock]) -> Iterator[Counted]:
        yield Counted(len(stock))

    refused("`stock`", "count", re.escape("Mapping[..., Stock]"), deciders=[count])


# --- states -----------------------------------------------------------------------------------------------------------------


class Still(h.State):
    sku: Sku
    units: int = 0


def test_a_state_without_evolve_can_neither_decide_nor_be_a_view() -> None:
    """Nothing ever happens to it."""

    def sell_still(command: Sell, still: Still) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("`Still`", "sell_still", "`evolve`", deciders=[sell_still])
    refused("`Still`", "`evolve`", views=[Still])


def test_evolve_and_key_of_are_plain_functions() -> None:
    """What they made would be no state and no key: a coroutine, a generator."""

    class Waits(h.State):
        sku: Sku
        units: int = 0

        async def evolve(self, event: Sold) -> "Waits":
            return self

    class Yields(h.State):
        sku: Sku
        units: int = 0

        def evolve(self, event: Sold) -> "Iterator[Yields]":
            yield self

    class Looks(h.State):
        size: str
        units: int = 0

        @staticmethod
        async def key_of(event: Sold) -> str:
            return event.sku

        def evolve(self, event: Sold) -> "Looks":
            return self

    refused("`Waits.evolve`", "async", views=[Waits])
    refused("`Yields.evolve`", "returns", views=[Yields])
    refused("`Looks.key_of`", "async", views=[Looks])


def test_a_key_that_an_event_does_not_have_names_the_event() -> None:
    """A field without a default is the key; the event that has neither tag nor field of that name is named, not the one that has."""

    class Units(h.State):
        sku: Sku
        units: int = 0

        def evolve(self, event: Sold | Counted) -> "Units":
            return self

    class Place(h.State):
        town: str
        units: int = 0

        def evolve(self, event: Sold) -> "Place":
            return self

    def sell_units(command: Sell, units: Units) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    for tables in ({"views": [Units]}, {"deciders": [sell_units]}):
        found = refused("`Units`", "`Counted`", "`sku`", "default", "key_of", **tables)
        assert found.facts["event"] == "Counted"
    refused("`Place`", "`Sold`", "`town`", "default", views=[Place])


def test_every_event_of_the_app_must_have_the_key_of_a_state_that_takes_all() -> None:
    """`evolve(self, event: Event)` takes each of them, so each needs its key."""

    class Latest(h.State):
        sku: Sku
        units: int = 0

        def evolve(self, event: h.Event) -> "Latest":
            return self

    def sell_latest(command: Sell, latest: Latest) -> Iterator[Sold]:
        yield Sold(command.sku, command.units)

    refused("`Latest`", "`Counted`", "`sku`", records=[Sold, Counted], views=[Latest])
    refused("`Latest`", "`Counted`", "`sku`", records=[Counted], deciders=[sell_latest])
    assert h.App("right", records=[Sold], views=[Latest]).views == (Latest,)


def test_a_view_that_joins_says_at_once_what_it_can_not_find() -> None:
    """The key of a joined state must be in every event of the view; a joined state has tags, and joins nothing itself."""

    class Size(h.State):
        units: int
        count: int = 0

        def evolve(self, event: Sold) -> "Size":
            return self

    class Keyless(h.State):
        units: int
        count: int = 0

        def evolve(self, event: Counted, stock: Stock) -> "Keyless":
            return self

    class Untagged(h.State):
        sku: Sku
        count: int = 0

        def evolve(self, event: Sold, size: Size) -> "Untagged":
            return self

    class Joined(h.State):
        sku: Sku
        count: int = 0

        def evolve(self, event: Sold, stock: Stock) -> "Joined":
            return self

    class Nested(h.State):
        sku: Sku
        count: int = 0

        def evolve(self, event: Sold, joined: Joined) -> "Nested":
            return self

    class Stiff(h.State):
        sku: Sku
        count: int = 0

        def evolve(self, event: Sold, still: Still) -> "Stiff":
            return self

    refused("`stock`", "`Stock`", "`sku`", "`Counted`", views=[Keyless])
    refused("`Size`", "`units`", "[Gg]ive `units` a tag", views=[Untagged])
    refused("`Nested`", "`Joined`", "other states", views=[Nested])
    refused("`Stiff`", "`Still`", "`evolve`", views=[Stiff])
    assert h.App("right", views=[Joined]).views == (Joined,)


def test_a_state_that_is_not_folded_by_itself_is_not_in_memory() -> None:
    """Neither the app nor a decider's `World` can be asked for it; the view can."""

    class Joined(h.State):
        sku: Sku
        units: int = 0

        def evolve(self, event: Sold, stock: Stock) -> "Joined":
            return self.but(units=stock.units)

    asked: list[type[h.State]] = [Joined, Still]

    def sell_asked(command: Sell, world: h.World) -> Iterator[Sold]:
        world.state(asked[command.units], command.sku)
        yield Sold(command.sku, command.units)

    with h.App("right", deciders=[sell_asked], views=[Joined]).open() as running:
        for place, words in enumerate((r"Joined.*running\.view", "Still.*evolve")):
            with pytest.raises(h.Invalid, match=words):
                running.state(asked[place], "nut")
            with pytest.raises(h.Invalid, match=words):
                running.states(asked[place])
            with pytest.raises(h.Invalid, match=words):
                running.dispatch(Sell("nut", place))


@pytest.mark.parametrize("name", ["but", "evolve", "key_of"])
def test_a_reserved_name_is_no_field(name: str) -> None:
    """These are names of a state's own; a key or another field called so would hide them."""
    key = type("Key", (h.State,), {"__annotations__": {name: str}})
    rest = type("Rest", (h.State,), {"__annotations__": {"sku": Sku, name: int}, name: 0})

    refused("`Key`", f"`{name}`", views=[key])
    refused("`Rest`", f"`{name}`", views=[rest])


class Changed(h.Event):
    sku: Sku


class Raised(Changed):
    units: int


class Lowered(Changed):
    units: int


class Changes(h.State):
    sku: Sku
    count: int = 0

    def evolve(self, event: Changed) -> "Changes":
        return self.but(count=self.count + 1)


def test_a_base_class_that_nobody_records_is_no_event() -> None:
    """An event reaches a state by its own class: with the base class alone nothing would ever happen, in silence."""

    class Raise(h.Command):
        sku: Sku

    def raise_it(command: Raise) -> Iterator[Raised]:
        yield Raised(command.sku, 1)

    def raise_counted(command: Raise, changes: Changes) -> Iterator[Raised]:
        yield Raised(command.sku, 1)

    refused("`Changes.evolve`", "`Changed`", "nobody records", "subclasses", "`Raised`", deciders=[raise_it], views=[Changes])
    refused("`Changed`", "`Raised`", deciders=[raise_counted])
    refused("`Changed`", re.escape("`Raised | Lowered`"), records=[Raised, Lowered], views=[Changes])


def test_a_class_and_its_subclass_are_two_events() -> None:
    """Where the base class is recorded itself, a state of it counts that and nothing else, whichever way it is folded."""
    app = h.App("right", records=[Changed, Raised], views=[Changes])

    with app.open() as running:
        running.state(Changes, "nut")
        receipt = running.record_all([Raised("nut", 1), Changed("nut"), Raised("nut", 1)])

        assert running.state(Changes, "nut") == running.states(Changes)["nut",] == Changes("nut", 1)
        assert running.view(Changes).get("nut", since=receipt) == Changes("nut", 1)


def test_evolve_must_say_what_it_returns() -> None:
    """`None` means that a state is gone, so the annotation must say whether that may be."""

    class Silent(h.State):
        sku: Sku

        def evolve(self, event: Sold):  # type: ignore[no-untyped-def]  # the mistake that is planted
            return self

    refused("`Silent.evolve`", "`-> Silent`", re.escape("`-> Silent | None`"), records=[Sold], views=[Silent])


def test_evolve_must_take_events() -> None:
    """Neither nothing, nor a command, nor something unannotated."""

    class Nothing(h.State):
        sku: Sku

        def evolve(self) -> "Nothing":
            return self

    class Commanded(h.State):
        sku: Sku

        def evolve(self, event: Sell) -> "Commanded":
            return self

    class Untyped(h.State):
        sku: Sku

        def evolve(self, event) -> "Untyped":  # type: ignore[no-untyped-def]  # the mistake that is planted
            return self

    class Limited(h.State):
        sku: Sku

        def evolve(self, event: Sold, limit: int) -> "Limited":
            return self

    refused("Nothing", "no event", "def evolve", views=[Nothing])
    refused("Commanded", "names `Sell`, which is no event", views=[Commanded])
    refused("Untyped", "`event`", "annotation", views=[Untyped])
    refused("Limited", "`limit`", "Recorded", views=[Limited])


def test_a_command_is_no_view_and_a_command_is_no_fact() -> None:
    """Each table lists its own kind."""
    refused("`views` lists `Sell`, which is no State", views=[Sell])
    refused("lists `Sell`", "records", "dispatched", records=[Sell])
    refused("Stock", "records", "views", records=[Stock])
    refused("Event", "records", records=[h.Event])


# --- data -------------------------------------------------------------------------------------------------------------------


class Bag(h.Value):
    items: list[str]


MUTABLE: list[tuple[str, Any]] = [
    ("list", list[str]),
    ("dict", dict[str, int]),
    ("set", set[str]),
    ("bytearray", bytearray),
    ("list", tuple[list[str], ...]),
    ("list", list[str] | None),
    ("list", Annotated[list[Sku], "some"]),
    ("list", Mapping[str, list[str]]),
    ("list", Bag),
    ("list", tuple[Bag, ...]),
]


@pytest.mark.parametrize(("kind", "annotation"), MUTABLE, ids=[str(annotation) for _, annotation in MUTABLE])
def test_what_can_be_changed_after_the_fact_is_no_field(kind: str, annotation: Any) -> None:
    """Versions of a state share their fields, and an event says what was: however deep it lies, the kind is named and what to use instead."""
    event = type("Packed", (h.Event,), {"__annotations__": {"sku": Sku, "items": annotation}})
    command = type("Pack", (h.Command,), {"__annotations__": {"sku": Sku, "items": annotation}})
    state = type("Pile", (h.State,), {"__annotations__": {"sku": Sku, "items": annotation}, "items": None, "evolve": Stock.evolve})

    def pack(command: Any) -> Iterator[Sold]:
        yield from ()

    pack.__annotations__["command"] = command

    refused(kind, "items", "tuple", "Mapping", "frozenset", records=[event])
    refused(kind, "items", "tuple", deciders=[pack])
    refused(kind, "items", "tuple", views=[state])


def test_data_whose_fields_can_be_set_is_no_field() -> None:
    """A dataclass or a Struct that is not frozen, and a TypedDict, would change under the log."""

    class Loose(msgspec.Struct):
        units: int

    @dataclasses.dataclass
    class Open:
        units: int

    class Written(TypedDict):
        units: int

    for part in (Loose, Open, Written):
        kind: Any = part
        for annotation in (kind, tuple[kind, ...], kind | None):
            event = type("Packed", (h.Event,), {"__annotations__": {"sku": Sku, "items": annotation}})
            refused(part.__name__, "changed after the fact", "Value", records=[event])
    thawed = type("Thawed", (h.Event,), {"__annotations__": {"sku": Sku}}, frozen=False)
    refused("Thawed", "changed after the fact", records=[thawed])


def test_frozen_data_of_other_kinds_is_a_field() -> None:
    """A frozen dataclass is as good as a `Value` without tags."""

    @dataclasses.dataclass(frozen=True)
    class Kept:
        units: int

    event = type("Packed", (h.Event,), {"__annotations__": {"sku": Sku, "items": Kept}})

    assert event in h.App("right", records=[event]).events


def test_what_can_not_be_read_again_is_no_field() -> None:
    """It could be written, and the log would be stuck: of an event or a command, the class and the kind are named."""

    class Wave(h.Event):
        at: complex

    class Either(h.Event):
        items: tuple[int, ...] | frozenset[int]

    class Send(h.Command):
        at: complex

    def send(command: Send) -> Iterator[Sold]:
        yield Sold("nut", 1)

    refused("`Wave`", "`complex`", "plain data", records=[Wave])
    refused("`Either`", "JSON", records=[Either])
    refused("`Send`", "`complex`", deciders=[send])


def test_a_column_that_can_not_be_kept_is_named() -> None:
    """A view's fields are columns: names that the table has for itself, and places of what has none or too many."""
    wrong: list[tuple[str, Any, Any, str]] = [
        ("_units", int, 0, "start with `_`"),
        ("units", Annotated[int, h.Places(2)], 0, "Decimal"),
        ("units", Annotated[Decimal, h.Places(30)], Decimal(0), "0 to 18"),
    ]

    for name, annotation, default, why in wrong:
        state = type("Pile", (h.State,), {"__annotations__": {"sku": Sku, name: annotation}, name: default, "evolve": Stock.evolve})
        refused(f"Pile.{name}", why, views=[state])


def test_two_things_of_one_name_are_named() -> None:
    """The log knows things by name: one of the two needs another."""

    @h.named("Sold")
    class SoldToo(h.Event):
        sku: Sku

    @h.named("Stock")
    class StockToo(h.State):
        sku: Sku

        def evolve(self, event: Sold) -> "StockToo":
            return self

    @h.named("sell")
    def count(command: Count) -> Iterator[Counted]:
        yield Counted(command.units)

    refused("Sold", "SoldToo", r"@named", records=[Sold, SoldToo])
    refused("Stock", "StockToo", r"@named", deciders=[sell], views=[StockToo])
    refused("sell", "count", r"@named", deciders=[sell, count])


def test_a_subclass_does_not_inherit_the_name() -> None:
    """A name belongs to the class that it was given to."""

    @h.named("Bought")
    class First(h.Event):
        sku: Sku

    class Second(First):
        units: int = 0

    assert h.App("right", records=[First, Second]).topology()["records"] == ["Bought", "Second"]


def test_two_versions_of_one_name_are_two() -> None:
    """A version is part of what the log knows a thing by."""

    @h.named("Sold", version=2)
    class SoldNow(h.Event):
        sku: Sku

    assert h.App("right", records=[Sold, SoldNow]).topology()["records"] == ["Sold", "Sold"]


# --- gateways ---------------------------------------------------------------------------------------------------------------


def test_an_answer_that_can_not_be_read_again_is_refused() -> None:
    """An answer is recorded, so its type must be data; the gateway is named."""

    class Handle:
        pass

    def handle(sku: str) -> Handle:
        return Handle()

    def function(sku: str) -> Callable[[], int]:
        return lambda: 1

    def silent(sku: str):  # type: ignore[no-untyped-def]  # the mistake that is planted
        return 1

    refused("handle", "[Aa]nnotate", "data", gateways=[handle])
    refused("function", "data", gateways=[function])
    refused("silent", "returns", "for example `-> Decimal`", gateways=[silent])


def test_two_gateways_of_one_name_are_named() -> None:
    """Answers are recorded under the gateway's name."""

    def price(sku: str) -> Decimal:
        return Decimal(1)

    @h.named("price")
    def cost(sku: str) -> Decimal:
        return Decimal(2)

    refused("price", "cost", r"@named", gateways=[price, cost])


def test_a_gateway_that_is_not_in_the_table_is_named_when_it_is_asked_or_replaced() -> None:
    """Asking is seen when it is done; a replacement for what is not there when the app is opened. Nothing is recorded."""

    def price(sku: str) -> Decimal:
        return Decimal(1)

    def sell_dear(command: Sell, world: h.World) -> Iterator[Sold]:
        yield Sold(command.sku, int(world.ask(price, command.sku)))

    app = h.App("wrong", deciders=[sell_dear])
    with app.open() as running:
        before = running.statistics()["head"]
        with pytest.raises(h.Invalid, match=r"price.*gateways=\[") as asked:
            running.dispatch(Sell("nut", 1))
        assert running.statistics()["head"] == before
    with pytest.raises(h.Invalid, match=r"price.*gateways") as replaced:
        app.open(gateways={price: price})

    assert "price" in asked.value.facts["gateway"]
    assert "price" in replaced.value.facts["gateway"]


def test_what_a_gateway_returned_is_no_gateway() -> None:
    """Who asks gives the function, and what it is asked; what it came to is shown."""

    def price(sku: str) -> Decimal:
        return Decimal(7)

    def sell_dear(command: Sell, world: h.World) -> Iterator[Sold]:
        called: Any = price(command.sku)
        yield Sold(command.sku, int(world.ask(called)))

    with (
        h.App("wrong", deciders=[sell_dear], gateways=[price]).open() as running,
        pytest.raises(h.Invalid, match=r"`Decimal\('7'\)`.*world\.ask"),
    ):
        running.dispatch(Sell("nut", 1))


# --- annotations that can't be read -----------------------------------------------------------------------------------------


def test_a_local_class_that_can_not_be_seen_is_named() -> None:
    """Under `from __future__ import annotations` a class of a function's body is seen only where the code, too, names it."""
    hint = "define it at module level.*TYPE_CHECKING.*from __future__ import annotations"

    refused("`Local`", "decide", hint, deciders=[future.decider_of_a_local_command()])
    refused("`LocalSold`", "decide", hint, deciders=[future.decider_of_a_local_event()])
    refused("`LocalSold`", "evolve", hint, views=[future.state_of_a_local_event()])
    refused("`LocalLine`", "LocalOrder", hint, records=[future.event_with_a_local_part()])
    refused("`Hidden`", "ask", hint, gateways=[future.ask_for_a_hidden_answer])


def test_a_local_class_that_the_code_names_is_seen() -> None:
    """`match` puts the events into the closure."""
    app = h.App("right", views=[future.state_that_matches()])

    assert [event.__name__ for event in app.events] == ["Seen"]


def test_all_other_annotations_are_read_under_the_future_import() -> None:
    """Text is as good as the class, where the class can be seen."""
    with h.App("right", deciders=[future.decide_at_module_level], views=[future.Pile]).open() as running:
        receipt = running.dispatch(future.Pack("nut"))

        assert running.view(future.Pile).get("nut", since=receipt).packed == 1
