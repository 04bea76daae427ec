"""Words: what people type, read as names and keys, and what commands print, as lines or as JSON."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO  # Any: keys and values of any type

import msgspec

from happened.core.errors import Invalid
from happened.core.state import State, fold_of

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What can't be seen in a text and changes how the rest of it is shown."""


def named(name: str, states: Iterable[type[State]], what: str) -> type[State]:
    """Return the state of this name, or of a class of this name."""
    listed = list(dict.fromkeys(states))
    for one in listed:
        if name in (fold_of(one).name, one.__name__):
            return one
    known = ", ".join(sorted(fold_of(one).name for one in listed)) or "none"
    raise Invalid(f"the app has no {what} called `{name}`; it has: {known}", name=name)


def key_in(cls: type[State], texts: Sequence[str]) -> tuple[Any, ...]:
    """Read a key from words, each as its field's type says."""
    fields = [field for field in msgspec.structs.fields(cls) if field.required]
    if texts and len(texts) != len(fields):
        listed = " ".join(field.name.upper() for field in fields)
        raise Invalid(f"the key of `{fold_of(cls).name}` is: {listed or 'nothing, there is only one'}", key=list(texts))
    key: list[Any] = []
    for field, text in zip(fields, texts, strict=False):
        try:
            key.append(msgspec.convert(text, field.type, strict=False))
        except msgspec.ValidationError as error:
            raise Invalid(f"`{text}` can't be the `{field.name}` of a `{fold_of(cls).name}`: {error}", field=field.name) from error
    return tuple(key)


def print_json(value: Any, to: TextIO | None = None) -> None:
    """Print a value as JSON, to standard output where nothing else is said."""
    print(msgspec.json.encode(value).decode(), file=to)


def print_row(row: State, *, as_json: bool) -> None:
    """Print a state, one field a line."""
    if as_json:
        print_json(row)
        return
    fields: dict[str, Any] = msgspec.to_builtins(row)
    width = max(map(len, fields), default=0)
    for field, value in fields.items():
        print_line(f"{field:<{width}}  {text_of(value)}")


def print_line(text: str) -> None:
    """Print a text as one line."""
    print(one_line(text))


def one_line(text: str) -> str:
    """Return a text with what would end the line, or is a command to a terminal, as Python writes that."""
    return CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def print_rows(rows: Sequence[State], about: Mapping[str, Any], *, as_json: bool) -> None:
    """Print states as a table, or with what is said about them as JSON; `hidden` says how many there are beyond the limit."""
    if as_json:
        print_json({**about, "rows": list(rows)})
        return
    print_table([msgspec.to_builtins(row) for row in rows])
    if about.get("hidden"):
        print(f"and {about['hidden']:,} more: --limit shows more of them")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same fields in columns, numbers to the right."""
    if not rows:
        print("no rows")
        return
    cells = [list(rows[0]), *([one_line(text_of(value)) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [isinstance(value, int | float) for value in rows[0].values()]
    for line in cells:
        aligned = [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(line, widths, numbers, strict=True)]
        print("  ".join(aligned).rstrip())


def text_of(value: Any) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple | bool) else str(value)
