"""Paths: what is counted of each row, so that the flow of messages through a log is known without reading it.

A path is a text: `CAUSE:SENDER:ASKED:HANDLER:OUTCOME:RECORDED`, numbers of names, 0 where there is none, the outcome by its first letter, what was recorded
as distinct numbers in order with commas between. A row adds its tally to its path. Beside that, `*HANDLER:NUMBER` counts the second and further records
of one name in a row, `?HANDLER:GATEWAY` the answers of the outside, `!` those that were errors, `+HANDLER:NUMBER` the commands that are to be sent later.
Where a row has a sender and a decider, the path has the decider's times, and `@CAUSE:SENDER:ASKED` the sender's. `HANDLER` is the sender where nothing
else handled.

All of it follows from the row alone: so it is counted as a row is added, and counted again from the row where that was another process or is lost.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: what a record holds beside its number is not looked at

import msgspec

from happened.core.errors import Broken
from happened.core.store import Row
from happened.core.tally import tally
from happened.log.row import ANSWER, EPOCH_CHANGE, ERASURE, FIRST_NUMBER, SCHEDULE, Header, RawRecord, decode_header

Counts = Sequence[tuple[str, int]]

REPEATED, ASKED, FAILED, LATER, SENT = "*", "?", "!", "+", "@"
"""What the texts begin with that are no paths."""

LOOKED_INTO = {ANSWER, SCHEDULE}
"""Records of which more is counted than their number."""

ALIKE_MAX, ALIKE_RECORDS_MAX = 20_000, 20
"""How many rows are kept to compare with, and how many records they may have."""

OUTCOMES = {"a": "accepted", "r": "refused", "p": "pending"}


class Path(NamedTuple):
    """A path taken apart; numbers are those of names, 0 for none."""

    cause: int
    sender: int
    asked: int
    handler: int
    outcome: str
    recorded: tuple[int, ...]


class _Numbered(msgspec.Struct, array_like=True, frozen=True, gc=False):
    number: int


class _Scheduled(msgspec.Struct, frozen=True, gc=False):
    number: int = 0
    """0 where it was erased."""


class _Answered(msgspec.Struct, frozen=True, gc=False):
    gateway: str = ""
    """Empty where the answer was erased."""
    us: int = 0
    error: str = ""


_number_of = msgspec.json.Decoder(_Numbered).decode
_numbers_of = msgspec.json.Decoder(list[_Numbered]).decode
_raw_of = msgspec.json.Decoder(list[RawRecord]).decode
_later_of = msgspec.json.Decoder(_Scheduled | None).decode
_answer_of = msgspec.json.Decoder(_Answered | None).decode


_known: dict[tuple[Any, ...], Counts] = {}
"""What was counted of rows that were alike: most are like one before."""


def counts_in(header: Header, asked: int, records: Sequence[Any]) -> Counts:
    """Return what is counted of a row: its header, the number of what was asked or 0, and the other records. Cost: 0.4 µs."""
    sent = header.sent
    key = (asked, header.handler, header.outcome, header.waited.bit_length(), header.ran.bit_length(), *[one.number for one in records])
    if sent is None:
        if header.id is None and header.decides is None:
            return ()  # what the log says of itself
    else:
        key = (sent.cause, sent.handler, sent.waited.bit_length(), sent.ran.bit_length(), None, *key)
    known = _known.get(key)
    if known is not None:
        return known
    numbers = [record.number for record in records]
    made = _made(header, asked, numbers, records)
    if not LOOKED_INTO & set(numbers) and len(numbers) <= ALIKE_RECORDS_MAX:
        if len(_known) >= ALIKE_MAX:
            _known.clear()
        _known[key] = made
    return made


def _made(header: Header, asked: int, numbers: Sequence[int], records: Sequence[Any]) -> Counts:
    if numbers and numbers[0] in (EPOCH_CHANGE, ERASURE):
        return ()  # what somebody has done to the log
    sent, handler = header.sent, header.handler or 0
    cause, sender = (sent.cause, sent.handler) if sent is not None else (0, 0)
    recorded = [one for one in dict.fromkeys(numbers) if one >= FIRST_NUMBER]
    path = f"{cause}:{sender}:{asked}:{handler}:{header.outcome[0]}:{','.join(map(str, recorded))}"
    more = _more(handler or sender, numbers, records)
    if sent is None or handler in (0, sender):
        timed = sent or header
        return ((path, tally(timed.waited, timed.ran)), *more)
    return ((path, tally(header.waited, header.ran)), (f"{SENT}{cause}:{sender}:{asked}", tally(sent.waited, sent.ran)), *more)


def _more(handler: int, numbers: Sequence[int], records: Sequence[Any]) -> Counts:
    """Return what is counted of a row with several records of one name, or with answers."""
    more: dict[str, int] = {}
    for number in numbers:
        if number >= FIRST_NUMBER:
            text = f"{REPEATED}{handler}:{number}"
            more[text] = more.get(text, -1) + 1
    for record in records:
        if record.number == ANSWER:
            answer = _answer_of(record.body) or _Answered()
            text = f"{FAILED if answer.error else ASKED}{handler}:{answer.gateway}"
            more[text] = more.get(text, 0) + tally(0, answer.us)
        elif record.number == SCHEDULE:
            later = _later_of(record.body) or _Scheduled()
            text = f"{LATER}{handler}:{later.number}"
            more[text] = more.get(text, 0) + 1
    return [found for found in more.items() if found[1]]


def counts_of(row: Row) -> Counts:
    """Return what is counted of a row, from its bytes. Cost: 3 µs, and what its records are long."""
    try:
        asked = _number_of(row.input).number if row.input is not None else 0
        records: Sequence[Any] = _numbers_of(row.records)
        if any(record.number in LOOKED_INTO for record in records):
            records = _raw_of(row.records)
    except msgspec.MsgspecError as error:
        raise Broken(f"the row at position {row.position} can't be read: {error}", position=row.position) from error
    return counts_in(decode_header(row.head), asked, records)


def path_in(text: str) -> Path:
    """Take a path apart."""
    cause, sender, asked, handler, outcome, recorded = text.split(":")
    numbers = tuple(map(int, recorded.split(","))) if recorded else ()
    return Path(int(cause), int(sender), int(asked), int(handler), OUTCOMES[outcome], numbers)
