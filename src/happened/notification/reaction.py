"""Reactions: functions from an event to the commands that follow from it, now or later.

A `Reaction` decides nothing: the commands it sends are decided by their own deciders, on their own states, whenever that is.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any  # Any: events and commands of any class

from happened.core.annotations import label, returned_by, union_of
from happened.core.errors import Invalid
from happened.core.messages import Command, Event, Later
from happened.core.tags import bare, is_a, members
from happened.notification.listener import Listener, shown

Sends = Callable[..., Iterable[Command | Later[Any]] | None]
"""A function from an event, states, `Recorded` and the `World` to the commands that follow, now or `Later`. It may return `None`."""


class Reaction(Listener):
    """A table entry for a reaction where the defaults don't do.

    `by` names the tags by which events are kept in order, and by which one that fails stops those after it; by default the tags of its states, and without
    any the whole reaction is one row. `since` is the position after which a reaction that is new begins: 0 is the beginning of the log; by default it
    begins at the head of the moment it is new in. Neither matters once it has begun, but `by`.
    """

    kind = "reaction"
    asks = "a reaction may ask for states, `Recorded` and the `World`"

    def __init__(self, function: Sends, *, by: str | Sequence[str] = (), since: int | None = None) -> None:
        checked: object = function  # a checker has not seen every caller
        if not callable(checked) or isinstance(checked, type):
            raise Invalid(f"`reactions` lists `{function!r}`, which is no function", entry=repr(function))
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise Invalid(
                f"`{label(function)}` is `async`, and a reaction is a plain function: what waits for the outside is a gateway, asked by `World.ask`",
                function=label(function),
            )
        super().__init__(function, by, since)
        self.sends, self.later = _sent_by(function)

    def __repr__(self) -> str:
        """Tell which function it is."""
        return f"<Reaction {self.name} to {', '.join(event.__name__ for event in self.events)}>"


def _sent_by(function: Callable[..., Any]) -> tuple[frozenset[type[Command]], frozenset[type[Command]]]:
    """Return the commands that a reaction sends at once, and those it sends later. `Invalid` where its annotation does not say it."""
    given = [bare(one)[0] for one in members(bare(returned_by(function, "Iterator[CancelOrder]"))[0])]
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
                raise Invalid(f"`{label(function)}` sends `{shown(each)}`, which is {what}", function=label(function))
            into.add(each)
    return frozenset(now), frozenset(later)
