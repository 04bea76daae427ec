"""Boundaries: which records a decision depends on.

A `Query` is any of several items; an item asks for any of several names and all of several tags. Names alone and tags alone work too; an item with
neither matches every event. Boundaries match events (internal, and facts recorded as input), never commands, answers, outputs or system records.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar  # Any: values of tags are of any type, and a caller without a type checker may give anything

import msgspec

from happened.core.errors import Invalid
from happened.core.messages import Tag
from happened.core.tags import term, text_given


class Item(msgspec.Struct, frozen=True):
    """One item of a query: any of `names` and all of `tags`; tags are (tag, value) pairs. Empty means: whatever. `Invalid` for what no event can have."""

    names: frozenset[str] = frozenset()
    tags: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        """Take lists for sets, and values for their texts. One text would be taken for its letters: that asks for nothing, or for something else."""
        names = _collected("names", "texts", self.names, tuple[str, ...], 'names=["OrderPlaced"]')
        pairs = _collected("tags", "pairs", self.tags, tuple[tuple[str, Any], ...], 'tags=[("sku", "widget")]')
        msgspec.structs.force_setattr(self, "names", frozenset(text_given("names", name) for name in names))
        told = [(Tag(str(text_given("tags", tag))).name, value) for tag, value in pairs]
        msgspec.structs.force_setattr(self, "tags", frozenset((tag, text_given(tag, value)) for tag, value in told))

    def matches(self, name: str, terms: Collection[str]) -> bool:
        """Say whether an event of this name with these terms is asked for."""
        return (not self.names or name in self.names) and all(term(*tag) in terms for tag in self.tags)


class Query(msgspec.Struct, frozen=True):
    """Which events are meant: those that any of the items asks for. Without items: all of them."""

    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        """Take a list for a tuple. `Invalid` for what is no item."""
        msgspec.structs.force_setattr(self, "items", _collected("items", "`Item`", self.items, tuple[Item, ...], "query(...)"))

    def matches(self, name: str, terms: Collection[str]) -> bool:
        """Say whether an event of this name with these terms is asked for."""
        return not self.items or any(item.matches(name, terms) for item in self.items)


class Boundary(msgspec.Struct, frozen=True):
    """The condition of an `append` by hand: no event that `query` asks for may lie after position `after`.

    `after` is how far you had read: take `log.head` first, then read `until` there. A head that is looked at after the reading is too late: what was
    recorded between the two would be missed.
    """

    query: Query = msgspec.field(default_factory=Query)
    after: int = 0


def query(*items: Collection[str] | Item | Query, names: Collection[str] = (), **tags: Any) -> Query:
    """Make a query of items, or of one item by `names=` and tags by name: `query(names=["OrderPlaced"], sku="widget")`.

    An item is an `Item`, names, or another query, whose items are taken: `query(query(sku="widget"), query(order="o-1"))` asks for what has one of the
    tags; for what has two values of one tag ask by an `Item`. A value that is no text is compared by the text that a tag of it has. `Invalid` for names
    given as one text, and for what no event can have.
    """
    made: list[Item] = []
    for given in items:
        if isinstance(given, Query):
            made += given.items or (Item(),)
        else:
            made.append(given if isinstance(given, Item) else _item(given, ()))
    if names or tags:
        made.append(_item(names, tuple(tags.items())))
    return Query(tuple(made))


def _item(names: Any, tags: Any) -> Item:
    return Item(names, tags)


T = TypeVar("T")


def _collected(what: str, of: str, given: Any, kind: type[T], instead: str) -> T:
    """Return a collection that a caller gave as one of a kind. `Invalid` for anything else."""
    try:
        return msgspec.convert(given if isinstance(given, str | Mapping) else tuple(given), kind)
    except (TypeError, msgspec.ValidationError) as error:
        raise Invalid(f"{what} are a collection of {of}, not {given!r}: write {instead}", field=what) from error
