"""Settling: when all that a message has caused in this log is done, or what of it stands still."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from happened.core.errors import Invalid, Late
from happened.core.messages import name_of
from happened.core.world import moment
from happened.log.held import Held, all_held
from happened.log.log import Log
from happened.log.row import SCHEDULE, decode_header, taken_apart
from happened.log.worker import progress_of
from happened.notification.reacting import heard_between, lease_of
from happened.notification.reaction import Reaction
from happened.notification.timer import LEASE as TIMERS
from happened.notification.timer import Schedule, note_of

LOOK_SECONDS = 0.05


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


Standing = Callable[[Collection[int]], Mapping[int, Held]]
"""Returns, of the pending commands at these positions, for each that can't be decided now what keeps it from it."""


class Open(NamedTuple):
    """What a conversation has come to."""

    last: int
    pending: Sequence[int]
    """Positions of commands that are not decided."""
    heard: dict[int, set[int]]
    """For each number of a name: where in the conversation it is recorded."""
    timers: Mapping[int, Schedule | None]
    """By the position of the record; nothing of one that was erased."""


def settled(log: Log, reactions: Sequence[Reaction], position: int, wait_seconds_max: float, standing: Standing) -> Settled:
    """Wait until the conversation of the record at a position is settled. `Late` if it is not in time; `Invalid` where there is no such record."""
    row = log.row_at(position)
    if row is None:
        raise Invalid(f"there is nothing at position {position}", position=position)
    header = decode_header(row.head)
    correlation = header.correlation or header.id or header.decides or ""
    deadline = time.monotonic() + wait_seconds_max
    while True:
        head = log.head
        found = _read(log, correlation)
        keeps = standing(found.pending)
        silent = [held for held in all_held(log.engine, TIMERS) if held.position in found.timers]
        stuck = {held.note: held for held in (*keeps.values(), *silent)}
        busy = [f"the command at position {one} is not decided" for one in found.pending if one not in keeps]
        for reaction in reactions:
            busy += _left_to(reaction, log, found, stuck)
        if not busy and _read(log, correlation).last == found.last:
            return Settled(not stuck, found.last, tuple(stuck.values()), _timers(log, found))
        if time.monotonic() >= deadline:
            raise Late(
                f"what position {position} has caused is not done within {wait_seconds_max:.3g} s: {'; '.join(busy) or 'it goes on'}",
                position=position,
                waiting=busy,
                stuck=[held.error for held in all_held(log.engine)],
            )
        log.wait(head, min(LOOK_SECONDS, max(deadline - time.monotonic(), 0.0)))


def _read(log: Log, correlation: str) -> Open:
    pending: dict[str, int] = {}
    heard: dict[int, set[int]] = {}
    timers: dict[int, Schedule | None] = {}
    last = 0
    for row in log.conversation(correlation):
        header = decode_header(row.head)
        if header.outcome == "pending" and header.id is not None:
            pending[header.id] = row.position
        elif header.decides is not None:
            pending.pop(header.decides, None)
        for place, (asked, record) in enumerate(taken_apart(row), row.position):
            if record.number == SCHEDULE:
                timers[place] = msgspec.json.decode(record.body, type=Schedule | None)
            elif not asked:
                heard.setdefault(record.number, set()).add(place)
        last = row.last
    return Open(last, list(pending.values()), heard, timers)


def _left_to(reaction: Reaction, log: Log, found: Open, stuck: dict[str, Held]) -> list[str]:
    """Return what a reaction has not done of a conversation yet, and add what keeps it from doing the rest."""
    numbers = log.numbers([name_of(event)[0] for event in reaction.events])
    events = set[int]().union(*(found.heard.get(number, ()) for number in numbers))
    if not events:
        return []
    progress = progress_of(log.engine, lease_of(reaction))
    held = all_held(log.engine, reaction.name)
    standing = [one for one in held if one.position in events]
    coming = {event for event in events if progress is None or event > progress.position}
    waited_for = [one for one in held if not one.parked]
    if waited_for:  # what waits for one of them may lie further than what is noted: it need not be heard to be known to wait
        for heard in heard_between(log, reaction, min(one.position for one in waited_for) + 1, max(events)):
            behind = [one for one in waited_for if one.makes_wait(heard.position, heard.key)]
            if behind and heard.position in events:
                standing += behind
                coming.discard(heard.position)
    for one in standing:
        stuck[one.note] = one
    return [f"`{reaction.name}` has not heard position {max(coming)}"] if coming else []


def _timers(log: Log, found: Open) -> tuple[datetime, ...]:
    """Return when those are due that have not rung."""
    waiting = [
        schedule for schedule in found.timers.values() if schedule is not None and log.engine.notes(note_of(schedule.due, schedule.id))
    ]
    return tuple(sorted(moment(schedule.due) for schedule in waiting))
