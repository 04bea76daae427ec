"""Slices: the key space of a handler in 64 fixed parts, so that several workers can share it.

A slice is the CRC-32 of a term, modulo 64. Slices that lie side by side and are worked through together are a part, with a progress and a lease of its own.
A handler begins as one part, under its own name. It is divided when another worker comes; parts that one worker holds, and that have come equally far, are
joined again. Borders, progress and owners change in one commit, so a slice is in exactly one part at any time.
"""

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: events of any class

import msgspec

from happened.core.errors import Incompatible
from happened.core.messages import events_of
from happened.core.store import Engine
from happened.core.tags import plain_fields, scope_of, tag_text, term

NOTE = "progress/"
PART = "slices/"
"""What the name of a part begins with that does not begin with the first slice."""
SLICES = 64
WHOLE = (0, SLICES - 1)


class Progress(msgspec.Struct, frozen=True):
    """How far a worker has come, and the epoch of the lease under which it came there."""

    position: int
    epoch: int
    began: int = 0
    """From where on it works: what lies before was there before the worker was."""
    slices: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    """The first and the last of them; unset: all."""
    by: str | msgspec.UnsetType = msgspec.UNSET
    """The tag whose values fall into slices; unset where nothing is divided."""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last of its slices."""
        return self.slices or WHOLE

    def holds(self, place: int) -> bool:
        """Say whether a slice is one of these."""
        first, last = self.span
        return first <= place <= last


class Part(NamedTuple):
    """Slices that are worked through together, and how far they have come."""

    name: str
    """Of its lease and its progress."""
    progress: Progress

    @property
    def slices(self) -> tuple[int, int]:
        """The first and the last of them."""
        return self.progress.span

    @property
    def by(self) -> str:
        """The tag whose values fall into slices; empty where nothing is divided."""
        return self.progress.by or ""


class Piece(NamedTuple):
    """Slices from a first to a last one, and who is to own them."""

    first: int
    last: int
    owner: str


def progress_of(engine: Engine, name: str) -> Progress | None:
    """Return how far a worker has come, of whichever process; `None` if it never began."""
    body = engine.notes(NOTE + name).get(NOTE + name)
    return msgspec.json.decode(body, type=Progress) if body is not None else None


def part_name(handler: str, first: int) -> str:
    """Return what the part of a handler is called that begins with a slice: as the handler itself, if that is the first."""
    return f"{PART}{first:02d}/{handler}" if first else handler


def handler_of(name: str) -> str:
    """Return of which handler this is a part."""
    return name.split("/", 2)[2] if name.startswith(PART) else name


def parts_of(noted: Mapping[str, str]) -> dict[str, list[Part]]:
    """Return the parts of each handler that ever began, in order of their slices, from the notes of what has come how far."""
    found: dict[str, list[Part]] = {}
    for key, body in noted.items():
        name = key.removeprefix(NOTE)
        found.setdefault(handler_of(name), []).append(Part(name, msgspec.json.decode(body, type=Progress)))
    return {handler: sorted(parts, key=lambda part: part.slices) for handler, parts in found.items()}


def parts_in(engine: Engine, handler: str) -> list[Part]:
    """Return the parts of a handler as they are noted now; none if it never began."""
    return parts_of({key: body for key, body in engine.notes(NOTE).items() if key.endswith(handler)}).get(handler, [])


def shared_among(owners: Sequence[str]) -> Iterator[Piece]:
    """Yield all slices, shared among workers in their order, as equally as may be; who comes after the 64th has none."""
    count = min(len(owners), SLICES)
    for place, owner in enumerate(owners[:SLICES]):
        yield Piece(place * SLICES // count, (place + 1) * SLICES // count - 1, owner)


def cut(slices: tuple[int, int], shares: Sequence[Piece]) -> list[Piece]:
    """Return these slices, cut where their owners change."""
    first, last = slices
    return [Piece(max(first, one.first), min(last, one.last), one.owner) for one in shares if one.first <= last and one.last >= first]


def slice_of(text: str) -> int:
    """Return the slice that a term falls into. It is the same for ever: logs that are shared rest on it."""
    return zlib.crc32(text.encode()) % SLICES


def slicer(events: Collection[type], by: str) -> Callable[[Any], int]:
    """Return the function that says into which slice an event falls. `Incompatible` where one does not have that tag any more, as one plain field."""
    fields: dict[type, str] = {}
    for event in events:
        plain = plain_fields(scope_of(event), (by,))
        if plain is None:
            raise Incompatible(
                f"workers have shared this by the tag `{by}`, which `{event.__name__}` does not have any more as one field: let one process with the "
                "former code come to the end of the log, then start this one",
                tag=by,
                type=event.__name__,
            )
        [fields[event]] = plain

    def slice_in(event: Any) -> int:
        first = events_of(event)[0]
        return slice_of(term(by, tag_text(getattr(first, fields[type(first)]))))

    return slice_in
