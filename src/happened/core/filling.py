"""Filling: how the parameters of a function are found from a message, by type.

The key of a state is looked for (a) in the field of the message with the parameter's own name, if that field carries the tag; (b) in the message's tags;
(c) in the tagged fields of states filled before it, left to right. Two values and no `Mapping`, or none, is an error when the wiring is made, not later.
"""

import collections.abc
import operator
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple  # Any: keys and messages of any class

from happened.core.annotations import Parameter, label
from happened.core.errors import Invalid
from happened.core.state import Fold, Key, State, fold_of, state_in
from happened.core.tags import ONE, Keys, Scope, keys_of, scope_of

Find = Callable[[Any, Sequence[Any]], Any]
"""From the message and what was filled before: a key, `None` for no key, or for a mapping all keys."""


class Fill(NamedTuple):
    """How one parameter that is a state is filled."""

    parameter: str
    fold: Fold
    optional: bool
    many: bool
    find: Find


def fill_for(function: Callable[..., Any], message: type, parameter: Parameter, before: Sequence[Fill]) -> Fill:
    """Return how a parameter is filled from messages of this class. `Invalid`, with what to do, where no source gives its key, or two do."""
    asked = state_in(parameter.annotation)
    assert asked is not None, "only states are filled by key"
    state, many = asked
    fold = fold_of(state)
    if many and typing.get_origin(parameter.annotation) is not collections.abc.Mapping:
        raise Invalid(
            f"parameter `{parameter.name}` of `{label(function)}` is given states to read, not to change: annotate it `Mapping[..., {state.__name__}]`",
            parameter=parameter.name,
        )
    if many and parameter.optional:
        raise Invalid(f"parameter `{parameter.name}` of `{label(function)}`: a Mapping is never None; it has no entries then")
    if not fold.key:
        return Fill(parameter.name, fold, parameter.optional, many, _each_without_key if many else _without_key)
    for field, tag in zip(fold.key, fold.tags, strict=True):
        if fold.key_of is not None:
            raise Invalid(
                f"`{state.__name__}` can't be a parameter of `{label(function)}`: its key is computed by `key_of`, so no boundary follows from it. "
                "A state that decides has its key from tags alone",
                state=state.__name__,
                field=field,
            )
        if tag is None:
            raise Invalid(
                f"`{state.__name__}` can't be a parameter of `{label(function)}`: its key `{field}` has no tag, so no boundary follows from it. "
                f'Give `{field}` a tag: `Annotated[str, Tag("{field}")]`',
                state=state.__name__,
                field=field,
            )
    tags = tuple(str(tag) for tag in fold.tags)
    scope = scope_of(message)
    if many:
        if not set(tags) <= scope.all_tags():
            raise _nowhere(function, parameter, state, tags, message)
        found = keys_of(scope, tags)
        return Fill(parameter.name, fold, optional=False, many=True, find=_each(found))
    own = _own_field(scope, parameter.name, tags[0]) if len(tags) == 1 else None
    if own is not None:
        return Fill(parameter.name, fold, parameter.optional, many=False, find=_by_field(own))
    ways = [_way(function, message, scope, parameter, state, tag, before) for tag in tags]
    if any(optional for _, optional in ways) and not parameter.optional:
        raise Invalid(
            f"parameter `{parameter.name}` of `{label(function)}` has its key from a state that may be missing: annotate it `{state.__name__} | None`",
            parameter=parameter.name,
            state=state.__name__,
        )
    return Fill(parameter.name, fold, parameter.optional, many=False, find=_together([way for way, _ in ways]))


def _own_field(scope: Scope, name: str, tag: str) -> str | None:
    """Return the field that gives a tag's value where it is a plain one of the message itself: the parameter's namesake, or the only one."""
    plain = [tagged.field for tagged in scope.tags if tagged.tag == tag and tagged.holds == ONE]
    return name if name in plain else plain[0] if len(plain) == len(list(_paths(scope, tag, ()))) == 1 else None


def _by_field(field: str) -> Find:
    """Find the key in the common case, kept short since every command takes it."""
    value_of = operator.attrgetter(field)

    def by_field(message: Any, _before: Sequence[Any]) -> Key | None:
        value = value_of(message)
        return (value,) if value is not None else None

    return by_field


def _without_key(_message: Any, _before: Sequence[Any]) -> Key:
    return ()


def _each_without_key(_message: Any, _before: Sequence[Any]) -> list[Key]:
    return [()]


def _each(found: Keys) -> Find:
    def each(message: Any, _before: Sequence[Any]) -> list[Key]:
        return list(found(message))

    return each


def _together(ways: Sequence[Find]) -> Find:
    def several(message: Any, before: Sequence[Any]) -> Key | None:
        key = tuple([way(message, before) for way in ways])
        return None if None in key else key

    return several


def _way(
    function: Callable[..., Any], message: type, scope: Scope, parameter: Parameter, state: type[State], tag: str, before: Sequence[Fill]
) -> tuple[Find, bool]:
    own = _own_field(scope, parameter.name, tag)
    if own is not None:
        return _reader((own,)), False
    paths = list(_paths(scope, tag, ()))
    if len(paths) > 1 or any(not single for _, single in paths):
        raise Invalid(
            f"parameter `{parameter.name}` of `{label(function)}`: `{message.__name__}` may have several values of the tag `{tag}`. "
            f"Annotate it `Mapping[..., {state.__name__}]`, or call the parameter like the field that is meant",
            parameter=parameter.name,
            tag=tag,
        )
    if paths:
        return _reader(paths[0][0]), False
    sources = [(place, fill) for place, fill in enumerate(before) if not fill.many and tag in fill.fold.references]
    if len(sources) > 1:
        raise Invalid(
            f"parameter `{parameter.name}` of `{label(function)}`: its tag `{tag}` is in several states before it: "
            f"{', '.join(fill.parameter for _, fill in sources)}",
            parameter=parameter.name,
            tag=tag,
        )
    if not sources:
        raise _nowhere(function, parameter, state, (tag,), message)
    place, fill = sources[0]
    field = fill.fold.references[tag]
    return (lambda _body, states: getattr(states[place], field) if states[place] is not None else None), fill.optional


def _paths(scope: Scope, tag: str, above: tuple[str, ...], *, single: bool = True) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield (path, whether it holds at most one value) for each place where a tag lies."""
    for tagged in scope.tags:
        if tagged.tag == tag:
            yield (*above, tagged.field), single and tagged.holds == ONE
    for below in scope.parts:
        yield from _paths(below.scope, tag, (*above, below.field), single=single and below.holds == ONE)


def _reader(path: tuple[str, ...]) -> Find:
    if len(path) == 1:
        [field] = path
        return lambda body, _states: getattr(body, field)

    def read(body: Any, _states: Sequence[Any]) -> Any:
        for field in path:
            body = getattr(body, field, None)
        return body

    return read


def _nowhere(function: Callable[..., Any], parameter: Parameter, state: type[State], tags: tuple[str, ...], message: type) -> Invalid:
    wanted = " and ".join(f"`{tag}`" for tag in tags)
    return Invalid(
        f"parameter `{parameter.name}` of `{label(function)}`: the key of `{state.__name__}` needs the tag {wanted}, which neither "
        f"`{message.__name__}` nor a state left of it has. Add the tagged field, or put the state that has it to the left",
        parameter=parameter.name,
        state=state.__name__,
        message=message.__name__,
    )


def filled(fill: Fill, message: object, before: Sequence[Any], state_of: Callable[[Fold, Key], Any]) -> Any:
    """Return what a parameter is given for a message: a state, `None`, or a mapping of all that the message names, with initial states for what never was.

    `Invalid` where the message has no value for the key, and the parameter is not optional.
    """
    key = fill.find(message, before)
    if fill.many:
        single = len(fill.fold.key) == 1
        return {(one[0] if single else one): _or_initial(fill, one, state_of) for one in key}
    if key is None:
        if fill.optional:
            return None
        raise Invalid(f"`{type(message).__name__}` has no value for the key of `{fill.parameter}`", parameter=fill.parameter)
    return state_of(fill.fold, key) if fill.optional else _or_initial(fill, key, state_of)


def _or_initial(fill: Fill, key: Key, state_of: Callable[[Fold, Key], Any]) -> Any:
    state = state_of(fill.fold, key)
    return state if state is not None else fill.fold.initial(key)
