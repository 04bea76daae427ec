"""Pending: commands that were kept, and are decided in the background by whoever holds the lease.

Two that share a tag are decided in their order; one without tags comes after all before it. Many are decided in one commit. One whose decider fails is
held, and stops those that share a tag with it, and they those that share a tag with them; one that can't be read, or has no tags, stops all after it:
what it shares with them is not known. It is seen, `outcome` raises `Stuck`, and it is tried again, at longer and longer distances, until it is decided or
somebody decides about it.
"""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple  # Any: commands of any class

import msgspec

from happened.core.errors import Incompatible
from happened.core.store import Commit, Row, Unseen
from happened.log.held import Held, all_held, back_off_seconds, failed_with, note_of
from happened.log.lease import Leases
from happened.log.log import EVERYTHING_SEEN, Log
from happened.log.row import REFUSAL, Header, Written, decode_header, encode, taken_apart
from happened.log.worker import TROUBLE, Worker, glance
from happened.log.writer import Batch, Draft, Job
from happened.sourcing.handling import PENDING_NOTE, Decision, Handling

LEASE = "pending"
DECIDED_MAX = 200
"""Commands decided in one commit."""
STRETCH = 2_000
"""Positions of the log that are looked through at once for what is pending; more where those are not enough."""
LOOK_SECONDS = 0.05
"""How often to look for what other processes have kept; what this one keeps is decided at once."""


class Kept(NamedTuple):
    """A command that is pending."""

    note: str
    id: str
    row: Row
    name: str
    tags: frozenset[str]
    """None: it comes after all before it, and before all after it."""
    decision: Decision | None
    error: Exception | None
    """Why it can't be read, or has no decider."""


class PendingWorker:
    """Decides what is pending, in a thread, while it holds the lease."""

    def __init__(self, log: Log, leases: Leases, handling: Handling, decide: Callable[[Decision], None]) -> None:
        self._log = log
        self._handling = handling
        self._decide = decide
        self._position = -1
        """The head when nothing was left to do."""
        self._due: dict[str, float] = {}
        """By the note of what is held: when it is tried again, by the monotonic clock."""
        self._look_at = math.inf
        """When one of those may be tried again, though nothing was recorded since."""
        self._first = 0
        """Where the first was found that is pending: nothing before it is kept any more."""
        self._waiting: dict[str, frozenset[str]] = {}
        """The tags of those that wait behind another one, by their notes: there may be many, and each look passes them."""
        self.worker = Worker(log, leases, LEASE, begin=self._begin, step=self._step)

    def forget_held(self) -> None:
        """Take back what an owner before this one has said of commands that this one will try itself."""
        held = [one for one in all_held(self._log.engine) if one.key == KEY and not one.parked and not one.act]
        if held:
            self._log.engine.append(
                lambda unseen: Commit(notes={one.note: None for one in held if unseen.notes(one.note).get(one.note) == one.text()}),
                EVERYTHING_SEEN,
            )

    def _begin(self, _epoch: int) -> None:
        self._position = -1
        self._first = 0
        self._due.clear()
        self._waiting.clear()
        self.forget_held()

    def _step(self) -> None:
        head = glance(self._log)
        if head == self._position and time.monotonic() < self._look_at:
            self.worker.rest(LOOK_SECONDS)
        elif self.decide_some():
            self._position = head
            self.worker.rest(LOOK_SECONDS)  # others may record without end: not one of them need be looked at
        else:
            self._position = -1

    def decide_some(self) -> bool:
        """Decide the first of those that are pending and may be decided now; return whether that is all."""
        noted = self._noted()
        first = next(noted, None)
        held = {one.note: one for one in all_held(self._log.engine) if one.key == KEY} if first is not None else {}
        self._due = {own: due for own, due in self._due.items() if own in held}
        self._look_at = math.inf
        now = time.monotonic()
        blocked: set[str] = set()
        taken: list[Kept] = []
        spoken_of = {one.position for one in held.values()}
        for note, known in itertools.chain([first] if first is not None else [], noted):
            if self.worker.stopping or len(taken) >= DECIDED_MAX:
                break
            tags = self._waiting.pop(note, None)
            if tags is not None and tags & blocked and _position(note) not in spoken_of:
                self._waiting[note] = tags
                blocked |= tags
                continue
            kept = self.kept(note, known)
            own = note_of(kept.name, kept.row.position)
            standing = held.get(own)
            if standing is not None and self._decided_about(kept, standing):
                continue
            if not blocked or (kept.tags and not kept.tags & blocked):
                if standing is None or standing.act == "retry" or now >= self._due.get(own, 0.0):
                    taken.append(kept)
                    if kept.tags:
                        continue
                    break  # what comes after it is decided after it
                self._look_at = min(self._look_at, self._due[own])
            if not kept.tags:
                break
            self._waiting[note] = kept.tags
            blocked |= kept.tags
        if not taken:
            return True
        self._handling.preload_all([kept.decision for kept in taken if kept.decision is not None])
        group = Group(taken)
        self._log.writer.submit(group, 60)
        for kept in taken:
            last = held.get(note_of(kept.name, kept.row.position))
            if kept.note in group.asks and kept.decision is not None:
                self._alone(kept, kept.decision, last)
            elif kept.note in group.failed:
                self._hold(kept, group.failed[kept.note], last)
        return False

    def _noted(self) -> Iterator[tuple[str, str]]:
        """Yield what is pending, in order, as much of it as is asked for: there may be a million, and a commit takes a few."""
        head, stretch, last = self._log.head, STRETCH, ""
        while True:
            until = self._first + stretch
            notes = self._log.engine.notes(PENDING_NOTE, f"{PENDING_NOTE}{until:020d}" if until <= head else None)
            for note in sorted(notes):
                if note > last:
                    if not last:
                        self._first = _position(note)
                    last = note
                    yield note, notes[note]
            if until > head:
                return
            stretch *= 4

    def _alone(self, kept: Kept, decision: Decision, last: Held | None) -> None:
        """Decide one that asks the outside."""
        try:
            self._decide(decision)
        except TROUBLE:
            raise  # of the world, not of this command
        except Exception as error:  # noqa: BLE001 - whatever the decider raises stops its key, and is seen
            self._hold(kept, error, last)

    def _decided_about(self, kept: Kept, held: Held) -> bool:
        """Do what somebody has decided about a command that is held; return whether it is in nobody's way any more."""
        if held.act == "skip":
            self._log.writer.submit(Skipped(kept, held), 60)
            return True
        if held.act == "park":
            self._say(kept, held, msgspec.structs.replace(held, act="", parked=True))
            return True
        return held.parked and held.act != "retry"

    def _hold(self, kept: Kept, error: BaseException, last: Held | None) -> None:
        """Say in the log, where everybody can see it, that this command can't be decided."""
        now = self._log.source.now_us()
        said, trace = failed_with(error)
        held = Held(kept.name, kept.row.position, KEY, kept.name, {}, said, trace, 1, now, now, id=kept.id)
        if last is not None:
            attempts = last.attempts + 1 if last.act != "retry" else 1
            held = msgspec.structs.replace(held, attempts=attempts, failed=last.failed, parked=last.parked)
        self._say(kept, last, held)
        self._due[held.note] = (
            time.monotonic() + back_off_seconds(held.attempts) if kept.error is None else math.inf  # this code will never read it
        )

    def _say(self, kept: Kept, before: Held | None, after: Held) -> None:
        """Note what is known of a command that is held, unless it was decided meanwhile, or somebody has decided about it."""

        def decide(unseen: Unseen) -> Commit:
            there = kept.note in unseen.notes(kept.note)
            same = unseen.notes(after.note).get(after.note) == (before.text() if before is not None else None)
            return Commit(notes={after.note: after.text()} if there and same else {})

        self._log.engine.append(decide, EVERYTHING_SEEN)

    def kept(self, note: str, known: str) -> Kept:
        """Read a command that is pending, by its note and its id."""
        row = self._log.row_at(_position(note))
        assert row is not None, "a pending note points to its input"
        [(_, raw)] = list(taken_apart(row))
        recorded = self._log.names.known(raw.number)  # whoever has kept it may have named it
        name = recorded.name if recorded is not None else str(raw.number)
        tags = frozenset[str]()
        try:
            command = self._log.reader.body(raw.number, raw.body, row.position)
            tags = frozenset(self._log.reader.terms(raw.number, command))
            return Kept(note, known, row, name, tags, self._decision(note, known, row, command, bytes(raw.body)), None)
        except Exception as error:  # noqa: BLE001 - it is said of this command, and stops its key
            return Kept(note, known, row, name, tags, None, error)

    def _decision(self, note: str, known: str, row: Row, command: Any, body: bytes) -> Decision:
        """Return the decision that a note stands for. `Invalid` if no decider takes the command any more."""
        header = decode_header(row.head)
        handler, typed = self._handling.taker(command)
        now = header.now if header.now is not None else row.at
        decision = Decision(self._handling, handler, typed, command, body, known, now, given=True)
        decision.actor, decision.correlation, decision.occurred = header.actor, header.correlation, header.occurred
        decision.traceparent, decision.depth = header.traceparent, header.depth
        decision.decides = note
        return decision


def standing(log: Log, positions: Collection[int]) -> dict[int, Held]:
    """Return, of the pending commands at these positions, for each that can't be decided now what keeps it: itself, or one before it that shares a tag.

    Any process can tell. Cost: it reads all that is pending, where anything is held.
    """
    held = {one.position: one for one in all_held(log.engine) if one.key == KEY} if positions else {}
    found: dict[int, Held] = {}
    if not held:
        return found
    behind: dict[str, Held] = {}
    everything: Held | None = None
    for note in sorted(log.engine.notes(PENDING_NOTE)):
        position = _position(note)
        row = log.row_at(position)
        assert row is not None, "a pending note points to its input"
        tags = _tags_of(log, row)
        own = held.get(position)
        keeps = own or everything or next((behind[tag] for tag in tags if tag in behind), None)
        keeps = keeps or (next(iter(behind.values()), None) if not tags else None)
        if keeps is None:
            continue
        found[position] = keeps
        if own is not None and own.parked:
            continue  # in nobody's way
        if not tags:
            everything = everything or keeps
        behind.update({tag: behind.get(tag, keeps) for tag in tags})
    return {position: keeps for position, keeps in found.items() if position in positions}


def _position(note: str) -> int:
    return int(note.removeprefix(PENDING_NOTE))


def _tags_of(log: Log, row: Row) -> frozenset[str]:
    """Return the tags of a command that is pending; none where it can't be read: what it shares with others is not known then."""
    [(_, raw)] = list(taken_apart(row))
    try:
        return frozenset(log.reader.terms(raw.number, log.reader.body(raw.number, raw.body, row.position)))
    except Incompatible:
        return frozenset()


KEY = ("pending",)
"""The key of what is held here, by which it is told from what reactions hold."""


class Group(Job):
    """Pending commands that are decided in one commit, each by itself. One without tags is the last of them."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        super().__init__(kept[0].id)
        self._kept = kept
        self.asks: set[str] = set()
        """Notes of those that ask the outside first."""
        self.failed: dict[str, Exception] = {}
        """Notes of those that could not be decided, and why."""

    def draft(self, batch: Batch) -> None:
        """Decide them in order. One that can't be decided now is left for the next time, with those behind it: by its tags, or by those of one that waits."""
        blocked: set[str] = set()
        for kept in self._kept:
            waits = kept.tags & blocked if kept.tags else blocked
            if not waits and self._is_done(batch, kept):
                continue
            blocked |= kept.tags

    def _is_done(self, batch: Batch, kept: Kept) -> bool:
        """Decide one; return whether that is done, by this or by another owner."""
        try:
            if kept.decision is None:
                raise kept.error or AssertionError("what can't be decided says why")
            kept.decision.taken_at = self.taken_at
            draft = kept.decision.draft(batch)
            if draft is not None:
                kept.decision.added(batch, draft)
        except TROUBLE:
            raise  # of the world: what was decided before it stands
        except Exception as error:  # noqa: BLE001 - whatever the decider raises stops its key, and is seen
            self.failed[kept.note] = error
            return False
        if draft is None and kept.decision.needs_outside:
            self.asks.add(kept.note)
            return False
        return True


class Skipped(Job):
    """A pending command that somebody has decided to leave undone: it ends refused, and says by whom."""

    def __init__(self, kept: Kept, held: Held) -> None:
        super().__init__(kept.id)
        self._kept = kept
        self._held = held

    def draft(self, batch: Batch) -> Draft | None:
        """Record the refusal."""
        kept = self._kept
        if kept.note not in batch.notes_of(kept.note):
            return None  # it was decided meanwhile
        header = decode_header(kept.row.head)
        said = encode({"text": "it could not be decided, and was skipped", "facts": {"error": self._held.error}})
        about = Header(actor=header.actor, correlation=header.correlation, outcome="refused", decides=kept.id, depth=header.depth)
        return Draft(about, None, [Written(REFUSAL, said)], (), (), (), {kept.note: None, self._held.note: None})
