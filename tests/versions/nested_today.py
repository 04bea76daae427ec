"""The classes of `nested_once.py` as they are today, with what leads here."""

from collections.abc import Iterator, Mapping
from typing import Annotated

import happened as h

OrderNo = Annotated[str, h.Tag("order")]
Sku = Annotated[str, h.Tag("sku")]
Shelf = Annotated[str, h.Tag("shelf")]


@h.named("Weight", version=3)
class Weight(h.Value):
    kilograms: float


@h.named("Line", version=2)
class Line(h.Value):
    sku: Sku
    units: int
    weight: Weight | None = None


@h.named("Card", version=2)
class Card(h.Value, tag="card"):
    number: str
    bank: str


class Cash(h.Value, tag="cash"):
    till: int


class OrderPlaced(h.Event):
    order: OrderNo
    lines: tuple[Line, ...]
    gifts: Mapping[str, Line]
    paid: Card | Cash
    first: tuple[int, Line]


@h.named("Moved", version=2)
class Moved(h.Event):
    item: str
    shelf: Shelf


def grams_in_all(old: h.Data) -> h.Data:
    return {"g": old["grams"]}


def kilograms(old: h.Data) -> h.Data:
    return {"kilograms": old["g"] / 1000}


def dozens(old: h.Data) -> h.Data:
    """Lines counted dozens once. The weight is in today's shape here."""
    assert old["weight"] is None or set(old["weight"]) == {"kilograms"}
    return old | {"units": old["units"] * 12}


def with_bank(old: h.Data) -> h.Data:
    return old | {"bank": "unknown"}


def by_shelf(old: h.Data) -> h.Data:
    return {"item": old["sku"], "shelf": old["shelf"]}


class OnShelf(h.State):
    shelf: Shelf
    items: int = 0

    def evolve(self, event: Moved) -> "OnShelf":
        return self.but(items=self.items + 1)


class Sort(h.Command):
    shelf: Shelf


def sort(command: Sort, of: OnShelf) -> Iterator[Moved]:
    """Put one more there."""
    yield Moved(f"item-{of.items}", command.shelf)


shop = h.App(
    "shop",
    records=[OrderPlaced, Moved],
    deciders=[sort],
    views=[OnShelf],
    upcasts=[
        h.Upcast("Weight", 1, grams_in_all),
        h.Upcast("Weight", 2, kilograms),
        h.Upcast("Line", 1, dozens),
        h.Upcast("Card", 1, with_bank),
        h.Upcast("Moved", 1, by_shelf),
        h.Retired("OrderViewed"),
    ],
)
