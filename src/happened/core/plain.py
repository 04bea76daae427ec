"""Plain data: what a type holds beyond what JSON keeps, seen once from its annotations.

`msgspec` lets three things through that a log must not take: a class of any kind, which could be written and not read again; a time without a zone,
which could be any of two dozen moments; and a surplus field of a nested part.
"""

import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeGuard  # Any: values and annotations of any type pass through here

import msgspec
from msgspec import inspect

NO_DATA = (msgspec.MsgspecError, TypeError, OverflowError, UnicodeEncodeError, RecursionError)
"""What encoding raises: for a class that is no data, a number out of range, half a character, what holds itself."""

Zoneless = Callable[[Any], str]
"""Returns the path of the first time without a zone in a message, or nothing."""


def undescribed(info: inspect.Type) -> inspect.Type:
    """Return a type without the texts that `msgspec.Meta` says of it."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def strange_in(annotation: Any) -> str:
    """Return the name of a class within a type that can't be read from JSON, or nothing where all can."""
    return next((info.cls.__name__ for info in within(inspect.type_info(annotation)) if isinstance(info, inspect.CustomType)), "")


def encoded(data: Any, encode: Callable[[Any], bytes]) -> bytes:
    """Return data as JSON. `OverflowError` for a float that JSON has no number for: it would be read again as nothing."""
    body = encode(data)
    if b"null" in body:
        for number in _no_numbers(msgspec.to_builtins(data)):
            raise OverflowError(f"JSON has no number for {number}")
    return body


def zoneless_in(cls: type) -> Zoneless | None:
    """Return the function that finds times without a zone in a message of this class; `None` where it holds no times.

    Cost: an attribute read for each field that is a time; a walk over the parts that hold times.
    """
    always, direct, deep = _times_in(cls)
    if not direct and not deep:
        return _zoneless_times(always) if always else None
    direct += always

    def zoneless(message: Any) -> str:
        for name in direct:
            time = getattr(message, name)
            if time is not None and time.tzinfo is None:
                return name
        for name in deep:
            for path in _zoneless(getattr(message, name), name):
                return path
        return ""

    return zoneless


def times_in(cls: type) -> Sequence[str] | None:
    """Return the fields of a class that are times and never missing; `None` where times may lie elsewhere in it, too."""
    always, direct, deep = _times_in(cls)
    return None if direct or deep else always


def _times_in(cls: type) -> tuple[list[str], list[str], list[str]]:
    """Return the fields that are times; those that are, or are missing; and those in which times may lie."""
    always: list[str] = []
    direct: list[str] = []
    deep: list[str] = []
    for field in msgspec.structs.fields(cls):
        kinds = undescribed(inspect.type_info(field.type))
        members = list(map(undescribed, kinds.types)) if isinstance(kinds, inspect.UnionType) else [kinds]
        times = any(isinstance(info, inspect.DateTimeType) for info in members)
        if isinstance(kinds, inspect.DateTimeType):
            always.append(field.name)
        elif times and all(isinstance(info, inspect.DateTimeType | inspect.NoneType) for info in members):
            direct.append(field.name)
        elif any(isinstance(info, inspect.DateTimeType | inspect.AnyType) for info in within(kinds)):
            deep.append(field.name)
    return always, direct, deep


def _zoneless_times(fields: Sequence[str]) -> Zoneless:
    """Return the function for the common case, kept short since every message takes it: fields that are times, and never missing."""
    if len(fields) == 1:
        [only] = fields
        zone_of = operator.attrgetter(f"{only}.tzinfo")
        return lambda message: "" if zone_of(message) is not None else only
    zones_of = [(operator.attrgetter(f"{name}.tzinfo"), name) for name in fields]

    def zoneless(message: Any) -> str:
        for zone_of, name in zones_of:
            if zone_of(message) is None:
                return name
        return ""

    return zoneless


def surplus_in(cls: type, data: Any) -> list[str]:
    """Return the paths of all fields in plain data that the class, or a part of it, does not have."""
    return list(_surplus(inspect.type_info(cls), data, ""))


def within(info: inspect.Type, seen: frozenset[type] = frozenset()) -> Iterator[inspect.Type]:
    """Yield a type and all types that it is made of."""
    yield info
    if isinstance(info, inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType):
        if info.cls in seen:
            return
        seen |= {info.cls}
        for field in info.fields:
            yield from within(field.type, seen)
    for below in _parts(info):
        yield from within(below, seen)


def _parts(info: inspect.Type) -> Sequence[inspect.Type]:
    match info:
        case inspect.Metadata():
            return (info.type,)
        case inspect.UnionType():
            return info.types
        case inspect.DictType():
            return (info.key_type, info.value_type)
        case inspect.TupleType():
            return info.item_types
        case inspect.CollectionType():
            return (info.item_type,)
        case _:
            return ()


def _no_numbers(data: Any) -> Iterator[float]:
    if isinstance(data, float) and not math.isfinite(data):
        yield data
    elif _is_mapping(data):
        for below in data.values():
            yield from _no_numbers(below)
    elif _is_many(data):
        for below in data:
            yield from _no_numbers(below)


def _zoneless(value: Any, path: str) -> Iterator[str]:
    match value:
        case datetime():
            if value.tzinfo is None:
                yield path
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from _zoneless(getattr(value, name), f"{path}.{name}")
        case _ if _is_mapping(value):
            for key, below in value.items():
                yield from _zoneless(key, path)
                yield from _zoneless(below, f"{path}[{key!r}]")
        case _ if _is_many(value):
            for place, below in enumerate(value):
                yield from _zoneless(below, f"{path}[{place}]")
        case _:
            return


def _surplus(info: inspect.Type, data: Any, path: str) -> Iterator[str]:
    info = undescribed(info)
    match info:
        case inspect.StructType() if _is_mapping(data):
            given = dict(data.items())
            fields = {field.encode_name: field.type for field in info.fields}
            tag = info.tag_field
            for name, value in given.items():
                here = f"{path}.{name}" if path else str(name)
                if name in fields:
                    yield from _surplus(fields[name], value, here)
                elif name != tag:
                    yield here
        case inspect.UnionType():
            members = list(map(undescribed, info.types))
            structs = [one for one in members if isinstance(one, inspect.StructType)]
            found = [list(_surplus(one, data, path)) for one in (_tagged(structs, data) if structs else members)]
            yield from min(found, key=len) if found else ()
        case inspect.DictType() if _is_mapping(data):
            for key, value in data.items():
                yield from _surplus(info.value_type, value, f"{path}[{key!r}]")
        case inspect.TupleType() if _is_many(data):
            for place, (one, value) in enumerate(zip(info.item_types, data, strict=False)):
                yield from _surplus(one, value, f"{path}[{place}]")
        case inspect.CollectionType() if _is_many(data):
            for place, value in enumerate(data):
                yield from _surplus(info.item_type, value, f"{path}[{place}]")
        case _:
            return


def _tagged(structs: Sequence[inspect.StructType], data: Any) -> Sequence[inspect.StructType]:
    """Return the classes of a union that the data may be of: by its tag, where they have one."""
    if not _is_mapping(data):
        return ()
    given = dict(data.items())
    return [one for one in structs if one.tag_field is None or given.get(one.tag_field) == one.tag]


def _is_mapping(data: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(data, Mapping)


def _is_many(data: Any) -> TypeGuard[Collection[Any]]:
    return isinstance(data, list | tuple | set | frozenset)
