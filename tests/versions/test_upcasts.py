"""Old data is read as today's classes say, by whoever reads it; what is recorded stays as it is."""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: bodies of any class

import pytest

import happened as h
from happened.checking.ranges import readings_of
from happened.core.tags import Scope, nesting, outline
from happened.log import names
from happened.log.row import taken_apart
from tests.programs import p07_versions
from tests.transfer.model import until
from tests.versions import deep_once, deep_today, was

Sku = Annotated[str, h.Tag("sku")]
OrderNo = Annotated[str, h.Tag("order")]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


def write(url: str, *facts: h.Event, name: str = "shop") -> list[str]:
    """Record facts with an app of their own classes; return the bytes of the log's records."""
    with h.App(name, records=list(dict.fromkeys(map(type, facts)))).open(url) as running:
        running.record_all(facts)
        return texts_of(running)


def texts_of(running: h.Running) -> list[str]:
    return [bytes(record.body).decode() for rows in running.log.engine.read() for row in rows for _, record in taken_apart(row)]


def bodies(running: h.Running, query: h.Query | None = None) -> list[Any]:
    return [record.body for record in running.log.read(query) if isinstance(record.body, h.Event)]


def test_program_7_reads_what_another_release_wrote(url: str) -> None:
    """Two forms, nested types inside three events, a rename, and a name that is no longer read."""
    written = write(
        url,
        was.OrderPlaced("o-1", 9.5, was.Address("High Street 5", "UK")),
        was.CustomerMoved("c-1", was.Address("Low Road 7", "FR")),
        was.OrderShipped("o-1", was.Address("High Street 5", "UK")),
        was.OrderViewed("o-1"),
        p07_versions.StockTaken1("w", 3),
    )

    with p07_versions.shop.open(url) as running:
        found = bodies(running)
        today = p07_versions.Address("High Street", "5", "UK")
        assert found == [
            p07_versions.OrderPlaced("o-1", Decimal("9.5"), "GBP", today),
            p07_versions.CustomerMoved("c-1", p07_versions.Address("Low Road", "7", "FR")),
            p07_versions.OrderSent("o-1", today),
            p07_versions.StockTaken("w", -3),
        ]
        assert bodies(running, h.query(names=["OrderSent"])) == [found[2]]
        assert bodies(running, h.query(names=["OrderShipped"])) == []
        assert bodies(running, h.query(order="o-1")) == [found[0], found[2]]
        [viewed] = [record for record in running.log.read() if record.name == "OrderViewed"]
        assert (viewed.body, viewed.version) == ({"order": "o-1"}, 1)
        assert [(record.name, record.version) for record in running.log.read() if record.kind == "input"][2] == ("OrderSent", 2)
        assert texts_of(running)[: len(written)] == written
        running.record(found[0])
        running.log.verify()


# --- wherever events are heard ----------------------------------------------------------------------------------------------------


class Sold1(h.Event):
    item: Annotated[str, h.Tag("item")]
    pieces: int


h.named("Sold")(Sold1)


@h.named("Sold", version=2)
class Sold(h.Event):
    sku: Sku
    units: int


class Order(h.Command):
    sku: Sku


class Ordered(h.Event):
    sku: Sku
    before: int


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Sold) -> "Stock":
        return self.but(units=self.units + event.units)


class Everything(h.State):
    seen: tuple[str, ...] = ()

    def evolve(self, event: Sold | Ordered, record: h.Recorded) -> "Everything":
        return self.but(seen=(*self.seen, f"{type(event).__name__} {event.sku}"))


@h.named("SoldOut")
class SoldOut(h.Event):
    sku: Sku


def decide(command: Order, stock: Stock) -> Iterator[Ordered]:
    yield Ordered(command.sku, stock.units)


def on_sold(event: Sold) -> Iterator[Order]:
    yield Order(event.sku)


def tell(event: Sold) -> SoldOut:
    return SoldOut(event.sku)


def renamed(old: h.Data) -> h.Data:
    return {"sku": old["item"], "units": old["pieces"]}


def split(old: h.Data) -> Iterable[tuple[str, h.Data]]:
    """One sale of several pieces was in truth one of each."""
    return [("Sold", {"sku": f"{old['item']}-{piece}", "units": 1}) for piece in range(old["pieces"])]


async def awaited(old: h.Data) -> h.Data:
    return old


async def stepwise(old: Sold1) -> AsyncIterator[Sold]:
    yield Sold(old.item, old.pieces)


def app_with(*upcasts: h.UpcastEntry) -> h.App:
    return h.App(
        "stock",
        records=[Sold],
        deciders=[decide],
        views=[Stock, Everything],
        shares=[Stock],
        reactions=[h.Reaction(on_sold, since=0)],
        publications=[h.Publication(tell, since=0)],
        upcasts=upcasts,
    )


@pytest.mark.parametrize(
    ("upcast", "expected"),
    [
        (renamed, {"a": 2, "b": 3, "c": 9}),
        (split, {"a-0": 1, "a-1": 1, "b-0": 1, "b-1": 1, "b-2": 1, "c": 9}),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_an_upcast_is_seen_by_all_who_hear(tmp_path: Path, kind: str, upcast: Callable[[h.Data], Any], expected: dict[str, int]) -> None:
    """States by key and all of them, views with and without an envelope, shares, reactions, publications, reading: each sees today's events, once."""
    url = f"sqlite:///{tmp_path}/log.db"
    app = app_with(h.Upcast("Sold", 1, upcast))
    write(url, Sold1("a", 2), Sold1("b", 3), name="stock")
    with app.open(url) as running:
        receipt = running.record(Sold("c", 9))
        running.settled(wait_seconds_max=60)

        assert {key[0]: state.units for key, state in running.states(Stock).items()} == expected
        assert {sku: running.state(Stock, sku).units for sku in expected} == expected  # type: ignore[union-attr]  # they are there
        assert {row.sku: row.units for row in running.view(Stock).rows(since=receipt)} == expected
        seen = running.view(Everything).get(since=running.log.head).seen
        assert [one for one in seen if one.startswith("Sold ")] == [f"Sold {sku}" for sku in expected]
        assert [body for body in bodies(running) if isinstance(body, Ordered)] == [Ordered(sku, units) for sku, units in expected.items()]
        assert [record.body["sku"] for record in running.log.read() if record.name == "SoldOut"] == list(expected)
        assert [body.sku for body in bodies(running, h.query(names=["Sold"]))] == list(expected)
        until(lambda: running.statistics()["shares"][0]["lag"] == 0)
        assert running.statistics()["shares"][0]["count"] == len(expected)
        ids = [record.id for record in running.log.read()]
        assert len(set(ids)) == len(ids)
        running.log.verify()
    if kind == "memory":
        return
    with app.open(url) as running:
        assert {row.sku: row.units for row in running.view(Stock).rows(since=running.log.head)} == expected
        for sku in expected:
            assert [body.sku for body in bodies(running, h.query(sku=sku)) if isinstance(body, Sold)] == [sku]


def test_an_upcast_that_is_changed_changes_index_and_views(url: str) -> None:
    """Scan is index, before and after: the index of tags and the view are made anew, since they were made by another reading."""
    write(url, Sold1("a", 2), Sold1("b", 3), name="stock")

    def upper(old: h.Data) -> h.Data:
        return {"sku": old["item"].upper(), "units": old["pieces"]}

    for upcast, skus in ((renamed, ["a", "b"]), (upper, ["A", "B"]), (renamed, ["a", "b"])):
        with h.App("stock", records=[Sold], views=[Stock], upcasts=[h.Upcast("Sold", 1, upcast)]).open(url) as running:
            assert [row.sku for row in running.view(Stock).order_by("sku").rows(since=running.log.head)] == skus
            for sku in ("a", "b", "A", "B"):
                scanned = [body for body in bodies(running) if body.sku == sku]
                assert bodies(running, h.query(sku=sku)) == scanned
                assert (running.state(Stock, sku) is not None) == bool(scanned)


def test_an_id_that_was_used_under_the_old_name_is_known(url: str) -> None:
    """A command or a fact that is sent again by today's code is the one that was recorded by yesterday's."""

    @h.named("Reserve")
    class Reserve(h.Command):
        item: Annotated[str, h.Tag("item")]

    def reserve(command: Reserve) -> Iterator[Sold1]:
        yield Sold1(command.item, 1)

    with h.App("stock", records=[Sold1], deciders=[reserve]).open(url) as running:
        running.record(Sold1("a", 2), id="fact")
        first = running.dispatch(Reserve("a"), id="command")
    upcasts = [
        h.Upcast("Reserve", 1, lambda old: {"sku": old["item"]}, to="Order"),
        h.Upcast("Sold", 1, renamed),
    ]
    order = h.named("Order", version=2)(type("Order2", (Order,), {"__annotations__": {}}))

    def decide_2(command: Order, stock: Stock) -> Iterator[Ordered]:
        yield Ordered(command.sku, stock.units)

    decide_2.__annotations__["command"] = order
    with h.App("stock", records=[Sold], deciders=[decide_2], upcasts=upcasts).open(url) as running:
        assert running.record(Sold("a", 2), id="fact").repeated
        receipt = running.dispatch(order("a"), id="command")
        assert receipt.repeated
        assert receipt.position == first.position
        [command] = [record.body for record in running.log.read() if isinstance(record.body, h.Command)]
        assert command == order("a")


def test_what_is_nested_is_lifted_inside_out_wherever_it_lies(url: str) -> None:
    """In a tuple, in a mapping, in what is nested itself, or not there at all; a new version of it needs no new one of the events."""

    @h.named("Point")
    class Point1(h.Value):
        x: int

    @h.named("Area")
    class Area1(h.Value):
        corners: tuple[Point1, ...]
        named: Mapping[str, Point1]
        middle: Point1 | None = None

    @h.named("Drawn")
    class Drawn1(h.Event):
        area: Area1
        others: tuple[Area1, ...] = ()

    @h.named("Point", version=3)
    class Point(h.Value):
        x: int
        y: int

    @h.named("Area", version=2)
    class Area(h.Value):
        corners: tuple[Point, ...]
        named: Mapping[str, Point]
        middle: Point | None = None
        count: int = 0

    @h.named("Drawn")
    class Drawn(h.Event):
        area: Area
        others: tuple[Area, ...] = ()

    write(url, Drawn1(Area1((Point1(1), Point1(2)), {"a": Point1(3)}), (Area1((), {}, Point1(4)),)), name="draw")
    upcasts = [
        h.Upcast("Point", 1, lambda old: old | {"y": 0}),
        h.Upcast("Point", 2, lambda old: old | {"x": 10 * old["x"]}),
        h.Upcast("Area", 1, lambda old: old | {"count": len(old["corners"])}),
    ]
    with h.App("draw", records=[Drawn], upcasts=upcasts).open(url) as running:
        running.record(Drawn(Area((), {}, Point(7, 8))))

        assert bodies(running) == [
            Drawn(Area((Point(10, 0), Point(20, 0)), {"a": Point(30, 0)}, None, 2), (Area((), {}, Point(40, 0), 0),)),
            Drawn(Area((), {}, Point(7, 8))),
        ]


def test_what_is_nested_is_lifted_however_deep_collections_lie_in_each_other(url: str) -> None:
    """In collections of collections, beside a single one, and in its own place of a tuple that holds something else, too."""
    with h.App("shop", records=[deep_once.Packed]).open(url) as running:
        running.record(deep_once.packed())
    app = h.App("shop", records=[deep_today.Packed], upcasts=[h.Upcast("Box", 1, deep_today.grams)])

    with app.open(url) as running:
        [found] = [record.body for record in running.log.read() if record.kind == "input"]

    assert found == deep_today.packed()
    assert readings_of(url, app).names[0].verdict == "fine"


def as_once(parts: list[Any]) -> list[Any]:
    """Return what a release before recorded of what is nested: only how what lies innermost is held."""
    found = [
        [field, "each" if holds[-1].isdigit() else holds.rpartition("/")[-1], name, version, as_once(below), tag]
        for field, holds, name, version, below, tag in parts
    ]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def nesting_once(scope: Scope) -> list[Any]:
    return as_once(nesting(scope))


def test_what_an_older_release_recorded_of_collections_in_each_other_is_lifted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its class is there, which says where all lies."""
    with monkeypatch.context() as then:
        then.setattr(names, "nesting", nesting_once)
        write(url, deep_once.packed())
    app = h.App("shop", records=[deep_today.Packed], upcasts=[h.Upcast("Box", 1, deep_today.grams)])

    with app.open(url) as running:
        [recorded] = [name.parts for name in running.log.reader.names.by_number.values() if name.name == "Packed"]
        assert ["rows", "each", "Box", 1, [], None] in recorded
        assert bodies(running) == [deep_today.packed()]
    assert readings_of(url, app).names[0].verdict == "fine"


def test_so_it_is_where_the_message_itself_has_an_upcast(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No class says it then: lists in each other are gone through, and mappings around lists."""
    box = deep_today.Box(1000)

    @h.named("Packed", version=2)
    class Packed(h.Event):
        rows: tuple[tuple[deep_today.Box, ...], ...]
        later: Mapping[str, tuple[deep_today.Box, ...]]
        maps: tuple[Mapping[str, deep_today.Box], ...]

    @h.named("Packed")
    class Before(h.Event):
        rows: tuple[tuple[deep_once.Box, ...], ...]
        later: Mapping[str, tuple[deep_once.Box, ...]]
        mapped: tuple[Mapping[str, deep_once.Box], ...]

    once = deep_once.Box(1)
    with monkeypatch.context() as then:
        then.setattr(names, "nesting", nesting_once)
        write(url, Before(((once,), (once, once)), {"a": (once,)}, ({"b": once}, {})))
    upcasts = [h.Upcast("Box", 1, deep_today.grams), h.Upcast("Packed", 1, lambda old: old | {"maps": old["mapped"]})]

    with h.App("shop", records=[Packed], upcasts=upcasts).open(url) as running:
        assert bodies(running) == [Packed(((box,), (box, box)), {"a": (box,)}, ({"b": box}, {}))]


class Row(h.Value):
    sku: Sku


class Listed(h.Event):
    rows: tuple[tuple[Row, ...], ...]
    pair: tuple[Sku, OrderNo, Sku]
    skus: Mapping[str, tuple[Sku, ...]]


def outline_once(scope: Scope) -> list[Any]:
    """Return what a release before recorded of where the tags of `Listed` lie."""
    if scope.cls is not Listed:
        return outline(scope)
    return [
        [["pair", "sku", "each"], ["pair", "order", "each"], ["skus", "sku", "each"]],
        [["rows", "each", [[["sku", "sku", "one"]], []]]],
    ]


def test_that_an_older_release_recorded_less_of_where_tags_lie_is_no_change_of_the_class(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tags are found in full when the log is opened."""
    with monkeypatch.context() as then:
        then.setattr(names, "outline", outline_once)
        write(url, Listed(((Row("a"),),), ("b", "o", "c"), {"x": ("d",)}))
    app = h.App("shop", records=[Listed])

    [found] = readings_of(url, app).names

    assert (found.verdict, found.notes) == ("fine", [])
    with app.open(url) as running:
        assert [len(bodies(running, h.query(sku=sku))) for sku in "abcdo"] == [1, 1, 1, 1, 0]


def test_typed_upcasts_may_split_too(url: str) -> None:
    class Bought(h.Event):
        sku: Sku

    class Paid(h.Event):
        sku: Sku
        pieces: int

    @h.named("Deal")
    class Deal(h.Event):
        sku: Sku
        pieces: int

    def deal_2(old: Deal) -> Iterator[Bought | Paid]:
        yield Bought(old.sku)
        yield Paid(old.sku, old.pieces)

    deal_2.__annotations__ = {"old": Deal, "return": Iterator[Bought | Paid]}
    write(url, Deal("a", 2), name="deals")

    class Deals(h.State):
        sku: Sku
        count: int = 0

        def evolve(self, event: Bought) -> "Deals":
            return self.but(count=self.count + 1)

    def decide_deal(command: Order, deals: Deals) -> Iterator[Bought]:
        yield from [Bought(command.sku)] * (deals.count == 0)

    def twice(old: Deal) -> Iterator[Bought]:
        yield from [Bought(old.sku)] * old.pieces

    twice.__annotations__ = {"old": Deal, "return": Iterator[Bought]}
    decide_deal.__annotations__ = {"command": Order, "deals": Deals, "return": Iterator[Bought]}
    with h.App("deals", deciders=[decide_deal], views=[Deals], upcasts=[twice]).open(url) as running:
        assert running.state(Deals, "a") == Deals("a", 2)
        assert running.states(Deals) == {("a",): Deals("a", 2)}
        assert running.view(Deals).get(sku="a", since=running.log.head) == Deals("a", 2)
    with h.App("deals", records=[Bought, Paid], upcasts=[deal_2]).open(url) as running:
        assert bodies(running) == [Bought("a"), Paid("a", 2)]
        assert bodies(running, h.query(names=["Paid"])) == [Paid("a", 2)]
        assert len({record.id for record in running.log.read() if record.kind == "input"}) == 2


def test_what_an_upcast_can_not_read_is_said_with_its_place(url: str) -> None:
    write(url, Sold1("a", 2), Sold1("b", 3), name="stock")

    def fussy(old: h.Data) -> h.Data:
        if old["item"] == "b":
            raise ValueError("no b")
        return renamed(old)

    app = h.App("stock", records=[Sold], upcasts=[h.Upcast("Sold", 1, fussy)])
    with pytest.raises(
        h.Incompatible, match=r"`Sold` version 1 at position \d+ can't be read by its upcasts: `.*fussy` fails: ValueError: no b"
    ):
        app.open(url)


@pytest.mark.parametrize(
    ("upcasts", "text"),
    [
        ([h.Upcast("Sold", 2, renamed)], "lead to `Sold` version 3, and the class has version 2"),
        ([h.Upcast("Bought", 1, renamed)], "take the upcasts out where it is a value that no class holds any more"),
        ([h.Upcast("Bought", 1, renamed), h.Upcast("Bought", 2, to="Bought")], "no class of this app is called that"),
        ([h.Upcast("Old", 1, to="Sold"), h.Upcast("Older", 1, to="Old")], "lead to `Old` version 2, and no class"),
        ([h.Upcast("Sold", 1, renamed), h.Upcast("Sold", 1, split)], "two upcasts read `Sold` version 1"),
        ([h.Retired("Sold")], "`Sold` is retired, and a class or an upcast reads it"),
        ([h.Upcast("Sold", 1, awaited)], "`awaited` is `async`, and an upcast is a plain function"),
        ([stepwise], "`stepwise` is `async`"),
        ([renamed], "is no upcast: annotate it from the old class to the new one"),
        ([Sold], "list `Upcast\\(...\\)`"),
        ([7], "list `Upcast\\(...\\)`"),
    ],
)
def test_a_table_that_can_not_work_is_refused_when_the_app_is_made(upcasts: list[Any], text: str) -> None:
    with pytest.raises(h.Invalid, match=text):
        h.App("stock", records=[Sold], upcasts=upcasts)


def test_a_gap_in_a_chain_is_refused_when_the_app_is_made() -> None:
    @h.named("Sold", version=3)
    class Sold3(h.Event):
        sku: Sku

    with pytest.raises(h.Invalid, match="end at `Sold` version 2, and the class has version 3: add the upcast of `Sold` version 2"):
        h.App("stock", records=[Sold3], upcasts=[h.Upcast("Sold", 1, renamed)])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: h.Upcast("Sold", 0, renamed), "in which version, from 1"),
        (lambda: h.Upcast("", 1, renamed), "names what it reads"),
        (lambda: h.Upcast("Sold", 1), "changes nothing"),
        (lambda: h.Retired(""), "takes a name"),
    ],
)
def test_an_entry_that_says_nothing_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(h.Invalid, match=text):
        make()


def test_several_must_be_said(url: str) -> None:
    """What an upcast may come to decides what is found by the index, so it is known before it is run."""
    write(url, Sold1("a", 2), name="stock")
    app = h.App("stock", records=[Sold], upcasts=[h.Upcast("Sold", 1, lambda old: split(old))])  # noqa: PLW0108 - it has no annotation
    with pytest.raises(h.Incompatible, match="annotate it `-> Iterable"):
        app.open(url)


def test_without_its_upcast_a_log_is_not_opened(url: str) -> None:
    write(url, Sold1("a", 2), name="stock")
    with pytest.raises(h.Incompatible, match="event `Sold` version 1, which no class of this app claims"):
        h.App("stock", records=[Sold]).open(url)


def test_what_nobody_claims_is_said_once_and_with_what_helps(url: str) -> None:
    """A name is recorded anew with each shape that its class had; what is to be done depends on whether there is a class of that name."""

    class Seen(h.Event):
        sku: str

    @h.named("Seen")
    class Noted(h.Event):
        sku: str
        note: str

    write(url, Sold1("a", 2), Seen("a"), name="stock")
    with h.App("stock", records=[Sold1, Noted]).open(url) as running:
        running.record(Noted("a", "b"))

    with pytest.raises(h.Incompatible) as failed:
        h.App("stock", records=[Sold]).open(url)

    text = str(failed.value)
    assert text.count("event `Seen` version 1") == 1
    assert 'or say `ignores=["Seen"]`' in text
    assert '`Sold` has version 2 now, so add `Upcast("Sold", 1, ...)`' in text
    assert failed.value.facts["names"] == ["Sold", "Seen"]


def test_a_version_of_a_newer_release_is_called_so(url: str) -> None:
    write(url, Sold("a", 2), name="stock")
    with pytest.raises(h.Incompatible, match="`Sold` has version 1 here, so open the log with the release that has recorded version 2"):
        h.App("stock", records=[Sold1]).open(url)


@pytest.mark.parametrize(("version", "says"), [(1, '`@named("Sold")`'), (2, '`@named("Sold", version=2)`')])
def test_a_class_that_was_renamed_is_told_how_it_keeps_its_name(url: str, version: int, says: str) -> None:
    """In the log it is what it was called."""
    write(url, (Sold1 if version == 1 else Sold)("a", 2), name="stock")

    with pytest.raises(h.Incompatible, match=re.escape(says)):
        h.App("stock").open(url)


def test_a_branch_knows_in_which_version_it_has_what_lies_nested(url: str) -> None:
    """What it records anew of a name says the same as its origin's record: what was of version 2 is not lifted from version 1."""

    @h.named("Point", version=2)
    class Point2(h.Value):
        x: int

    @h.named("Drawn")
    class Drawn2(h.Event):
        at: Point2

    @h.named("Point", version=3)
    class Point(h.Value):
        x: int

    @h.named("Drawn")
    class Drawn(h.Event):
        at: Point

    def ten_times(old: h.Data) -> h.Data:
        return {"x": 10 * old["x"]}

    def one_more(old: h.Data) -> h.Data:
        return {"x": old["x"] + 1}

    write(url, Drawn2(Point2(5)), name="draw")
    upcasts = [h.Upcast("Point", 1, ten_times), h.Upcast("Point", 2, one_more)]
    with h.App("draw", records=[Drawn], upcasts=upcasts).open(url) as running, running.branch(at=0) as branch:
        assert bodies(running) == bodies(branch) == [Drawn(Point(6))]
        assert not branch.diff()


def test_a_branch_is_compared_where_one_became_several(url: str) -> None:
    """Each of them is a record of its own: what one of them comes to otherwise is told."""
    write(url, Sold1("a", 2), Sold1("b", 3), name="stock")

    def in_two(old: h.Data) -> Iterable[tuple[str, h.Data]]:
        return [("Sold", {"sku": old["item"], "units": 1}), ("Sold", {"sku": old["item"], "units": old["pieces"] - 1})]

    def all_in_one(old: h.Data) -> Iterable[tuple[str, h.Data]]:
        return [("Sold", {"sku": old["item"], "units": old["pieces"]})] if old["item"] == "b" else in_two(old)

    def app(by: Callable[[h.Data], Iterable[tuple[str, h.Data]]]) -> h.App:
        return h.App("stock", records=[Sold], upcasts=[h.Upcast("Sold", 1, by)])

    with app(in_two).open(url) as running:
        with running.branch(at=0) as same:
            assert not same.diff()
        with running.branch(at=0, code=app(all_in_one)) as other:
            found = other.diff()
    assert [(one.before.body, one.after.body) for one in found.changed] == [(Sold("b", 1), Sold("b", 3))]
    assert [record.body for record in found.missing] == [Sold("b", 2)]


def test_one_that_became_none_is_seen_as_it_was_recorded(url: str) -> None:
    """Nobody hears it, no query finds it, and the log is whole."""
    write(url, Sold1("a", 2), Sold1("b", 0), Sold1("c", 1), name="stock")
    with app_with(h.Upcast("Sold", 1, split)).open(url, run=False) as running:
        found = [(record.name, record.body) for record in running.log.read() if record.kind == "input"]
        asked = [record.body for record in running.log.read(h.query(names=["Sold"]))]
        running.log.verify()

    assert found[2] == ("Sold", {"item": "b", "pieces": 0})
    assert asked == [body for _, body in found if isinstance(body, Sold)] == [Sold("a-0", 1), Sold("a-1", 1), Sold("c-0", 1)]


class Bought(h.Event):
    """As it was called before it was called a sale."""

    sku: Sku
    units: int


def test_the_flow_names_events_as_they_are_read_today(url: str) -> None:
    """One that was renamed is counted under its new name; what became several is seen, and how many those are is not counted."""
    before = h.App("stock", records=[Bought], deciders=[buy])
    with before.open(url, run=False) as running:
        running.record_all([Bought("a", 1), Bought("b", 2)])
        running.dispatch(Buy("c"))
    now = h.App("stock", records=[Sold], views=[Stock], upcasts=[h.Upcast("Bought", 1, to="Sold")], ignores=["Buy"])
    with now.open(url, run=False) as running:
        flow = running.flow()
        counts = {(arrow.source, arrow.target): (arrow.count, arrow.status) for arrow in flow.arrows if arrow.count}
    several = h.App("stock", records=[Sold], views=[Stock], upcasts=[h.Upcast("Bought", 1, in_pieces)], ignores=["Buy"])
    with several.open(url, run=False) as running:
        seen = running.flow()

    assert counts == {
        ("outside", "event:Sold"): (2, "seen"),
        ("outside", "command:Buy"): (1, "earlier"),
        ("command:Buy", "decider:buy"): (1, "earlier"),
        ("decider:buy", "event:Sold"): (1, "earlier"),
        ("event:Sold", "view:Stock"): (3, "seen"),
    }
    assert [finding for finding in (*flow.findings, *seen.findings) if finding.kind in ("undeclared", "unseen")] == []


class Buy(h.Command):
    """What comes to the old event."""

    sku: Sku


def buy(command: Buy) -> Iterator[Bought]:
    """Do it."""
    yield Bought(command.sku, 1)


def in_pieces(old: h.Data) -> Iterable[tuple[str, h.Data]]:
    """Return one of each."""
    return [("Sold", {"sku": old["sku"], "units": 1})] * old["units"]
