"""The shop's numbers by a plain script, with no log: what `examples/shop` is measured against.

`python -m benchmarks.plain_shop FILE` reads the invoice lines of Online Retail and prints the same numbers as JSON:
revenue by country, month, customer and item, with exact decimals, and which cancellations a shop accepts that lets a customer
cancel only what they have bought of an item and not yet cancelled.
"""

import csv
import gzip
import json
import sys
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any


def summary(path: Path) -> dict[str, Any]:
    """Return the numbers of the lines in a file, plain or gzipped."""
    lines = 0
    revenue = Decimal(0)
    by_country: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_month: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_customer: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_item: defaultdict[str, Decimal] = defaultdict(Decimal)
    units_by_item = Counter[str]()
    bought = Counter[tuple[str, str]]()
    accepted = refused = 0
    invoices: set[str] = set()
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for _, invoice, item, _, units_text, when, price, customer, country in rows:
            lines += 1
            invoices.add(invoice)
            units = int(units_text)
            amount = units * Decimal(price)
            revenue += amount
            by_country[country] += amount
            by_month[when[:7]] += amount
            by_item[item] += amount
            units_by_item[item] += units
            if not customer:
                continue
            by_customer[customer] += amount
            if not invoice.startswith("C"):
                bought[customer, item] += max(units, 0)
            elif bought[customer, item] >= -units:
                bought[customer, item] += units
                accepted += 1
            else:
                refused += 1
    return {
        "lines": lines,
        "invoices": len(invoices),
        "revenue": str(revenue),
        "cancellations_accepted": accepted,
        "cancellations_refused": refused,
        "by_country": _text(by_country),
        "by_month": _text(by_month),
        "by_customer": _text(by_customer),
        "by_item": _text(by_item),
        "units_by_item": dict(units_by_item),
    }


def _text(sums: dict[str, Decimal]) -> dict[str, str]:
    return {key: str(value) for key, value in sorted(sums.items())}


if __name__ == "__main__":
    print(json.dumps(summary(Path(sys.argv[1]))))
