"""The classes of `deep_once.py` as they are today, with what leads here."""

from collections.abc import Mapping

import msgspec

import happened as h


@h.named("Box", version=2)
class Box(h.Value):
    grams: int


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


def grams(old: h.Data) -> h.Data:
    """Lift one box, once."""
    return {"grams": old["kilograms"] * 1000}


def packed() -> Packed:
    """Return what `deep_once.packed()` is today."""
    box = Box(1000)
    return Packed(((box,), (box, box)), {"a": {"b": box}}, ({"c": (box,)}, {}), box, (box, box), (Label(1), box), {"d": (box,)})


class Packs(h.State):
    grams: int = 0

    def evolve(self, event: Packed) -> "Packs":
        return self.but(grams=self.grams + sum(box.grams for row in event.rows for box in row))


app = h.App("deep", records=[Packed], views=[Packs], upcasts=[h.Upcast("Box", 1, grams)])
