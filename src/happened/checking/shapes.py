"""Shapes: what a class of today drops of data that was recorded, what it defaults, and what it reads as something else.

It is found by looking at data: a schema says what may have been recorded, and not what was. Of some types it does not even say that: a plain time has the
schema of a text, and a mapping that of one with other keys.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypeGuard  # Any: schemas and bodies are JSON
from uuid import UUID

import msgspec
from msgspec import inspect

from happened.core.messages import Data, is_data
from happened.core.plain import undescribed, within

UNSAID = {"title", "description", "default", "examples", "required", "discriminator"}
"""What a JSON schema says that does not change what was recorded."""

EXACT_MAX = 2**53
"""Above it a float does not hold every whole number."""

FINER = re.compile(r"\.\d{6}\d*[1-9]")
"""Stands in a time that says more than microseconds, and in some numbers."""

ZONELESS = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?")
"""A whole time that says no zone."""

KEYS: Mapping[type[inspect.Type], type[Any]] = {
    inspect.DecimalType: Decimal,
    inspect.FloatType: float,
    inspect.DateTimeType: datetime,
    inspect.TimeType: time,
    inspect.TimeDeltaType: timedelta,
    inspect.UUIDType: UUID,
    inspect.BytesType: bytes,
}
"""Keys of which several texts may be one."""

TIMES = inspect.DateTimeType | inspect.TimeType | inspect.TimeDeltaType


class Lost(NamedTuple):
    """Paths of fields, each once, in order."""

    dropped: dict[str, None]
    defaulted: dict[str, None]
    altered: dict[str, None]
    zoneless: dict[str, None]


def nothing_lost() -> Lost:
    """Return what is lost of no data."""
    return Lost({}, {}, {}, {})


Compare = Callable[[Any, str, Lost], None]
"""Compares data that lies at a path with a class, and adds what of it is lost."""


def comparing(cls: type) -> Compare:
    """Return the function that compares data with a class: made once, since it is run for many records."""
    return _comparing(inspect.type_info(cls)) or _compare_nothing


def untold_keys(cls: type) -> bool:
    """Say whether a class holds mappings with keys of which no schema tells that they are no texts."""
    return any(isinstance(info, inspect.DictType) and type(undescribed(info.key_type)) in KEYS for info in within(inspect.type_info(cls)))


def untold_times(cls: type) -> bool:
    """Say whether a class holds times of which no schema tells that they are no texts."""
    return any(isinstance(info, inspect.DateTimeType | inspect.TimeType) and info.tz is None for info in within(inspect.type_info(cls)))


def left_out(schema: Any, today: Any, path: str) -> bool:
    """Say whether a field was left out since it had its default, as the schema that was recorded says, and has the same default in today's."""
    then, now = _defaults(schema, path), _defaults(today, path)
    return len(then) == 1 and then == now and None not in then


def same_shape(schema: Any, other: Any) -> bool:
    """Say whether two schemas mean the same: texts, defaults and the names of classes left out."""
    return bool(_shape(schema, _message_of(schema)) == _shape(other, _message_of(other)))


# --- by data


def _comparing(info: inspect.Type) -> Compare | None:
    """Return the function for a type; `None` where nothing of it can be lost."""
    info = undescribed(info)
    match info:
        case inspect.UnionType():
            return _comparing_union(info)
        case inspect.StructType(array_like=True):
            return _comparing_places([field.type for field in info.fields], 0 if info.tag_field is None else 1)
        case inspect.StructType() | inspect.DataclassType():
            return _comparing_fields(info)
        case inspect.NamedTupleType():
            return _comparing_places([field.type for field in info.fields], 0)
        case inspect.TupleType():
            return _comparing_places(info.item_types, 0)
        case inspect.DictType():
            return _comparing_mapping(undescribed(info.key_type), _comparing(info.value_type))
        case inspect.CollectionType():
            return _comparing_members(_comparing(info.item_type), once=isinstance(info, inspect.SetType | inspect.FrozenSetType))
        case inspect.FloatType():
            return _compare_float
        case inspect.DateTimeType(tz=None):
            return _compare_moment
        case _ if isinstance(info, TIMES):
            return _compare_time
        case _:
            return None


def _comparing_union(info: inspect.UnionType) -> Compare | None:
    members = list(map(undescribed, info.types))
    objects = [(one, compare) for one in members if _is_object(one) and (compare := _comparing(one)) is not None]
    lists = [(one, compare) for one in members if _is_list(one) and (compare := _comparing(one)) is not None]
    whole = any(isinstance(one, inspect.IntType | inspect.AnyType) for one in members)
    text = any(isinstance(one, inspect.StrType | inspect.AnyType) for one in members)
    numbers = _compare_float if not whole and any(isinstance(one, inspect.FloatType) for one in members) else None
    moment = any(isinstance(one, inspect.DateTimeType) and one.tz is None for one in members)
    times = (_compare_moment if moment else _compare_time) if not text and any(isinstance(one, TIMES) for one in members) else None
    if not objects and not lists and numbers is None and times is None:
        return None

    def compare_union(data: Any, path: str, lost: Lost) -> None:
        if is_data(data):
            for one, compare in objects:
                if not isinstance(one, inspect.StructType) or one.tag_field is None or data.get(one.tag_field) == one.tag:
                    compare(data, path, lost)
        elif _is_array(data):
            for one, compare in lists:
                if not isinstance(one, inspect.StructType) or one.tag_field is None or data[:1] == [one.tag]:
                    compare(data, path, lost)
        elif isinstance(data, str):
            if times is not None:
                times(data, path, lost)
        elif numbers is not None:
            numbers(data, path, lost)

    return compare_union


def _is_object(info: inspect.Type) -> bool:
    return isinstance(info, inspect.DictType | inspect.DataclassType) or (isinstance(info, inspect.StructType) and not info.array_like)


def _is_list(info: inspect.Type) -> bool:
    array = isinstance(info, inspect.StructType) and info.array_like
    return array or isinstance(info, inspect.CollectionType | inspect.TupleType | inspect.NamedTupleType)


def _is_array(data: Any) -> TypeGuard[list[Any]]:
    return isinstance(data, list)


def _comparing_mapping(key: inspect.Type, values: Compare | None) -> Compare | None:
    """Return the function for a mapping: of keys that several texts may be, one is read."""
    known = KEYS.get(type(key))
    if values is None and known is None:
        return None
    keys_of: Any = msgspec.json.Decoder(dict[known, Any]).decode if known is not None else None  # type: ignore[valid-type]  # a class, known when it runs
    times = _comparing(key) if isinstance(key, TIMES) else None

    def compare_mapping(data: Any, path: str, lost: Lost) -> None:
        if not is_data(data):
            return
        if values is not None:
            for one in data.values():
                values(one, f"{path}[...]", lost)
        if times is not None:
            for one in data:
                times(one, path, lost)
        if keys_of is not None and len(data) > 1:
            with contextlib.suppress(msgspec.MsgspecError):  # what can't be read is told by who reads it
                if len(keys_of(msgspec.json.encode(dict.fromkeys(data)))) < len(data):
                    lost.altered[path] = None

    return compare_mapping


def _comparing_members(members: Compare | None, *, once: bool) -> Compare | None:
    """Return the function for the members of a collection; a set holds each `once`."""
    if members is None and not once:
        return None

    def compare_members(data: Any, path: str, lost: Lost) -> None:
        if not _is_array(data):
            return
        if members is not None:
            for one in data:
                members(one, f"{path}[]", lost)
        if once and len(set(map(repr, data))) < len(data):
            lost.altered[path] = None

    return compare_members


def _comparing_places(types: Sequence[inspect.Type], first: int) -> Compare:
    """Return the function for what is read by its place in a list, after the tag where there is one."""

    @functools.cache  # looked at where there is data: a class may hold itself
    def places() -> Sequence[Compare | None]:
        return list(map(_comparing, types))

    def compare_places(data: Any, path: str, lost: Lost) -> None:
        if not _is_array(data):
            return
        found = data[first:]
        for compare, one in zip(places(), found, strict=False):
            if compare is not None:
                compare(one, f"{path}[]", lost)
        if len(found) > len(types):
            lost.dropped[f"{path}[]"] = None
        elif len(found) < len(types):
            lost.defaulted[f"{path}[]"] = None

    return compare_places


def _comparing_fields(info: inspect.StructType | inspect.DataclassType) -> Compare:
    names = {field.encode_name: None for field in info.fields}
    defaults = [field.encode_name for field in info.fields if not field.required]
    tag = info.tag_field if isinstance(info, inspect.StructType) else None
    own = names.keys() | ({tag} if tag is not None else set[str]())

    @functools.cache  # looked at where there is data: a class may hold itself
    def below() -> Sequence[tuple[str, Compare]]:
        return [(field.encode_name, compare) for field in info.fields if (compare := _comparing(field.type)) is not None]

    def compare_fields(data: Any, path: str, lost: Lost) -> None:
        if not is_data(data):
            return
        start = f"{path}." if path else ""
        if data.keys() != own:
            lost.dropped.update(dict.fromkeys(f"{start}{field}" for field in data if field not in own))
            lost.defaulted.update(dict.fromkeys(f"{start}{field}" for field in defaults if field not in data))
        for field, compare in below():
            if field in data:
                compare(data[field], f"{start}{field}", lost)

    return compare_fields


def _compare_float(data: Any, path: str, lost: Lost) -> None:
    if type(data) is int and abs(data) > EXACT_MAX and abs(data) // (data & -data) > EXACT_MAX:  # without its zeros at the end, in binary
        lost.altered[path] = None


def _compare_time(data: Any, path: str, lost: Lost) -> None:
    if isinstance(data, str) and FINER.search(data) is not None:
        lost.altered[path] = None


def _compare_moment(data: Any, path: str, lost: Lost) -> None:
    _compare_time(data, path, lost)
    if (isinstance(data, str) and ZONELESS.fullmatch(data) is not None) or (isinstance(data, datetime) and data.tzinfo is None):
        lost.zoneless[path] = None


def _compare_nothing(_data: Any, _path: str, _lost: Lost) -> None:
    return


# --- by schemas


def _defaults(schema: Any, path: str) -> set[str | None]:
    """Return which defaults a field has, as text, where objects at its path have one of that name; `None` for one that must be there."""
    nodes = [_message_of(schema)]
    *above, last = re.findall(r"\[\.*\]|[^.[\]]+", path)
    for step in above:
        nodes = [below for node in nodes for one in _alternatives(schema, node) for below in _below(one, step)]
    objects = [one for node in nodes for one in _alternatives(schema, node) if last in one.get("properties", {})]
    return {None if last in one.get("required", ()) else repr(one["properties"][last].get("default", "")) for one in objects}


def _below(node: Data, step: str) -> Iterator[Any]:
    match step:
        case "[]":
            yield node.get("items")
            yield from node.get("prefixItems", ())
        case "[...]":
            yield node.get("additionalProperties")
        case _:
            yield node.get("properties", {}).get(step)


def _root_of(schema: Mapping[str, Any]) -> str:
    """Return which class of a recorded schema is the message itself: the one that no other refers to."""
    inside = {part for found in schema.values() for part in _references(found)}
    return next((name for name in schema if name not in inside), "")


def _references(node: Any) -> Iterator[str]:
    if is_data(node):
        if isinstance(node.get("$ref"), str):
            yield _referred(node)
        for one in node.values():
            yield from _references(one)
    elif isinstance(node, list):
        for one in node:  # pyright: ignore[reportUnknownVariableType]  # of what is looked at one by one
            yield from _references(one)


def _referred(node: Mapping[str, Any]) -> str:
    return str(node["$ref"]).removeprefix("#/")


def _message_of(schema: Any) -> Any:
    return schema.get(_root_of(schema)) if is_data(schema) else None


def _alternatives(schema: Data, node: Any) -> Iterator[Data]:
    """Yield what a node of a schema may be, without references."""
    if not is_data(node):
        return
    if "$ref" in node:
        yield from _alternatives(schema, schema.get(_referred(node)))
    elif "anyOf" in node:
        for one in node["anyOf"]:
            yield from _alternatives(schema, one)
    else:
        yield node


def _shape(schema: Any, node: Any, above: tuple[str, ...] = ()) -> Any:
    """Return what a schema says of what was recorded, and nothing of texts, defaults, and names of classes: of a class in itself only which it is."""
    if is_data(node):
        if "$ref" in node:
            name = _referred(node)
            return above.index(name) if name in above else _shape(schema, schema.get(name), (*above, name))
        properties = node.get("properties")
        said = {key: _shape(schema, value, above) for key, value in node.items() if key not in UNSAID and key != "properties"}
        if not is_data(properties):
            return said
        return {**said, "properties": {key: _shape(schema, value, above) for key, value in properties.items()}}
    return [_shape(schema, one, above) for one in node] if isinstance(node, list) else node  # pyright: ignore[reportUnknownVariableType]  # of what is looked at one by one
