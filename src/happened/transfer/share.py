"""Shares: a state's changes, recorded in the log as output, for others to keep a copy.

A share is a fold like any other, in the memory of the process that holds its lease. Each page of the log that changes any of its states adds a row: each
changed state whole, with its version (the position of the event that last changed it) and the version that was published before, and at the end a beacon
with the digest of all that there is. The row and how far the share has come are one commit, so nothing is published twice or left out.

A share that is new, or whose code or fields have changed, is a new generation: it begins with all that there is at that moment, and goes on from there.
At its start the fold is made anew from the log, about 2 s for a million events: it needs no file of its own, and can't differ from what was published.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: messages and states of any class

import msgspec

from happened.core.errors import Stuck
from happened.core.messages import Recorded
from happened.core.state import Key, State, fold_of
from happened.core.store import Row, Wanted
from happened.log.deciding import deciding
from happened.log.fingerprint import fingerprint_of
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.names import Wish
from happened.log.records import envelope_of, id_of
from happened.log.row import Header, Sent, Written, decode_header, taken_apart
from happened.log.worker import IDLE_SECONDS, Course, Worker
from happened.log.writer import Batch, Draft
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


class _Said(msgspec.Struct, frozen=True, gc=False):
    """What is looked at of a change, or of a beacon: that has no key."""

    key: msgspec.Raw = msgspec.Raw(b"")
    version: int = 0


_decode_said = msgspec.json.Decoder(_Said | None).decode


def keys_in(row: Row) -> Iterator[tuple[bytes, int]]:
    """Yield what a row of a share says it of: each key with its version. What was erased says nothing."""
    for _, raw in taken_apart(row):
        said = _decode_said(raw.body)
        if said is not None and bytes(said.key):
            yield bytes(said.key), said.version


class Folded(NamedTuple):
    """What rows change of a share."""

    changed: Mapping[Key, tuple[State | None, int]]
    """The last state of each key, with the position that made it so."""
    passed: Sequence[tuple[Key, State | None, int]]
    """What is published beside, though it has changed again since."""
    causes: Mapping[int, int]
    """Which rows did it, by their positions, with the first position in each."""


class Beginning(NamedTuple):
    """A generation as it is begun: what is still to be published of what there was."""

    generation: Generation
    head: int
    """As of where that was."""
    left: list[tuple[Key, Entry]]
    parts: Iterator[int]
    """The numbers of the rows to come."""


Passes = Callable[[Key, int], bool]
"""Says whether a change at a position is published, though the same key has changed again since."""


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
        """Return how far it is, by whichever process, what it holds in this one, and what keeps it from going on."""
        generation, position = self._generation, self._course.reached
        return {
            "share": self.name,
            "generation": generation.number if generation is not None else None,
            "count": self._digest.count,
            "position": position,
            "lag": max(0, self._log.head - position),
            "failure": self.worker.failure,
        }

    @property
    def position(self) -> int:
        """Up to where everything is published."""
        return self._course.position

    @property
    def head(self) -> int:
        """The last position of its log."""
        return self._log.head

    @property
    def reads(self) -> list[str]:
        """The names of the events that change it."""
        typed = self._log.typed
        return [typed[event].wish.name for event in (typed if self.fold.everything else self.fold.readings)]

    @property
    def fingerprint(self) -> str:
        """Of its code and its fields: another is another generation."""
        return self._change_wish.fingerprint

    @property
    def noted(self) -> Generation | None:
        """The generation that the log notes, `None` where there is none."""
        body = self._log.engine.notes(SHARE_NOTE + self.name).get(SHARE_NOTE + self.name)
        return msgspec.json.decode(body, type=Generation) if body is not None else None

    def _begun(self, epoch: int) -> None:
        course = self._course
        course.claim(epoch, start=0)
        noted = self.noted
        if noted is None or not noted.whole or noted.fingerprint != self.fingerprint:
            self._make_generation((noted.number if noted is not None else 0) + 1)
            return
        if noted == self._generation and self._as_of >= course.position:
            course.position = self._as_of  # nothing of it was there up to here
            return
        self._generation = None  # until it is whole: who looks at the statistics sees no half of it
        self._gone_before = course.progress.began
        self._load(course.position)
        self._generation = noted

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
            folded = self._folded(rows, self._entries)
            done = rows[-1].last
            if folded.changed:
                self._publish(rows, folded, done)
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

    def _folded(self, rows: Sequence[Row], entries: Mapping[Key, Entry], passes: Passes | None = None) -> Folded:
        """Return what rows change."""
        fold, simple = self.fold, self._simple
        changed: dict[Key, tuple[State | None, int]] = {}
        passed: list[tuple[Key, State | None, int]] = []
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
                            if passes is not None and before is not None and before[1] != at and passes(key, before[1]):
                                passed.append((key, *before))
                            changed[key] = (fold.step(state, key, message, (envelope,) if fold.wants_record else ()), at)
                            causes.setdefault(row.position, at)
                    except Exception as error:
                        raise Stuck(
                            f"the share `{self.name}` can't take the event at position {at}: {type(error).__name__}: {error}",
                            share=self.name,
                            position=at,
                        ) from error
        return Folded(changed, passed, causes)

    def _load(self, until: int) -> None:
        """Fold what was published."""
        self._as_of = -1
        self._digest = Digest(self._fields)
        self._entries = entries = dict[Key, Entry]()
        for rows in self._log.engine.read(until=until, wanted=self._wanted(), rows_max=PAGE_ROWS):
            for key, (state, version) in self._folded(rows, entries).changed.items():
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
        return [Wanted((), self._log.numbers(self.reads))]

    # --- publishing

    def _make_generation(self, number: int) -> None:
        """Begin with all that there is now."""
        self.tell_rest(self.begin(number, self._log.head))

    def begin(self, number: int, head: int) -> Beginning:
        """Begin a generation with all that there is at a position, and publish nothing of it yet."""
        self._generation = None
        self._load(head)
        self._gone_before = head
        made: list[Generation] = []

        def begin(batch: Batch) -> None:
            made.append(Generation(number, self.fingerprint, batch.head.position))
            self._note(batch, made[0])

        self._course.record(head, begin, began=head)
        return Beginning(made[0], head, self._there(), itertools.count())

    def begin_again(self, generation: Generation) -> Beginning:
        """Go on with a generation that was begun, by what is already there of it."""
        self._generation = None
        head = self._gone_before = self._course.progress.began
        self._load(head)
        known: set[bytes] = set()
        part = 0
        while found := self._log.find(f"{self._id(generation, head)}.{part}"):
            known |= {key for row in found for key, _ in keys_in(row)}
            part += 1
        return Beginning(generation, head, [one for one in self._there() if encode(one[0]) not in known], itertools.count(part))

    def tell_part(self, beginning: Beginning) -> None:
        """Publish the next of what there was when a generation began."""
        generation, head = beginning.generation, beginning.head
        states = beginning.left[:CHANGES_MAX]
        del beginning.left[:CHANGES_MAX]
        changes = [self._change(generation, key, entry, 0, encode(entry.state)) for key, entry in states]
        header = Header(id=f"{self._id(generation, head)}.{next(beginning.parts)}")
        self._course.record(head, functools.partial(self._add, header=header, changes=changes, beacon=None))

    def tell_rest(self, beginning: Beginning) -> None:
        """Publish all of what there was when a generation began; then it is whole."""
        while beginning.left:
            self.tell_part(beginning)
        head = beginning.head
        generation = msgspec.structs.replace(beginning.generation, whole=True)
        beacon = Beacon(generation.number, head, self._digest.count, self._digest.told())

        def end(batch: Batch) -> None:
            self._add(batch, Header(id=self._id(generation, head)), [], beacon)
            self._note(batch, generation)

        self._course.record(head, end, own=True)
        self._generation = generation
        self._as_of = self._course.position

    def _there(self) -> list[tuple[Key, Entry]]:
        return [(key, entry) for key, entry in self._entries.items() if entry.state is not None]

    def _id(self, generation: Generation, position: int) -> str:
        return f"{self.worker.name}/{generation.number}/{position}"

    # --- in a branch

    def go_on(self) -> None:
        """Go on from what is noted, in the place of the thread. What was published is folded when there is more to publish."""
        self._course.claim(0, start=0)
        noted = self.noted
        if noted is not None and noted.whole:
            self._generation = noted
            self._gone_before = self._course.progress.began

    def say(self, until: int, passes: Passes, *, waited: int | None = None, again: bool = False) -> None:
        """Publish what has changed up to a position, at once. With `again` a part of it may be there, and is left out."""
        if until > self.position:
            self._say([row for page in self._to_say(until) for row in page], until, passes, waited, again=again)

    def say_all(self, until: int, passes: Passes) -> None:
        """Publish what has changed up to a position, page by page."""
        for rows in self._to_say(until):
            self._say(rows, rows[-1].last, passes, None, again=False)
        self._say([], until, passes, None, again=False)

    def _to_say(self, until: int) -> Iterator[Sequence[Row]]:
        position = self.position
        wanted = None if self.fold.everything else self._log.far_behind(position, until, self.fold.readings)
        return self._log.engine.read(position, until, wanted=wanted, rows_max=PAGE_ROWS)

    def _say(self, rows: Sequence[Row], until: int, passes: Passes, waited: int | None, *, again: bool) -> None:
        course = self._course
        if any(record.body is not None for records in self._decode(rows) for record in records):
            if self._as_of < course.position:
                self._load(course.position)
            folded = self._folded(rows, self._entries, passes)
            if folded.changed:
                self._publish(rows, folded, until, waited, again=again)
        course.position = max(course.position, until)
        if self._as_of >= 0:
            self._as_of = course.position

    def note(self) -> None:
        """Note how far it has come."""
        self._course.note()

    # --- what is recorded

    def _publish(self, rows: Sequence[Row], folded: Folded, done: int, waited: int | None = None, *, again: bool = False) -> None:
        """Record what has changed, with the digest of all that there is then."""
        generation = self._generation
        assert generation is not None, "a share begins with a generation"
        digest = self._digest.copy()
        after: dict[Key, Entry] = {}
        changes: list[bytes] = []
        for key, state, version in (*folded.passed, *((key, *last) for key, last in folded.changed.items())):
            before = after.get(key) or self._entries.get(key)
            body = encode(state) if state is not None else b""
            hashes = self._hashes(encode(key), version, body) if state is not None else None
            digest.change(before.hashes if before is not None else None, hashes)
            after[key] = entry = Entry(state, version, hashes)
            changes.append(self._change(generation, key, entry, self._published_before(before), body))
        header = self._header(rows, folded.causes, generation, done, waited)
        beacon = Beacon(generation.number, done, digest.count, digest.told())
        first = 0
        while again and self._log.find(f"{header.id}.{first // CHANGES_MAX}"):
            first += CHANGES_MAX

        def add(batch: Batch) -> None:
            for start in range(first, len(changes), CHANGES_MAX):
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

    def _header(self, rows: Sequence[Row], causes: Mapping[int, int], generation: Generation, done: int, waited: int | None) -> Header:
        """Return the header of a row; it names what caused it, where that is one row."""
        by_position = {row.position: row for row in rows}
        first = by_position[min(causes)]
        at = causes[first.position]
        cause = decode_header(first.head) if len(causes) == 1 else None
        return Header(
            id=self._id(generation, done),
            causation=id_of(first, cause, at - first.position, None) if cause is not None else None,
            correlation=(cause.correlation or cause.id or cause.decides) if cause is not None else None,
            depth=cause.depth + 1 if cause is not None else 0,
            sent=Sent(0, 0, waited=max(0, self._log.source.now_us() - first.at) if waited is None else waited),
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
