"""Rows that are packed in tests."""

from happened.core.store import Engine, Row
from happened.testing.rows import Fact, Scribe, flat


def nothing(_done: int, _all: int) -> None:
    """Hear of no progress."""


def filled(store: Engine, count: int, *, at_once: int = 100) -> list[Row]:
    """Append rows of several shapes."""
    scribe = Scribe(store)
    for start in range(0, count, at_once):
        facts = [Fact((f"n={n % 50}",), 16 + n % 3, 1 + n % 2, f"id-{n}", "x" * 40) for n in range(start, min(start + at_once, count))]
        scribe.append(*facts)
    return flat(store.read())
