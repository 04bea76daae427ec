"""Tags lie together: which values, and which combinations of them, a message carries."""

import enum
import itertools
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, NamedTuple, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from happened.core.boundary import Item, Query, query
from happened.core.errors import Invalid
from happened.core.messages import Event, Tag, Value
from happened.core.tags import keys_of, outline, parts_of, scope_of, term, terms_by_outline, terms_of

A = Annotated[str, Tag("a")]
Sku = Annotated[str, Tag("sku")]
B = Annotated[str, Tag("b")]
C = Annotated[str, Tag("c")]

TAGS = ("a", "b", "c")


class Leaf(Value):
    b: B | None = None
    c: C | None = None


class Branch(Value):
    a: A | None = None
    bs: tuple[B, ...] = ()
    leaves: tuple[Leaf, ...] = ()


class Tree(Event):
    a: A | None = None
    also_a: A | None = None
    c: C | None = None
    leaf: Leaf | None = None
    branches: tuple[Branch, ...] = ()


texts = st.sampled_from("xyz")
maybe = st.none() | texts
leaves = st.builds(Leaf, maybe, maybe)
branches = st.builds(Branch, maybe, st.lists(texts, max_size=2).map(tuple), st.lists(leaves, max_size=2).map(tuple))
trees = st.builds(Tree, maybe, maybe, maybe, st.none() | leaves, st.lists(branches, max_size=2).map(tuple))


class Seen:
    """One part of a message as a plain reading of the rule sees it: its own tags and those around it."""

    def __init__(self, part: Any, tags: dict[str, list[str]], around: dict[str, list[str]]) -> None:
        self.part = part
        self.tags = {tag: tags.get(tag, []) + around.get(tag, []) for tag in TAGS}


def seen(tree: Tree) -> Iterator[Seen]:
    """Walk through a tree by hand."""

    def some(*values: str | None) -> list[str]:
        return [value for value in values if value is not None]

    top = Seen(tree, {"a": some(tree.a, tree.also_a), "c": some(tree.c)}, {})
    yield top
    if tree.leaf is not None:
        yield Seen(tree.leaf, {"b": some(tree.leaf.b), "c": some(tree.leaf.c)}, top.tags)
    for branch in tree.branches:
        around = Seen(branch, {"a": some(branch.a), "b": list(branch.bs)}, top.tags)
        yield around
        for leaf in branch.leaves:
            yield Seen(leaf, {"b": some(leaf.b), "c": some(leaf.c)}, around.tags)


def pairs(one: Seen, tags: tuple[str, ...]) -> set[tuple[str, ...]]:
    return set(itertools.product(*(one.tags[tag] for tag in tags)))


wanted = st.sampled_from([tags for count in (1, 2, 3) for tags in itertools.permutations(TAGS, count)])


@given(trees, wanted)
def test_the_keys_of_a_message_are_what_some_part_of_it_sees(tree: Tree, tags: tuple[str, ...]) -> None:
    """A combination counts where one part sees all of it, each once, and never across sisters."""
    found = list(keys_of(scope_of(Tree), tags)(tree))

    assert set(found) == {key for one in seen(tree) for key in pairs(one, tags)}
    assert len(found) == len(set(found))


@given(trees, wanted, st.sampled_from([Leaf, Branch]))
def test_each_part_has_the_keys_that_it_sees(tree: Tree, tags: tuple[str, ...], part: type[Value]) -> None:
    """A part is found once for each key, also where an equal part stands beside it."""
    found = list(parts_of(scope_of(Tree), part, tags)(tree))

    expected = [(key, one.part) for one in seen(tree) if isinstance(one.part, part) for key in pairs(one, tags)]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


@given(trees)
def test_the_terms_of_a_message_are_all_its_tags(tree: Tree) -> None:
    """The index is flat: every (tag, value), each once."""
    found = terms_of(scope_of(Tree))(tree)

    assert set(found) == {term(tag, value) for one in seen(tree) for tag in TAGS for value in one.tags[tag]}
    assert len(found) == len(set(found))


@given(trees, wanted)
def test_a_key_never_has_a_tag_that_the_terms_lack(tree: Tree, tags: tuple[str, ...]) -> None:
    """What a fold takes in, the index finds: a boundary may match too much, and never too little."""
    terms = set(terms_of(scope_of(Tree))(tree))

    for key in keys_of(scope_of(Tree), tags)(tree):
        assert {term(tag, value) for tag, value in zip(tags, key, strict=True)} <= terms


class Line(Value):
    item: Annotated[str, Tag("item")]
    store: Annotated[str, Tag("store")]


class Ordered(Event):
    customer: Annotated[str, Tag("customer")]
    lines: tuple[Line, ...]


def test_tags_of_sisters_do_not_lie_together() -> None:
    """The customer goes with every item, an item only with its own store."""
    ordered = Ordered("c", (Line("a", "w1"), Line("b", "w2")))
    scope = scope_of(Ordered)

    assert list(keys_of(scope, ("customer", "item"))(ordered)) == [("c", "a"), ("c", "b")]
    assert list(keys_of(scope, ("item", "store"))(ordered)) == [("a", "w1"), ("b", "w2")]
    assert list(keys_of(scope, ("store", "item"))(ordered)) == [("w1", "a"), ("w2", "b")]
    assert list(keys_of(scope, ("customer",))(ordered)) == [("c",)]
    assert list(keys_of(scope, ("item", "colour"))(ordered)) == []


class Colour(enum.Enum):
    RED = "red"


class Mixed(Event):
    number: Annotated[int, Tag("number")] | None = None
    day: Annotated[date, Tag("day")] | None = None
    colour: Annotated[Colour, Tag("colour")] | None = None
    items: frozenset[Annotated[str, Tag("item")]] = frozenset()
    counts: Mapping[Annotated[str, Tag("item")], int] = {}
    lines: Mapping[str, Line] = {}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Mixed(), []),
        (Mixed(number=7), [("number", "7")]),
        (Mixed(number=0), [("number", "0")]),
        (Mixed(day=date(2026, 1, 2)), [("day", "2026-01-02")]),
        (Mixed(colour=Colour.RED), [("colour", "red")]),
        (Mixed(items=frozenset({"x"}), counts={"x": 1, "y": 2}), [("item", "x"), ("item", "y")]),
        (Mixed(lines={"first": Line("x", "w")}), [("item", "x"), ("store", "w")]),
    ],
    ids=["none", "number", "zero", "day", "enum", "collections", "values"],
)
def test_a_tag_is_compared_as_text(message: Mixed, expected: list[tuple[str, str]]) -> None:
    """Numbers, days and members of enumerations have one text; members of collections and keys of mappings are tags, too."""
    assert list(terms_of(scope_of(Mixed))(message)) == [term(*tag) for tag in expected]


class Row(Value):
    sku: Sku


class Owner(Value):
    sku: str
    a: A


class Deep(Event):
    rows: tuple[tuple[Row, ...], ...] = ()
    shelves: Mapping[str, Mapping[str, Row]] = msgspec.field(default_factory=dict[str, Mapping[str, Row]])
    pages: tuple[Mapping[str, tuple[Row, ...]], ...] = ()
    either: Row | tuple[Row, ...] | None = None
    skus: Mapping[str, tuple[Sku, ...]] | None = None
    one_or_many: Sku | tuple[Sku, ...] = ()
    counted: tuple[Mapping[Sku, int], ...] = ()
    pair: tuple[Row, Owner] | None = None
    mapped: Sku | Mapping[str, Sku] | None = None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Deep(rows=((Row("a"), Row("b")), (), (Row("c"),))), "abc"),
        (Deep(shelves={"x": {"y": Row("a")}, "z": {}}), "a"),
        (Deep(pages=({"x": (Row("a"),)}, {"y": (Row("b"), Row("a"))})), "ab"),
        (Deep(either=Row("a")), "a"),
        (Deep(either=(Row("a"), Row("b"))), "ab"),
        (Deep(skus={"x": ("a", "b")}), "ab"),
        (Deep(one_or_many="a"), "a"),
        (Deep(one_or_many=("a", "b")), "ab"),
        (Deep(counted=({"a": 1}, {"b": 2})), "ab"),
        (Deep(mapped="a"), "a"),
        (Deep(mapped={"x": "a", "y": "b"}), "ab"),
        (Deep(pair=(Row("a"), Owner("b", "c"))), "a"),
    ],
)
def test_tags_are_found_however_deep_collections_lie_in_each_other(message: Deep, expected: str) -> None:
    """And beside a single one; by the class, by the outline that the log keeps, and as keys."""
    scope = scope_of(Deep)
    data = msgspec.json.decode(msgspec.json.encode(message))

    of_owner = [term("a", message.pair[1].a)] if message.pair is not None else []
    assert list(terms_of(scope)(message)) == [term("sku", value) for value in expected] + of_owner
    assert terms_by_outline(outline(scope))(data) == [term("sku", value) for value in expected] + of_owner
    assert list(keys_of(scope, ("sku",))(message)) == [(value,) for value in expected]


class Plain(Value):
    count: int = 0


class Beside(Event):
    numbers: Sku | tuple[int, ...] = ()
    plain: Sku | Plain = Plain()
    row: Sku | Row | None = None
    counted: Sku | Mapping[str, int] = msgspec.field(default_factory=dict[str, int])
    rows: Mapping[str, Sku | Row] = msgspec.field(default_factory=dict[str, Sku | Row])


class Single(Event):
    numbers: Sku | tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Beside(numbers=(1, 2)), ""),
        (Beside(numbers="a"), "a"),
        (Beside(plain=Plain(1)), ""),
        (Beside(plain="a"), "a"),
        (Beside(row=Row("a")), "a"),
        (Beside(row="a"), "a"),
        (Beside(counted={"x": 1}), ""),
        (Beside(rows={"x": "a", "y": Row("b")}), "ab"),
        (Single((1, 2)), ""),
        (Single("a"), "a"),
    ],
)
def test_what_lies_beside_a_tag_is_no_value_of_it(message: Event, expected: str) -> None:
    """Where a field holds a value with a tag, or else something that is made of others."""
    scope = scope_of(type(message))

    assert list(terms_of(scope)(message)) == [term("sku", value) for value in expected]
    assert list(keys_of(scope, ("sku",))(message)) == [(value,) for value in expected]


class Pair(NamedTuple):
    first: int
    second: int


class Paired(Event):
    one: Annotated[Pair, Tag("pair")]
    more: tuple[Annotated[Pair, Tag("pair")], ...] = ()


def test_a_value_with_a_tag_may_be_made_of_others_itself() -> None:
    """It is one value, also in a collection."""
    paired = Paired(Pair(1, 2), (Pair(3, 4),))

    assert list(keys_of(scope_of(Paired), ("pair",))(paired)) == [(Pair(1, 2),), (Pair(3, 4),)]
    assert list(terms_of(scope_of(Paired))(paired)) == [term("pair", "(1, 2)"), term("pair", "(3, 4)")]


TUPLE: Any = tuple
MAPPING: Any = Mapping
UNION: Any = Union


class Drawn(NamedTuple):
    """A type that hypothesis has drawn: its values, each with the values of the tag in it."""

    annotation: Any
    values: st.SearchStrategy[tuple[Any, list[str]]]


SKU = Drawn(Sku, texts.map(lambda text: (text, [text])))
ROW = Drawn(Row, texts.map(lambda text: (Row(text), [text])))
PLAIN = Drawn(Plain, st.just((Plain(7), list[str]())))
WHOLE = Drawn(int, st.just((7, list[str]())))


def together(found: list[tuple[Any, list[str]]]) -> tuple[tuple[Any, ...], list[str]]:
    return tuple(value for value, _ in found), [text for _, inside in found for text in inside]


def either(*kinds: Drawn) -> Drawn:
    return Drawn(UNION[tuple(kind.annotation for kind in kinds)], st.one_of(*(kind.values for kind in kinds)))


def many(kind: Drawn) -> Drawn:
    return Drawn(TUPLE[kind.annotation, ...], st.lists(kind.values, max_size=2).map(together))


def placed(first: Drawn, second: Drawn) -> Drawn:
    return Drawn(
        TUPLE[first.annotation, second.annotation], st.tuples(first.values, second.values).map(lambda found: together(list(found)))
    )


def mapped(kind: Drawn, *, by_sku: bool) -> Drawn:
    def in_keys(found: dict[str, tuple[Any, list[str]]]) -> tuple[Any, list[str]]:
        inside = [text for _, below in found.values() for text in below]
        return {key: value for key, (value, _) in found.items()}, [*(found if by_sku else ()), *inside]

    return Drawn(MAPPING[Sku if by_sku else str, kind.annotation], st.dictionaries(texts, kind.values, max_size=2).map(in_keys))


def deeper(kinds: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    lists = st.one_of(kinds.map(many), st.builds(placed, kinds, kinds))
    objects = st.one_of(st.sampled_from([ROW, PLAIN]), st.builds(mapped, kinds, by_sku=st.booleans()))
    return st.one_of(lists, objects, st.builds(either, st.just(SKU), lists, objects), st.builds(either, st.just(SKU), objects))


@given(st.recursive(st.sampled_from([SKU, ROW, PLAIN, WHOLE]), deeper, max_leaves=4), st.data())
def test_tags_are_found_wherever_a_type_may_hold_them(kind: Drawn, data: st.DataObject) -> None:
    """As they were put there, in types of any form: in messages, as keys, and, never too few, by the outline that the log keeps."""
    cls = msgspec.defstruct("Drawn", [("field", kind.annotation)], bases=(Event,), frozen=True)
    value, inside = data.draw(kind.values)
    message = msgspec.json.decode(msgspec.json.encode(cls(value)), type=cls)
    scope = scope_of(cls)

    assert message == cls(value)
    assert set(terms_of(scope)(message)) == {term("sku", text) for text in inside}
    assert set(keys_of(scope, ("sku",))(message)) == {(text,) for text in inside}
    assert set(terms_by_outline(outline(scope))(msgspec.to_builtins(message))) >= {term("sku", text) for text in inside}


def test_data_without_an_end_is_refused() -> None:
    """A class that holds itself has no last part."""

    class Knot(Value):
        a: A
        below: "tuple[Knot, ...]" = ()

    Knot.__annotations__["below"] = tuple[Knot, ...]
    with pytest.raises(Invalid, match=r"`Knot` holds itself.*Say `Any` where it does"):
        scope_of(Knot)


# --- boundaries -------------------------------------------------------------------------------------------------------------

names = st.sampled_from(["Sold", "Moved", "Left"])
tag_sets = st.frozensets(st.tuples(st.sampled_from("ab"), texts), max_size=3)
items = st.builds(Item, st.frozensets(names, max_size=2), tag_sets)


@given(st.lists(items, max_size=3).map(tuple), names, tag_sets)
def test_a_query_asks_for_any_item_and_an_item_for_all_its_tags(
    asked: tuple[Item, ...], name: str, tags: frozenset[tuple[str, str]]
) -> None:
    """Any of several items; in an item any of its names and all of its tags; what is left out does not narrow."""
    terms = [term(*tag) for tag in tags]

    expected = not asked or any((name in item.names or not item.names) and item.tags <= tags for item in asked)

    assert Query(asked).matches(name, terms) == expected


@given(names, tag_sets)
def test_an_empty_item_asks_for_everything(name: str, tags: frozenset[tuple[str, str]]) -> None:
    """So does a query without items."""
    terms = [term(*tag) for tag in tags]

    assert Item().matches(name, terms)
    assert query().matches(name, terms)


def test_a_query_is_written_by_names_and_tags() -> None:
    """Names alone, tags alone, both, and several items; a number is compared as its text."""
    red = [term("colour", "red"), term("number", "7")]

    assert query(names=["Sold"]).matches("Sold", [])
    assert not query(names=["Sold"]).matches("Moved", red)
    assert query(colour="red", number=7).matches("Moved", red)
    assert not query(colour="red", number=8).matches("Moved", red)
    assert not query(names=["Sold"], colour="red").matches("Moved", red)
    assert query(["Sold", "Moved"], Item(tags=frozenset({("colour", "blue")}))).matches("Moved", red)
    assert query(query(names=["Sold"]), query(colour="red")).matches("Moved", red)
    assert not query(query(names=["Sold"]), query(colour="blue")).matches("Moved", red)
    assert query(query(names=["Sold"]), query()).matches("Moved", red)


def test_names_are_a_collection() -> None:
    """One text would be taken for its letters."""
    with pytest.raises(Invalid, match="collection"):
        query(names="Sold")
    with pytest.raises(Invalid, match="collection"):
        query("Sold")


@pytest.mark.parametrize("value", [object(), 1j, test_names_are_a_collection], ids=["object", "complex", "function"])
def test_what_no_event_can_have_is_invalid(value: object) -> None:
    """Whatever a caller gives for a tag that could not be recorded."""
    with pytest.raises(Invalid, match="no event has that"):
        query(sku=value)


@pytest.mark.parametrize("name", ["", "a\x1fb", "\ud800", 7])
def test_a_tag_that_no_event_can_have_is_invalid(name: Any) -> None:
    """With the sign that stands between a tag and its value it would be found by those of another."""
    with pytest.raises(Invalid):
        Item(tags=frozenset({(name, "x")}))
    if isinstance(name, str):
        with pytest.raises(Invalid):
            query(**{name: "x"})


class Called(str, enum.Enum):  # noqa: UP042 - as many are
    SKU = "sku"


def test_a_tag_may_be_called_by_a_member_of_an_enumeration() -> None:
    """It is its text."""
    assert Item(tags=frozenset({(Called.SKU, "x")})).matches("Sold", [term("sku", "x")])


def test_a_value_that_looks_like_another_tag_is_none() -> None:
    """The pair of tag and value is one, whatever the value contains."""
    assert not query(a="x").matches("Sold", [term("b", "a\x1fx"), term("aa", "x")])
