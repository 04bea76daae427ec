"""A small shop's year, made from a seed, for where the real file is not at hand.

It has what makes the real file a test: customers who cancel what they bought, more than they bought and the same twice, sales without a
customer, prices of three decimal places, and lines that are equal in all but their number.
"""

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count, islice
from random import Random

from .read import Line

COUNTRIES = ("United Kingdom", "United Kingdom", "United Kingdom", "France", "Germany", "EIRE")
PRICES = tuple(Decimal(text) for text in ("0.001", "0.42", "0.85", "1.25", "2.10", "2.55", "3.75", "4.951", "12.75", "110"))
START = datetime(2010, 12, 1, 8, tzinfo=UTC)


def sample(lines: int = 4000, seed: int = 1) -> Iterator[Line]:
    """Make so many lines, of about a year; the same seed makes the same lines."""
    minutes = 365 * 24 * 60 * 5 // lines  # from one invoice to the next, as it has five lines or so
    for number, line in enumerate(islice(endless(Random(seed), minutes), lines), start=1):
        yield line._replace(number=number)


def endless(chance: Random, minutes: int) -> Iterator[Line]:
    """Make invoice after invoice, and a credit note now and then."""
    at = START
    sold: deque[Line] = deque(maxlen=300)
    for number in count(536365):
        at += timedelta(minutes=chance.randrange(1, 2 * minutes))
        if sold and chance.random() < 0.1:
            customer = chance.choice(sold).customer
            theirs = [line for line in sold if line.customer == customer]
            for line in chance.choices(theirs, k=chance.randrange(1, 5)):
                units = chance.choice((line.units, max(1, line.units // 2), line.units * 5))
                yield line._replace(invoice=f"C{number}", units=-units, at=at)
        else:
            customer = str(chance.randrange(12346, 12406)) if chance.random() < 0.8 else None
            country = COUNTRIES[int(customer or 0) % len(COUNTRIES)]
            for item in chance.choices(range(80), k=chance.randrange(1, 10)):
                units = chance.randrange(1, 25)
                line = Line(
                    0, str(number), str(22000 + item), f"ITEM {item}, BOXED", units, at, PRICES[item % len(PRICES)], customer, country
                )
                for _ in range(2 if chance.random() < 0.01 else 1):  # the till may print a line twice
                    yield line
                    sold.append(line)
