"""Reactions: functions from an event to the commands that follow from it, now or later.

A `Reaction` is such a function read once: which events it hears, what fills its parameters, what it may send, and in which order events come. It decides
nothing: the commands it sends are decided by their own deciders, on their own states, whenever that is.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple  # Any: events and commands of any class

from happened.core.annotations import label, parameters_of, returned_by, union_of
from happened.core.errors import Invalid
from happened.core.filling import Fill, fill_for
from happened.core.messages import Command, Event, Later, Recorded, name_of
from happened.core.state import Fold, state_in
from happened.core.tags import SEPARATOR, bare, is_a, members, scope_of, terms_of
from happened.core.world import World
from happened.log.names import Wish

WORLD, RECORDED = "world", "recorded"

Sends = Callable[..., Iterable[Command | Later[Any]] | None]
"""A function from an event, states, `Recorded` and the `World` to the commands that follow, now or `Later`. It may return `None`."""


class Taking(NamedTuple):
    """How events of one class are taken."""

    fills: list[Fill]
    slots: list[int | str]
    """For each parameter after the event: the place of its fill, `world` or `recorded`."""
    key: Callable[[Any], Sequence[str]]
    """The terms that an event's order goes by: two that share one are taken one after the other. None: after all others."""


class Reaction:
    """A table entry for a reaction where the defaults don't do.

    `by` names the tags by which events are kept in order, and by which one that fails stops those after it; by default the tags of its states, and without
    any the whole reaction is one row. `since` is the position after which a reaction that is new begins: 0 is the beginning of the log; by default it
    begins at the head of the moment it is new in. Neither matters once it has begun, but `by`.
    """

    def __init__(self, function: Sends, *, by: str | Sequence[str] = (), since: int | None = None) -> None:
        checked: object = function  # a checker has not seen every caller
        if not callable(checked) or isinstance(checked, type):
            raise Invalid(f"`reactions` lists `{function!r}`, which is no function", entry=repr(function))
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise Invalid(
                f"`{label(function)}` is `async`, and a reaction is a plain function: what waits for the outside is a gateway, asked by `World.ask`",
                function=label(function),
            )
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
                    f"`{label(function)}` is no reaction: its first parameter, `{_shown(event)}`, {what}", function=label(function)
                )
        if not heard:
            raise Invalid(f"`{label(function)}` is no reaction: its first parameter must be an event", function=label(function))
        self.events: tuple[type[Event], ...] = tuple(heard)
        self.sends, self.later = _sent_by(function)
        self.by = (by,) if isinstance(by, str) else tuple(by)
        self.takes = {event: self._taking(event, parameters[1:]) for event in self.events}
        self.wants_world = any(WORLD in taking.slots for taking in self.takes.values())
        self.states: list[Fold] = list(dict.fromkeys(fill.fold for taking in self.takes.values() for fill in taking.fills))
        self.wish = Wish("reaction", self.name, self.version, "")

    def __repr__(self) -> str:
        """Tell which function it is."""
        return f"<Reaction {self.name} to {', '.join(event.__name__ for event in self.events)}>"

    def _taking(self, event: type[Event], parameters: Sequence[Any]) -> Taking:
        fills: list[Fill] = []
        slots: list[int | str] = []
        for parameter in parameters:
            if parameter.annotation is World:
                slots.append(WORLD)
            elif parameter.annotation is Recorded:
                slots.append(RECORDED)
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
                    f"parameter `{parameter.name}` of `{label(self.function)}` can't be filled: a reaction may ask for states, `Recorded` and the `World`",
                    parameter=parameter.name,
                )
        return Taking(fills, slots, self._key_of(event, fills))

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
        tags = set(self.by) or {tag for fill in fills for tag in fill.fold.tags if tag is not None} & there
        if not tags:
            return lambda _event: ()
        terms = terms_of(scope)
        return lambda event: [term for term in terms(event) if term.split(SEPARATOR, 1)[0] in tags]


def _sent_by(function: Callable[..., Any]) -> tuple[frozenset[type[Command]], frozenset[type[Command]]]:
    """Return the commands that a reaction sends at once, and those it sends later. `Invalid` where its annotation does not say it."""
    given = [bare(one)[0] for one in members(bare(returned_by(function))[0])]
    sent = [one for each in given for one in typing.get_args(each)[: None if typing.get_origin(each) is tuple else 1] if one is not ...]
    if not sent or not all(typing.get_args(each) for each in given):
        raise Invalid(
            f"`{label(function)}` does not say what it sends: annotate it `-> Iterator[CancelOrder]` or `-> Iterator[Later[CancelOrder]]`",
            function=label(function),
        )
    now: set[type[Command]] = set()
    later: set[type[Command]] = set()
    for one in [member for each in sent for member in union_of(function, each)]:
        into = now
        command = one
        if typing.get_origin(one) is Later:
            into = later
            [command] = typing.get_args(one)
        for each in union_of(function, command):
            if not is_a(each, Command):
                what = "an event: a decider decides that it happened" if is_a(each, Event) else "no command of its own: name the commands"
                raise Invalid(f"`{label(function)}` sends `{_shown(each)}`, which is {what}", function=label(function))
            into.add(each)
    return frozenset(now), frozenset(later)


def _shown(one: Any) -> str:
    return one.__name__ if isinstance(one, type) else str(one)
