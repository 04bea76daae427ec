"""A process of its own that repeats a command and a fact: `python -m tests.semantics.repeating URL HOW`. Prints whether each was known.

Their bodies are the same values whoever runs it; how they are written depends on the seed of this process's hashes, on scale, zone and order.
"""

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import msgspec

import happened as h

WORDS = [f"word-{number}" for number in range(20)]


class Point(h.Value):
    x: int
    y: int


class Body(h.Value):
    words: frozenset[str]
    points: frozenset[Point]
    price: Decimal
    due: datetime
    limits: Mapping[int, str]


class Ordered(h.Event):
    body: Body


class Order(h.Command):
    body: Body


def order(command: Order) -> Iterator[Ordered]:
    """Decide nothing."""
    yield Ordered(command.body)


shop = h.App("shop", records=[Ordered], deciders=[order])


def body(*, otherwise: bool) -> Body:
    """Return one value, written in one of two ways."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    points = frozenset(Point(number, -number) for number in range(20))
    if otherwise:
        return Body(frozenset(WORDS), points, Decimal("1.50"), noon.astimezone(timezone(timedelta(hours=2))), {2: "b", 1: "a"})
    return Body(frozenset(WORDS), points, Decimal("1.5"), noon, {1: "a", 2: "b"})


def main(url: str, *, otherwise: bool) -> None:
    """Dispatch the command, record and append the fact, and say which were known."""
    given = body(otherwise=otherwise)
    loose = {"words": set(WORDS), "more": {"b": 1, "a": 2} if otherwise else {"a": 2, "b": 1}}
    with shop.open(url, run=False) as running:
        print(running.dispatch(Order(given), id="command").repeated)
        print(running.record(Ordered(given), id="fact").repeated)
        print(running.log.append(h.Loose("Loose", loose), id="loose").repeated)
        try:
            running.dispatch(Order(msgspec.structs.replace(given, price=Decimal(2))), id="command")
        except h.IdReused:
            print("another")


if __name__ == "__main__":
    main(sys.argv[1], otherwise=sys.argv[2] == "otherwise")
