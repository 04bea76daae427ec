"""What happened at the university, from a file with a JSON object in each line, also compressed by gzip; or a small sample.

The file is made from the Open University Learning Analytics Dataset (CC BY 4.0, anonymous).
"""

import gzip
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import BinaryIO, Literal, cast

import msgspec

GZIP_MAGIC = b"\x1f\x8b"


class Row(msgspec.Struct, frozen=True):
    """A line of the file."""

    seq: int
    date: date
    type: Literal["StudentRegistered", "StudentUnregistered", "AssessmentSubmitted"]
    module: str
    presentation: str
    student: int
    assessment: int | None = None

    @property
    def course(self) -> str:
        """The presentation by its full name, such as DDD/2013B."""
        return f"{self.module}/{self.presentation}"

    @property
    def at(self) -> datetime:
        """When it happened: the file knows the day only."""
        return datetime.combine(self.date, time(), UTC)


class BadFile(Exception):
    """The file is not what was asked for, or one of its lines can't be read. The text names file, line and reason; mend the file or give another."""


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows in the file's order, one after the other. `BadFile` for a file or a row that can't be read."""
    decode = msgspec.json.Decoder(Row).decode
    try:
        with opened(path) as file:
            for count, text in enumerate(file, start=1):
                try:
                    row = decode(text)
                except msgspec.MsgspecError as error:
                    raise BadFile(f"{path}, row {count}: {error}") from error
                yield row
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{path} can't be read: {error}") from error


def opened(path: Path) -> BinaryIO:
    """Open the file, whether compressed or not."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path, "rb")) if compressed else path.open("rb")  # cast: a GzipFile is a BinaryIO in all but name


def sample(rows: int = 4000, seed: int = 1) -> Iterator[Row]:
    """Make so many rows; the same seed makes the same rows.

    Students register, leave, come again, and hand things in, also where they are not registered.
    """
    chance = Random(seed)
    courses = [(module, presentation) for module in ("AAA", "BBB", "CCC") for presentation in ("2013B", "2013J")]
    begin = date(2012, 3, 28)
    registered: set[tuple[str, str, int]] = set()
    for seq in range(1, rows + 1):
        module, presentation = chance.choice(courses)
        student = chance.randrange(1, rows // 4)
        drawn = chance.random()
        place = (module, presentation, student)
        if drawn < 0.4 and place not in registered:
            registered.add(place)
            type_: Literal["StudentRegistered", "StudentUnregistered", "AssessmentSubmitted"] = "StudentRegistered"
        elif drawn < 0.6 and registered:
            place = chance.choice(sorted(registered))
            registered.remove(place)
            type_ = "StudentUnregistered"
        else:
            if registered and drawn < 0.9:
                place = chance.choice(sorted(registered))
            type_ = "AssessmentSubmitted"
        yield Row(seq, begin + timedelta(days=seq * 365 // rows), type_, *place, assessment=seq if type_ == "AssessmentSubmitted" else None)
