"""Values that are equal and are written in different ways, written in one: 1.50 and 1.5, one moment in two zones, 0.0 and -0.0, and what holds such."""

import contextlib
import decimal
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any  # Any: values of any type pass through here

import msgspec

DIGITS_MAX = 40
"""A number that is longer than that is written with an exponent."""

MANY_WAYS = (float, decimal.Decimal, datetime)
"""Classes of which equal values are written in different ways."""

EXACT = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])
"""Moves a decimal point without rounding; what goes beyond is infinite, and compares as such."""


def as_one(value: Any) -> Any:
    """Return a value of a key as it is written whichever of its equals it is: a number without zeros at its end, a moment in UTC.

    So is each of what it holds, in tuples, frozensets and values. What is returned is equal to what was given.
    """
    kind = value.__class__
    if issubclass(kind, float):
        return value + 0.0  # -0.0 becomes 0.0
    if issubclass(kind, decimal.Decimal) and value.is_finite():
        number = value.normalize(EXACT) if value else decimal.Decimal(0)
        return decimal.Decimal(f"{number:f}") if abs(number.adjusted()) < DIGITS_MAX else number
    if issubclass(kind, datetime) and value.tzinfo is not None:
        with contextlib.suppress(OverflowError):  # in UTC it is outside the years 1 to 9999
            return value.astimezone(UTC)
    if issubclass(kind, tuple):
        return made_like(value, map(as_one, value))
    if issubclass(kind, frozenset):
        return frozenset(map(as_one, value))
    if issubclass(kind, msgspec.Struct):
        return msgspec.structs.replace(value, **{name: as_one(getattr(value, name)) for name in kind.__struct_fields__})
    return value


def made_like(of: tuple[Any, ...], members: Iterable[Any]) -> tuple[Any, ...]:
    """Return a tuple of the same class with other members."""
    made: Any = of.__class__
    return tuple(members) if made is tuple else made(*members)
