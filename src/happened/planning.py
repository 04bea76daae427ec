"""Planning a branch: of what log it is, where it begins, what is otherwise there, and what is to be known of what will be given again."""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from happened.core.errors import Invalid
from happened.core.store import Commit, Engine, Row, Wanted
from happened.core.world import Source
from happened.log.held import held_by
from happened.log.log import IDENTITY_NOTE, Identity, Log, not_there_yet, place_of
from happened.log.names import Name, Names, Wish, decode_schema, wish_again
from happened.log.records import id_of
from happened.log.row import (
    ANSWER,
    FORMAT,
    SCHEDULE,
    SCHEMA,
    TOPOLOGY,
    Header,
    decode_extra,
    decode_header,
    encode,
    taken_apart,
)
from happened.log.slices import Progress
from happened.notification.listener import lease_of
from happened.notification.publication import run_said_in
from happened.notification.timer import Schedule, decode_schedule, note_of
from happened.shelf.connection import as_shown
from happened.sourcing.edits import Edit, Edits
from happened.sourcing.handling import PENDING_NOTE
from happened.sourcing.pending import KEY as PENDING_KEY
from happened.stores.machine import Machine
from happened.stores.memory import MemoryStore
from happened.stores.over import PIN_NOTE, Over, Pin, below
from happened.stores.sqlite import SqliteStore
from happened.transfer.channel import SHARE_NOTE
from happened.transfer.retold import notes_as_of as shared_as_of
from happened.wiring import Wiring


class BranchClock:
    """The source of a branch: its time is that of the origin's records, its ids are its own. It moves only as it is moved."""

    def __init__(self, machine: Source, origin: str, now: int) -> None:
        self._machine = machine
        self._origin = origin
        self._made = 0
        self._us = now

    def set(self, us: int) -> None:
        """Show a time, in microseconds since 1970."""
        self._us = us

    def now_us(self) -> int:
        """Return what it shows."""
        return self._us

    def new_id(self) -> str:
        """Return the next id: the same in every branch that is made and edited like this one."""
        self._made += 1
        return f"{self._origin}~{self._made}"

    def salt(self, count: int) -> bytes:
        """Return unpredictable bytes."""
        return self._machine.salt(count)

    def owner(self) -> str:
        """Return the name of this process."""
        return self._machine.owner()

    def gone(self, owner: str) -> bool:
        """Say whether a process has ended."""
        return self._machine.gone(owner)


class Origin(NamedTuple):
    """The log that a branch is of, up to where it had come when the branch was made."""

    log: Log
    names: Names
    until: int
    notes: Mapping[str, str]
    """As they were a moment later."""
    noted: int
    """Up to where records may have changed these notes."""

    @classmethod
    def of(cls, log: Log) -> "Origin":
        """Look at a log as it is now. It may go on meanwhile: what it has noted of that is cut by what is recorded behind `until`."""
        until = log.head
        notes = log.engine.notes("")
        names = Names()
        names.learn(lambda start: {key: body for key, body in notes.items() if key.startswith(start)})
        return cls(log, names, until, notes, log.head)

    def rows(self, after: int, until: int | None = None) -> Iterable[Row]:
        """Yield the rows after a position, up to another or to the end."""
        for page in self.log.engine.read(after, self.until if until is None else until):
            yield from page

    def name(self, number: int) -> Name | None:
        """Return what a number stands for."""
        return self.names.by_number.get(number)

    def position_of(self, id: str) -> int | None:
        """Return where a record is, by its id."""
        base, mark, ordinal = id.rpartition("#")
        rows: list[Row] = self.log.find(id) + (self.log.find(base) if mark else [])
        for row in rows:
            header = decode_header(row.head)
            for place in range(row.count):
                if id_of(row, header, place, None) == id:
                    return row.position + place
        return int(base) + int(ordinal) if base.isdecimal() and ordinal.isdecimal() else None

    def holds(self, position: int, id: str) -> bool:
        """Say whether the record at a position has an id."""
        row = self.log.row_at(position)
        if row is None:
            return False
        _, raw = list(taken_apart(row))[position - row.position]
        extra = decode_extra(raw.extra) if bytes(raw.extra) else None
        return id_of(row, decode_header(row.head), position - row.position, extra) == id


class Run(msgspec.Struct):
    """What a handler has left in the origin of one run on one event."""

    id: str
    rows: set[str]
    """The ids of the rows."""


class Survey:
    """What is to be known of what comes, before it is given: one look at the rows after a position."""

    def __init__(self, origin: Origin, after: int, until: int) -> None:
        self.runs: dict[tuple[int, str], Run] = {}
        """By the position of the event and the lease of the reaction or publication."""
        self.pending: set[str] = set()
        """Ids of commands that were enqueued."""
        self.decided: set[str] = set()
        """Ids of commands that were decided after they were enqueued."""
        self.rung: dict[str, str] = {}
        """Ids of commands that a timer has sent, with the ids of the records that scheduled them."""
        self.answered: dict[str, int] = {}
        """Where the answers are that the decider of a command has heard."""
        self.wishes: dict[int, Wish] = {}
        """Names that were recorded."""
        self.topology = False
        """The wiring was recorded."""
        self._own: dict[str, int] = {}
        """Where records are that have an id of their own in a row of several: no index knows it."""
        self._origin = origin
        if isinstance(origin.log.engine, Over):  # what it shares with what it is a branch of stands where it stood there
            for row in origin.rows(min(origin.log.engine.pin.position, after), after):
                self._note_own(row)
        for row in origin.rows(after, until):
            self._add(row)

    def _add(self, row: Row) -> None:
        header = decode_header(row.head)
        if header.id is None and header.decides is None:
            for _, raw in taken_apart(row):
                self.topology = self.topology or raw.number == TOPOLOGY
                if raw.number == SCHEMA:
                    found = decode_schema(raw.body)
                    self.wishes[found.number] = wish_again(found)
            return
        self._note_own(row)
        own = header.id or header.decides or ""
        if header.outcome == "pending":
            self.pending.add(own)
        if header.decides is not None:
            self.decided.add(own)
        if f"[{ANSWER}," in row.records:
            self.answered[own] = row.position
        sender = self._origin.name(header.sent.handler) if header.sent is not None else None
        if header.sent is None or sender is None or sender.what not in ("reaction", "publication") or header.id is None:
            return
        if header.sent.cause == 0:
            self.rung[own] = header.causation or ""
            return
        key, run = self.run_of(row, header, sender)
        self.runs.setdefault(key, Run(run, set())).rows.add(own)

    def _note_own(self, row: Row) -> None:
        if '"i":' in row.records:
            for place, (_, raw) in enumerate(taken_apart(row)):
                extra = decode_extra(raw.extra) if bytes(raw.extra) else None
                if extra is not None and extra.id is not None:
                    self._own.setdefault(extra.id, row.position + place)

    def run_of(self, row: Row, header: Header, sender: Name) -> tuple[tuple[int, str], str]:
        """Return which run a row is of: the event's position and the lease of who heard it; and the id of the run."""
        own, cause = header.id or "", header.causation or ""
        lease = lease_of(sender.what, sender.name)
        if sender.what == "publication":
            run = run_said_in(own)
            log, position = "", run.removeprefix(f"{lease}/").rpartition(":")[2]
        else:
            run = own if row.input is None else own.rpartition(":")[0]
            log, _, position = run.removesuffix(f":{sender.name}").rpartition(":")
        if position.isdecimal() and (log == self._origin.log.identity.id or self._origin.holds(int(position), cause)):
            return (int(position), lease), run
        found = self._own.get(cause) or self._origin.position_of(cause)  # it is a position of what the origin is a branch of
        return (found if found is not None else -1, lease), run


def notes_as_of(origin: Origin, survey: Survey, later: Survey, position: int, at: int) -> dict[str, str]:
    """Return the notes of a log as they were at a position, as far as they say what is and not who is at work: what came later is cut, what went is put back.

    What is pending, what is to come later, the names, the wiring and how far shares have come follow from the records, and are exact. How far other
    handlers have come is not before where they were then; what they hold is what is still held and failed by then. Leases, trouble, and answers kept for
    commands that failed and that nobody has sent again are of no position, and left out.
    """
    kept: dict[str, str] = {}
    wishes, topology = {*survey.wishes, *later.wishes}, survey.topology or later.topology
    for key, body in origin.notes.items():
        kind, _, rest = key.partition("/")
        if (
            (kind == "name" and int(rest) not in wishes)
            or kind in ("kind", "origin")
            or (kind == "pending" and int(rest) <= position)
            or (kind == "timer" and int(body) <= position)
            or (kind == "topology" and not topology)
        ):
            kept[key] = body
        elif kind == "progress":
            progress = msgspec.json.decode(body, type=Progress)
            kept[key] = encode(
                msgspec.structs.replace(progress, position=min(progress.position, position), epoch=0, began=min(progress.began, position))
            ).decode()
        elif kind == "held":
            [held] = held_by({key: body})
            if held.position <= position and held.failed <= at and held.key != PENDING_KEY:
                kept[key] = body
        elif kind == "unread" and msgspec.json.decode(body)["position"] <= position:
            kept[key] = body
    for key in origin.notes:
        if key.startswith(SHARE_NOTE):
            kept |= shared_as_of(origin.log, origin.names, origin.notes, key.removeprefix(SHARE_NOTE), position)
    for id in (survey.decided | later.decided) - survey.pending - later.pending:  # noqa: A001 - as everywhere
        for row in origin.log.find(id):
            if decode_header(row.head).outcome == "pending":
                kept[f"{PENDING_NOTE}{row.position:020d}"] = id
    for id, scheduled in (survey.rung | later.rung).items():  # noqa: A001 - as everywhere
        place = origin.position_of(scheduled)
        schedule = schedule_at(origin.log, place) if place is not None and place <= position else None
        if schedule is not None:
            kept[note_of(schedule.due, id)] = str(place)
    if topology:
        for rows in origin.log.engine.read(until=position, wanted=[Wanted((), [TOPOLOGY])], backwards=True):
            found = [bytes(raw.body) for row in rows for _, raw in taken_apart(row) if raw.number == TOPOLOGY]
            if found:
                kept["topology"] = hashlib.sha256(found[0]).hexdigest()
                break
    kept.pop(IDENTITY_NOTE, None)
    return kept


def schedule_at(log: Log, position: int) -> Schedule | None:
    """Return what the record at a position schedules."""
    row = log.row_at(position)
    raw = list(taken_apart(row))[position - row.position][1] if row is not None else None
    return decode_schedule(raw.body) if raw is not None and raw.number == SCHEDULE else None


class Plan(NamedTuple):
    """Of what log a branch is, where it begins, what is otherwise, and what it is recorded on."""

    origin: Origin
    survey: Survey
    edits: Edits
    after: int
    engine: Over
    clock: BranchClock


def begins(origin: Origin, app: Wiring, edits: Iterable[Edit], at: int | datetime | None) -> tuple[Edits, int]:
    """Check the edits of a branch; return them with the position after which it begins. `Invalid` for edits that don't fit, and for what is not there yet."""
    log = origin.log
    checked = Edits(edits, log, origin.names.by_number, origin.until, {*app.events, *app.handlers}, app.gateways)
    after = origin.until if checked.begins is None else checked.begins
    if at is not None:
        position = min(log.position_at(at), origin.until) if isinstance(at, datetime) else place_of(at)
        if position > origin.until:
            raise not_there_yet(position, origin.until)
        after = _whole(log, position)
        if checked.begins is not None and checked.begins < after:
            raise Invalid(
                f"the branch is to begin after position {after}, and an edit is about what lies before: begin at {checked.begins}, or leave `at` out",
                at=after,
            )
    return checked, after


def save(log: Log, plan: Plan, url: str) -> None:
    """Keep a branch in a file: its rows and notes in one commit, and where its origin is, from there."""
    path = Path(url.removeprefix("sqlite:///"))
    origin = _place_of(plan.origin.log.engine, path)
    if origin is None:
        raise Invalid(
            "a branch of a log in memory can't be kept in a file; one of another branch can where that was saved before, opened by its URL and branched"
        )
    if not url.startswith("sqlite:///") or path.exists():
        shown = as_shown(url)
        raise Invalid(f"`{shown}` names no new file to keep a branch in, whatever it is of: write sqlite:///path", url=shown)
    rows = [row for page in log.engine.read(plan.after) for row in page]
    terms = [log.reader.row_terms(row) for row in rows]
    notes: dict[str, str | None] = {
        **log.engine.notes(""),
        PIN_NOTE: encode(msgspec.structs.replace(plan.engine.pin, path=origin)).decode(),
    }
    store = SqliteStore(str(path))
    try:
        store.append(lambda _: Commit(rows, terms, notes), 0)
    finally:
        store.close()


def _place_of(engine: Engine, path: Path) -> str | None:
    """Return where a log is, as a branch in a file of this path notes it; `None` where nobody can open it again."""
    where = getattr(engine, "where", None)  # a log in PostgreSQL knows where it is
    if where is not None:
        return str(where.said)
    under = engine.path if isinstance(engine, SqliteStore | Over) else None
    return os.path.relpath(Path(under).absolute(), path.absolute().parent) if under is not None else None


def planned(log: Log, app: Wiring, edits: Iterable[Edit], at: int | datetime | None) -> Plan:
    """Plan a branch of a log as it is now: it begins before the first edit, at a position or time if one is given, else at the end.

    `Invalid` for edits that don't fit. Cost: one look at what lies behind the beginning.
    """
    return planned_of(Origin.of(log), app, edits, at)


def planned_of(origin: Origin, app: Wiring, edits: Iterable[Edit], at: int | datetime | None) -> Plan:
    """Plan a branch of a log as it was when it was looked at."""
    checked, after = begins(origin, app, edits, at)
    survey, later = Survey(origin, after, origin.until), Survey(origin, origin.until, origin.noted)
    machine = Machine()
    id = machine.new_id().split("-")[0]  # noqa: A001 - as everywhere
    under, owns = below(origin.log.engine, after)
    try:
        pin = pinned(origin, {*survey.wishes, *later.wishes}, after)
        own = MemoryStore()
        notes: dict[str, str | None] = {**notes_as_of(origin, survey, later, after, pin.at)}
        notes[IDENTITY_NOTE] = encode(Identity(id, 1, FORMAT, app.name)).decode()
        own.append(lambda _: Commit(notes=notes), 0)
        return Plan(origin, survey, checked, after, Over(under, own, pin, owns=owns), BranchClock(machine, origin.log.identity.id, pin.at))
    except BaseException:
        if owns:
            under.close()
        raise


def _whole(log: Log, position: int) -> int:
    """Return the end of the last whole command up to a position."""
    row = log.row_at(position) if position else None
    return position if row is None or row.last == position else row.position - 1


def pinned(origin: Origin, later: Collection[int], after: int) -> Pin:
    """Return where a branch stands on its origin; `later` are the numbers of names that came after."""
    row = origin.log.row_at(after) if after else None
    names = max((number for number in origin.names.by_number if number not in later), default=0)
    identity = origin.log.identity
    at, digest = (row.at, row.digest) if row is not None else (0, bytes(32))
    return Pin(identity.id, identity.epoch, after, at, digest.hex(), names)
