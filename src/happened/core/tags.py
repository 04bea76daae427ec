"""Tags: where they lie in a class, and which values a message carries.

A `Scope` is one class seen as a carrier of tags: its own tagged fields, and the parts (nested values) below it. A part sees its own tags and those
around it, never those of a sister: `OrderPlaced(customer=c, lines=(Line(a, w1), Line(b, w2)))` touches `(c, a) (c, b) (a, w1) (b, w2)`, never `(a, w2)`.
Scopes are built once, from annotations; extraction is a function per class, with a short cut for the common case of plain tagged fields.
"""

import collections.abc
import dataclasses
import datetime as dt
import enum
import itertools
import operator
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeGuard  # Any: annotations and values of any type pass through here

import msgspec

from happened.core.equal import MANY_WAYS, as_one, made_like
from happened.core.errors import Invalid
from happened.core.messages import Index, Places, Tag, Value, is_data, name_of

SEPARATOR = "\x1f"
"""Stands between tag and value in a term; no tag has it."""
MUTABLE = (list, dict, set, bytearray)
MANY = (tuple, frozenset, collections.abc.Sequence, collections.abc.Set, collections.abc.Collection, list, set)
LISTED = (tuple, list, frozenset, set)
"""What holds members, in a message and in plain data."""
MARKS = ((Tag, 'Tag("sku")'), (Index, "Index()"), (Places, "Places(2)"))
"""What a field may be annotated with, and how that is written."""
ONE, EACH, KEYS, VALUES = "one", "each", "keys", "values"
"""How a field holds values: itself, as members of a collection, as keys of a mapping, or as what that maps to; a number is a place in a tuple of several
types, and `values/each` says one inside another."""


class Tagged(NamedTuple):
    """A field that carries a tag."""

    field: str
    encoded: str
    tag: str
    holds: str
    types: frozenset[Any]
    beside: frozenset[Any]
    """What else may lie in the field, as in `Sku | tuple[str, ...]`."""
    alone: bool
    """Whether none of that is made of other values."""


class Below(NamedTuple):
    """A field that holds parts."""

    field: str
    encoded: str
    holds: str
    scope: "Scope"


class Scope(NamedTuple):
    """A class as a carrier of tags."""

    cls: type
    tags: tuple[Tagged, ...]
    parts: tuple[Below, ...]

    def all_tags(self) -> set[str]:
        """Return every tag that lies here or below."""
        return {tagged.tag for tagged in self.tags}.union(*(below.scope.all_tags() for below in self.parts))


_scopes: dict[type, Scope] = {}


def hints_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a class's fields with their extras. `Invalid` if one names something that can't be seen from the class."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise Invalid(
            f"`{error.name}` isn't visible from the fields of `{cls.__name__}`: define it at module level, outside `if TYPE_CHECKING`, "
            "or drop `from __future__ import annotations`",
            type=cls.__name__,
            name=error.name,
        ) from error


def unalias(annotation: Any) -> Any:
    """Return what a `type X = ...` alias stands for, else the annotation itself."""
    while hasattr(annotation, "__value__"):
        annotation = annotation.__value__
    return annotation


def bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split an annotation into the type without `Annotated`, and the extras, of all levels."""
    annotation = unalias(annotation)
    extras: tuple[Any, ...] = ()
    while typing.get_origin(annotation) is typing.Annotated:
        extras += annotation.__metadata__
        annotation = unalias(annotation.__origin__)
    return annotation, extras


def members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation alone, without `None`."""
    annotation = unalias(annotation)
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [one for arg in typing.get_args(annotation) for one in members(arg) if one is not NoneType]
    return [annotation]


def is_a(cls: Any, base: type) -> bool:
    """Say whether something that a user wrote into a table or an annotation is a subclass of a base, and not the base itself."""
    return isinstance(cls, type) and issubclass(cls, base) and cls is not base


def is_struct(cls: Any) -> bool:
    """Say whether this is a class of typed data."""
    return isinstance(cls, type) and issubclass(cls, msgspec.Struct)


def scope_of(cls: type) -> Scope:
    """Return where the tags of a class lie. Built once per class. `Invalid` for mutable fields and for annotations that can't be read."""
    if cls not in _scopes:
        _scopes[cls] = _build(cls, ())
    return _scopes[cls]


def _build(cls: type, above: tuple[type, ...]) -> Scope:
    if cls in above:
        raise Invalid(
            f"`{cls.__name__}` holds itself: tags can't be found in data without an end. Say `Any` where it does: nothing is looked for in there",
            type=cls.__name__,
        )
    if not cls.__struct_config__.frozen:  # type: ignore[attr-defined]  # every Struct has it
        raise Invalid(f"`{cls.__name__}` can be changed after the fact: make it a `Value`, or frozen", type=cls.__name__)
    hints = hints_of(cls)  # first, since it says what can't be seen
    encoded = {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    tags: list[Tagged] = []
    parts: list[Below] = []
    for field, annotation in hints.items():
        if field not in encoded:
            continue
        for holds, tag, found, beside in _found(cls, field, annotation, ONE, frozenset()):
            if tag is not None:
                alone = not any(map(_is_made_of_others, beside))
                tags.append(Tagged(field, encoded[field], tag, holds, types_of(found) - {NoneType}, beside, alone))
            else:
                part: type = found
                scope = _build(part, (*above, cls))
                if scope.tags or scope.parts or issubclass(part, Value):
                    parts.append(Below(field, encoded[field], holds, scope))
    return Scope(cls, tuple(tags), tuple(parts))


def _found(
    cls: type, field: str, annotation: Any, holds: str, beside: frozenset[Any]
) -> Iterator[tuple[str, str | None, Any, frozenset[Any]]]:
    """Yield what lies in one field: (how it is held, its tag, the type of its values) or (how, None, the class of the part); and what may lie there instead."""
    inner, extras = _without_new_type(annotation)
    for extra in extras:
        for mark, said in MARKS:
            if extra is mark:
                raise Invalid(
                    f"`{cls.__name__}.{field}` is annotated with the class `{mark.__name__}`, which says nothing: write `{said}`",
                    type=cls.__name__,
                    field=field,
                )
    tag = next((extra.name for extra in extras if isinstance(extra, Tag)), None)
    if tag is not None:
        if any((typing.get_origin(one) or one) in (*MANY, collections.abc.Mapping, dict) for one in members(inner)):
            raise Invalid(
                f"`{cls.__name__}.{field}` has the tag `{tag}` as a whole: give it to the members, as in "
                f'`tuple[Annotated[str, Tag("{tag}")], ...]`',
                type=cls.__name__,
                field=field,
            )
        yield holds, tag, inner, beside
        return
    kinds = members(inner)
    for nth, one in enumerate(kinds):
        if one is not inner:
            others = frozenset[Any]().union(*map(types_of, kinds[:nth] + kinds[nth + 1 :]))
            yield from _found(cls, field, one, holds, beside | others)
            continue
        origin = typing.get_origin(one) or one
        if origin in MUTABLE:
            raise Invalid(
                f"`{cls.__name__}.{field}` is a {origin.__name__}, which can be changed after the fact: use tuple, Mapping or frozenset",
                type=cls.__name__,
                field=field,
            )
        if _can_be_changed(origin):
            raise Invalid(
                f"`{cls.__name__}.{field}` holds a `{origin.__name__}`, which can be changed after the fact: make it a `Value`, or a frozen dataclass",
                type=cls.__name__,
                field=field,
            )
        if is_struct(one):
            yield holds, None, one, beside
        elif isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
            key, value = typing.get_args(one) or (Any, Any)
            yield from _found(cls, field, key, _inside(holds, KEYS), beside)
            yield from _found(cls, field, value, _inside(holds, VALUES), beside)
        elif origin in MANY:
            inside = typing.get_args(one)
            alike = Ellipsis in inside or len(set(inside)) == 1
            for place, kind in enumerate(inside[:1] if alike else inside):
                yield from _found(cls, field, kind, _inside(holds, EACH if alike else str(place)), beside)


def _inside(holds: str, step: str) -> str:
    return step if holds == ONE else f"{holds}/{step}"


def steps_of_holding(holds: str) -> tuple[str, ...]:
    """Return what a value is taken out of on the way to what a field holds, from the outside in."""
    return () if holds == ONE else tuple(holds.split("/"))


def types_of(annotation: Any) -> frozenset[Any]:
    """Return the classes that a type's values may be of: without `Annotated`, aliases and `NewType`, each member of a union, those of literal values."""
    inner, _ = _without_new_type(annotation)
    origin = typing.get_origin(inner)
    if origin in (typing.Union, UnionType):
        return frozenset[Any]().union(*map(types_of, typing.get_args(inner)))
    if origin is typing.Literal:
        values: tuple[object, ...] = typing.get_args(inner)
        return frozenset(type(value) for value in values)
    return frozenset([origin or (NoneType if inner is None else inner)])


def _without_new_type(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    inner, extras = bare(annotation)
    while hasattr(inner, "__supertype__"):
        inner, more = bare(inner.__supertype__)
        extras += more
    return inner, extras


def check_tag_types(classes: Iterable[type]) -> None:
    """Raise `Invalid` where one tag has two types in these classes: their values would not be equal, though their texts are."""
    first: dict[str, tuple[frozenset[Any], str]] = {}
    for cls in classes:
        for where, tagged in _all_tagged(scope_of(cls)):
            types, there = first.setdefault(tagged.tag, (tagged.types, where))
            if types != tagged.types:
                raise Invalid(
                    f"the tag `{tagged.tag}` is {names_of(types)} in `{there}` and {names_of(tagged.types)} in `{where}`: give it one type",
                    tag=tagged.tag,
                )


def _all_tagged(scope: Scope) -> Iterator[tuple[str, Tagged]]:
    for tagged in scope.tags:
        yield f"{scope.cls.__name__}.{tagged.field}", tagged
    for below in scope.parts:
        yield from _all_tagged(below.scope)


def names_of(types: Iterable[Any]) -> str:
    """Return the names of types, for a message to people."""
    return " | ".join(sorted("None" if one is NoneType else getattr(one, "__name__", str(one)) for one in types))


def is_unicode(value: str) -> bool:
    """Say whether a text can be written as UTF-8: it has no half of a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _can_be_changed(cls: Any) -> bool:
    """Say whether this is a class of typed data whose fields can be set. Structs are looked at where they are built."""
    if dataclasses.is_dataclass(cls):
        frozen: bool = getattr(cls, "__dataclass_params__").frozen  # noqa: B009 - every dataclass has it, and no stub says so
        return not frozen
    return typing.is_typeddict(cls)


def _is_made_of_others(cls: Any) -> bool:
    """Say whether values of this class are made of other values: collections, mappings, classes of typed data."""
    made: tuple[Any, ...] = (collections.abc.Collection, msgspec.Struct)
    return (
        cls is Any
        or dataclasses.is_dataclass(cls)
        or (is_a(cls, object) and issubclass(cls, made) and not issubclass(cls, str | bytes | enum.Enum))
    )


def tag_text(value: Any) -> str:
    """Return a tag's value as the text that is compared and indexed: one text for all that are equal."""
    return text_of(_as_one_alone(value))


def text_of(value: Any) -> str:
    """Return a value as text."""
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, dt.datetime | dt.date) or not isinstance(value, int):
        return str(msgspec.to_builtins(value))
    return str(int(value)) if not isinstance(value, enum.Enum) else str(value.value)


def text_given(what: str, value: Any) -> str:  # Any: a caller may give anything
    """Return the text of a value that a caller gave. `Invalid` for what no message has as a value of a tag."""
    if isinstance(value, list | tuple | collections.abc.Set | collections.abc.Mapping):
        raise Invalid(f"`{what}` is {value!r}, and a tag has one value: write a pair, or an item of a query, for each", field=what)
    try:
        text = tag_text(value)
    except TypeError as error:
        raise Invalid(f"`{what}` is {value!r}, and no event has that", field=what) from error
    if value is None or not is_unicode(text):
        raise Invalid(
            f"`{what}` is {value!r}, " + ("and no event has that" if value is None else "which has half a character and is no valid text"),
            field=what,
        )
    return text


def term(tag: str, text: str) -> str:
    """Return the (tag, value) pair as one text: what an index keeps."""
    return f"{tag}{SEPARATOR}{text}"


Terms = Callable[[Any], Sequence[str]]


def terms_of(scope: Scope) -> Terms:
    """Return the function that finds every (tag, value) of a message of this class, each once, as terms. The message is one that was read."""
    if not scope.all_tags():
        return lambda _: ()
    flat = all(tagged.holds == ONE and tagged.alone for tagged in scope.tags) and not any(below.scope.all_tags() for below in scope.parts)
    if flat:
        fields = [(tagged.field, f"{tagged.tag}{SEPARATOR}") for tagged in scope.tags]

        def flat_terms(message: Any) -> Sequence[str]:
            found: list[str] = []
            for field, prefix in fields:
                value = getattr(message, field)
                if value is not None:
                    text = prefix + (value if type(value) is str else tag_text(value))
                    if text not in found:
                        found.append(text)
            return found

        texts = all(tagged.types == frozenset([str]) and not tagged.beside for tagged in scope.tags)
        return _text_terms(fields, flat_terms) if texts and len({prefix for _, prefix in fields}) == len(fields) else flat_terms
    return lambda message: list(dict.fromkeys(term(tag, tag_text(value)) for tag, value in _walk(scope, message)))


def in_one_writing(scope: Scope) -> Callable[[Any], Any] | None:
    """Return the function that has each value of a tag in a message be written in the one way of all its equals; `None` where there is but one."""
    tagged = [(one.field, _as_one_alone) for one in scope.tags if one.types & {*MANY_WAYS}]
    parts = [
        (below.field, _where_one(below.scope.cls, found)) for below in scope.parts if (found := in_one_writing(below.scope)) is not None
    ]
    fields = [*tagged, *parts]
    if not fields:
        return None

    def rewritten(message: Any) -> Any:
        return msgspec.structs.replace(message, **{field: _throughout(getattr(message, field), anew) for field, anew in fields})

    return rewritten


def _as_one_alone(value: Any) -> Any:
    return as_one(value) if isinstance(value, MANY_WAYS) else value


def _where_one(cls: type, anew: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: anew(value) if isinstance(value, cls) else value


def _throughout(value: Any, anew: Callable[[Any], Any]) -> Any:
    """Return a value, or a collection of such, whose members are made anew."""
    if _is_mapped(value):
        return {_throughout(key, anew): _throughout(one, anew) for key, one in value.items()}
    if _is_listed(value):
        members = [_throughout(one, anew) for one in value]
        made: Any = type(value)
        return made_like(value, members) if isinstance(value, tuple) else made(members)
    return anew(value)


def _text_terms(fields: Sequence[tuple[str, str]], where_one_is_missing: Terms) -> Terms:
    """Return the function for the common case, kept short since every event takes it: each tag is a text in a field of its own."""
    prefixes = tuple(prefix for _, prefix in fields)
    if len(fields) == 1:
        [(only, prefix)] = fields

        def one_term(message: Any) -> Sequence[str]:
            value = getattr(message, only)
            return (prefix + value,) if value is not None else ()

        return one_term
    values_of = operator.attrgetter(*[field for field, _ in fields])

    def text_terms(message: Any) -> Sequence[str]:
        values = values_of(message)
        return tuple(map(operator.add, prefixes, values)) if None not in values else where_one_is_missing(message)

    return text_terms


def _walk(scope: Scope, message: Any) -> Iterator[tuple[str, Any]]:
    for tagged in scope.tags:
        for value in _tag_values(tagged, message):
            yield tagged.tag, value
    for below in scope.parts:
        for part in held(getattr(message, below.field), below.holds):
            if isinstance(part, below.scope.cls):
                yield from _walk(below.scope, part)


def _tag_values(tagged: Tagged, message: Any) -> Iterable[Any]:
    """Return the values of a tag in a message, and nothing else that its field may hold: neither the tuple nor the line of `Sku | tuple[str, ...] | Line`."""
    found = held(getattr(message, tagged.field), tagged.holds)
    return found if tagged.alone else [one for one in found if type(one) in tagged.types or not _is_made_of_others(type(one))]


def held(value: Any, holds: str) -> Iterable[Any]:
    """Return what a field holds in this way, without `None`: nothing where this value is of another kind, as in `Sku | tuple[Sku, ...]`."""
    if holds == ONE:  # kept short: so most are held
        return (value,) if value is not None else ()
    found = [value]
    for step in steps_of_holding(holds):
        found = [inner for one in found for inner in _taken_out(one, step)]
    return [one for one in found if one is not None]


def _taken_out(value: Any, step: str) -> Iterable[Any]:
    if _is_mapped(value):
        return value.values() if step == VALUES else value if step == KEYS else ()
    if step in (KEYS, VALUES) or not _is_listed(value):
        return ()
    return value if step == EACH else [one for place, one in enumerate(value) if str(place) == step]


def _is_mapped(value: Any) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_listed(value: Any) -> TypeGuard[Collection[Any]]:
    return isinstance(value, LISTED)


def plain_fields(scope: Scope, tags: tuple[str, ...]) -> list[str] | None:
    """Return the fields that carry these tags, where each is one plain field of the message itself; `None` where it takes a walk."""
    wanted = set(tags)
    here = [tagged for tagged in scope.tags if tagged.tag in wanted]
    plain = (
        len(here) == len(tags) == len(wanted)
        and all(tagged.holds == ONE and tagged.alone for tagged in here)
        and not any(below.scope.all_tags() & wanted for below in scope.parts)
    )
    by_tag = {tagged.tag: tagged.field for tagged in here}
    return [by_tag[tag] for tag in tags] if plain else None


Keys = Callable[[Any], Iterable[tuple[Any, ...]]]
Parts = Callable[[Any], Iterable[tuple[tuple[Any, ...], Any]]]


def keys_of(scope: Scope, tags: tuple[str, ...]) -> Keys:
    """Return the function that finds every combination of these tags that lies together in a message, each once, in order of appearance.

    Cost: an attribute read per tag where they are plain fields; a walk over all parts else.
    """
    wanted = set(tags)
    fields = plain_fields(scope, tags)
    if fields is not None:

        def plain_key(message: Any) -> Iterable[tuple[Any, ...]]:
            key = tuple([getattr(message, field) for field in fields])
            return () if None in key else (key,)

        return plain_key

    def walked(message: Any) -> Iterable[tuple[Any, ...]]:
        return list(dict.fromkeys(key for _, _, key in _together(scope, message, tags, wanted, {}) if key is not None))

    return walked


def parts_of(scope: Scope, part: type, tags: tuple[str, ...]) -> Parts:
    """Return the function that finds each part of this class with the combinations of these tags that it sees, in order of appearance."""
    wanted = set(tags)

    def walked(message: Any) -> Iterable[tuple[tuple[Any, ...], Any]]:
        for at, visible, _ in _together(scope, message, tags, wanted, {}, every=part):
            if isinstance(at, part):
                for key in dict.fromkeys(itertools.product(*(visible.get(tag, ()) for tag in tags))):
                    yield key, at

    return walked


def _together(
    scope: Scope, message: Any, tags: tuple[str, ...], wanted: set[str], around: dict[str, tuple[Any, ...]], *, every: type | None = None
) -> Iterator[tuple[Any, dict[str, tuple[Any, ...]], tuple[Any, ...] | None]]:
    """Yield (part, what it sees, a key) for each key that is complete here and not further out; with `every`, each part of that class once."""
    own: dict[str, tuple[Any, ...]] = {}
    for tagged in scope.tags:
        if tagged.tag in wanted:
            own[tagged.tag] = own.get(tagged.tag, ()) + tuple(_tag_values(tagged, message))
    visible = {**around, **{tag: own[tag] + around.get(tag, ()) for tag in own}} if own else around
    if every is not None:
        yield message, visible, None
    elif any(own.values()):
        seen_outside = set(itertools.product(*(around.get(tag, ()) for tag in tags)))
        for key in itertools.product(*(visible.get(tag, ()) for tag in tags)):
            if key not in seen_outside:
                yield message, visible, key
    for below in scope.parts:
        for part in held(getattr(message, below.field), below.holds):
            if isinstance(part, below.scope.cls):
                yield from _together(below.scope, part, tags, wanted, visible, every=every)


def nesting(scope: Scope, *, known: bool = True) -> list[Any]:
    """Return which values lie nested in a class, where, and in which version: what a schema record says of it. Without `known` all are of version 1."""
    found: list[Any] = []
    for below in scope.parts:
        cls: Any = below.scope.cls
        name, version = name_of(cls)
        config = cls.__struct_config__
        tag: list[Any] | None = [config.tag_field, config.tag] if config.tag is not None else None
        found.append([below.encoded, below.holds, name, version if known else 1, nesting(below.scope, known=known), tag])
    return found


def outline(scope: Scope) -> list[Any]:
    """Return the scope as plain data, by encoded field names: what a recorded schema keeps, so that tags are found without the class."""
    return [
        [[tagged.encoded, tagged.tag, tagged.holds] for tagged in scope.tags],
        [[below.encoded, below.holds, outline(below.scope)] for below in scope.parts if below.scope.all_tags()],
    ]


def terms_by_outline(outlined: Sequence[Any]) -> Terms:
    """Return the function that finds every (tag, value) in a body of plain data, by an outline.

    An outline does not say what else may lie in a field: so a mapping that may be a value with the tag is taken for one. It may find too much, never too little.
    """

    def walk(node: Sequence[Any], body: Any) -> Iterator[str]:
        if not is_data(body):
            return
        for field, tag, holds in node[0]:
            several = sum(one[0] == field for one in (*node[0], *node[1])) > 1
            for value in held(body.get(field), holds):
                if not isinstance(value, list) and not (several and isinstance(value, dict)):
                    yield term(tag, text_of(value))
        for field, holds, below in node[1]:
            for part in held(body.get(field), holds):
                yield from walk(below, part)

    return lambda body: list(dict.fromkeys(walk(outlined, body)))
