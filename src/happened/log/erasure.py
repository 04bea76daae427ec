"""Erasing: bodies are taken out of the log, and the chain still holds, since it is made of their digests.

What is erased is found in the whole log: by a tag all records that have it, by an id all records of that message; and with a record the answers of the
outside and the refusal that stand beside it, and what was published of it. Bodies and salts go in one commit with a record of who did it and why; the
index, the kept answers and the timers go with them. Then the files are written anew, so that the bytes are gone from them. A note says that this is still
to be done, so who is killed before that can go on.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any  # Any: bodies are JSON

import msgspec

from happened.core.errors import Invalid, NotThere
from happened.core.store import Commit, Row, Unseen
from happened.core.tags import is_unicode, term, terms_by_outline
from happened.log.adoption import check_reason
from happened.log.held import NOTE as HELD_NOTE
from happened.log.held import UNREAD, UNREAD_NOTE, Unread, held_by
from happened.log.log import ERASED_NOTE, EVERYTHING_SEEN, Log, Progress, check_envelope
from happened.log.records import ANSWERED, INPUT, PUBLISHED, SYSTEMIC, Record
from happened.log.row import (
    ERASED,
    ERASURE,
    SALT_BYTES,
    SCHEDULE,
    Erased,
    Extra,
    Header,
    RawRecord,
    Written,
    body_digest,
    decode_extra,
    decode_header,
    encode,
    is_erased,
    taken_apart,
)
from happened.log.slices import NOTE as PROGRESS_NOTE
from happened.log.slices import Progress as Course
from happened.log.verify import merged
from happened.log.worker import FAILING
from happened.log.writer import Batch, Draft, Job

ERASING_NOTE = "erasing"
"""Says that bytes of what was erased may still lie in the files."""
PENDING_NOTE, TIMER_NOTE, ANSWERS_NOTE, SHARE_NOTE = "pending/", "timer/", "answers/", "share/"
SAID_OF_WHAT_IS_ERASED = "it can't be read; what was said of it is erased"
NOTIFICATION, SHARE = PUBLISHED[:2]
SPANS_MAX = 20_000
"""Stretches of positions in one record of an erasure."""
SECONDS_MAX = 60


class Published(msgspec.Struct, frozen=True):
    """Something that others have been told, and that was erased here. They may have it still."""

    position: int
    what: str
    """`notification` or `share`."""
    name: str


class Erasure(msgspec.Struct, frozen=True):
    """What was erased, or would be."""

    records: int
    kinds: Mapping[str, int]
    names: Mapping[str, int]
    positions: tuple[tuple[int, int], ...]
    """The first and the last position of each stretch."""
    published: tuple[Published, ...]
    """What others have been told: they must be asked to erase it, too."""
    by_hand: int
    """Records whose tags were given by hand: those are part of the chain, and stay."""
    notes: int
    """Kept answers, timers and the like that go, too."""
    position: int = 0
    """Where it is recorded; 0: nothing was."""
    scrubbed: bool = False
    """The bytes are gone from the files; else erase the same again, or `resume`, while less is going on."""


class _Scheduled(msgspec.Struct, frozen=True):
    number: int
    body: msgspec.Raw


class _Shared(msgspec.Struct, frozen=True):
    """What is looked at of a change of a share."""

    key: msgspec.Raw = msgspec.Raw(b"null")
    version: int = 0


class Choice:
    """What is to be erased, as it is found row by row. Rows come in order."""

    def __init__(self, log: Log, what: str | tuple[str, str], keep: Sequence[str]) -> None:
        self.log = log
        self.what = what
        self.keep = frozenset(keep)
        self.position = 0
        """Up to where it was looked."""
        self.instead: list[Row] = []
        self.positions: list[int] = []
        self._found: set[int] = set()
        """The same."""
        self.kinds: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.published: list[Published] = []
        self.by_hand = 0
        self.shares: set[str] = set()
        self._at = frozenset[int]()
        self._ids: set[str] = set()
        """Of messages of which anything is erased."""
        self._causes: set[str] = set()
        """Of records that are erased."""
        self._shared: set[tuple[str, bytes]] = set()
        """Keys of shares that hold something of it."""
        if isinstance(what, str):
            self._at = self._of_message(what)

    @property
    def by(self) -> str:
        """How they are found, without what is erased."""
        return f"id {self.what}" if isinstance(self.what, str) else f"tag {self.what[0]}"

    def look(self, rows: Iterable[Row]) -> None:
        """Look for what is to be erased in further rows."""
        for row in rows:
            self.log.reader.learn([row])
            chosen = self._chosen(row)
            if chosen:
                self._take(row, chosen)
            self.position = row.last

    def notes(self, noted: Callable[[str], Mapping[str, str]]) -> dict[str, str | None]:
        """Return the notes that go. `Invalid` for an input that still waits for its decision, and for an event that others wait for."""
        at = frozenset(self.positions)
        for key in noted(PENDING_NOTE):
            if int(key.removeprefix(PENDING_NOTE)) in at:
                raise Invalid(
                    f"the command at position {int(key.removeprefix(PENDING_NOTE))} waits for its decision: skip it, or let it be decided, then erase it",
                    position=int(key.removeprefix(PENDING_NOTE)),
                )
        gone: dict[str, str | None] = {}
        for held in held_by(noted(HELD_NOTE)):
            if held.position in at:
                if held.since:
                    raise Invalid(
                        f"the event at position {held.position} is held by `{held.handler}`, and those after it wait: skip it, park it, or have it "
                        "succeed, then erase it",
                        position=held.position,
                        handler=held.handler,
                    )
                gone[held.note] = None
        gone |= {key: None for key, position in noted(TIMER_NOTE).items() if int(position) in at}
        gone |= {f"{ANSWERS_NOTE}{own}": None for own in self._ids if noted(f"{ANSWERS_NOTE}{own}")}
        unread = {key: msgspec.json.decode(body, type=Unread) for key, body in noted(UNREAD_NOTE).items()}
        if not isinstance(self.what, str):
            value = encode(self.what[1]).decode()[1:-1]
            for start in (ANSWERS_NOTE, FAILING):
                gone |= {key: None for key, body in noted(start).items() if value in body}
            said = {key: one for key, one in unread.items() if value in encode(one.error).decode()}
            gone |= {key: encode(msgspec.structs.replace(one, error=SAID_OF_WHAT_IS_ERASED)).decode() for key, one in said.items()}
        return gone | {key: None for key, one in unread.items() if one.position in at}

    def erasure(self, notes: int) -> Erasure:
        """Return what was found."""
        spans = merged((position, position) for position in self.positions)
        return Erasure(len(self.positions), self.kinds, self.names, tuple(spans), tuple(self.published), self.by_hand, notes)

    def _of_message(self, id: str) -> frozenset[int]:
        """Return the positions of all records of a message, or of the one record with this id."""
        rows = self.log.find(id)
        message, sign, _ = id.rpartition("#")
        alone = not rows and bool(sign) and bool(message)
        found = [
            record
            for row in (self.log.find(message) if alone else rows)
            for record in self.log.reader.records(row)
            if record.kind != SYSTEMIC and (not alone or record.id == id)
        ]
        if not found:
            raise NotThere(f"the log has no record with the id `{id}`", id=id)
        return frozenset(record.position for record in found)

    def _chosen(self, row: Row) -> list[tuple[int, Record]]:
        """Return the places of the records that are to go, and the records."""
        records = list(self.log.reader.records(row))
        header = decode_header(row.head)
        chosen: list[tuple[int, Record]] = []
        for place, ((_, raw), record) in enumerate(zip(taken_apart(row), records, strict=True)):
            if record.kind != SYSTEMIC and (
                record.position in self._at or self._has_tag(raw, record) or self._is_shared(raw) or self._tells_of(raw, record)
            ):
                chosen.append((place, record))
        if chosen or (header.decides is not None and header.decides in self._ids):
            places = {place for place, _ in chosen}
            if not isinstance(self.what, str):
                for place, record in enumerate(records):
                    unkept = record.kind == INPUT and record.body is None  # its digest with its salt could be guessed
                    if place not in places and (record.kind == ANSWERED or record.name == "refusal" or unkept):
                        chosen.append((place, record))
            own = header.id or header.decides
            if chosen and own is not None:
                self._ids.add(own)
        raws = [raw for _, raw in taken_apart(row)]
        return sorted(((place, record) for place, record in chosen if not is_erased(raws[place]) or any(_salt(row, place))), key=_place)

    def _has_tag(self, raw: RawRecord, record: Record) -> bool:
        if isinstance(self.what, str):
            return False
        if self.what in record.tags:
            return True
        if raw.number == SCHEDULE and bytes(raw.body) != ERASED:
            command = msgspec.json.decode(raw.body, type=_Scheduled)
            body = self.log.reader.body(command.number, command.body, record.position)
            return term(*self.what) in self.log.reader.terms(command.number, body)
        return self._is_unread_of_it(raw)

    def _is_unread_of_it(self, raw: RawRecord) -> bool:
        """Say whether this came from another system, could not be read, and has the tag where our class of it would have it."""
        names = self.log.names.by_number
        name = names.get(raw.number)
        if name is None or name.what != UNREAD or bytes(raw.body) == ERASED or isinstance(self.what, str):
            return False
        outlines = [one.tags for one in list(names.values()) if one.what == "event" and one.name == name.name and one.tags]
        body = msgspec.json.decode(raw.body)
        return any(term(*self.what) in terms_by_outline(one)(body) for one in outlines)

    def _tells_of(self, raw: RawRecord, record: Record) -> bool:
        """Say whether this was published since something happened that is erased."""
        name = self.log.names.by_number.get(raw.number)
        return name is not None and name.what == NOTIFICATION and record.causation in self._causes

    def _is_shared(self, raw: RawRecord) -> bool:
        """Say whether this is a change of a shared state that holds something of what is erased: from the event itself on all of that key."""
        name = self.log.names.by_number.get(raw.number)
        if name is None or name.what != SHARE or bytes(raw.body) == ERASED:
            return False
        change = msgspec.json.decode(raw.body, type=_Shared)
        key = name.name, bytes(change.key)
        if change.version in self._found:
            self._shared.add(key)
            self.shares.add(name.name)
        return key in self._shared

    def _take(self, row: Row, chosen: Sequence[tuple[int, Record]]) -> None:
        """Make the row without these."""
        records = list(taken_apart(row))
        texts = [_text(raw.number, bytes(raw.body), bytes(raw.extra)) for _, raw in records]
        salts = bytearray(row.salts)
        for place, record in chosen:
            raw = records[place][1]
            extra = decode_extra(raw.extra) if bytes(raw.extra) else Extra()
            salt = slice(SALT_BYTES * place, SALT_BYTES * (place + 1))
            kept = tuple(pair for pair in record.tags if pair[0] in self.keep and pair not in extra.tags)
            digest = extra.erased or body_digest(row.salts[salt], bytes(raw.body)).hex()
            texts[place] = _text(raw.number, ERASED, encode(msgspec.structs.replace(extra, erased=digest, kept=kept)))
            salts[salt] = bytes(SALT_BYTES)
            self._count(record, raw, extra)
        asked = texts.pop(0) if row.input is not None else None
        self.instead.append(msgspec.structs.replace(row, input=asked, records=f"[{','.join(texts)}]", salts=bytes(salts)))

    def _count(self, record: Record, raw: RawRecord, extra: Extra) -> None:
        self.positions.append(record.position)
        self._found.add(record.position)
        self._causes.add(record.id)
        self.kinds[record.kind] = self.kinds.get(record.kind, 0) + 1
        self.names[record.name] = self.names.get(record.name, 0) + 1
        self.by_hand += bool(extra.tags)
        name = self.log.names.by_number.get(raw.number)
        if name is not None and name.what in PUBLISHED:
            self.published.append(Published(record.position, name.what, record.name))


_place = operator.itemgetter(0)


def _text(number: int, body: bytes, extra: bytes) -> str:
    return f"[{number},{body.decode()},{extra.decode()}]" if extra else f"[{number},{body.decode()}]"


def _salt(row: Row, place: int) -> bytes:
    return row.salts[SALT_BYTES * place : SALT_BYTES * (place + 1)]


class Erasing(Job):
    """The rows without what is erased, the record of it, and the notes that go, in one commit of their own."""

    def __init__(self, log: Log, choice: Choice, *, actor: str, reason: str) -> None:
        super().__init__(log.source.new_id())
        self.log = log
        self.choice = choice
        self.actor = actor
        self.reason = reason
        self.gone = 0

    def draft(self, batch: Batch) -> Draft | None:
        """Look at what was recorded since the log was looked through, and take all of it out."""
        choice = self.choice
        for rows in batch.engine.read(choice.position):
            choice.look(rows)
        if not choice.instead:
            return None
        notes = choice.notes(batch.notes_of)
        self.gone = len(notes)
        spans = merged((position, position) for position in choice.positions)
        records = [
            Written(ERASURE, encode(Erased(tuple(spans[start : start + SPANS_MAX]), choice.by, tuple(sorted(choice.keep)), self.reason)))
            for start in range(0, len(spans), SPANS_MAX)
        ]
        batch.instead = choice.instead
        position = str(batch.position)
        return Draft(
            Header(id=self.id, actor=self.actor),
            None,
            records,
            (),
            (),
            (),
            {**notes, **self._of_shares(batch), ERASED_NOTE: position, ERASING_NOTE: position},
        )

    def _of_shares(self, batch: Batch) -> dict[str, str | None]:
        """Have shares begin a new generation that have published something of it, or hold it and have not come to publish it: others take that anew."""
        notes: dict[str, str | None] = {}
        last = max(self.choice.positions)
        for key, body in batch.notes_of(SHARE_NOTE).items():
            name = key.removeprefix(SHARE_NOTE)
            progress = f"{PROGRESS_NOTE}{key}"
            noted = batch.noted(progress)
            course = msgspec.json.decode(noted, type=Course) if noted is not None else None
            if name in self.choice.shares or course is None or course.position < last:
                generation: dict[str, Any] = msgspec.json.decode(body)
                notes[key] = encode({**generation, "fingerprint": ""}).decode()
                if course is not None:  # who runs it meets another progress than its own, and begins anew
                    notes[progress] = encode(msgspec.structs.replace(course, position=0)).decode()
        return notes


def erased(
    log: Log,
    what: str | tuple[str, str],
    *,
    actor: str,
    reason: str,
    keep: Sequence[str] = (),
    dry_run: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> Erasure:
    """Erase what belongs to an id, or has a tag, or say what would be; the bytes are still in the files then: `scrubbed` takes them out."""
    check_envelope(None, actor, None, None)
    check_reason(reason)
    _check_what(what)
    choice = Choice(log, what, _kept(keep))
    head = log.head
    for rows in log.engine.read(until=head):
        choice.look(rows)
        progress(choice.position, head)
    if dry_run or not choice.instead:
        return choice.erasure(len(choice.notes(log.engine.notes)))
    job = Erasing(log, choice, actor=actor, reason=reason)
    log.writer.alone(job, SECONDS_MAX)
    assert job.row is not None, "there was something to erase"
    return msgspec.structs.replace(choice.erasure(job.gone), position=job.row.position)


def _check_what(what: object) -> None:
    """Raise `Invalid` for what names neither a message nor a tag and its value."""
    match what:
        case str() if what and is_unicode(what):
            return
        case (str() as tag, str() as value) if isinstance(what, tuple) and tag and is_unicode(tag + value):
            return
        case _:
            raise Invalid(f"what is to be erased is an id, or a tag and its value as ('customer', 'c-17'), not {what!r}")


def _kept(keep: object) -> tuple[str, ...]:
    """Return the tags of a list. `Invalid` for what is none: a text would be taken for its letters, and what leads to the rest would be lost for good."""
    try:
        found = msgspec.convert(keep, tuple[str, ...])
    except msgspec.ValidationError:
        found = ("",)
    if "" in found:
        raise Invalid(f"`keep` lists the tags that go on leading to what is left, as in keep=['customer'], not {keep!r}")
    return found


def is_unfinished(log: Log) -> bool:
    """Say whether bytes of what was erased may still lie in the files."""
    return ERASING_NOTE in log.engine.notes(ERASING_NOTE)


def scrubbed(log: Log, forget: Callable[[int], bool], progress: Progress = lambda _done, _all: None) -> bool:
    """Take the bytes of what was erased out of the files, if any are left; say whether they are gone. `forget` does so with what was derived elsewhere."""
    noted = log.engine.notes(ERASING_NOTE).get(ERASING_NOTE)
    if noted is None:
        return True
    there = forget(int(noted))
    if not (log.engine.scrub(progress) and there):
        return False

    def done(unseen: Unseen) -> Commit:
        return Commit(notes={ERASING_NOTE: None} if unseen.notes(ERASING_NOTE).get(ERASING_NOTE) == noted else {})

    log.engine.append(done, EVERYTHING_SEEN)
    return not is_unfinished(log)
