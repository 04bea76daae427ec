"""Held: events that a handler could not get past, and what people decide about them.

An event whose run fails holds those of its key: they wait, others go on. It is tried again by itself, at longer and longer distances, until it succeeds or
somebody decides: `retry` it now, `skip` it, or `park` it: go on without it, and keep it to be retried later. Each such act is recorded as an input.
What is held is a note of the log, so it is seen from every process and outlasts them all.
"""

import traceback
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from happened.core.errors import IdReused, Invalid, NotThere
from happened.core.store import Engine, Row
from happened.core.tags import is_unicode
from happened.log.log import Log, check_envelope, place_of
from happened.log.names import Wish
from happened.log.row import Header, Written, encode, taken_apart
from happened.log.writer import Batch, Draft, Job

NOTE = "held/"
ACTS = ("retry", "skip", "park")
BACK_OFF_SECONDS = 0.1
"""How long until what failed is tried again; doubled each time."""
BACK_OFF_SECONDS_MAX = 30.0
TRACE_CHARACTERS_MAX = 4_000
REASON_CHARACTERS_MAX = 10_000
EVERYTHING = ""
"""Stands for all terms: an event without any comes after all before it, and before all after it."""

UNREAD = "unread"
UNREAD_NOTE = f"{UNREAD}/"
"""Before a system's name and an id: what came from there and can't be read."""


class Unread(msgspec.Struct, frozen=True):
    """Where something lies that can't be read, and why."""

    position: int
    error: str


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that a handler could not get past, or that comes next of those that have waited for one."""

    handler: str
    position: int
    key: tuple[str, ...]
    """The terms of the event itself."""
    event: str
    since: dict[str, int]
    """For each term that later events wait by: the position of the event that brought it in. The empty one: all of them wait."""
    error: str = ""
    trace: str = ""
    attempts: int = 0
    failed: int = 0
    """When it failed first, in microseconds since 1970."""
    tried: int = 0
    """When it failed last."""
    id: str = ""
    """The record's."""
    parked: bool = False
    """Others have gone on without it, and nobody waits for it."""
    act: str = ""
    """What somebody has decided, and has not been done yet."""

    @property
    def note(self) -> str:
        """The key of its note."""
        return note_of(self.handler, self.position)

    def text(self) -> str:
        """Return it as it is noted."""
        return encode(self).decode()

    def makes_wait(self, position: int, key: Sequence[str]) -> bool:
        """Say whether an event waits for this one; those that share a term with it wait from then on, too."""
        if self.parked or position <= self.position:
            return False
        since = self.since
        waits = not key or since.get(EVERYTHING, position) < position or any(since.get(term, position) < position for term in key)
        if waits:
            for term in key or (EVERYTHING,):
                since.setdefault(term, position)
        return waits


def note_of(handler: str, position: int) -> str:
    """Return the key of a note."""
    return f"{NOTE}{handler}/{position:020d}"


def held_by(notes: Mapping[str, str]) -> list[Held]:
    """Read notes, in order of handler and position."""
    return [msgspec.json.decode(body, type=Held) for _, body in sorted(notes.items())]


def all_held(engine: Engine, handler: str | None = None) -> list[Held]:
    """Return what is held, by one handler or by all."""
    if handler is None:
        return held_by(engine.notes(NOTE))
    return [
        one for one in held_by(engine.notes(f"{NOTE}{handler}/")) if one.handler == handler
    ]  # a name may begin with another one and a `/`


def errors_of(held: Iterable[Held]) -> dict[str, str]:
    """Return what is wrong with each record that is held, by its id, or for what has none by its note: of all handlers that could not get past it."""
    errors: dict[str, list[str]] = {}
    for one in held:
        errors.setdefault(one.id or one.note, []).append(one.error)
    return {record: "; ".join(each) for record, each in errors.items()}


def held_at(engine: Engine, held: Held) -> Held | None:
    """Return what is noted of a held event by now, `None` where it is not held any more."""
    text = engine.notes(held.note).get(held.note)
    return msgspec.json.decode(text, type=Held) if text is not None else None


class Decided(msgspec.Struct, frozen=True):
    """What an act is about, as it is recorded."""

    handler: str
    position: int


class Act(Job):
    """What somebody has decided about a held event: an input of the log, and the note that tells its handler."""

    def __init__(self, log: Log, act: str, handler: str, position: int, *, actor: str, id: str | None, reason: str) -> None:
        check_envelope(id, actor, None, None)
        if act not in ACTS:
            raise Invalid(f"`{act}` is none of {', '.join(ACTS)}", act=act)
        if type(reason) is not str or len(reason) > REASON_CHARACTERS_MAX or not is_unicode(reason):
            raise Invalid(f"`reason` is a text of up to {REASON_CHARACTERS_MAX:,} characters, not {reason!r:.100}")
        place_of(position)
        super().__init__(id if id is not None else log.source.new_id())
        self.log = log
        self.act = act
        self.handler = handler
        self.position = position
        self.actor = actor
        self.reason = reason
        self.given = id is not None

    def draft(self, batch: Batch) -> Draft | None:
        """Record it. `NotThere` for what is not held."""
        if self.given:
            row = batch.row_with(self.id)
            if row is not None:
                self._check_same(batch, row)
                self.result = row
                return None
        note = note_of(self.handler, self.position)
        body = batch.noted(note)
        if body is None:
            held = [f"{one.handler} {one.position}" for one in held_by(batch.notes_of(NOTE))]
            raise NotThere(
                f"`{self.handler}` holds nothing at position {self.position}; held are: {', '.join(held) or 'none'}",
                handler=self.handler,
                position=self.position,
            )
        held = msgspec.json.decode(body, type=Held)
        if self.act == "park" and held.parked:
            raise Invalid(f"position {self.position} of `{self.handler}` is parked already", handler=self.handler, position=self.position)
        decided = {"handler": self.handler, "position": self.position, "event": held.event, "error": held.error, "reason": self.reason}
        number = batch.number(Wish("act", self.act, 1, ""))
        told = msgspec.structs.replace(held, act=self.act)
        return Draft(Header(id=self.id, actor=self.actor), Written(number, encode(decided)), (), (), (), (), {note: told.text()})

    def _check_same(self, batch: Batch, row: Row) -> None:
        """Raise `IdReused` unless this row says the same of the same."""
        _, recorded = next(taken_apart(row))
        name = batch.names.by_number.get(recorded.number)
        same = name is not None and (name.what, name.name) == ("act", self.act)
        if not same or msgspec.json.decode(recorded.body, type=Decided) != Decided(self.handler, self.position):
            raise IdReused(f"the id `{self.id}` was used for something else, at position {row.position}", id=self.id, position=row.position)


def back_off_seconds(attempts: int) -> float:
    """Return how long after so many attempts it is tried again."""
    return float(min(BACK_OFF_SECONDS * 2 ** min(max(attempts, 1) - 1, 20), BACK_OFF_SECONDS_MAX))


def failed_with(error: BaseException) -> tuple[str, str]:
    """Return what an error says, and where it came from, as text that any file takes."""
    trace = "".join(traceback.format_exception(error))[-TRACE_CHARACTERS_MAX:]
    return told(error), trace.encode(errors="backslashreplace").decode()


def told(error: BaseException) -> str:
    """Return what an error says, as text that any file and any database takes."""
    return f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode().replace("\0", "\\x00")
