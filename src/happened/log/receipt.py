"""Receipts: proof that something was recorded, which log it is in, and where."""

import contextlib
import re
from collections.abc import Generator
from typing import Any  # Any: events of any class

import msgspec

from happened.core.errors import Error, Invalid

DIGITS_MAX = 19
"""As many as a number of 64 bits has."""
DIGEST = re.compile("[0-9a-f]{32}")
"""What a receipt says of the digest of a commit: its first half. Without it nothing would be compared, so a text that was cut is no receipt."""
SHOWN_MAX = 200
"""Characters of a text that is no receipt that a message shows."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What a caller gets: on disk, at `position` of the log `log` in its `epoch`, with the digest of the commit there.

    `events` are what was decided or recorded; `repeated` says that the id was known, and this is the first receipt. `str(receipt)` crosses HTTP and
    processes, and `since=` takes either.
    """

    log: str
    epoch: int
    position: int
    digest: str
    id: str = ""
    events: tuple[Any, ...] = ()
    repeated: bool = False

    def __str__(self) -> str:
        """Return it as `log:epoch:position:digest`."""
        return f"{self.log}:{self.epoch}:{self.position}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> "Receipt":
        """Return the receipt that a text stands for; `Invalid` if it is none. Events are not in the text."""
        parts = text.split(":")
        numbers_are = all(number.isdecimal() and len(number) <= DIGITS_MAX for number in parts[1:3])
        if len(parts) != 4 or not numbers_are or not DIGEST.fullmatch(parts[3]):  # noqa: PLR2004 - log:epoch:position:digest
            shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
            raise Invalid(f"`{shown}` is no receipt: it looks like log:epoch:position:digest", receipt=shown)
        return cls(parts[0], int(parts[1]), int(parts[2]), parts[3])


def is_receipt(text: str) -> bool:
    """Say whether a text stands for a receipt, of whichever log."""
    try:
        Receipt.parse(text)
    except Invalid:
        return False
    return True


@contextlib.contextmanager
def recorded() -> Generator[None]:
    """Have whatever goes wrong say that it is recorded: it was found in the log, and only what is to be told of it can't be had."""
    try:
        yield
    except Error as error:
        error.recorded = True
        raise
