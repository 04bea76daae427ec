"""Settling: when all that a message has caused in this log is done, or what of it stands still."""

import time
from collections.abc import Sequence
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


class Open(NamedTuple):
    """What a conversation has come to."""

    last: int
    pending: Sequence[int]
    """Positions of commands that are not decided."""
    heard: dict[int, set[int]]
    """For each number of a name: where in the conversation it is recorded."""
    timers: Sequence[Schedule]


def settled(log: Log, reactions: Sequence[Reaction], position: int, wait_seconds_max: float) -> Settled:
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
        stuck = {held.note: held for held in all_held(log.engine) if held.position in found.pending}
        busy = [
            f"the command at position {one} is not decided" for one in found.pending if all(one != held.position for held in stuck.values())
        ]
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
    timers: list[Schedule] = []
    last = 0
    for row in log.conversation(correlation):
        header = decode_header(row.head)
        if header.outcome == "pending" and header.id is not None:
            pending[header.id] = row.position
        elif header.decides is not None:
            pending.pop(header.decides, None)
        for place, (asked, record) in enumerate(taken_apart(row), row.position):
            if record.number == SCHEDULE:
                timers.append(msgspec.json.decode(record.body, type=Schedule))
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
    if progress is None or progress.position < max(events):
        return [f"`{reaction.name}` has not heard position {max(events)}"]
    held = [one for one in all_held(log.engine, reaction.name) if not one.parked]
    standing = [one for one in held if one.position in events]
    if held:
        for heard in heard_between(log, reaction, min(one.position for one in held) + 1, progress.position):
            behind = [one for one in held if one.makes_wait(heard.position, heard.key)]
            standing += behind if heard.position in events else ()
    for one in standing:
        stuck[one.note] = one
    return []


def _timers(log: Log, found: Open) -> tuple[datetime, ...]:
    """Return when those are due that have not rung."""
    waiting = [schedule for schedule in found.timers if log.engine.notes(note_of(schedule.due, schedule.id))]
    return tuple(sorted(moment(schedule.due) for schedule in waiting))
