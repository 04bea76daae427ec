"""Listeners: plain functions that hear events, read once.

A reaction and a publication are read alike: which events they hear, what fills their parameters, and in which order events come.
"""

from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, ClassVar, NamedTuple  # Any: events of any class

from happened.core.annotations import label, parameters_of, union_of
from happened.core.errors import Invalid
from happened.core.filling import Fill, fill_for
from happened.core.messages import Command, Event, Recorded, name_of
from happened.core.state import Fold, state_in
from happened.core.tags import SEPARATOR, hints_of, is_a, plain_fields, scope_of, terms_of, types_of
from happened.core.world import World
from happened.log.names import Wish

WORLD, RECORDED = "world", "recorded"


class Taking(NamedTuple):
    """How events of one class are taken."""

    fills: list[Fill]
    slots: list[int | str]
    """For each parameter after the event: the place of its fill, `world` or `recorded`."""
    asks: bool
    """Whether one of them is a `World`."""
    key: Callable[[Any], Sequence[str]]
    """The terms that an event's order goes by: two that share one are taken one after the other. None: after all others."""


class Listener:
    """A function from an event to what follows from it. A subclass says what that is."""

    kind: ClassVar[str]
    """What it is called; its lease and its progress are kept under that."""
    asks: ClassVar[str]
    """What it may ask for beside the event, in words."""

    def __init__(self, function: Callable[..., Any], by: str | Sequence[str], since: int | None) -> None:
        if since is not None and (type(since) is not int or since < 0):
            raise Invalid(f"`since` is a position, 0 or more, not {since!r}", function=label(function))
        tags: object = by
        if not isinstance(tags, Iterable) or not all(isinstance(tag, str) for tag in by):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every caller
            raise Invalid(f'`by` names tags, not {by!r}: write by="order"', function=label(function))
        self.function = function
        self.since = since
        self.name, self.version = name_of(function)
        parameters = parameters_of(function)
        heard = union_of(function, parameters[0].annotation) if parameters else []
        for event in heard:
            if not is_a(event, Event):
                what = "is a command: a decider takes it" if is_a(event, Command) else "is no event of its own: name the events"
                raise Invalid(
                    f"`{label(function)}` is no {self.kind}: its first parameter, `{shown(event)}`, {what}", function=label(function)
                )
        if not heard:
            raise Invalid(f"`{label(function)}` is no {self.kind}: its first parameter must be an event", function=label(function))
        self.events: tuple[type[Event], ...] = tuple(heard)
        self.by = (by,) if isinstance(by, str) else tuple(by)
        self._tags: dict[type[Event], set[str]] = {}
        """By what events of a class go."""
        self.takes = {event: self._taking(event, parameters[1:]) for event in self.events}
        self.wants_world = any(taking.asks for taking in self.takes.values())
        self.states: list[Fold] = list(dict.fromkeys(fill.fold for taking in self.takes.values() for fill in taking.fills))
        self.wish = Wish(self.kind, self.name, self.version, "")

    @property
    def lease(self) -> str:
        """What its lease is called, and its progress."""
        return lease_of(self.kind, self.name)

    @property
    def divided_by(self) -> str:
        """The tag by whose values its events fall into slices, so that workers can share it: the only one that all of them go by, as one plain field.

        Empty where it is one whole.
        """
        tags = set[str]().union(*self._tags.values())
        if len(tags) != 1:
            return ""
        [tag] = tags
        fields = {event: plain_fields(scope_of(event), (tag,)) or () for event, tags in self._tags.items() if tags}
        plain = all(fields.get(event) for event in self.events)
        always = not any(NoneType in types_of(hints_of(event)[field]) for event, found in fields.items() for field in found)
        return tag if plain and always else ""

    def _may_ask(self, annotation: object) -> str | None:
        """Return the slot of a parameter that is no state, `None` for one that can't be filled."""
        return {World: WORLD, Recorded: RECORDED}.get(annotation) if isinstance(annotation, type) else None

    def _taking(self, event: type[Event], parameters: Sequence[Any]) -> Taking:
        fills: list[Fill] = []
        slots: list[int | str] = []
        for parameter in parameters:
            slot = self._may_ask(parameter.annotation)
            if slot is not None:
                slots.append(slot)
            elif state_in(parameter.annotation) is not None:
                fill = fill_for(self.function, event, parameter, fills)
                if fill.fold.evolve is None or fill.fold.joins:
                    why = "has no `evolve`" if fill.fold.evolve is None else "asks for other states itself, which only a view may"
                    raise Invalid(
                        f"`{fill.fold.state.__name__}` {why}, so `{label(self.function)}` can't ask for it", state=fill.fold.state.__name__
                    )
                slots.append(len(fills))
                fills.append(fill)
            elif not parameter.default:
                raise Invalid(
                    f"parameter `{parameter.name}` of `{label(self.function)}` can't be filled: {self.asks}",
                    parameter=parameter.name,
                )
        return Taking(fills, slots, WORLD in slots, self._key_of(event, fills))

    def _key_of(self, event: type[Event], fills: Sequence[Fill]) -> Callable[[Any], Sequence[str]]:
        scope = scope_of(event)
        there = scope.all_tags()
        for tag in self.by:
            if tag not in there:
                raise Invalid(
                    f"`{label(self.function)}` is to go by the tag `{tag}`, which `{event.__name__}` does not have",
                    function=label(self.function),
                    tag=tag,
                )
        tags = self._tags[event] = set(self.by) or {tag for fill in fills for tag in fill.fold.tags if tag is not None} & there
        if not tags:
            return lambda _event: ()
        terms = terms_of(scope)
        return lambda event: [term for term in terms(event) if term.split(SEPARATOR, 1)[0] in tags]


def lease_of(kind: str, name: str) -> str:
    """Return what the lease of a listener is called."""
    return f"{kind}/{name}"


def shown(one: Any) -> str:
    """Return what an annotation is called."""
    return one.__name__ if isinstance(one, type) else str(one)
