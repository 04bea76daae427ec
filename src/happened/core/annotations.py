"""Annotations of functions: read one parameter at a time, so that what can't be read is named.

Names are looked up in the function's globals, then in its closure; `partial`, bound methods and wrapped functions are unwrapped.
`typing.get_type_hints` won't do: it reads the return annotation too, and fails as a whole.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple  # Any: annotations are of any type

from happened.core.errors import Invalid
from happened.core.tags import bare, members


class Parameter(NamedTuple):
    """One parameter: its name, its annotation without extras, whether `None` is allowed, whether it has a default."""

    name: str
    annotation: Any
    optional: bool
    default: bool


def unwrapped(function: Any) -> Callable[..., Any]:
    """Return the function under `partial`, wrappers and bound methods."""
    while True:
        if hasattr(function, "func"):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            break
    found: Callable[..., Any] = function
    return found


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters a caller fills, in order, without `self` and without those that `partial` has filled."""
    return [
        Parameter(parameter.name, *_type_of(function, parameter.name, parameter.annotation), parameter.default is not parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


def named_of_type(function: Callable[..., Any], wanted: Any) -> str | None:
    """Return the name of the first parameter that is annotated with a type; others may have no annotation, or one that can't be read."""
    for parameter in inspect.signature(function).parameters.values():
        try:
            if _resolved(function, parameter.annotation) is wanted:
                return parameter.name
        except Invalid:
            continue
    return None


def returned_by(function: Callable[..., Any], example: str = "Iterator[OrderPlaced]") -> Any:
    """Return the annotation of what a function returns; `Invalid`, with an example, where it has none or it can't be read."""
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        raise Invalid(f"`{label(function)}` does not say what it returns: annotate it, for example `-> {example}`")
    return _resolved(function, annotation)


def yielded_by(function: Callable[..., Any]) -> list[type]:
    """Return the classes that a generator function yields, from its annotation. `Invalid` for a bare `Iterator` or one that can't be read."""
    annotation, _ = bare(returned_by(function))
    args = typing.get_args(annotation)
    if not args:
        raise Invalid(
            f"`{label(function)}` does not say what it yields: annotate it `-> Iterator[OrderPlaced | OrderRefused]`",
            function=label(function),
        )
    return [one for one in members(args[0]) if isinstance(one, type) or typing.get_origin(one)]


def label(function: Callable[..., Any]) -> str:
    """Return the name of a function for a message to people."""
    return getattr(unwrapped(function), "__qualname__", repr(function))


def _type_of(function: Callable[..., Any], name: str, annotation: Any) -> tuple[Any, bool]:
    if annotation is inspect.Parameter.empty:
        raise Invalid(f"parameter `{name}` of `{label(function)}` has no annotation: it is filled by its type", parameter=name)
    resolved, _ = bare(_resolved(function, annotation))
    found = members(resolved)
    optional = resolved is not found[0] and type(None) in typing.get_args(resolved)
    return (found[0] if optional and len(found) == 1 else resolved), optional


def _resolved(function: Callable[..., Any], annotation: Any) -> Any:
    if not isinstance(annotation, str | typing.ForwardRef):
        return annotation
    text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
    inner = unwrapped(function)
    names = dict(_closure(inner))
    try:
        return eval(text, getattr(inner, "__globals__", {}), names)  # noqa: S307 - the user's own annotation, as typing.get_type_hints does
    except NameError as error:
        raise Invalid(
            f"`{error.name}` isn't visible from `{label(function)}`: define it at module level, outside `if TYPE_CHECKING`, "
            "or drop `from __future__ import annotations`",
            function=label(function),
            name=error.name,
        ) from error


def _closure(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    code = getattr(function, "__code__", None)
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # an empty cell: the name is not bound yet, and then it isn't visible
            continue


def union_of(function: Callable[..., Any], annotation: Any) -> list[Any]:
    """Return the members of an annotation's union, each resolved where it is still text."""
    return [_resolved(function, member) for member in members(_resolved(function, annotation))]
