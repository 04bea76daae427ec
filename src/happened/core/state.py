"""State: what is remembered, as a fold of events by key.

Four rules carry everything. The key of a state is its fields without a default, so `State(*key)` is the state before anything happened. `evolve`
returns the next state, or `None`: gone, and a later event begins anew. A tagged key field takes its value from the event's tag, an untagged one from
the event's field of that name, unless `key_of` computes it. And tags lie together: a fold asks for the pairs that occur together in the body.

A `Fold` is a state class read once: which events it evolves from, and which keys each of them touches. It is the one place that calls `evolve`;
memory image, views, replicas and replay all fold through it.
"""

import ast
import collections.abc
import inspect
import itertools
import operator
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import (  # Any: keys and events of any class
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    Self,
    TypeGuard,
    TypeVar,
    dataclass_transform,
)

import msgspec

from happened.core.annotations import Parameter, label, parameters_of, returned_by, union_of
from happened.core.errors import Invalid
from happened.core.messages import Event, Part, Recorded, Several, name_of
from happened.core.tags import (
    ONE,
    Keys,
    bare,
    hints_of,
    is_a,
    is_unicode,
    keys_of,
    members,
    names_of,
    parts_of,
    plain_fields,
    scope_of,
    types_of,
)

RESERVED = ("but", "evolve", "key_of")

NARROW = "__happened_narrow__"
"""The attribute of a class that is an event's with fewer fields; the next class is the event's own."""


def declared(event: type) -> type:
    """Return the class as users have it: of one that is read with fewer fields, the next class."""
    return event.__mro__[1] if NARROW in vars(event) else event


Key = tuple[Any, ...]
"""The values of a state's key fields, in their order."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class State(msgspec.Struct, frozen=True, gc=False):
    """A fold by key: typed fields, those without a default being the key, and `evolve(self, event: A | B) -> Self`.

    `evolve` must be a pure function of its arguments, and leaves the key as it is; it may take a second parameter `record: Recorded`. Annotated
    `-> Self | None` it may return `None`: the state is gone. An optional static `key_of(event, ...)` computes the key: one value, a tuple, or an
    iterator of them (none: the event does not count).
    """

    if TYPE_CHECKING:

        def but(self, **changes: Any) -> Self:  # Any: checked by `happened lint`, since Python can't express it
            """Return a copy with these fields changed."""
            raise NotImplementedError

    else:
        but = msgspec.Struct.__replace__


S = TypeVar("S", bound=State)


class Join(NamedTuple):
    """A state that `key_of` or a view's `evolve` asks for beside the event: filled by type, folded in the same pass."""

    parameter: str
    state: type[State]
    optional: bool


class Replica(msgspec.Struct, Generic[S], frozen=True, gc=False):
    """What a copy of another system's state says, and how old that is. It is what `Running.replica` returns, and what a decider may ask for.

    `state` is `None` where the origin has none under that key. `position` is the origin's: the copy holds all that it had published by then. `age` is 0
    where the origin has nothing newer; else how long it has had something newer, or where it can't be reached, how long it was not heard of.
    """

    state: S | None
    position: int
    age: timedelta


def replica_in(annotation: Any) -> type[State] | None:
    """Return the state that a parameter asks a copy of, as `Replica[...]`; `None` if it asks for something else."""
    if typing.get_origin(annotation) is not Replica:
        return None
    state = typing.get_args(annotation)[0]
    return state if isinstance(state, type) and issubclass(state, State) else None


Reading = Callable[..., Iterable[tuple[Key, Any]]]
"""How one event class reaches a state: a function from event and envelope (and joined states) to (key, message) pairs."""


class Fold:
    """One state class as a fold."""

    def __init__(self, state: type[State]) -> None:
        self.state = state
        self.name, self.version = name_of(state)
        scope = scope_of(state)  # first, since it says what can't be seen
        fields = msgspec.structs.fields(state)
        self.fields = tuple(field.name for field in fields)
        self.key = tuple(field.name for field in fields if field.required)
        marks = {tagged.field: tagged.tag for tagged in scope.tags if tagged.holds == ONE}
        self.tags = tuple(marks.get(field) for field in self.key)
        hints = hints_of(state)
        self._key_types = tuple(types_of(hints[field]) for field in self.key)
        self.key_kinds = frozenset(itertools.product(*self._key_types))
        """The classes that the values of a key may have, each combination of them."""
        self.references = {tagged.tag: tagged.field for tagged in scope.tags if tagged.holds == ONE}
        for name in RESERVED:
            if name in self.fields:
                raise Invalid(
                    f"`{state.__name__}` has a field called `{name}`, which is a name of its own in a state",
                    state=state.__name__,
                    field=name,
                )
        self.key_of: Callable[..., Any] | None = getattr(state, "key_of", None)
        self.evolve: Callable[..., Any] | None = getattr(state, "evolve", None)
        self.wants_record = False
        self.everything = False
        self.may_end = False
        """`evolve` may return `None`: gone."""
        self.may_move = False
        """`evolve` may return what is no state of its key: it does more than `self.but(...)` with other fields."""
        self.joins: tuple[Join, ...] = ()
        self.key_parameters: tuple[Parameter, ...] = ()
        self.evolve_parameters: tuple[Parameter, ...] = ()
        self.readings: dict[type, Reading] = {}
        self.in_parts: set[type] = set()
        """Events that are read by their parts."""
        self.by_field: dict[type, Callable[[Any], Any]] = {}
        """Events that reach one state, as a whole: the key is one plain field of theirs, which this reads."""
        self.fields_of: Callable[[Any], Any] | None = None
        """What nearly every class comes to: each event reaches one state, as a whole, by plain fields that are called the same in all. This reads them."""
        self.skips_none = False
        """An event of which such a field is `None` reaches none: it has no such tag."""
        self._straight: set[tuple[str, ...]] = set()
        """The fields of each event's key, empty where it takes more than to read them."""
        self._reached: dict[type, Reading] = {}
        if self.evolve is not None:
            self._read(self.evolve)

    def initial(self, key: Key) -> State:
        """Return the state before anything happened."""
        return self.state(*key)

    def not_the_key(self, key: tuple[Any, ...], named: Mapping[str, Any], hint: str = "") -> Invalid:
        """Return the error of a key that has too few or too many values, or names that are not its fields'."""
        is_key = (
            f"the key of `{self.name}` is ({', '.join(self.key)})"
            if self.key
            else f"`{self.name}` has no key, since each field has a default"
        )
        got = ", ".join([*map(repr, key), *(f"{field}={value!r}" for field, value in named.items())]) or "nothing"
        return Invalid(f"{is_key}; got {got}{hint}", state=self.name, key=list(self.key))

    def checked(self, key: Key) -> Key:
        """Return a key that a caller gave; `Invalid` for values that are of another type than the key's fields, and so could never be found."""
        for field, value, allowed in zip(self.key, key, self._key_types, strict=True):
            if type(value) not in allowed and not any(_is_of(value, one) for one in allowed):
                raise Invalid(
                    f"the key `{field}` of `{self.state.__name__}` is {names_of(allowed)}, not {value!r}",
                    state=self.state.__name__,
                    field=field,
                )
            if type(value) is str and not value.isascii() and not is_unicode(value):
                raise Invalid(f"the key `{field}` is {value!r}, which has half a character and is no valid text", field=field)
        return key

    def keys_of(self, events: Iterable[Any]) -> Iterable[Key]:
        """Return the key of each event, where there are `fields_of` them."""
        values = map(self.fields_of or _no_fields, events)
        return zip(values) if len(self.key) == 1 else values

    def touched(self, event: object, record: Recorded | None = None) -> Iterable[tuple[Key, Any]]:
        """Return the (key, message) pairs of an event: which states it changes, and what `evolve` is given. For folds without joins."""
        return self.reading(type(event))(event, record)

    def reading(self, event: type) -> Reading:
        """Return how events of this class reach the state; a function that finds nothing where they don't."""
        return self._reached.get(event) or self._late(event)

    def follows(self, event: type) -> bool:
        """Say whether events of this class can reach the state."""
        return self.reading(event) is not _nothing

    def step(self, state: State | None, key: Key, message: Any, extra: tuple[Any, ...] = ()) -> State | None:
        """Return the next state: `evolve` on the state so far, or on the initial one where there is none.

        `extra` fills the parameters of `evolve` after the event, in their order. `Invalid` for what is no next state of this key.
        """
        before: Any = self.state(*key) if state is None else state  # Any: `evolve` is the subclass's own, with its own types
        after: State | None = before.evolve(message, *extra)
        if after is None or self.may_move:
            self.check_next(key, message, after)
        return after

    def check_next(self, key: Key, message: Any, after: State | None) -> None:
        """Raise `Invalid` unless this can be what comes after a message: `None` only where the annotation says so, and a state with its own key."""
        if after is None:
            if not self.may_end:
                raise Invalid(
                    f"`{self.state.__name__}.evolve` returned None for `{_shown(message)}`: return the next state, or annotate "
                    f"`-> {self.state.__name__} | None`, which means that it is gone",
                    state=self.state.__name__,
                )
            return
        if not isinstance(after, self.state):
            raise Invalid(
                f"`{self.state.__name__}.evolve` returned a `{type(after).__name__}` for `{_shown(message)}`: return the next state",
                state=self.state.__name__,
            )
        for field, value in zip(self.key, key, strict=True):
            found = getattr(after, field)
            if found is not value and found != value:
                raise Invalid(
                    f"`{self.state.__name__}.evolve` changed the key `{field}` from {value!r} to {found!r} for `{_shown(message)}`: a state "
                    "keeps its key; give that field a default if it is no key",
                    state=self.state.__name__,
                    field=field,
                )

    def _late(self, event: type) -> Reading:
        """Find how a class is reached that is met for the first time: one of the union, a narrow kind of one, or any event at all."""
        if event is Several:
            return self._each
        found = self.readings.get(declared(event))
        if found is None:
            found = self._reading(event, None) if self.everything and is_a(event, Event) else _nothing
        self._reached[event] = found
        return found

    def _each(self, event: Any, record: Recorded | None = None) -> Iterable[tuple[Key, Any]]:
        return [pair for one in event.events for pair in self.touched(one, record)]

    def _read(self, evolve: Callable[..., Any]) -> None:
        name = self.state.__name__
        for called, function in (("evolve", evolve), ("key_of", self.key_of)):
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise Invalid(f"`{name}.{called}` is `async`, and is a plain function of what it is given: it asks nobody", state=name)
        if inspect.isgeneratorfunction(evolve):
            raise Invalid(f"`{name}.evolve` yields: it returns the next state", state=name)
        parameters = list(inspect.signature(evolve).parameters.values())
        if len(parameters) < 2:  # noqa: PLR2004 - self and the event
            raise Invalid(f"`{name}.evolve` takes no event: write `def evolve(self, event: A | B) -> Self`", state=name)
        self.may_end = _allows_none(evolve, name)
        self.may_move = not _keeps_key(evolve, self.key)
        known = parameters_of(evolve)
        union = union_of(evolve, parameters[1].annotation)
        self.evolve_parameters = tuple(known[1:])
        if self.key_of is not None:
            self.key_parameters = tuple(parameters_of(self.key_of)[1:])
        joins: dict[str, Join] = {}
        for parameter in (*self.key_parameters, *self.evolve_parameters):
            if parameter.annotation is not Recorded:
                asked = state_in(parameter.annotation)
                if asked is None:
                    raise Invalid(
                        f"parameter `{parameter.name}` of `{name}` can't be filled: `evolve` and `key_of` may ask for `Recorded` and for states",
                        state=name,
                        parameter=parameter.name,
                    )
                joins[parameter.name] = Join(parameter.name, asked[0], parameter.optional)
        self.joins = tuple(joins.values())
        self.wants_record = any(parameter.annotation is Recorded for parameter in self.evolve_parameters)
        for member in union:
            if member is Event:
                self.everything = True
                continue
            part: type | None = None
            event = member
            if typing.get_origin(member) is Part:
                event, part = typing.get_args(member)
            if not is_a(event, Event):
                raise Invalid(f"`{name}.evolve` names `{label(event)}`, which is no event: a class of `Event`", state=name)
            reading = self._reading(event, part)
            if part is not None:
                self.in_parts.add(event)
                self.by_field.pop(event, None)
            self.readings[event] = reading if event not in self.readings else _both(self.readings[event], reading)
        if len(self._straight) == 1 and not self.in_parts and not self.everything:
            [fields] = self._straight
            self.fields_of = operator.attrgetter(*fields) if fields else None
            self.skips_none = any(self.tags)
        if not self.readings and not self.everything:
            raise Invalid(f"`{name}.evolve` names no event", state=name)

    def _reading(self, event: type, part: type | None) -> Reading:
        if self.key_of is not None:
            return self._computed(self.key_of)
        if not self.key:
            return _whole
        scope = scope_of(event)
        tags = tuple(tag for tag in self.tags if tag is not None)
        plain = [field for field, tag in zip(self.key, self.tags, strict=True) if tag is None]
        available = scope.all_tags()
        fields = {field.name for field in msgspec.structs.fields(part or event)} | {field.name for field in msgspec.structs.fields(event)}
        for field, tag in zip(self.key, self.tags, strict=True):
            if (tag is not None and tag not in available) or (tag is None and field not in fields):
                where = f"tag `{tag}`" if tag is not None else f"field `{field}`"
                raise Invalid(
                    f"the key `{field}` of `{self.state.__name__}` is not in `{event.__name__}`: it has no {where}. "
                    "Give it a default if it is no key, or write `key_of`",
                    state=self.state.__name__,
                    field=field,
                    event=event.__name__,
                )
        if part is not None:
            return self._of_parts(event, part, tags, plain)
        tagged = keys_of(scope, tags)
        direct = plain_fields(scope, tags)
        self._straight.add(tuple(direct or ()) if not plain else () if tags else tuple(plain))
        if not plain and direct is not None and len(direct) == 1:
            value_of = operator.attrgetter(direct[0])
            if event not in self.in_parts:
                self.by_field[event] = value_of
            return _by_field(value_of)
        if not plain:
            return _by_tags(tagged)
        if not tags:
            return _by_fields(plain)

        def mixed(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
            return [(self._mixed(key, event), event) for key in tagged(event)]

        return mixed

    def _of_parts(self, event: type, part: type, tags: tuple[str, ...], plain: list[str]) -> Callable[..., Iterable[tuple[Key, Any]]]:
        found = parts_of(scope_of(event), part, tags)
        if not plain:

            def with_tags(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
                return [(key, Part(event, at)) for key, at in found(event)]

            return with_tags
        inside = {field.name for field in msgspec.structs.fields(part)}

        def with_fields(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
            for key, at in found(event):
                rest = iter(key)
                yield (
                    tuple(
                        [
                            getattr(at if field in inside else event, field) if tag is None else next(rest)
                            for field, tag in zip(self.key, self.tags, strict=True)
                        ]
                    ),
                    Part(event, at),
                )

        return with_fields

    def _mixed(self, tagged: Key, event: Any) -> Key:
        rest = iter(tagged)
        return tuple([getattr(event, field) if tag is None else next(rest) for field, tag in zip(self.key, self.tags, strict=True)])

    def _computed(self, key_of: Callable[..., Any]) -> Callable[..., Iterable[tuple[Key, Any]]]:
        wants = [parameter.name if parameter.annotation is not Recorded else None for parameter in self.key_parameters]
        several, size = _yields(key_of), len(self.key)

        def whole(key: Key) -> Key:
            if len(key) != size:  # what is too much would be taken for the fields behind the key
                fields = ", ".join(self.key)
                raise Invalid(f"`{self.state.__name__}.key_of` returned {key!r}, and the key is ({fields})", state=self.state.__name__)
            return key

        if not several and wants == [None]:  # most are called so, once for every event of the log

            def of_record(event: Any, record: Recorded | None, _joined: dict[str, Any] | None = None) -> Iterable[tuple[Key, Any]]:
                found = key_of(event, record)
                if found is None:
                    return ()
                key = found if _is_key(found) else (found,)
                return ((key if len(key) == size else whole(key), event),)

            return of_record

        def computed(event: Any, record: Recorded | None, joined: dict[str, Any] | None = None) -> Iterable[tuple[Key, Any]]:
            found = key_of(event, *[record if name is None else (joined or {})[name] for name in wants]) if wants else key_of(event)
            if found is None:
                return ()
            if not several:
                return ((whole(found if _is_key(found) else (found,)), event),)
            return [(whole(key if _is_key(key) else (key,)), event) for key in found]

        return computed


def _allows_none(evolve: Callable[..., Any], name: str) -> bool:
    """Say whether a function's annotation allows it to return `None`. `Invalid` where it has none."""
    annotation = inspect.signature(evolve).return_annotation
    if annotation is inspect.Signature.empty:
        raise Invalid(f"`{name}.evolve` does not say what it returns: annotate it `-> {name}`, or `-> {name} | None`", state=name)
    if isinstance(annotation, str):
        text = re.split(r"\W+", annotation)
        if "None" in text or "Optional" in text:  # the class itself may not be visible from a function, where it is a local one
            return True
        try:
            annotation = returned_by(evolve)
        except Invalid:
            return False
    annotation, _ = bare(annotation)
    return annotation in (None, Any, type(None)) or type(None) in typing.get_args(annotation)


def _keeps_key(evolve: Callable[..., Any], key: Sequence[str]) -> bool:
    """Say whether it is certain from the source that a state keeps its key: all that is returned is `self`, or `self.but(...)` with other fields."""
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(evolve))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list or not definition.args.args:
        return False
    own = definition.args.args[0].arg
    inside = [node for one in definition.body for node in ast.walk(one)]
    bound = {node.id for node in inside if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    captured = {node.name for node in inside if isinstance(node, ast.MatchAs | ast.MatchStar)}
    if own in bound | captured:
        return False
    if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for node in inside):
        return False
    return all(_is_same(node.value, own, key) for node in inside if isinstance(node, ast.Return))


def _is_same(value: ast.expr | None, own: str, key: Sequence[str]) -> bool:
    """Say whether an expression is a state with the key of the one called `own`, or `None`."""
    match value:
        case None | ast.Constant(value=None):
            return True
        case ast.Name(id=name):
            return name == own
        case ast.IfExp(body=body, orelse=orelse):
            return _is_same(body, own, key) and _is_same(orelse, own, key)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="but"), args=[], keywords=changes):
            return name == own and all(change.arg is not None and change.arg not in key for change in changes)
        case _:
            return False


def _shown(message: Any) -> str:
    """Return the name of the event that a message is, or is a part of."""
    return type(operator.attrgetter("whole")(message) if isinstance(message, Part) else message).__name__


def _is_of(value: Any, allowed: Any) -> bool:
    """Say whether a value is of a type, or of a subclass that has the same text."""
    if isinstance(value, bool | datetime):
        return allowed is Any
    return allowed is Any or not isinstance(allowed, type) or isinstance(value, allowed)


def _is_key(found: Any) -> TypeGuard[Key]:
    return isinstance(found, tuple)


def _no_fields(event: Any) -> Any:
    raise AssertionError(f"{type(event).__name__} does not reach its state by plain fields alone")


def _nothing(_event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
    return ()


def _whole(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
    return (((), event),)


def _by_tags(tagged: Keys) -> Reading:
    def by_tags(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
        return [(key, event) for key in tagged(event)]

    return by_tags


def _by_fields(fields: Sequence[str]) -> Reading:
    def by_fields(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
        return ((tuple([getattr(event, field) for field in fields]), event),)

    return by_fields


def _both(first: Reading, second: Reading) -> Reading:
    """Reach the state both ways with an event that is named as a whole and by its parts, in the order of the union."""

    def both(event: Any, record: Recorded | None) -> Iterable[tuple[Key, Any]]:
        return [*first(event, record), *second(event, record)]

    return both


def _by_field(value_of: Callable[[Any], Any]) -> Reading:
    """Read the common case, kept short since every event takes it: one tag, in one plain field."""

    def by_field(event: Any, _record: Recorded | None) -> Iterable[tuple[Key, Any]]:
        value = value_of(event)
        return (((value,), event),) if value is not None else ()

    return by_field


def _yields(key_of: Callable[..., Any]) -> bool:
    """Say whether a function gives several keys: an iterable of them, and not one key that is a tuple or a text."""
    try:
        annotation, _ = bare(returned_by(key_of))
    except Invalid:
        return False
    origins = [typing.get_origin(one) for one in members(annotation)]
    return any(isinstance(one, type) and issubclass(one, collections.abc.Iterable) and not issubclass(one, tuple) for one in origins)


def state_in(annotation: Any) -> tuple[type[State], bool] | None:
    """Return the state that a parameter asks for and whether as a mapping, or `None` if it asks for something else."""
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        value = typing.get_args(annotation)[1]
        return (value, True) if isinstance(value, type) and issubclass(value, State) else None
    if isinstance(annotation, type) and issubclass(annotation, State):
        return annotation, False
    return None


_folds: dict[type, Fold] = {}


def fold_of(state: type[State]) -> Fold:
    """Return the fold of a state class, read once. `Invalid`, with what to mend, where the class can't be folded."""
    if state not in _folds:
        if not is_a(state, State):
            given: object = state  # a checker has not seen every caller
            hint = "" if inspect.isclass(given) else ": give its class"
            raise Invalid(f"`{label(state)}` is no State{hint}", state=str(state))
        _folds[state] = Fold(state)
    return _folds[state]


_alone: dict[type, Fold] = {}


def fold_alone_of(state: type[State]) -> Fold:
    """Return the fold of a state that is folded by itself, as in memory. `Invalid` for one without `evolve`, and for one that joins others."""
    if state not in _alone:
        fold = fold_of(state)
        if fold.evolve is None:
            raise Invalid(f"`{state.__name__}` has no `evolve`: nothing ever happens to it", state=state.__name__)
        if fold.joins:
            raise Invalid(
                f"`{state.__name__}` asks for other states in `evolve` or `key_of`, so it is a view: list it in `views` and ask with `running.view(...)`",
                state=state.__name__,
            )
        _alone[state] = fold
    return _alone[state]


def describe(state: type[State]) -> str:
    """Return the name of a state's evolve, for messages to people."""
    return label(fold_of(state).evolve or state)
