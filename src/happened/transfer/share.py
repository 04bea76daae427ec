"""Shares: a state's changes, recorded in the log as output, for others to keep a copy.

A share is a fold like any other, in the memory of the process that holds its lease. Each page of the log that changes any of its states adds a row: each
changed state whole, with its version (the position of the event that last changed it) and the version that was published before, and at the end a beacon
with the digest of all that there is. The row and how far the share has come are one commit, so nothing is published twice or left out.

A share that is new, or whose code or fields have changed, is a new generation: it begins with all that there is at that moment, and goes on from there.
At its start the fold is made anew from the log, about 2 s for a million events: it needs no file of its own, and can't differ from what was published.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple  # Any: messages and states of any class

import msgspec

from happened.core.errors import Stuck
from happened.core.messages import Recorded
from happened.core.state import Key, State, fold_of
from happened.core.store import Row, Wanted
from happened.log.fingerprint import fingerprint_of
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.names import Wish
from happened.log.records import envelope_of, id_of
from happened.log.row import Header, Sent, Written, decode_header
from happened.log.worker import IDLE_SECONDS, Course, Worker
from happened.log.writer import Batch, Draft, deciding
from happened.transfer.channel import BEACON, SHARE, SHARE_NOTE, Generation, share_worker
from happened.transfer.digest import Digest, Hashes, hashing

PAGE_ROWS = 1_000
CHANGES_MAX = 1_000
"""Changes in one row of the log."""
NOTE_RECORDS = 10_000

PUT, DELETE = "put", "delete"

encode = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode
"""What is equal has the same bytes in every process: the digest is of bytes."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One change of a shared state, as it is published: the state whole, or that it is gone."""

    key: msgspec.Raw
    version: int
    previous: int
    op: str
    generation: int
    fields: msgspec.Raw = msgspec.Raw(b"null")


class Beacon(msgspec.Struct, frozen=True, gc=False):
    """What there is of a share as of a position of the origin's log: how many states, and their digests by field."""

    generation: int
    position: int
    count: int
    digests: dict[str, str]


class Entry(NamedTuple):
    """A shared state as it was published last: `None` where it is gone. Its version stays."""

    state: State | None
    version: int
    hashes: Hashes | None


class Share:
    """One shared state at work."""

    def __init__(self, log: Log, leases: Leases, state: type[State], declare: Callable[[Batch], None]) -> None:
        self.fold = fold_of(state)
        self.name = self.fold.name
        self.worker = Worker(log, leases, share_worker(self.name), begin=self._begun, step=self._step, end=self._end)
        self._log = log
        self._declare = declare
        self._course = Course(log, self.worker.name)
        self._decode = log.reader.pages_for([self.fold])
        self._simple = not self.fold.wants_record and self.fold.key_of is None
        fingerprint = fingerprint_of(state, *self.fold.readings, *log.reader.lifts.digests(self.fold.readings)).digest
        _, components = msgspec.json.schema_components([state], ref_template="#/{name}")
        schema: Any = components
        self._change_wish = Wish(SHARE, self.name, self.fold.version, fingerprint, None, schema)
        self._beacon_wish = Wish(BEACON, self.name, self.fold.version, fingerprint)
        fields = [field.encode_name for field in msgspec.structs.fields(state) if not field.required]
        self._hashes = hashing(fields)
        self._fields = fields
        self._entries: dict[Key, Entry] = {}
        self._digest = Digest(fields)
        self._generation: Generation | None = None
        self._as_of = -1
        """Up to where the entries are folded; -1: they are not."""
        self._gone_before = 0
        """What was gone at this position, when the generation began, was never published in it."""

    def statistics(self) -> dict[str, Any]:
        """Return how far it is, what it holds, and what keeps it from going on."""
        generation = self._generation
        return {
            "share": self.name,
            "generation": generation.number if generation is not None else None,
            "count": self._digest.count,
            "position": self._course.position,
            "lag": max(0, self._log.head - self._course.position),
            "failure": self.worker.failure,
        }

    def _begun(self, epoch: int) -> None:
        course = self._course
        course.claim(epoch, start=0)
        body = self._log.engine.notes(SHARE_NOTE + self.name).get(SHARE_NOTE + self.name)
        noted = msgspec.json.decode(body, type=Generation) if body is not None else None
        if noted is None or not noted.whole or noted.fingerprint != self._change_wish.fingerprint:
            self._make_generation((noted.number if noted is not None else 0) + 1)
            return
        if noted == self._generation and self._as_of >= course.position:
            course.position = self._as_of  # nothing of it was there up to here
            return
        self._generation = noted
        self._gone_before = course.progress.began
        self._load(course.position)

    def _end(self) -> None:
        self._course.note()

    def _step(self) -> None:
        course = self._course
        head = self._log.wait(course.position, IDLE_SECONDS)
        if head <= course.position:
            course.note()  # so that who follows knows that there is nothing else
            return
        wanted = None if self.fold.everything else self._log.far_behind(course.position, head, self.fold.readings)
        for rows in self._log.engine.read(course.position, head, wanted=wanted, rows_max=PAGE_ROWS):
            changed, causes = self._folded(rows, self._entries)
            done = rows[-1].last
            if changed:
                self._publish(rows, changed, causes, done)
            else:
                course.position = done
                if done - course.progress.position >= NOTE_RECORDS:
                    course.note()
            self._as_of = course.position
            if self.worker.stopping:
                return
        if head > course.position:  # nothing of its own is there up to the head
            self._as_of = course.position = head

    # --- folding

    def _folded(self, rows: Sequence[Row], entries: Mapping[Key, Entry]) -> tuple[dict[Key, tuple[State | None, int]], dict[int, int]]:
        """Return what rows change, with the position that did it last, and in which rows, with the first position in each."""
        fold, simple = self.fold, self._simple
        changed: dict[Key, tuple[State | None, int]] = {}
        causes: dict[int, int] = {}
        with deciding():
            for row, records in zip(rows, self._decode(rows), strict=True):
                start = row.position if row.input is None else row.position + 1
                for at, record in enumerate(records, start):
                    event = record.body
                    if event is None:
                        continue
                    envelope: Recorded | None = None
                    if not simple:
                        envelope = envelope_of(row, decode_header(row.head), at - row.position, record.extra)
                    try:
                        for key, message in fold.touched(event, envelope):
                            before = changed.get(key)
                            entry = entries.get(key) if before is None else None
                            state = before[0] if before is not None else entry.state if entry is not None else None
                            changed[key] = (fold.step(state, key, message, (envelope,) if fold.wants_record else ()), at)
                            causes.setdefault(row.position, at)
                    except Exception as error:
                        raise Stuck(
                            f"the share `{self.name}` can't take the event at position {at}: {type(error).__name__}: {error}",
                            share=self.name,
                            position=at,
                        ) from error
        return changed, causes

    def _load(self, until: int) -> None:
        """Fold what was published."""
        self._as_of = -1
        self._digest = Digest(self._fields)
        self._entries = entries = dict[Key, Entry]()
        for rows in self._log.engine.read(until=until, wanted=self._wanted(), rows_max=PAGE_ROWS):
            changed, _ = self._folded(rows, entries)
            for key, (state, version) in changed.items():
                entries[key] = Entry(state, version, None)
        for key, entry in entries.items():
            if entry.state is not None:
                hashes = self._hashes(encode(key), entry.version, encode(entry.state))
                entries[key] = Entry(entry.state, entry.version, hashes)
                self._digest.change(None, hashes)
        self._as_of = until

    def _wanted(self) -> Sequence[Wanted] | None:
        """Return what the index is asked for: the events that the state evolves from, or all."""
        if self.fold.everything:
            return None
        return [Wanted((), self._log.numbers([self._log.typed[event].wish.name for event in self.fold.readings]))]

    # --- publishing

    def _make_generation(self, number: int) -> None:
        """Begin with all that there is now."""
        self._generation = None
        head = self._log.head
        self._load(head)
        self._gone_before = head
        course = self._course
        made: list[Generation] = []

        def begin(batch: Batch) -> None:
            made.append(Generation(number, self._change_wish.fingerprint, batch.head.position))
            self._note(batch, made[0])

        course.record(head, begin, began=head)
        generation = msgspec.structs.replace(made[0], whole=True)
        states = [(key, entry) for key, entry in self._entries.items() if entry.state is not None]
        for start in range(0, len(states), CHANGES_MAX):
            changes = [self._change(generation, key, entry, 0, encode(entry.state)) for key, entry in states[start : start + CHANGES_MAX]]
            id = f"{self.worker.name}/{number}/{head}.{start // CHANGES_MAX}"  # noqa: A001 - it is one
            course.record(head, functools.partial(self._add, header=Header(id=id), changes=changes, beacon=None))
        beacon = Beacon(number, head, self._digest.count, self._digest.told())

        def end(batch: Batch) -> None:
            self._add(batch, Header(id=f"{self.worker.name}/{number}/{head}"), [], beacon)
            self._note(batch, generation)

        course.record(head, end, own=True)
        self._generation = generation
        self._as_of = course.position

    def _publish(self, rows: Sequence[Row], changed: Mapping[Key, tuple[State | None, int]], causes: Mapping[int, int], done: int) -> None:
        """Record what has changed, with the digest of all that there is then."""
        generation = self._generation
        assert generation is not None, "a share begins with a generation"
        digest = self._digest.copy()
        after: dict[Key, Entry] = {}
        changes: list[bytes] = []
        for key, (state, version) in changed.items():
            before = self._entries.get(key)
            body = encode(state) if state is not None else b""
            hashes = self._hashes(encode(key), version, body) if state is not None else None
            digest.change(before.hashes if before is not None else None, hashes)
            after[key] = entry = Entry(state, version, hashes)
            changes.append(self._change(generation, key, entry, self._published_before(before), body))
        header = self._header(rows, causes, generation, done)
        beacon = Beacon(generation.number, done, digest.count, digest.told())

        def add(batch: Batch) -> None:
            for start in range(0, len(changes), CHANGES_MAX):
                last = start + CHANGES_MAX >= len(changes)
                part = header if last else msgspec.structs.replace(header, id=f"{header.id}.{start // CHANGES_MAX}")
                self._add(batch, part, changes[start : start + CHANGES_MAX], beacon if last else None)

        self._course.record(done, add, own=True)
        self._entries.update(after)
        self._digest = digest

    def _published_before(self, before: Entry | None) -> int:
        if before is None or (before.state is None and before.version <= self._gone_before):
            return 0
        return before.version

    def _change(self, generation: Generation, key: Key, entry: Entry, previous: int, body: bytes) -> bytes:
        if entry.state is None:
            text = b'{"key":%b,"version":%d,"previous":%d,"op":"delete","generation":%d}'
            return text % (encode(key), entry.version, previous, generation.number)
        text = b'{"key":%b,"version":%d,"previous":%d,"op":"put","generation":%d,"fields":%b}'
        return text % (encode(key), entry.version, previous, generation.number, body)

    def _header(self, rows: Sequence[Row], causes: Mapping[int, int], generation: Generation, done: int) -> Header:
        """Return the header of a row; it names what caused it, where that is one row."""
        by_position = {row.position: row for row in rows}
        first = by_position[min(causes)]
        at = causes[first.position]
        cause = decode_header(first.head) if len(causes) == 1 else None
        return Header(
            id=f"{self.worker.name}/{generation.number}/{done}",
            causation=id_of(first, cause, at - first.position, None) if cause is not None else None,
            correlation=(cause.correlation or cause.id or cause.decides) if cause is not None else None,
            depth=cause.depth + 1 if cause is not None else 0,
            sent=Sent(0, 0, waited=max(0, self._log.source.now_us() - first.at)),
        )

    def _add(self, batch: Batch, header: Header, changes: Sequence[bytes], beacon: Beacon | None) -> None:
        self._declare(batch)
        number, beacons = batch.number(self._change_wish), batch.number(self._beacon_wish)
        records = [Written(number, body) for body in changes]
        if beacon is not None:
            records.append(Written(beacons, encode(beacon)))
        names = [number] * bool(changes) + [beacons] * (beacon is not None)
        batch.add(Draft(header, None, records, (), (), names, {}))

    def _note(self, batch: Batch, generation: Generation) -> None:
        batch.kept[SHARE_NOTE + self.name] = encode(generation).decode()
