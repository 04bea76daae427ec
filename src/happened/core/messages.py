"""Messages: what has happened, what needs to happen, and the data nested in both.

All are frozen `msgspec.Struct`s: plain typed data that a type checker understands, cheap to make, equal by content.
`named` gives a class or a function the name that the log knows it by; without it the name is the class's own, never a module path.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
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


C = TypeVar("C", bound=Command)


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, frozen=True, gc=False):
    """Data nested in events, commands and states: an address, a line of an order. May carry tags."""


class Tag(msgspec.Struct, frozen=True):
    """Says what a message is about: `Sku = Annotated[str, Tag("sku")]`. Values are compared as text, by code point; `None` is no tag.

    One tag has one type throughout an app. Values that are equal have one text: a `Decimal`, `float` or `datetime` with a tag is recorded without zeros at
    its end, and in UTC.
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


class _Later(msgspec.Struct, Generic[C], frozen=True, gc=False):
    command: C


class Later(_Later[C], Generic[C], frozen=True, gc=False, kw_only=True):
    """A command that a reaction has sent later: `after` a time that counts from the event's recorded time, or `at` a time. Exactly one of both.

    It is recorded at once, and sent when it is due, also if nothing runs meanwhile; what was due while nothing ran is sent at the next start, in due order.
    It is never cancelled: when it comes, the decider looks at the state, and does nothing where nothing is to be done.
    """

    after: timedelta | None = None
    at: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what says no time, two, what is none, one before the event, or one without a zone."""
        if (self.after is None) == (self.at is None):
            raise Invalid("`Later` takes either `after=timedelta(...)` or `at=datetime(...)`")
        for given, kind in ((self.after, timedelta), (self.at, datetime)):
            if given is not None and not isinstance(given, kind):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every caller
                raise Invalid(f"`Later` takes either `after=timedelta(...)` or `at=datetime(...)`, not {given!r}")
        if self.after is not None and self.after < timedelta(0):
            raise Invalid(f"`Later` can't come before its event: after={self.after!r}")
        if self.at is not None and self.at.tzinfo is None:
            raise Invalid(f"`Later` takes a time with a zone, not {self.at!r}")


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
    if not is_name(name) or type(version) is not int or version < 1:
        raise Invalid(
            'a name is a text that is not empty, and a version a number from 1: `@named("OrderPlaced", version=2)`',
            name=name,
            version=version,
        )

    def name_it(thing: Thing) -> Thing:
        setattr(thing, NAME, (name, version))  # the decorator's one job
        return thing

    return name_it


def called(given: object) -> str:
    """Return what something is called that was given where a message is taken."""
    return f"the class `{given.__name__}`" if isinstance(given, type) else f"`{type(given).__name__}`"


def instead_of(given: object, *, one: str, many: str, make: str) -> str:
    """Say what to do with something that was given where one message is taken; nothing where there is no better idea."""
    match given:
        case type():
            return f"give an instance of the class, `{given.__name__}(...)`"
        case Message():
            return f"`{one}` takes its parts, `{one}(body, id=..., actor=...)`, and `{many}([...])` takes messages"
        case Mapping():
            return f"`App.{make}(name, data)` makes one of plain data"
        case Iterable() if not isinstance(given, str | bytes):
            return f"`{one}` takes one, `{many}([...])` takes many"
        case _:
            return ""


def is_name(given: object) -> bool:
    """Say whether a name is a text that is not empty; a checker has not seen every caller."""
    return isinstance(given, str) and bool(given)


class Several(msgspec.Struct, frozen=True, gc=False):
    """What one record has become that an upcast has split: its events, in order, at one position."""

    events: tuple[Any, ...]


def events_of(body: Any) -> tuple[Any, ...]:
    """Return the events that a record's body is: one, none where nobody asked for it, or those that it was split into."""
    if body is None:
        return ()
    return body.events if isinstance(body, Several) else (body,)


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
    own: str | None = getattr(thing, "__name__", None)
    if given is None and own is None:
        raise Invalid(f"`{thing!r}` has no name of its own that the log could know it by: give a function, or name it with `named`")
    return given or (own or "", 1)


def _given(thing: Any) -> tuple[str, int] | None:
    given: tuple[str, int] | None = getattr(thing, "__dict__", {}).get(NAME)  # its own, not a base's
    return given
