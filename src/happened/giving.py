"""Giving again: what a log was given after a position, given to a branch of it, in the order of then and at the times of then.

What came from outside is given again: commands, facts, what people decided, what other systems had published. What the log's own handlers caused is not:
reactions run on the branch's events and cause their own, publications and shares say their own, timers ring. Each takes its turn where it did in the
origin, sees states as of where it saw them there, and has the ids that it had there; so where nothing is otherwise, nothing comes out otherwise. What has
no counterpart in the origin takes its turn at once.

Of what left no trace it is not known when it was, or whether: a reaction that did nothing, a publication that said nothing. As long as the branch is what
the origin was, it has done nothing here either; from the first difference on, they hear everything that has no trace. What a publication or a share says is
heard by nobody here, so it is no such difference.
"""

import bisect
import functools
import heapq
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple  # Any: commands, events and answers of any class

import msgspec

from happened.core.errors import Broken, Invalid, Unanswered
from happened.core.messages import Command, Event, events_of
from happened.core.state import Fold, Key
from happened.core.store import Commit, Row
from happened.log.held import Held
from happened.log.log import EVERYTHING_SEEN, Log
from happened.log.names import Name, Names, wish_again
from happened.log.records import SHARED, id_of
from happened.log.row import (
    ANSWER,
    FIRST_NUMBER,
    REFUSAL,
    Header,
    Sent,
    Written,
    decode_extra,
    decode_header,
    encode,
    is_erased,
    taken_apart,
)
from happened.log.slices import NOTE as PROGRESS_NOTE
from happened.log.slices import Progress, parts_in, progress_of
from happened.log.worker import TROUBLE, Envelope
from happened.log.writer import Batch, Draft, Job
from happened.notification.hearing import Heard, heard_at, heard_between, heard_in
from happened.notification.listener import Listener, lease_of
from happened.notification.publication import Publication, Publishing, Said
from happened.notification.reacting import Ran, Reacting
from happened.notification.reaction import Reaction
from happened.notification.timer import NOTE as TIMER_NOTE
from happened.notification.timer import Timers, due_of, note_of
from happened.planning import BranchClock, Plan, schedule_at
from happened.sourcing.edits import RowEdits
from happened.sourcing.gateway import Answer, Answers, Silent, answers_in
from happened.sourcing.handling import PENDING_NOTE, Decision, Handling, Pending
from happened.sourcing.memory_image import Entry, MemoryImage
from happened.sourcing.pending import PendingWorker
from happened.sourcing.sending import Seen, Sending
from happened.transfer.retold import Before, Retold
from happened.transfer.share import Share

NO_EDITS = RowEdits()
SUBMIT_SECONDS_MAX = 60
NOT_SENT = "its edit applies to nothing: no reaction has sent this command here"


class Then(Seen):
    """States as they were."""

    def entry(self, fold: Fold, key: Key) -> Entry:
        """Return a state as of the position."""
        return self._image.as_of(fold, key, self.position)


class AsOf(Sending):
    """The desk of reactions and publications that are run again: they see states as of a position, and hear the answers that were recorded."""

    def __init__(self, log: Log, handling: Handling, image: MemoryImage) -> None:
        super().__init__(log, handling, image)
        self._as_of = image
        self.position: int | None = None
        """None: all there is."""

    def states_as_of(self, position: int) -> Seen:
        """Return the states as of the position."""
        return Seen(self._as_of, self._as_of.position) if self.position is None else Then(self._as_of, self.position)


class Again:
    """A reaction or publication that is run one event at a time, as it is told."""

    def __init__(self, at_work: Reacting | Publishing, desk: AsOf) -> None:
        self.listener: Listener = at_work.listener
        self.as_of = desk
        self._at_work = at_work
        self._at_work.recall()

    def run_of(self, position: int) -> str:
        """Return the id of a run that the origin has not had: the same in each branch that is made like this one."""
        return self._at_work.run_of(position)

    def run(self, run: str, heard: Heard, now: int, seen: int | None, answers: Sequence[Answer]) -> Ran | Said | Held | None:
        """Run it on one event; `None` where that waits for one that is held."""
        self.as_of.position, self.as_of.heard = seen, answers
        try:
            return self._at_work.run_once(run, heard, now)
        finally:
            self.as_of.position, self.as_of.heard = None, ()

    def put(self, batch: Batch, ran: Ran) -> Sent:
        """Record what a run got from outside and sends later; return what its commands say of it."""
        assert isinstance(self._at_work, Reacting), "a publication has no such run"
        return self._at_work.put(batch, ran)

    def say(self, batch: Batch, said: Said) -> None:
        """Record what is said."""
        assert isinstance(self._at_work, Publishing), "a reaction says nothing"
        self._at_work.add(batch, [said])


class Told(Job):
    """What a run of a reaction comes to, or a timer that rings: recorded, and decided where it was decided at once in the origin."""

    def __init__(
        self, desk: AsOf, sends: Sequence[Any], keep: Collection[str], *, ran: tuple[Again, Ran] | None = None, note: str = ""
    ) -> None:
        super().__init__(sends[0].id if sends else "told")
        self._desk = desk
        self._sends = sends
        self._keep = keep
        """Ids of commands that were enqueued in the origin."""
        self._ran = ran
        self._note = note
        self.rows: list[Row] = []

    def draft(self, batch: Batch) -> None:
        """Record it."""
        mark = batch.mark()
        try:
            self._desk.declare(batch)
            before = len(batch.rows)
            sent = self._ran[0].put(batch, self._ran[1]) if self._ran is not None else None
            for decision in self._sends:
                decision.sent = sent or decision.sent
                if decision.id in self._keep or not self._desk.decided(batch, decision):
                    self._desk.keep(batch, decision)
            if self._note:
                batch.kept[self._note] = None
        except BaseException:
            batch.back_to(mark)
            raise
        self.rows = batch.rows[before:]


class Saying(Job):
    """What a publication says of one event: recorded, and heard by nobody."""

    def __init__(self, desk: AsOf, again: Again, said: Said) -> None:
        super().__init__(said.notifications[0].id)
        self._desk = desk
        self._again = again
        self._said = said

    def draft(self, batch: Batch) -> None:
        """Record it."""
        mark = batch.mark()
        try:
            self._desk.declare(batch)
            self._again.say(batch, self._said)
        except BaseException:
            batch.back_to(mark)
            raise


class Copied(Job):
    """A row of the origin that is recorded as it was, but for what is edited: facts, what a person decided, and commands one of whose events is edited."""

    def __init__(self, giving: "Giving", row: Row, header: Header, edits: RowEdits, notes: Mapping[str, None]) -> None:
        super().__init__(header.id or header.decides or "")
        self._giving = giving
        self._row = row
        self._header = header
        self._edits = edits
        self._notes = dict(notes)

    def draft(self, batch: Batch) -> Draft | None:
        """Record it, under the numbers that names have here."""
        giving, log = self._giving, self._giving.log
        giving.desk.declare(batch)
        asked: Written | None = None
        records: list[Written] = []
        events: list[tuple[int, Any, Any]] = []
        names: dict[int, None] = {}
        tags: dict[str, None] = {}
        facts: list[tuple[str, Sequence[str]]] = []
        for ordinal, (is_asked, raw) in enumerate(taken_apart(self._row)):
            body, number = bytes(raw.body), 0
            if ordinal in self._edits.changed:
                to = self._edits.changed[ordinal]
                if to is None:
                    continue
                typed = log.typed[type(to)]
                body, number = typed.checked(to)[0], typed.number(batch)
            else:
                number = giving.number(batch, raw.number)
            written = Written(number, body, bytes(raw.extra))
            if is_asked:
                asked = written
                continue
            place = len(records) + (asked is not None)
            records.append(written)
            if number < FIRST_NUMBER:
                continue
            extra = decode_extra(raw.extra) if bytes(raw.extra) else None
            event = log.reader.body(number, body, self._row.position + ordinal)
            terms = list(log.reader.terms(number, event))
            if extra is not None:
                terms += [f"{tag}\x1f{value}" for tag, value in (*extra.tags, *extra.kept)]
            name = log.names.by_number[number]
            facts.append((name.name, terms))
            names[number] = None
            tags.update(dict.fromkeys(terms))
            events += [(place, one, extra) for one in events_of(event) if isinstance(one, Event)]
        if not records and asked is None:
            return None
        header = msgspec.structs.replace(self._header, handler=giving.handler(batch, self._header), sent=giving.sent(batch, self._header))
        is_fact = asked is None and header.decides is None
        return Draft(header, asked, records, events, tuple(tags), tuple(names), dict(self._notes), facts if is_fact else ())


class Failed(NamedTuple):
    """An input that the branch could not take, since its decider raised: nothing of it is recorded. Or an edit that applies to nothing.

    Or an event that a share can't take, by its position in the origin, if it has one: the share stands still there.
    """

    position: int
    """In the origin."""
    id: str
    error: str


class Works(NamedTuple):
    """What the branch gives to record with."""

    log: Log
    image: MemoryImage
    handling: Handling
    outside: Silent
    clock: BranchClock
    reactions: Sequence[Reaction]
    publications: Sequence[Publication]
    pending: PendingWorker | None
    timers: Timers | None
    decide: Callable[[Decision], None]
    insert: Callable[[Any], Row | None]
    shares: Sequence[Share]
    listed: Mapping[str, Sequence[str]]
    """The shares that the origin has, and the names of the events that each of them reads."""


class Giving:
    """Gives again. `give` is called once."""

    def __init__(self, works: Works, plan: Plan) -> None:
        self.log = works.log
        self.failed: list[Failed] = []
        self.diverged = False
        """Something is otherwise than in the origin."""
        self.done = False
        """All was given."""
        self._works = works
        self._origin = origin = plan.origin
        self._survey = plan.survey
        self._edits = plan.edits
        self._after = plan.after
        self._given_as = works.log.reader.of(origin.names)
        """Reads what the origin was given, under its numbers, as the branch's code does."""
        self._gone: set[str] = set()
        """Ids of commands that were enqueued, and can't be decided again: they are erased, or what sent them is."""
        self._stands: set[str | None] = set()
        """Ids of what reactions did that can't run again, since the event that they heard is erased."""
        self._applied: set[str] = set()
        """Ids of edited commands that a reaction has sent here, too."""
        self.desk = AsOf(works.log, works.handling, works.image)
        of = f"{origin.log.identity.id}~"
        at_work: list[Reacting | Publishing] = [Reacting(one, works.log, self.desk, of=of) for one in works.reactions]
        at_work += [Publishing(one, works.log, self.desk, of=of) for one in works.publications]
        self._listeners = {one.lease: Again(one, self.desk) for one in at_work}
        """By their leases."""
        known = {(name.what, name.name, name.version, name.fingerprint) for name in origin.names.by_number.values()}
        self._changed = {lease for lease, one in self._listeners.items() if one.listener.wish[:4] not in known}
        """Those whose code the origin never ran: they hear everything."""
        self._ends: list[tuple[int, int]] = []
        """Positions of the origin up to where something was given, and where the branch stood then."""
        self._made: dict[str, Row] = {}
        """Rows of the branch whose counterpart is still to come, by id."""
        self._waiting: dict[tuple[int, str], Heard] = {}
        """Events that a reaction or publication will hear where it did in the origin."""
        self._heard: set[tuple[int, str]] = set()
        """Events before the branch that a reaction or publication has heard in it."""
        self._ready: dict[str, Callable[[], None]] = {}
        """What records the commands that reactions have sent, and what publications have said, where that was recorded in the origin, by id."""
        self._to_hear: deque[tuple[Again, Heard]] = deque()
        self._timers: dict[str, str] = {}
        """By the id of a command that is sent later: its note."""
        self._due: list[tuple[int, str]] = []
        self._rung_until = 0
        """When the latest of those was due that have rung."""
        self._waits_for = ""
        """The id of the one that rings where it did in the origin, and for which those wait that are due behind it."""
        self._back: dict[int, int] = {}
        """By positions of events of the branch: those of their counterparts."""
        before = Before(origin.log, origin.names, origin.notes, plan.after, origin.until, origin.noted)
        self._shares = {one.name: Retold(one, before, self._here, self._back, reads=works.listed.get(one.name)) for one in works.shares}
        self._pages = works.log.reader.pages({event for one in self._listeners.values() for event in one.listener.events})

    # --- all of it

    def give(self) -> None:
        """Give again what came after a position, to the end."""
        for note in self.log.engine.notes(TIMER_NOTE):
            self._remember_timer(note)
        self._pendings = {id: note for note, id in self.log.engine.notes(PENDING_NOTE).items()}  # noqa: A001 - as everywhere
        for share in self._shares.values():
            share.start()
        for position in sorted(position for position in self._edits.rows if position <= self._after):
            self._insert(self._edits.rows[position], position)
        self._hear_what_was()
        for row in self._origin.rows(self._after):
            self._row(row)
        if self.diverged:
            self._finish()
        for share in self._shares.values():
            share.finish(diverged=self.diverged)
            if share.stuck is not None:
                self.failed.append(Failed(share.origin_of(share.stuck.facts["position"]) or 0, "", str(share.stuck)))
        for id in self._edits.sent:  # noqa: A001 - as everywhere
            if id not in self._applied:
                self.failed.append(Failed(self._origin.position_of(id) or 0, id, NOT_SENT))
        self._note_progress()
        self.done = True

    def _row(self, row: Row) -> None:
        """Give one row again, or what stands for it here."""
        header = decode_header(row.head)
        self._works.clock.set(row.at)
        if self.diverged:
            self._ring_due(row.at)
        if header.id is not None or header.decides is not None:
            self._given(row, header, self._edits.rows.get(row.position, NO_EDITS))
            self._check_answered()
        self._ends.append((row.last, self.log.head))
        edits = self._edits.rows.get(row.position)
        if edits is not None:
            self._insert(edits, row.position)

    def _given(self, row: Row, header: Header, edits: RowEdits) -> None:
        sender = self._origin.name(header.sent.handler) if header.sent is not None else None
        what = sender.what if sender is not None else ""
        if header.id in self._made:
            self._match(row, self._made.pop(header.id))
        elif header.decides is not None:
            self._match(row, self._decides(row, header, header.decides, edits))
        elif sender is not None and what == "reaction":
            made = self._ring(header.id, row.at) if header.id in self._survey.rung else self._sent(row, header, sender)
            self._match(row, made if made is not None else self._left_of(row, header, sender, edits))
        elif sender is not None and what == "publication":
            if not self._takes_turn(row, header, sender):
                self._left_of(row, header, sender, edits)
        elif (share := self._share_of(row)) is not None:
            if share in self._shares:
                self._shares[share].turn(header)
        elif row.input is not None and not edits.changed.keys() - {0} and not self._is_act(row):
            self._match(row, self._command(row, header, edits))
        else:
            self._match(row, self._copied(row, header, edits, {}))

    def _left_of(self, row: Row, header: Header, sender: Name, edits: RowEdits) -> Row | None:
        """Record what a reaction did or a publication said as it was, where it can't hear its event again since that is erased."""
        (position, _), _ = self._survey.run_of(row, header, sender)
        if header.id in self._edits.sent or not (
            header.causation in self._stands or self._is_erased_here(header.causation or "", position)
        ):
            return None
        self._stands.add(header.id)
        if header.outcome == "pending":
            self._gone.add(header.id or "")
        return self._copied(row, header, edits, {})

    def _is_erased_here(self, id: str, position: int = 0) -> bool:
        """Say whether an event or command is there and erased. `position` is that in the origin, if it is known: an id may be one's own in a row of several."""
        ids = [id, id.rpartition("#")[0]]
        of = self._origin.log.row_at(position) if position > 0 else None
        if of is not None:
            ids.append(decode_header(of.head).id or "")
        return any(
            is_erased(raw) and id_of(row, decode_header(row.head), place, decode_extra(raw.extra) if bytes(raw.extra) else None) == id
            for known in dict.fromkeys(filter(None, ids))
            for row in self.log.find(known)
            for place, (_, raw) in enumerate(taken_apart(row))
        )

    def _is_act(self, row: Row) -> bool:
        name = self._origin.name(next(raw.number for _, raw in taken_apart(row)))
        return name is not None and name.what == "act"

    def _share_of(self, row: Row) -> str | None:
        """Return the name of the share that has published a row, if one has."""
        name = self._origin.name(next((raw.number for _, raw in taken_apart(row)), 0))
        return name.name if name is not None and name.what in SHARED else None

    def _check_answered(self) -> None:
        """Raise what was asked and had no answer, whatever the code has made of it."""
        if self._works.outside.refused is not None:
            raise self._works.outside.refused

    # --- what came from outside

    def _command(self, row: Row, header: Header, edits: RowEdits) -> Row | None:
        """Give a command again."""
        command = edits.changed.get(0)
        if 0 in edits.changed:
            self.diverged = True
            if command is None:
                return None
        else:
            command = self._body(row)
            if command is None:  # it is not known any more what was asked: what came of it stands
                if header.outcome == "pending":
                    self._gone.add(header.id or "")
                return self._copied(row, header, edits, {})
        handler, typed = self._works.handling.taker(command)
        body, command = typed.checked(command)
        now = edits.now if edits.now is not None else header.now if header.now is not None else row.at
        decision = Decision(self._works.handling, handler, typed, command, body, header.id or "", now, given=True)
        decision.actor, decision.correlation, decision.causation = header.actor, header.correlation, header.causation
        decision.occurred, decision.traceparent = header.occurred, header.traceparent
        if header.outcome == "pending":
            return self._keep(decision)
        self._hear_answers(decision, row, edits)
        return self._decided(decision, row.position)

    def _keep(self, decision: Decision) -> Row | None:
        """Enqueue a command."""
        job = Pending(decision)
        self.log.writer.submit(job, SUBMIT_SECONDS_MAX)
        if job.row is not None:
            self._pendings[decision.id] = f"{PENDING_NOTE}{job.row.position:020d}"
        return job.row

    def _body(self, row: Row) -> Any:
        """Return a command of the origin as today's class reads it, `None` for one that was erased. `Invalid` where the code has no class for it."""
        _, raw = next(taken_apart(row))
        body = self._given_as.body(raw.number, raw.body, row.position)
        if body is None or isinstance(body, Command | Event):
            return body
        name = self._origin.name(raw.number)
        raise Invalid(
            f"the origin was given a `{name.name if name is not None else raw.number}` at position {row.position}, and the code that the branch "
            "runs with has no class for it: list its decider, or drop it from the branch",
            position=row.position,
        )

    def _hear_answers(self, decision: Decision, row: Row | None, edits: RowEdits = NO_EDITS) -> None:
        """Let a decision hear the answers that a row of the origin holds."""
        if row is None or f"[{ANSWER}," not in row.records:
            return
        heard = edited_answers(row, edits)
        if decision.handler.wants_world or decision.handler.copied:
            decision.answers = Answers(heard)
            self.diverged = self.diverged or bool(edits.answers)

    def _decided(self, decision: Decision, position: int) -> Row | None:
        """Have a command decided and recorded; one whose decider raises is in `failed`, and nothing of it is recorded."""
        try:
            self._works.handling.preload(decision)
            self._works.decide(decision)
        except (Unanswered, *TROUBLE):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the decider raises is what came of this command
            self._check_answered()
            self.failed.append(Failed(position, decision.id, f"{type(error).__name__}: {error}"))
            self.diverged = True
        return decision.row

    def _decides(self, row: Row, header: Header, id: str, edits: RowEdits) -> Row | None:
        """Have a command decided that was enqueued, if it was here."""
        if id in self._gone:
            return self._copied(row, header, edits, {})
        note = self._pendings.get(id)
        if note is None or self._works.pending is None or note not in self.log.engine.notes(note):
            return None
        if edits.changed or header.handler is None:  # who skipped it was a person
            return self._copied(row, header, edits, {note: None})
        if self._is_erased_here(id):
            return self._copied(row, header, edits, {note: None})
        kept = self._works.pending.kept(note, id)
        if kept.decision is None:
            self.failed.append(Failed(row.position, id, str(kept.error)))
            return None
        if edits.now is not None:
            kept.decision.now = edits.now
        self._hear_answers(kept.decision, row, edits)
        return self._decided(kept.decision, row.position)

    def _copied(self, row: Row, header: Header, edits: RowEdits, notes: Mapping[str, None]) -> Row | None:
        """Record a row as it was, but for what is edited."""
        self.diverged = self.diverged or bool(edits.changed)
        job = Copied(self, row, header, edits, notes)
        self.log.writer.submit(job, SUBMIT_SECONDS_MAX)
        return job.row

    def _insert(self, edits: RowEdits, position: int) -> None:
        """Give what comes after a row here, and did not in the origin."""
        for what in edits.inserted:
            self.diverged = True
            try:
                row = self._works.insert(what)
            except (Unanswered, Invalid, *TROUBLE):
                raise
            except Exception as error:  # noqa: BLE001 - whatever the decider raises is what came of this command
                self._check_answered()
                self.failed.append(Failed(position, "", f"{type(error).__name__}: {error}"))
            else:
                if row is not None:
                    self._follow(row, {})

    def number(self, batch: Batch, number: int) -> int:
        """Return what stands here for a name of the origin; recorded in this batch if it is new here."""
        name = self._origin.name(number) if number >= FIRST_NUMBER else None
        if name is None:
            return number
        return batch.number(self._survey.wishes.get(number) or wish_again(name))

    def handler(self, batch: Batch, header: Header) -> int | None:
        """Return what stands here for the handler of a row of the origin."""
        return self.number(batch, header.handler) if header.handler is not None else None

    def sent(self, batch: Batch, header: Header) -> Sent | None:
        """Return how a row that is copied came to be sent."""
        sent = header.sent
        if sent is None or not sent.handler:
            return batch.heard(header.causation) if header.causation is not None else None
        cause = self.number(batch, sent.cause) if sent.cause else 0
        return msgspec.structs.replace(sent, handler=self.number(batch, sent.handler), cause=cause)

    # --- what is compared, and who hears of it

    def _match(self, row: Row, here: Row | None) -> None:
        """Take a row of the branch for the counterpart of one of the origin, and let all hear of it who listen."""
        if here is None:
            self.diverged = True
            return
        theirs, ours = come_to(row, self._origin.names), come_to(here, self.log.names)
        if [one[1:] for one in theirs] != [one[1:] for one in ours] or decode_header(row.head).outcome != decode_header(here.head).outcome:
            self.diverged = True
        places: dict[tuple[str, int], list[int]] = {}
        for place, of, _ in theirs:
            places.setdefault(of, []).append(row.position + place)
        back: dict[int, int] = {}
        for place, of, _ in ours:
            if places.get(of):
                back[here.position + place] = places[of].pop(0)
        self._follow(here, back)

    def _follow(self, row: Row, back: Mapping[int, int]) -> None:
        """Let all hear the events of a row: where they did in the origin, or else now. `back` says which of them are which of the origin's."""
        if self._shares:
            self._back.update(back)
        if not self._listeners:
            return
        records = self._pages([row])
        for lease, again in self._listeners.items():
            for heard in heard_in(again.listener, [row], records):
                key = back.get(heard.position, 0), lease
                if key in self._survey.runs:
                    self._waiting[key] = heard
                elif self.diverged or lease in self._changed:
                    self._to_hear.append((again, heard))
        self._hear()

    def _hear(self) -> None:
        """Run all on events that have no counterpart in the origin, or left no trace there."""
        waiting, self._to_hear = self._to_hear, deque()
        while waiting:
            again, heard = waiting.popleft()
            self._run(again, heard, again.run_of(heard.position), heard.row.at, None, (), frozenset())
            waiting.extend(self._to_hear)
            self._to_hear.clear()

    def _hear_what_was(self) -> None:
        """Let those hear what was before the branch that the origin never had and that ask for it."""
        for lease, again in self._listeners.items():
            since = again.listener.since
            if lease in self._changed and since is not None and progress_of(self.log.engine, again.listener.lease) is None:
                for heard in list(heard_between(self.log, again.listener, since + 1, self._after)):
                    self._to_hear.append((again, heard))
        self._hear()

    # --- reactions and publications

    def _sent(self, row: Row, header: Header, sender: Name) -> Row | None:
        """Record what a reaction sends, where it was recorded in the origin; return the row of a command, if there is one."""
        self._takes_turn(row, header, sender)
        return self._made.pop(header.id or "", None)

    def _takes_turn(self, row: Row, header: Header, sender: Name) -> bool:
        """Record what a reaction sends or a publication says, where it was recorded in the origin; it is run where the first of that was.

        False where it comes to nothing here.
        """
        own = header.id or ""
        if own not in self._ready:
            self._run_again(row, header, sender)
        ready = self._ready.pop(own, None)
        if ready is not None:
            ready()
        return ready is not None

    def _run_again(self, row: Row, header: Header, sender: Name) -> None:
        """Run a reaction or publication where it ran in the origin."""
        key, run = self._survey.run_of(row, header, sender)
        again = self._listeners.get(lease_of(sender.what, sender.name))
        heard = self._waiting.pop(key, None)
        if heard is None and again is not None and 0 < key[0] <= self._after and key not in self._heard:
            self._heard.add(key)
            heard = heard_at(self.log, again.listener, key[0])
        if again is None or heard is None or header.sent is None:
            return
        now = header.now if header.now is not None else heard.row.at + header.sent.waited
        before = self.log.find(run) if key[0] <= self._after else []  # the branch begins in the midst of a commit
        answers = edited_answers(before[0] if before else row, NO_EDITS) if before or row.input is None else ()
        seen = self._here(header.sent.seen) if again.listener.states else None
        self._run(again, heard, run, now, seen, answers, self._survey.runs[key].rows)

    def _here(self, position: int) -> int:
        """Return where the branch stood when the origin had come to a position."""
        if position <= self._after:
            return position
        place = bisect.bisect_right(self._ends, (position, EVERYTHING_SEEN))
        return self._ends[place - 1][1] if place else self._after

    def _run(
        self, again: Again, heard: Heard, run: str, now: int, seen: int | None, answers: Sequence[Answer], known: Collection[str]
    ) -> None:
        """Run a listener on an event and record what it comes to: what is `known` in the origin at its turn there, the rest now."""
        one = again.run(run, heard, now, seen, answers)
        self._check_answered()
        if isinstance(one, Held):
            held = one
            self.diverged = self.diverged or again.listener.kind == Reaction.kind
            self.log.engine.append(lambda _: Commit(notes={held.note: held.text()}), EVERYTHING_SEEN)
        elif isinstance(one, Said):
            self._said(again, heard, one, known)
        elif one is not None:
            self._ran(again, heard, one, run, known)

    def _said(self, again: Again, heard: Heard, said: Said, known: Collection[str]) -> None:
        """Have recorded what a publication says. Nobody hears of it: it makes no other difference."""
        for notification in said.notifications:
            if heard.position <= self._after and self.log.find(notification.id):
                continue  # the branch begins in the midst of a commit
            job = Saying(self.desk, again, said._replace(notifications=[notification]))
            say = functools.partial(self.log.writer.submit, job, SUBMIT_SECONDS_MAX)
            if notification.id in known:
                self._ready[notification.id] = say
            else:
                say()

    def _ran(self, again: Again, heard: Heard, one: Ran, run: str, known: Collection[str]) -> None:
        """Have recorded what a reaction sends, and let all hear of what that comes to."""
        one = one._replace(sends=[edited for decision in one.sends if (edited := self._edited(decision)) is not None])
        if heard.position <= self._after:  # a part of it may lie before the branch, where that begins in the midst of a commit
            one = one._replace(sends=[prepared for prepared in one.sends if not self.log.find(prepared.id)])
            if one.header is not None and self.log.find(run):
                one = one._replace(header=None, later=())
        alone = one._replace(header=None)
        for decision in one.sends:
            if decision.id in known:
                self._ready[decision.id] = functools.partial(self._tell, [decision], {decision.id}, ran=(again, alone))
        now_sent = [decision for decision in one.sends if decision.id not in known]
        if now_sent or one.header is not None:
            self._tell(now_sent, known, ran=(again, one))
        for schedule, _ in one.later:
            self._remember_timer(note_of(schedule.due, schedule.id))

    def _edited(self, decision: Any) -> Any:
        """Return what a reaction sends here in place of a command; `None` where that is dropped."""
        if decision.id not in self._edits.sent:
            return decision
        self.diverged = True
        self._applied.add(decision.id)
        to = self._edits.sent[decision.id]
        if to is None:
            return None
        envelope = Envelope(decision.id, decision.causation, decision.correlation, decision.actor, decision.now, decision.depth)
        changed = self.desk.prepared(to, envelope)
        changed.sent = decision.sent
        return changed

    def _tell(self, sends: Sequence[Any], known: Collection[str], *, ran: tuple[Again, Ran] | None = None, note: str = "") -> None:
        for decision in sends:
            position = self._survey.answered.get(decision.id)
            self._hear_answers(decision, self._origin.log.row_at(position) if position is not None else None)
        self.desk.load(sends)
        told = Told(self.desk, sends, self._survey.pending, ran=ran, note=note)
        self.log.writer.submit(told, SUBMIT_SECONDS_MAX)
        for row in told.rows:
            header = decode_header(row.head)
            if header.id is None:
                continue
            if header.id in known:
                self._made[header.id] = row
            else:
                self.diverged = True
                self._follow(row, {})
            if header.outcome == "pending":
                self._pendings[header.id] = f"{PENDING_NOTE}{row.position:020d}"
                if header.id not in self._survey.pending:
                    self._decide_now(header.id)

    def _decide_now(self, id: str) -> None:
        """Decide a command that could not be decided where it was sent, and has no place of its own in the origin."""
        if self._works.pending is None:
            return
        kept = self._works.pending.kept(self._pendings[id], id)
        if kept.decision is None:
            return
        try:
            self._works.decide(kept.decision)
        except (Unanswered, *TROUBLE):
            raise
        except Exception:  # noqa: BLE001 - it stays pending, and is held when all is given
            self._check_answered()
        else:
            if kept.decision.row is not None:
                self._follow(kept.decision.row, {})

    # --- timers

    def _remember_timer(self, note: str) -> None:
        id = note.removeprefix(TIMER_NOTE).split("/", 1)[1]  # noqa: A001 - as everywhere
        self._timers[id] = note
        heapq.heappush(self._due, (due_of(note), id))

    def _ring_due(self, until: int, *, to_the_end: bool = False) -> None:
        """Ring what is due by the branch's clock, and was not sent in the origin, or not then.

        Where the origin rang something only later, since nobody was there to ring, what is due behind that waits for it, as there. It does not wait for what
        was held there, so that others rang before it; and nothing waits at the end.
        """
        while self._due and self._due[0][0] <= until:
            due, id = self._due[0]  # noqa: A001 - as everywhere
            comes = not to_the_end and id in self._survey.rung and id in self._timers and due >= self._rung_until
            if comes and id == self._waits_for:
                return
            as_then = self._rings_as_then(id, due)
            if comes and as_then:
                self._waits_for = id
                return
            heapq.heappop(self._due)
            if not as_then:
                self._works.clock.set(due)
                row = self._ring(id, due)
                self._works.clock.set(until)
                if row is not None:
                    self._made.pop(id, None)
                    self._follow(row, {})

    def _rings_as_then(self, id: str, due: int) -> bool:
        """Say whether a timer of the origin is the same: then it rings where it did there, or not at all."""
        scheduled = self._survey.rung.get(id)
        if scheduled is None:
            return note_of(due, id) in self._origin.notes
        place = self._origin.position_of(scheduled)
        schedule = schedule_at(self._origin.log, place) if place is not None else None
        return schedule is not None and schedule.due == due

    def _ring(self, id: str, now: int) -> Row | None:
        """Send what a timer sends, if it is there and due."""
        note = self._timers.get(id)
        position = self.log.engine.notes(note).get(note) if note is not None else None
        if note is None or position is None or due_of(note) > now or self._works.timers is None:
            return None
        del self._timers[id]
        self._rung_until = max(self._rung_until, due_of(note))
        timers = self._works.timers
        try:
            prepared = self._edited(timers.read(int(position), timers.scheduled_with(int(position))))
        except (Invalid, Broken) as error:
            self.failed.append(Failed(0, id, str(error)))
            return None
        self._tell([prepared] if prepared is not None else [], {id}, note=note)
        return self._made.pop(id, None)

    # --- the end

    def _finish(self) -> None:
        """Do what there is still to do: what is due, what is pending, and what follows from it."""
        while True:
            before = self.log.head
            self._ring_due(self._works.clock.now_us(), to_the_end=True)
            mark = self.log.head
            while self._works.pending is not None and not self._works.pending.decide_some():
                pass
            for rows in self.log.engine.read(mark):
                for row in rows:
                    self._follow(row, {})
            if self.log.head == before:
                return

    def _note_progress(self) -> None:
        """Say that all have heard everything: who goes on from here goes on behind it."""
        head = self.log.head
        if head == self._after:
            return
        notes: dict[str, str | None] = {}
        for lease in self._listeners:
            parts = parts_in(self.log.engine, lease)
            began = parts[0].progress.began if parts else self._after
            notes |= {PROGRESS_NOTE + name: None for name, _ in parts}
            notes[PROGRESS_NOTE + lease] = encode(Progress(head, 0, began)).decode()
        self.log.engine.append(lambda _: Commit(notes=notes), EVERYTHING_SEEN)


def edited_answers(row: Row, edits: RowEdits) -> list[Answer]:
    """Return the answers that a row holds, as they are edited."""
    found: list[Answer] = []
    for ordinal, recorded in answers_in(row).items():
        answer = recorded
        if ordinal in edits.answers:
            value = edits.answers[ordinal]
            if isinstance(value, Exception):  # made anew: only the default itself is left out where it is recorded
                answer = Answer(answer.gateway, answer.arguments, answer.nth, error=f"{type(value).__name__}: {value}", us=answer.us)
            else:
                answer = msgspec.structs.replace(answer, answer=msgspec.Raw(encode(value)), error="", values=None)
        found.append(answer)
    return found


def come_to(row: Row, names: Names) -> list[tuple[int, tuple[str, int], bytes]]:
    """Return what a row came to: its events and its refusal, each with its place, its name and version, and its body."""
    found: list[tuple[int, tuple[str, int], bytes]] = []
    for place, (asked, raw) in enumerate(taken_apart(row)):
        name = names.by_number.get(raw.number)
        if raw.number == REFUSAL:
            found.append((place, ("", 0), bytes(raw.body)))
        elif not asked and name is not None and name.what == "event":
            found.append((place, (name.name, name.version), bytes(raw.body)))
    return found
