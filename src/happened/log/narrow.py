"""Narrow reading: decode only the fields of an event that a fold reads.

Most of the time of a fold goes into fields that nobody looks at: a UUID, a time, a memo. What `evolve` reads is found in its source: every use of the
event must be a plain attribute, or a `match` on it by class; anything else (the event handed on, rebound, captured) and the event is decoded whole. A
narrow event is an instance of a subclass, so `match` and `isinstance` see no difference; a field that was not decoded is `msgspec.UNSET`.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any  # Any: classes of any data

import msgspec

from happened.core.state import NARROW, Fold
from happened.core.tags import scope_of

Fields = frozenset[str] | None
"""The fields that are read, or `None`: all of them."""

_read: dict[Fold, Fields] = {}
_classes: dict[tuple[type, frozenset[str]], type] = {}


def fields_read(fold: Fold, event: type) -> Fields:
    """Return the fields of an event class that a fold reads, for its key and in its `evolve`."""
    if event in fold.in_parts:
        return None
    if fold not in _read:
        _read[fold] = _in_source(fold)
    read = _read[fold]
    own = {field.name for field in msgspec.structs.fields(event)}
    read = _through_properties(read, event, own)
    if read is None or not read <= own | _fields_elsewhere(fold, event):
        return None
    scope = scope_of(event)
    wanted = {tag for tag in fold.tags if tag is not None}
    keys = {tagged.field for tagged in scope.tags if tagged.tag in wanted} | {
        below.field for below in scope.parts if below.scope.all_tags() & wanted
    }
    plain = {field for field, tag in zip(fold.key, fold.tags, strict=True) if tag is None}
    return frozenset((read | keys | plain) & own)


def narrowed(event: type[Any], fields: Fields) -> type[Any]:
    """Return a subclass of an event class that decodes these fields only; the class itself where there is nothing to leave out."""
    config = event.__struct_config__
    left_out = [field for field in msgspec.structs.fields(event) if fields is not None and field.name not in fields]
    if (
        fields is None
        or not left_out
        or config.forbid_unknown_fields
        or config.array_like
        or config.tag is not None
        or hasattr(event, "__post_init__")
    ):
        return event
    if (event, fields) not in _classes:
        definitions: list[Any] = [
            (field.name, Any, msgspec.field(default=msgspec.UNSET, name=f"\N{EMPTY SET}{field.name}")) for field in left_out
        ]
        _classes[event, fields] = msgspec.defstruct(
            event.__name__, definitions, bases=(event,), namespace={NARROW: True}, kw_only=True, frozen=True, gc=False
        )
    return _classes[event, fields]


def _through_properties(read: Fields, event: type, own: set[str]) -> Fields:
    """Put in the place of each property of the event what that reads of it."""
    if read is None:
        return None
    found = set(read)
    for name in read - own:
        attribute = getattr(event, name, None)
        if isinstance(attribute, property) and attribute.fget is not None:
            behind = _in_function(attribute.fget, 0)
            behind = _through_properties(behind, event, own) if name not in (behind or ()) else None
            if behind is None:
                return None
            found = found - {name} | behind
    return frozenset(found)


def _fields_elsewhere(fold: Fold, event: type) -> set[str]:
    """Return the fields of the other classes of the union: an attribute of those is read in their case of the `match`, not in this one's."""
    return {field.name for other in fold.readings if other is not event for field in msgspec.structs.fields(other)}


def _in_source(fold: Fold) -> Fields:
    """Return the attributes of the event that `evolve` reads, or `None` where it can't be said."""
    evolve: Callable[..., Any] | None = fold.evolve
    if evolve is None or fold.key_of is not None or fold.joins or fold.everything:
        return None
    return _in_function(evolve, 1)


def _in_function(function: Callable[..., Any], place: int) -> Fields:
    """Return the attributes that a function reads of its argument at a place, or `None` where it does more with it."""
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or len(definition.args.args) <= place:
        return None
    return _attributes(definition, definition.args.args[place].arg)


def _attributes(function: ast.FunctionDef, name: str) -> Fields:
    allowed: set[ast.AST] = set()
    read: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            read.add(node.attr)
            allowed.add(node.value)
        elif isinstance(node, ast.Match) and isinstance(node.subject, ast.Name) and node.subject.id == name:
            for case in node.cases:
                found = _pattern(case.pattern)
                if found is None:
                    return None
                read |= found
            allowed.add(node.subject)
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
    return frozenset(read) if all(node in allowed for node in uses) else None


def _pattern(pattern: ast.pattern) -> set[str] | None:
    """Return the attributes that a pattern on the event reads; `None` where it captures the event, or reads by position."""
    if isinstance(pattern, ast.MatchClass) and not pattern.patterns:
        return set(pattern.kwd_attrs)
    if isinstance(pattern, ast.MatchOr):
        found = [_pattern(one) for one in pattern.patterns]
        return None if None in found else set[str]().union(*(one for one in found if one is not None))
    if isinstance(pattern, ast.MatchAs) and pattern.pattern is None and pattern.name is None:
        return set()
    return None
