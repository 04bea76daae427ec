"""A class with others deep inside, as it was once: `deep_today.py` has what became of it."""

from collections.abc import Mapping

import msgspec

import happened as h


class Box(h.Value):
    kilograms: int


class Label(h.Value):
    kilograms: int


class Packed(h.Event):
    rows: tuple[tuple[Box, ...], ...]
    shelves: Mapping[str, Mapping[str, Box]]
    pages: tuple[Mapping[str, tuple[Box, ...]], ...]
    one: Box | tuple[Box, ...]
    many: Box | tuple[Box, ...]
    pair: tuple[Label, Box]
    later: Mapping[str, tuple[Box, ...]] = msgspec.field(default_factory=dict[str, tuple[Box, ...]])


def packed() -> Packed:
    """Return one that has something everywhere."""
    box = Box(1)
    return Packed(((box,), (box, box)), {"a": {"b": box}}, ({"c": (box,)}, {}), box, (box, box), (Label(1), box), {"d": (box,)})
