"""Classes with others nested in them, as they were once: `nested_today.py` has what became of them."""

from collections.abc import Iterator, Mapping
from typing import Annotated

import happened as h

OrderNo = Annotated[str, h.Tag("order")]
Sku = Annotated[str, h.Tag("sku")]


class Weight(h.Value):
    grams: int


class Line(h.Value):
    sku: str
    units: int
    weight: Weight | None = None


class Card(h.Value, tag="card"):
    number: str


class Cash(h.Value, tag="cash"):
    till: int


class OrderPlaced(h.Event):
    order: OrderNo
    lines: tuple[Line, ...]
    gifts: Mapping[str, Line]
    paid: Card | Cash
    first: tuple[int, Line]


class Moved(h.Event):
    sku: Sku
    shelf: str


class Sorted(h.Command):
    sku: Sku


class OfSku(h.State):
    sku: Sku
    moves: int = 0

    def evolve(self, event: Moved) -> "OfSku":
        return self.but(moves=self.moves + 1)


def sort(command: Sorted, of: OfSku) -> Iterator[Moved]:
    """Put it somewhere else each time."""
    yield Moved(command.sku, f"shelf-{of.moves}")


shop = h.App("shop", records=[OrderPlaced, Moved], deciders=[sort])
