"""Shapes: which fields that were recorded a class of today drops, and which of its own it defaults.

By the recorded schema that is found once for all records of one shape. Without a schema it is found by looking at data.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple  # Any: schemas and bodies are JSON

from msgspec import inspect

from happened.core.messages import Data, is_data

UNSAID = {"title", "description", "default", "examples", "required", "discriminator"}
"""What a JSON schema says that does not change what was recorded."""


class Lost(NamedTuple):
    """Paths of fields, each once, in order."""

    dropped: dict[str, None]
    defaulted: dict[str, None]


Compare = Callable[[Any, str, Lost], None]
"""Compares data that lies at a path with a class, and adds what it drops and what it defaults."""


def comparing(cls: type) -> Compare:
    """Return the function that compares data with a class: made once, since it is run for many records."""
    return _comparing(inspect.type_info(cls))


def compared(schema: Any, cls: type, lost: Lost) -> None:
    """Compare a recorded schema with a class, and add what it drops and what it defaults."""
    if is_data(schema):
        _compared(schema, schema.get(_root_of(schema)), inspect.type_info(cls), "", lost)


def same_shape(schema: Any, other: Any) -> bool:
    """Say whether two schemas mean the same: texts, defaults and the names of classes left out."""
    return bool(_shape(schema, _message_of(schema)) == _shape(other, _message_of(other)))


# --- by data


def _comparing(info: inspect.Type) -> Compare:
    match info:
        case inspect.StructType() if not info.array_like:
            return _comparing_fields(info)
        case inspect.UnionType():
            structs = [(one, _comparing(one)) for one in info.types if isinstance(one, inspect.StructType)]
            others = [_comparing(one) for one in info.types if isinstance(one, inspect.DictType | inspect.CollectionType)]

            def compare_union(data: Any, path: str, lost: Lost) -> None:
                if is_data(data):
                    for one, compare in structs:
                        if one.tag_field is None or data.get(one.tag_field) == one.tag:
                            compare(data, path, lost)
                for compare in others:
                    compare(data, path, lost)

            return compare_union
        case inspect.DictType() if _is_deep(info.value_type):
            values = _comparing(info.value_type)

            def compare_values(data: Any, path: str, lost: Lost) -> None:
                for one in data.values() if is_data(data) else ():
                    values(one, f"{path}[...]", lost)

            return compare_values
        case inspect.CollectionType() if _is_deep(info.item_type):
            members = _comparing(info.item_type)

            def compare_members(data: Any, path: str, lost: Lost) -> None:
                for one in data if isinstance(data, list) else ():  # pyright: ignore[reportUnknownVariableType]  # of what is looked at one by one
                    members(one, f"{path}[]", lost)

            return compare_members
        case inspect.TupleType() if any(map(_is_deep, info.item_types)):
            places = list(map(_comparing, info.item_types))

            def compare_places(data: Any, path: str, lost: Lost) -> None:
                for compare, one in zip(places, data if isinstance(data, list) else (), strict=False):  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]  # as above
                    compare(one, f"{path}[]", lost)

            return compare_places
        case _:
            return _compare_nothing


def _comparing_fields(info: inspect.StructType) -> Compare:
    names = {field.encode_name: None for field in info.fields}
    own = names.keys() | ({info.tag_field} if info.tag_field is not None else set[str]())
    below = [(field.encode_name, _comparing(field.type)) for field in info.fields if _is_deep(field.type)]

    def compare(data: Any, path: str, lost: Lost) -> None:
        if not is_data(data):
            return
        start = f"{path}." if path else ""
        if data.keys() != names.keys():
            lost.dropped.update(dict.fromkeys(f"{start}{field}" for field in data if field not in own))
            lost.defaulted.update(dict.fromkeys(f"{start}{field}" for field in names if field not in data))
        for field, compare_below in below:
            if field in data:
                compare_below(data[field], f"{start}{field}", lost)

    return compare


def _compare_nothing(_data: Any, _path: str, _lost: Lost) -> None:
    return


def _is_deep(info: inspect.Type) -> bool:
    """Say whether classes may lie in a type."""
    match info:
        case inspect.StructType():
            return True
        case inspect.UnionType():
            return any(map(_is_deep, info.types))
        case inspect.DictType():
            return _is_deep(info.value_type)
        case inspect.CollectionType():
            return _is_deep(info.item_type)
        case inspect.TupleType():
            return any(map(_is_deep, info.item_types))
        case _:
            return False


# --- by schemas


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


def _compared(schema: Data, node: Any, info: inspect.Type, path: str, lost: Lost) -> None:
    match info:
        case inspect.UnionType():
            for one in info.types:
                _compared(schema, node, one, path, lost)
        case inspect.StructType() if not info.array_like:
            fields = {field.encode_name: field.type for field in info.fields}
            for found in _objects(schema, node):
                recorded: Mapping[str, Any] = found.get("properties", {})
                if info.tag_field is not None and recorded.get(info.tag_field, {}).get("enum", [info.tag]) != [info.tag]:
                    continue
                start = f"{path}." if path else ""
                lost.dropped.update(
                    dict.fromkeys(f"{start}{field}" for field in recorded if field not in fields and field != info.tag_field)
                )
                lost.defaulted.update(dict.fromkeys(f"{start}{field}" for field in fields if field not in recorded))
                for field in recorded:
                    if field in fields:
                        _compared(schema, recorded[field], fields[field], f"{start}{field}", lost)
        case inspect.DictType():
            for found in _alternatives(schema, node):
                _compared(schema, found.get("additionalProperties"), info.value_type, f"{path}[...]", lost)
        case inspect.CollectionType():
            for found in _alternatives(schema, node):
                _compared(schema, found.get("items"), info.item_type, f"{path}[]", lost)
        case inspect.TupleType():
            for found in _alternatives(schema, node):
                for one, below in zip(info.item_types, found.get("prefixItems", ()), strict=False):
                    _compared(schema, below, one, f"{path}[]", lost)
        case _:
            return


def _objects(schema: Data, node: Any) -> Iterator[Data]:
    return (found for found in _alternatives(schema, node) if "properties" in found)


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


def _shape(schema: Any, node: Any) -> Any:
    """Return what a schema says of what was recorded, and nothing of texts, defaults, and names of classes."""
    if is_data(node):
        if "$ref" in node:
            return _shape(schema, schema.get(_referred(node)))
        properties = node.get("properties")
        said = {key: _shape(schema, value) for key, value in node.items() if key not in UNSAID and key != "properties"}
        return {**said, "properties": {key: _shape(schema, value) for key, value in properties.items()}} if is_data(properties) else said
    return [_shape(schema, one) for one in node] if isinstance(node, list) else node  # pyright: ignore[reportUnknownVariableType]  # of what is looked at one by one
