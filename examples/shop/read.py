"""The lines of the shop's invoices, from a CSV file with the columns of `COLUMNS`, also compressed by gzip.

The file is Online Retail (UCI Machine Learning Repository, CC BY 4.0), with each line numbered: two lines may be equal in all else.
"""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import NamedTuple, TextIO

COLUMNS = ("line", "invoice", "stock", "description", "qty", "ts", "price", "customer", "country")

GZIP_MAGIC = b"\x1f\x8b"

UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
"""What reading a file raises that isn't there, is damaged, or is something else."""


class Line(NamedTuple):
    """A line of an invoice as it stands in the file, typed."""

    number: int
    invoice: str
    sku: str
    description: str
    units: int
    at: datetime
    price: Decimal
    customer: str | None
    country: str

    @property
    def credited(self) -> bool:
        """Whether the line is one of a credit note, which takes a sale back."""
        return self.invoice.startswith("C")


class BadFile(Exception):
    """The file is not what was asked for, or one of its lines can't be read. The text names file, line and reason; mend the file or give another."""


def read_lines(path: Path) -> Iterator[Line]:
    """Read the lines in the file's order, one after the other. `BadFile` for a file or a line that can't be read."""
    try:
        with opened(path) as file:
            yield from parsed(csv.reader(file, strict=True), path)
    except UNREADABLE as error:
        raise BadFile(f"{path} can't be read: {error}") from error


def count_lines(path: Path) -> int:
    """Count the lines of the file without reading what is in them, for a progress bar that knows its end."""
    try:
        with opened(path) as file:
            return max(0, sum(1 for _ in file) - 1)
    except UNREADABLE as error:
        raise BadFile(f"{path} can't be read: {error}") from error


def write_lines(lines: Iterable[Line], file: TextIO) -> None:
    """Write lines as the file has them."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for number, invoice, sku, description, units, at, price, customer, country in lines:
        writer.writerow((number, invoice, sku, description, units, f"{at:%Y-%m-%d %H:%M:%S}", price, customer or "", country))


def opened(path: Path) -> TextIO:
    """Open the file as text, whether compressed or not."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    if compressed:
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def parsed(rows: Iterator[list[str]], path: Path) -> Iterator[Line]:
    """Type the rows."""
    header = tuple(next(rows, ()))
    if header != COLUMNS:
        raise BadFile(f"{path} has other columns than expected: {', '.join(header) or 'none'} instead of {', '.join(COLUMNS)}")
    count = 1
    for count, row in enumerate(rows, start=2):
        try:
            number, invoice, sku, description, units, at, price, customer, country = row
            yield Line(
                int(number),
                invoice,
                sku,
                description,
                int(units),
                datetime.fromisoformat(at).replace(tzinfo=UTC),  # the file names no zone
                Decimal(price),
                customer or None,
                country,
            )
        except (ValueError, DecimalException) as error:
            raise BadFile(f"{path}, row {count}: {error}: {','.join(row)}") from error
    if count == 1:
        raise BadFile(f"{path} has no lines but its header")
