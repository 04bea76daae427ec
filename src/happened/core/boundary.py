"""Boundaries: which records a decision depends on.

A `Query` is any of several items; an item asks for any of several names and all of several tags. Names alone and tags alone work too; an item with
neither matches every event. Boundaries match events (internal, and facts recorded as input), never commands, answers, outputs or system records.
"""

from collections.abc import Collection
from typing import Any  # Any: values of tags are of any type

import msgspec

from happened.core.errors import Invalid
from happened.core.tags import is_unicode, term, text_of


class Item(msgspec.Struct, frozen=True):
    """One item of a query: any of `names` and all of `tags`; tags are (tag, value) pairs. Empty means: whatever."""

    names: frozenset[str] = frozenset()
    tags: frozenset[tuple[str, str]] = frozenset()

    def matches(self, name: str, terms: Collection[str]) -> bool:
        """Say whether an event of this name with these terms is asked for."""
        return (not self.names or name in self.names) and all(term(*tag) in terms for tag in self.tags)


class Query(msgspec.Struct, frozen=True):
    """Which events are meant: those that any of the items asks for. Without items: all of them."""

    items: tuple[Item, ...] = ()

    def matches(self, name: str, terms: Collection[str]) -> bool:
        """Say whether an event of this name with these terms is asked for."""
        return not self.items or any(item.matches(name, terms) for item in self.items)


class Boundary(msgspec.Struct, frozen=True):
    """The condition of an `append` by hand: no event that `query` asks for may lie after position `after`."""

    query: Query = Query()
    after: int = 0


def query(*items: Collection[str] | Item, names: Collection[str] = (), **tags: Any) -> Query:
    """Make a query of items, or of one item by `names=` and tags by name: `query(names=["OrderPlaced"], sku="widget")`.

    A value that is no text is compared by the text that a tag of it has. `Invalid` for names given as one text, and for what no event can have.
    """
    for given in (names, *items):
        if isinstance(given, str):
            raise Invalid(f"names must be a collection of names, not one text: query(names=[{given!r}])", names=given)
    made = [item if isinstance(item, Item) else Item(names=frozenset(item)) for item in items]
    if names or tags:
        made.append(Item(frozenset(names), frozenset((tag, _text(tag, value)) for tag, value in tags.items())))
    for name in {name for item in made for name in item.names}:
        _text("names", name)
    return Query(tuple(made))


def _text(what: str, value: Any) -> str:
    """Return a value as the text that events have. `Invalid` for what none can have."""
    text = text_of(value)
    if value is None or not is_unicode(text):
        raise Invalid(
            f"`{what}` is {value!r}, " + ("and no event has that" if value is None else "which has half a character and is no valid text"),
            field=what,
        )
    return text
