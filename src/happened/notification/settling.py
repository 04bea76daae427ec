"""Settling: when all that a message has caused in this log is done, or what of it stands still."""

import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from happened.core.errors import Invalid, Late
from happened.core.store import Wanted
from happened.core.waiting import within
from happened.core.world import moment
from happened.log.held import Held, all_held
from happened.log.log import Log
from happened.log.row import SCHEDULE, decode_header, taken_apart
from happened.log.slices import Part, parts_in, slicer
from happened.notification.hearing import heard_at, heard_between, numbers_of
from happened.notification.listener import Listener
from happened.notification.timer import LEASE as TIMERS
from happened.notification.timer import NOTE, Schedule, decode_schedule, due_before, due_of, note_of

LOOK_SECONDS = 0.05
PAUSE_SECONDS = 0.005
"""Between two looks at least."""
PAUSE_SHARE = 4
"""And so many times as long as a look took, which reads all that is pending: who waits takes little from who works."""
LATEST_ROWS = 50
"""Rows looked through at once for the latest event of a name."""
SHOWN_MAX = 5
PENDING = "pending/"
"""What the notes of commands begin with that are kept and not decided; they are made in `sourcing`."""


class Settled(msgspec.Struct, frozen=True):
    """What has become of all that a message has caused."""

    done: bool
    """Nothing is left to be done now, and nothing stands still."""
    position: int
    """Of the last record of the conversation."""
    stuck: tuple[Held, ...] = ()
    """What stands still, or keeps something of it waiting."""
    timers: tuple[datetime, ...] = ()
    """When commands are due that were sent `Later` and have not come, in order."""


class Latest(NamedTuple):
    """The last events that listeners hear, by the numbers of their names: what was found at one look need not be looked for at the next."""

    places: dict[int, int]
    looked: dict[int, int]
    """Up to where that was looked for."""


Standing = Callable[[Collection[int]], Mapping[int, Held]]
"""Returns, of the pending commands at these positions, for each that can't be decided now what keeps it from it."""


class Open(NamedTuple):
    """What a conversation has come to."""

    last: int
    pending: Sequence[int]
    """Positions of commands that are not decided."""
    heard: dict[int, set[int]]
    """For each number of a name: where in the conversation it is recorded."""
    scheduled: Collection[int]
    """Positions of the records of what was sent `Later`."""
    timers: Mapping[int, int]
    """Of what was sent `Later` and has not come: by the position of its record when it is due."""
    due: Sequence[int]
    """When those are due that are due already, and have not come."""
    whole: bool
    """It is all of the log, and of what is heard only the last is told."""


def settled(log: Log, listeners: Sequence[Listener], position: int | None, wait_seconds_max: float, standing: Standing) -> Settled:
    """Wait until the conversation of the record at a position is settled, or all of the log. `Late` if it is not in time."""
    look = (
        functools.partial(_conversation, log, _correlation(log, position))
        if position is not None
        else functools.partial(_everything, log, listeners, Latest({}, {}))
    )
    deadline = time.monotonic() + within(wait_seconds_max)
    while True:
        head, began = log.head, time.monotonic()
        found = look()
        keeps = standing(found.pending)
        silent = (
            [held for held in all_held(log.engine, TIMERS) if held.position in found.scheduled]
            if position is not None
            else all_held(log.engine)
        )
        stuck = {held.note: held for held in (*keeps.values(), *silent)}
        busy = [f"the command at position {one} is not decided" for one in found.pending if one not in keeps]
        busy += [f"what was due at {moment(due):%Y-%m-%d %H:%M:%S} is not sent" for due in found.due]
        for listener in listeners:
            busy += _left_to(listener, log, found, stuck)
        if not busy and look().last == found.last:
            return Settled(not stuck, found.last, tuple(stuck.values()), tuple(sorted(moment(due) for due in found.timers.values())))
        if time.monotonic() >= deadline:
            what = "what is in the log" if position is None else f"what position {position} has caused"
            raise Late(
                f"{what} is not done within {wait_seconds_max:.3g} s: {'; '.join(busy[:SHOWN_MAX]) or 'it goes on'}"
                + (f"; and {len(busy) - SHOWN_MAX:,} more" if len(busy) > SHOWN_MAX else ""),
                position=position,
                waiting=busy,
                stuck=[one.error for one in all_held(log.engine)],
            )
        looked = time.monotonic() - began
        log.wait(head, min(LOOK_SECONDS, max(deadline - time.monotonic(), 0.0)))
        time.sleep(min(max(PAUSE_SECONDS, PAUSE_SHARE * looked), max(deadline - time.monotonic(), PAUSE_SECONDS)))


def _correlation(log: Log, position: int) -> str:
    row = log.row_at(position)
    if row is None:
        raise Invalid(f"there is nothing at position {position}", position=position)
    header = decode_header(row.head)
    return header.correlation or header.id or header.decides or ""


def _everything(log: Log, listeners: Sequence[Listener], latest: Latest) -> Open:
    """Look at the whole log: by the index for the last event that each listener hears, and by the notes of what is pending and due."""
    head = log.head
    log.names.learn(log.engine.notes)  # others may have given names to what listeners hear
    for number in {number for listener in listeners for number in numbers_of(log, listener)}:
        after = latest.looked.get(number, 0)
        for rows in log.engine.read(after, head, wanted=[Wanted((), [number])], backwards=True, rows_max=LATEST_ROWS):
            places = [
                place
                for row in rows
                for place, (asked, record) in enumerate(taken_apart(row), row.position)
                if not asked and record.number == number
            ]
            if places:
                latest.places[number] = max(places)
                break
        latest.looked[number] = head
    heard = {number: {place} for number, place in latest.places.items()}
    pending = [int(note.removeprefix(PENDING)) for note in log.engine.notes(PENDING)]
    coming = {int(position): due_of(note) for note, position in log.engine.notes(NOTE).items()}
    due = [due_of(note) for note, _ in due_before(log.engine, log.source.now_us())]
    return Open(head, pending, heard, set(coming), coming, due, whole=True)


def _conversation(log: Log, correlation: str) -> Open:
    pending: dict[str, int] = {}
    heard: dict[int, set[int]] = {}
    scheduled: dict[int, Schedule | None] = {}
    last = 0
    for row in log.conversation(correlation):
        header = decode_header(row.head)
        if header.outcome == "pending" and header.id is not None:
            pending[header.id] = row.position
        elif header.decides is not None:
            pending.pop(header.decides, None)
        for place, (asked, record) in enumerate(taken_apart(row), row.position):
            if record.number == SCHEDULE:
                scheduled[place] = decode_schedule(record.body)
            elif not asked:
                heard.setdefault(record.number, set()).add(place)
        last = row.last
    log.names.learn(log.engine.notes)  # as in `_everything`
    timers = {
        place: schedule.due
        for place, schedule in scheduled.items()
        if schedule is not None and log.engine.notes(note_of(schedule.due, schedule.id))
    }
    now = log.source.now_us()
    return Open(last, list(pending.values()), heard, set(scheduled), timers, [due for due in timers.values() if due <= now], whole=False)


def _is_coming(log: Log, listener: Listener, event: int, parts: Sequence[Part]) -> bool:
    """Say whether a listener has not come to an event at a position yet, in the part whose slice that falls into."""
    behind = [part for part in parts if part.progress.position < event]
    if not behind or len(behind) == len(parts):
        return not parts or bool(behind)
    heard = heard_at(log, listener, event)
    place = slicer(listener.events, behind[0].by)(heard.event) if heard is not None else 0
    return any(part.progress.holds(place) for part in behind)


def _left_to(listener: Listener, log: Log, found: Open, stuck: dict[str, Held]) -> list[str]:
    """Return what a listener has not done of a conversation yet, and add what keeps it from doing the rest."""
    numbers = numbers_of(log, listener)
    events = set[int]().union(*(found.heard.get(number, ()) for number in numbers))
    if not events:
        return []
    parts = parts_in(log.engine, listener.lease)
    held = all_held(log.engine, listener.name)
    standing = [one for one in held if one.position in events]
    coming = {event for event in events if _is_coming(log, listener, event, parts)}
    waited_for = [one for one in held if not one.parked]
    waiting = set[int]()
    if waited_for:  # what waits for one of them may lie further than what is noted: it need not be heard to be known to wait
        for heard in heard_between(log, listener, min(one.position for one in waited_for) + 1, max(events)):
            behind = [one for one in waited_for if one.makes_wait(heard.position, heard.key)]
            if behind:
                waiting.add(heard.position)
                standing += behind if heard.position in events else ()
    for one in standing:
        stuck[one.note] = one
    coming -= waiting
    if found.whole and not coming and len(parts) > 1:  # the last that all of them hear is of one part
        coming = {event for part in parts for event in _next_of(log, listener, part, max(events), waiting)}
    return [f"`{listener.name}` has not heard position {max(coming)}"] if coming else []


def _next_of(log: Log, listener: Listener, part: Part, until: int, waiting: Collection[int]) -> Iterator[int]:
    """Yield the first event that a part is to hear up to a position and has not come to, if there is one, but those that wait."""
    slice_in = slicer(listener.events, part.by)
    heard = heard_between(log, listener, part.progress.position + 1, until)
    coming = (one.position for one in heard if part.progress.holds(slice_in(one.event)) and one.position not in waiting)
    yield from itertools.islice(coming, 1)
