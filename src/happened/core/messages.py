"""Messages: what has happened, what needs to happen, and the data nested in both.

All are frozen `msgspec.Struct`s: plain typed data that a type checker understands, cheap to make, equal by content.
`named` gives a class or a function the name that the log knows it by; without it the name is the class's own, never a module path.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, NewType, TypeGuard, TypeVar, dataclass_transform  # Any: Data is JSON before it has a type

import msgspec

from happened.core.errors import Invalid

Position = NewType("Position", int)
"""A place in one log: 1 for its first record, dense, in commit order. 0 is before the first."""

CallId = NewType("CallId", str)
"""The idempotency key of one question to the outside; a gateway that has a parameter of this type is given it."""

Data = dict[str, Any]  # Any: JSON before it has a type
"""A body as plain JSON data, as upcasts see it."""

Thing = TypeVar("Thing")
E = TypeVar("E")
V = TypeVar("V")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, gc=False):
    """What has happened. Subclass it, in the past tense, with typed fields."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Command(msgspec.Struct, frozen=True, gc=False):
    """What needs to happen. Subclass it, in the imperative, with typed fields; one decider handles it."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, frozen=True, gc=False):
    """Data nested in events, commands and states: an address, a line of an order. May carry tags."""


class Tag(msgspec.Struct, frozen=True):
    """Says what a message is about: `Sku = Annotated[str, Tag("sku")]`. Values are compared as text, by code point; `None` is no tag.

    One tag has one type throughout an app.
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse a name that is none."""
        if type(self.name) is not str or not self.name or "\x1f" in self.name:
            raise Invalid(
                f"{self.name!r} is no name of a tag: it is a text, not empty, without the control character \\x1f", tag=str(self.name)
            )


class Index(msgspec.Struct, frozen=True):
    """Marks a field that a view is searched by: `Annotated[str, Index()]`. It costs one more index to keep."""


class Places(msgspec.Struct, frozen=True):
    """How many decimal places a view's `Decimal` column keeps: `Annotated[Decimal, Places(2)]`. Without it 6; more places are refused, never rounded."""

    count: int


class Part(msgspec.Struct, Generic[E, V], frozen=True, gc=False):
    """One part of an event, in the union of `evolve`: `Part[OrderPlaced, Line]` calls it once for each `Line`, with the order as `whole`."""

    whole: E
    part: V


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The envelope of a record, where a function asks for it: its id, when it was recorded, when it happened, and who did it."""

    id: str
    time: datetime
    occurred: datetime
    actor: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """A body with its envelope, for bulk: `record_all`, `dispatch_all` and `log.append` take these beside bare bodies.

    `occurred` must have a zone.
    """

    body: Event | Command | Any  # Any: a `Loose` record has no class
    id: str | None = None
    actor: str = ""
    occurred: datetime | None = None
    correlation: str | None = None
    causation: str | None = None


NAME = "__happened_name__"
"""The attribute that `named` sets. It is looked up in the class itself: a subclass does not inherit its parent's name."""


def named(name: str, *, version: int = 1) -> Callable[[Thing], Thing]:
    """Give a class or a function the name (and version) that the log knows it by; nothing else about it changes.

    Rename the Python class as you like then. `Invalid` for an empty name or a version below 1.
    """
    if not name or version < 1:
        raise Invalid("a name must not be empty and a version starts at 1", name=name, version=version)

    def name_it(thing: Thing) -> Thing:
        setattr(thing, NAME, (name, version))  # the decorator's one job
        return thing

    return name_it


def is_data(body: Any) -> TypeGuard[Data]:
    """Say whether a body is plain data: no class of today's reads it."""
    return isinstance(body, dict)


def name_of(thing: Any) -> tuple[str, int]:  # Any: classes and functions alike
    """Return the name and version of a class or function: what `named` said, else its own name and 1."""
    given = _given(thing)
    if given is None:
        while hasattr(thing, "func"):  # functools.partial
            thing = thing.func
            given = _given(thing)
    return given or (thing.__name__, 1)


def _given(thing: Any) -> tuple[str, int] | None:
    given: tuple[str, int] | None = getattr(thing, "__dict__", {}).get(NAME)  # its own, not a base's
    return given
