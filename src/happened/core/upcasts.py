"""Upcasts: how data of an older version is read today. Plain functions on plain data, one for each step from a version to the next.

What is recorded is never rewritten: an upcast is applied whenever it is read. This is the table's side; `log/lifting.py` makes chains of its entries.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: data before it has a type

import msgspec

from happened.core.annotations import label, parameters_of, returned_by
from happened.core.errors import Invalid
from happened.core.messages import Command, Data, Event, Value, is_name, name_of
from happened.core.tags import bare, is_a, members

Lift = Callable[[Data], Any]
"""From data to data of the next version, or to several pairs of a name and data."""


class Upcast:
    """One step: data of `name` in `version` becomes data of the next version, by the function `by`.

    `by` takes the body as JSON data (`dict`), and returns the next one; or, for one event that became several, an iterable of (name, data), each in the
    version that its class has today. Without `by` nothing but the name changes. `to` is the new name of what was renamed; its version is the next one, too.
    The name may be that of an event, of a command, or of a `Value` nested in them: that is lifted wherever it lies, before what it lies in.

    `by` is a plain function of its data: it asks nobody, and does not change what it is given.
    """

    def __init__(self, name: str, version: int, by: Lift | None = None, to: str = "") -> None:
        wrong: object = version  # a checker has not seen every caller
        if not is_name(name) or type(wrong) is not int or version < 1:
            raise Invalid(
                f'an upcast names what it reads and in which version, from 1: `Upcast("OrderPlaced", 1, by)`, not {name!r}, {version!r}'
            )
        if by is not None and not callable(by):
            raise Invalid(f"the upcast of `{name}` version {version} is a function from data to data, not {by!r}", name=name)
        if type(to) is not str or (by is None and not to):
            raise Invalid(
                f'the upcast of `{name}` version {version} changes nothing: give it a function, or a new name, `to="..."`', name=name
            )
        self.name = name
        self.version = version
        self.by = by
        self.to = to or name

    def __repr__(self) -> str:
        """Tell what it reads and what it makes of it."""
        return f"<Upcast {self.name} {self.version} to {self.to} {self.version + 1}>"


class Retired(msgspec.Struct, frozen=True):
    """A name that is no longer read: nobody hears its events any more, and the log is opened all the same. People still see them."""

    name: str

    def __post_init__(self) -> None:
        """Refuse what is no name."""
        if not is_name(self.name):
            raise Invalid(f"`Retired` takes a name, as the log has it, not {self.name!r}")


UpcastEntry = Upcast | Retired | Callable[..., Any]
"""What `upcasts` lists: `Upcast`, `Retired`, or a function from an old class to a new one, as its annotations say."""


class Step(NamedTuple):
    """One step of a chain, read from the table."""

    name: str
    version: int
    to: str
    to_version: int
    by: Lift | None
    splits: bool
    """It may come to several events; which ones is known only where its annotation says so."""
    into: tuple[str, ...]
    """Names that it may come to, where they are known and more than `to`."""
    function: Callable[..., Any] | None
    """What the user wrote: what a fingerprint is made of."""
    classes: tuple[type, ...] = ()
    """What it leads to, where its annotation names classes: an app need not list them a second time."""

    @property
    def said(self) -> str:
        """What it is called in an error."""
        return label(self.function) if self.function is not None else f"the upcast of {self.name} {self.version}"


def steps_of(
    entries: Iterable[UpcastEntry], called: Mapping[type, str] | None = None
) -> tuple[dict[tuple[str, int], Step], frozenset[str]]:
    """Read a table: its steps by name and version, and the names that are retired. `Invalid` for what is no entry, and for two of one name and version.

    `called` says which classes come from another system, and are called after it: `crm/Moved`.
    """
    steps: dict[tuple[str, int], Step] = {}
    retired: set[str] = set()
    for entry in entries:
        if isinstance(entry, Retired):
            retired.add(entry.name)
            continue
        function = entry.by if isinstance(entry, Upcast) else entry
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise Invalid(f"`{label(function)}` is `async`, and an upcast is a plain function of its data: it asks nobody")
        step = _of_upcast(entry) if isinstance(entry, Upcast) else _typed(entry, called or {})
        if (step.name, step.version) in steps:
            raise Invalid(f"two upcasts read `{step.name}` version {step.version}: a version has one next one", name=step.name)
        steps[step.name, step.version] = step
    return steps, frozenset(retired)


def _of_upcast(entry: Upcast) -> Step:
    splits = False
    if entry.by is not None:
        annotation = _returned(entry.by)
        splits = (
            annotation is not None and typing.get_origin(annotation) is not dict and annotation is not dict and not _is_mapping(annotation)
        )
    return Step(entry.name, entry.version, entry.to, entry.version + 1, entry.by, splits, (), entry.by)


def _is_mapping(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _returned(function: Callable[..., Any]) -> Any:
    """Return what a function's annotation says it returns; `None` where it says nothing."""
    if not getattr(function, "__annotations__", {}).get("return"):
        return None
    return bare(returned_by(function))[0]


def _typed(function: Any, called: Mapping[type, str]) -> Step:
    """Read a function from an old class to a new one, or to several."""
    if not callable(function) or isinstance(function, type):
        raise Invalid(f"`upcasts` lists `{function!r}`: list `Upcast(...)`, `Retired(...)`, or a function from an old class to a new one")
    parameters = parameters_of(function)
    old = members(parameters[0].annotation) if len(parameters) == 1 else []
    returned = bare(returned_by(function))[0]
    several = typing.get_origin(returned) in (Iterator, Iterable, Sequence, tuple, list) or (
        isinstance(typing.get_origin(returned), type) and issubclass(typing.get_origin(returned), Iterable)
    )
    new = [one for arg in typing.get_args(returned) if arg is not ... for one in members(arg)] if several else members(returned)
    if len(old) != 1 or not _is_data(old[0]) or not new or not all(map(_is_data, new)) or (not several and len(new) != 1):
        raise Invalid(
            f"`{label(function)}` is no upcast: annotate it from the old class to the new one, `(old: StockTaken1) -> StockTaken`, or "
            "`-> Iterator[A | B]` for one that became several",
            function=label(function),
        )
    cls: Any = old[0]
    system = _system_of(new, called)
    name, version = name_of(cls)
    name = system + name
    to, to_version = (system + name_of(new[0])[0], name_of(new[0])[1]) if not several else (name, version + 1)
    if not several and to_version != version + 1:
        raise Invalid(
            f"`{label(function)}` leads from `{name}` version {version} to `{to}` version {to_version}: a step leads to the next version, {version + 1}",
            function=label(function),
        )
    decode, encode = msgspec.json.Decoder(cls).decode, msgspec.json.Encoder(decimal_format="string").encode

    def by(data: Data) -> Any:
        made: Any = function(decode(encode(data)))
        if several:
            return [(system + name_of(type(one))[0], msgspec.json.decode(encode(one))) for one in made]
        return msgspec.json.decode(encode(made))

    return Step(
        name, version, to, to_version, by, several, tuple(system + name_of(one)[0] for one in new) if several else (), function, tuple(new)
    )


def _system_of(classes: Sequence[Any], called: Mapping[type, str]) -> str:
    """Return what stands before the names of these classes in the log, and before those of their older versions: `crm/`, or nothing."""
    found = {called[cls].removesuffix(name_of(cls)[0]) if cls in called else "" for cls in classes}
    return found.pop() if len(found) == 1 else ""


def _is_data(cls: Any) -> bool:
    return any(is_a(cls, base) for base in (Event, Command, Value))
