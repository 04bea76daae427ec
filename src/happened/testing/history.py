"""A history of what every client asked and heard, and the proof that one log explains all of it.

    history = History("history.jsonl")
    session = history.session("worker 1")
    session.dispatch(running, PlaceOrder("o-1", "widget", 5))
    session.rows(running.view(Stock), since=receipt)
    assert check(history, running) == ()

Clients may be threads, tasks and processes of one machine: each line is written by one call, when something is asked and again when it is answered. So a
client that is killed leaves what it asked without an answer, and whether that was recorded is unknown. Every command has a position in one order, so to
check it all is one walk through the log, and no search.
"""

import contextlib
import os
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: bodies, keys and rows of any class

import msgspec

from happened.checking.decisions import decide_again
from happened.checking.differences import plain
from happened.checking.memory import Memory
from happened.core.boundary import Boundary
from happened.core.errors import Error, Incompatible, Invalid, Refused
from happened.core.messages import Command, Event, Message
from happened.core.state import Fold, State, fold_of
from happened.core.store import START, Row
from happened.core.tags import term
from happened.cqrs.ask import Rows, View
from happened.log.log import Fact, Log
from happened.log.receipt import Receipt
from happened.log.records import INPUT, INTERNAL, Reader
from happened.log.row import SALT_BYTES, decode_header, digest_of, taken_apart
from happened.running import Running
from happened.shelf.tables import HIGH
from happened.wiring import Wiring

Kind = Literal[
    "order",  # positions have a gap, or the recorded time falls
    "chain",  # a row is not what was recorded there
    "twice",  # an id is used by two commands
    "torn",  # a part of a command is there, or a reader saw a part
    "boundary",  # a decision does not follow from what stands before it: a lost update, a write skew
    "refused",  # it was refused though what stands before it allows it
    "lost",  # it was acknowledged, and is not there
    "elsewhere",  # it was acknowledged at another position, or as another row
    "otherwise",  # it was acknowledged as something else than is recorded
    "failed",  # its caller heard that it was not recorded, and it is there
    "time",  # it was asked after another one was answered, and stands before it
    "early",  # a reader saw what was not asked yet
    "stale",  # a reader saw less than it asked for with `since=`, or less than it had written
    "backwards",  # a session saw an older state of things than before
    "missed",  # a reader of the log passed over something that is there
    "differs",  # a state, a view or a copy is not what the log comes to at its position
]
"""What is wrong."""

READS = ("state", "view", "copy", "log")


class Asked(msgspec.Struct, frozen=True, omit_defaults=True, tag="asked"):
    """What a client asked, written down before it did."""

    session: str
    number: int
    """Counts what the session asks, from 1."""
    at: int
    """When, by the machine's monotonic clock, in nanoseconds."""
    does: str
    """`write`, or what is read: `state`, `view`, `copy` or `log`."""
    what: str
    """The name of the command, the event, the state or the view."""
    ids: tuple[str, ...] = ()
    """Of commands and facts: all of them are recorded or none is."""
    since: int = 0
    """The position that an answer must not be older than; of a read of the log the position after which."""
    key: tuple[Any, ...] = ()
    """Of a state."""
    equal: dict[str, Any] = {}
    """What the rows of a view are narrowed by."""
    unless: Boundary | None = None
    """The condition of an `append` by hand."""


class Heard(msgspec.Struct, frozen=True, omit_defaults=True, tag="heard"):
    """What a client was answered, written down after it was."""

    session: str
    number: int
    at: int
    outcome: str
    """`accepted`, `refused`, `failed` (not recorded) or `unknown`; of what is read `answered`."""
    positions: tuple[int, ...] = ()
    """For each id where its receipt says it stands; of a read as of which position the answer says it is. None: it does not say."""
    digests: tuple[str, ...] = ()
    """What the receipts say of the rows there."""
    events: tuple[list[Any], ...] = ()
    """For each id what was decided or recorded, as plain data."""
    rows: list[Any] = []
    """What was read, as plain data."""
    error: str = ""


class Operation(NamedTuple):
    """One thing that a client asked, with the answer where one came."""

    asked: Asked
    heard: Heard | None

    @property
    def outcome(self) -> str:
        """What its client knows of it."""
        return self.heard.outcome if self.heard is not None else "unknown"

    def __str__(self) -> str:
        """Tell who asked what, and what came of it."""
        asked, heard = self.asked, self.heard
        said = f" at {heard.positions[0]}" if heard is not None and heard.positions else ""
        what = " ".join([asked.does, asked.what, *asked.ids, *map(str, asked.key)])
        return f"{asked.session} #{asked.number} {what}: {self.outcome}{said}"


class Finding(msgspec.Struct, frozen=True):
    """Something that one log can't explain."""

    kind: Kind
    text: str
    operations: tuple[Operation, ...] = ()
    position: int | None = None

    def __str__(self) -> str:
        """Tell what is wrong, and who asked and heard what."""
        return "\n".join([f"{self.kind}: {self.text}", *(f"    {operation}" for operation in self.operations)])


class History:
    """What clients asked and heard, in a file that several processes may write, or without a path in memory."""

    def __init__(self, path: str | Path | None = None, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.clock = clock
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) if path is not None else None
        self._lines: list[bytes] = []

    def session(self, name: str) -> "Session":
        """Return one client, which asks one thing after the other, of one process: a thread, a task. Its name is used once in a history."""
        return Session(self, name)

    def write(self, line: Asked | Heard) -> None:
        """Write a line down, by one call, so that lines of several processes do not mix and a kill leaves none in halves."""
        text = msgspec.json.encode(line) + b"\n"
        if self._file is None:
            self._lines.append(text)
        else:
            os.write(self._file, text)

    def operations(self) -> list[Operation]:
        """Return all that was asked, in the order of the lines. `Invalid`, with the line, for what no client can have written."""
        lines = self._lines if self.path is None else Path(self.path).read_bytes().splitlines(keepends=True)
        return paired(self._decoded(number, line) for number, line in enumerate(list(lines), 1))

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _decoded(self, number: int, line: bytes) -> Asked | Heard:
        try:
            return _decode(line)
        except msgspec.MsgspecError as error:
            raise Invalid(f"line {number} of the history is no line of one: {error}", line=number) from error


_decode: Callable[[bytes], Asked | Heard] = msgspec.json.Decoder(Asked | Heard).decode


def paired(lines: Iterable[Asked | Heard]) -> list[Operation]:
    """Put what was asked and what was heard together. `Invalid` for what no client can have written: a session asks one thing after the other."""
    asked: dict[tuple[str, int], Asked] = {}
    heard: dict[tuple[str, int], Heard] = {}
    latest: dict[str, Asked | Heard] = {}
    for number, line in enumerate(lines, 1):
        key, before = (line.session, line.number), latest.get(line.session)
        wrong = ""
        if isinstance(line, Heard):
            if key not in asked or key in heard:
                wrong = "is an answer to what was not asked" if key not in asked else "answers a second time"
            elif line.outcome not in (("answered", "failed") if asked[key].does in READS else ("accepted", "refused", "failed", "unknown")):
                wrong = f"says `{line.outcome}`, which is no outcome of `{asked[key].does}`"
            heard[key] = line
        else:
            if key in asked:
                wrong = "asks a second time: give each client a session of its own, also the one that takes a killed one's place"
            elif isinstance(before, Asked):
                wrong = "asks before the last answer came: give each thread and each task a session of its own"
            elif line.does not in ("write", *READS):
                wrong = f"does `{line.does}`: it may be `write`, {', '.join(f'`{one}`' for one in READS)}"
            asked[key] = line
        if not wrong and before is not None and before.at > line.at:
            wrong = "is earlier than the line before it: all clients need one clock that never falls"
        if wrong:
            raise Invalid(f"line {number} of the history, of session `{line.session}` number {line.number}, {wrong}", line=number)
        latest[line.session] = line
    return [Operation(one, heard.get(key)) for key, one in asked.items()]


class Session:
    """One client: its methods do what those of the same names do, and write down what was asked and heard."""

    def __init__(self, history: History, name: str) -> None:
        self.history = history
        self.name = name
        self._number = 0

    # --- for any client

    def asks(self, does: str, what: str, **asked: Any) -> int:
        """Write down what is about to be asked; return its number. `asked` are the fields of `Asked`."""
        self._number += 1
        self.history.write(Asked(self.name, self._number, self.history.clock(), does, what, **asked))
        return self._number

    def hears(self, number: int, outcome: str, **heard: Any) -> None:
        """Write down what was answered. `heard` are the fields of `Heard`."""
        self.history.write(Heard(self.name, number, self.history.clock(), outcome, **heard))

    # --- for clients that have the log open

    def dispatch(self, running: Running, command: Command, *, id: str | None = None, **options: Any) -> Receipt:
        """Dispatch a command."""
        own = id or self._id()
        with self._writing(type(command).__name__, own) as answered:
            return answered(running.dispatch(command, id=own, **options))

    async def adispatch(self, running: Running, command: Command, *, id: str | None = None, **options: Any) -> Receipt:
        """Dispatch a command, awaited. Each task has a session of its own."""
        own = id or self._id()
        with self._writing(type(command).__name__, own) as answered:
            return answered(await running.adispatch(command, id=own, **options))

    def dispatch_together(self, running: Running, commands: Iterable[Command], **options: Any) -> list[Receipt]:
        """Dispatch commands of which all are recorded or none is."""
        messages = [Message(command, id=f"{self._id()}.{place}") for place, command in enumerate(commands)]
        if not messages:
            return []
        with self._writing("together", *(message.id or "" for message in messages)) as answered:
            receipts = running.dispatch_together(messages, **options)
            answered(*receipts)
            return receipts

    def record(self, running: Running, event: Event, *, id: str | None = None, **options: Any) -> Receipt:
        """Record a fact."""
        own = id or self._id()
        with self._writing(type(event).__name__, own) as answered:
            return answered(running.record(event, id=own, **options))

    def append(
        self, log: Log, facts: Sequence[Fact] | Fact, *, unless: Boundary | None = None, id: str | None = None, **options: Any
    ) -> Receipt:
        """Append to a log by hand, under a condition."""
        own = id or self._id()
        with self._writing("append", own, unless=unless) as answered:
            return answered(log.append(facts, unless=unless, id=own, **options))

    async def aappend(
        self, log: Log, facts: Sequence[Fact] | Fact, *, unless: Boundary | None = None, id: str | None = None, **options: Any
    ) -> Receipt:
        """Append to a log by hand, under a condition, awaited. Each task has a session of its own."""
        own = id or self._id()
        with self._writing("append", own, unless=unless) as answered:
            return answered(await log.aappend(facts, unless=unless, id=own, **options))

    def state(self, running: Running, state: type[State], /, *key: Any, since: Receipt | str | int | None = None, **options: Any) -> Any:
        """Ask for a state."""
        number = self.asks("state", fold_of(state).name, key=tuple(plain(key)), since=running.log.since(since))
        with self._reading(number):
            found = running.state(state, *key, since=since, **options)
        self.hears(number, "answered", rows=[] if found is None else [plain(found)])
        return found

    def rows(self, view: View[Any], *, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **equal: Any) -> Rows[Any]:
        """Ask a view for all its rows, or for those whose fields equal."""
        number = self.asks("view", view.of.build.name, equal=plain(equal), since=view.of.log.since(since))
        with self._reading(number):
            found = view.where(**equal).rows(limit=HIGH, since=since, wait_seconds_max=wait_seconds_max)
        return self._heard_rows(number, found)

    def replica_rows(
        self, running: Running, state: type[State], *, since: Receipt | None = None, wait_seconds_max: float = 10
    ) -> Rows[Any]:
        """Ask for all rows of a copy of another system's states. It is checked against that system's log: its name is the states' name there."""
        number = self.asks("copy", fold_of(state).name, since=since.position if since is not None else 0)
        with self._reading(number):
            found = running.replica_rows(state, limit=HIGH, since=since, wait_seconds_max=wait_seconds_max)
        return self._heard_rows(number, found)

    def read(self, log: Log, *, after: int = 0, until: int | None = None) -> list[Any]:
        """Read a log; return its records."""
        number = self.asks("log", "records", since=after)
        with self._reading(number):
            found = list(log.read(after=after, until=until))
        self.hears(number, "answered", positions=tuple(one.position for one in found[-1:]), rows=[[one.position, one.id] for one in found])
        return found

    # --- within

    def _id(self) -> str:
        return f"{self.name}-{self._number + 1}"

    @contextlib.contextmanager
    def _writing(self, what: str, *ids: str, unless: Boundary | None = None) -> Generator[Callable[..., Receipt]]:
        number = self.asks("write", what, ids=ids, unless=unless)

        def answered(*receipts: Receipt) -> Receipt:
            positions, digests = tuple(one.position for one in receipts), tuple(one.digest for one in receipts)
            events = tuple([plain(event) for event in one.events] for one in receipts)
            if what == "append" and not any(events):  # the receipt of facts without a class does not say them
                events = ()
            self.hears(number, "accepted", positions=positions, digests=digests, events=events)
            return receipts[-1]

        try:
            yield answered
        except Refused as refused:
            self.hears(number, "refused" if len(ids) == 1 else "failed", error=str(refused))
            raise
        except Error as error:
            outcome = {False: "failed", True: "accepted", None: "unknown"}[error.recorded]
            self.hears(number, outcome, error=f"{type(error).__name__}: {error}")
            raise
        except Exception as error:  # what a decider raises: nothing is recorded
            self.hears(number, "failed", error=f"{type(error).__name__}: {error}")
            raise
        except BaseException as error:
            self.hears(number, "unknown", error=type(error).__name__)
            raise

    @contextlib.contextmanager
    def _reading(self, number: int) -> Generator[None]:
        try:
            yield
        except BaseException as error:
            self.hears(number, "failed", error=f"{type(error).__name__}: {error}")
            raise

    def _heard_rows(self, number: int, found: Rows[Any]) -> Rows[Any]:
        self.hears(number, "answered", positions=(found.position,), rows=[plain(row) for row in found])
        return found


def check(history: History | Iterable[Operation], on: Running | Log, *, app: Wiring | None = None) -> tuple[Finding, ...]:
    """Return all that one log can't explain of a history; nothing, if it can.

    It is proven of the log itself: positions are dense, times never fall, the chain holds, no id is used twice, no command is there in part. Of what was
    written: what was acknowledged is there once, where and as its receipt says; what failed is not; what is unknown is there once or not; what was asked
    after an answer stands behind it; every condition of an append, and every decision and refusal, follows from what stands before it. Of what was read:
    it equals the fold of the log as of its position, is as new as was asked for, never newer than it can be, and never goes backwards in a session.

    On a running app its views are read at the end, and checked, too. On a log alone decisions, states and views are checked where `app` is given.
    Call it when all clients are done. `Invalid` for a history that no clients can have written.
    Cost: some 50 µs a record, and a comparison of all rows for each look at a view. Memory: the history, and the ids of all records.
    """
    operations = history.operations() if isinstance(history, History) else paired(_lines(history))
    log = on.log if isinstance(on, Running) else on
    if isinstance(on, Running):
        app = on.app
        reading = History()
        session = reading.session("check")
        for view in on.app.views:
            session.rows(on.view(view), since=log.head, wait_seconds_max=60)
        last = max((line.at for line in _lines(operations)), default=0)
        operations += [
            Operation(msgspec.structs.replace(one.asked, at=last), one.heard and msgspec.structs.replace(one.heard, at=last + 1))
            for one in reading.operations()
        ]
    checking = _Checking(operations, log, app)
    checking.log_itself()
    checking.writes()
    checking.reads()
    if app is not None and checking.readable:
        checking.decisions(app)
        checking.folds(on if isinstance(on, Running) else None, app)
    return tuple(checking.found)


def _lines(operations: Iterable[Operation]) -> Iterator[Asked | Heard]:
    lines = [line for operation in operations for line in operation if line is not None]
    yield from sorted(lines, key=lambda line: (line.at, line.session, line.number, isinstance(line, Heard)))


class _Entry(NamedTuple):
    """A row, as far as it is compared with what clients heard."""

    row: Row
    outcome: str
    events: list[Any]


class _Checking:
    """One history and one log."""

    def __init__(self, operations: Sequence[Operation], log: Log, app: Wiring | None) -> None:
        self._operations = operations
        self._log = log
        self._reader = Reader(log.names, [*app.events, *app.handlers], app.called, app.lifts) if app is not None else log.reader
        self.found: list[Finding] = []
        self.readable = True
        self._ids: list[str] = [""]
        """Of the record at each position."""
        self._lasts: list[int] = [0]
        """The positions at which rows end."""
        self._events: list[tuple[int, str, list[str]]] = []
        """Position, name and terms of what boundaries match."""
        self._by_id: dict[str, list[_Entry]] = defaultdict(list)
        self._asked_at: tuple[list[int], list[int]] = ([], [])
        """Positions of what was asked, and when the latest up to there was."""

    def _find(self, kind: Kind, text: str, *operations: Operation, position: int | None = None) -> None:
        self.found.append(Finding(kind, text, operations, position))

    # --- the log by itself

    def log_itself(self) -> None:
        head = START
        for rows in self._log.engine.read():
            self._reader.learn(rows)
            for row in rows:
                self._row(row, head.position, head.at, head.digest)
                head = msgspec.structs.replace(head, position=row.last, at=row.at, digest=row.digest)

    def _row(self, row: Row, position: int, at: int, digest: bytes) -> None:
        if row.position != position + 1:
            self._find("order", f"after position {position} comes {row.position}", position=row.position)
        if row.at < at:
            self._find("order", f"the recorded time falls at position {row.position}", position=row.position)
        try:
            if digest_of(digest, row) != row.digest:
                self._find("chain", f"the row at position {row.position} is not the one that was recorded there", position=row.position)
            header, records = decode_header(row.head), list(self._reader.records(row))
            count = sum(1 for _ in taken_apart(row))
        except (Error, msgspec.MsgspecError, ValueError) as error:
            if isinstance(error, Incompatible):
                raise
            self.readable = False
            self._find("torn", f"the row at position {row.position} can't be read: {error}", position=row.position)
            return
        if count != row.count or len(row.salts) != SALT_BYTES * count:
            self.readable = False
            self._find(
                "torn", f"the command at position {row.position} has {row.count} records, and {count} are there", position=row.position
            )
        self._lasts.append(row.last)
        self._ids += [""] * (row.last + 1 - len(self._ids))
        for record in reversed(records):  # where one became several, the first one has the id
            self._ids[record.position] = record.id
        events = [record for record in records if record.kind in (INPUT, INTERNAL) and not isinstance(record.body, Command)]
        self._events += [(one.position, one.name, [term(*tag) for tag in one.tags]) for one in events]
        own = header.id or header.decides
        if own is not None:
            entry = _Entry(row, header.outcome, [plain(one.body) for one in events if one.kind == INTERNAL or row.input is None])
            before = self._by_id[own]
            if before and (header.decides is None or before[-1].outcome != "pending"):
                self._find("twice", f"`{own}` stands at {before[0].row.last} and at {row.last}", *self._of(own), position=row.last)
            before.append(entry)

    def _of(self, id: str) -> list[Operation]:
        return [operation for operation in self._operations if id in operation.asked.ids]

    # --- what was written

    def writes(self) -> None:
        writes = [operation for operation in self._operations if operation.asked.does == "write"]
        outcomes: dict[str, set[str]] = defaultdict(set)
        for operation in writes:
            for own in operation.asked.ids:
                outcomes[own].add(operation.outcome)
        first_asked: dict[str, Operation] = {}
        first_heard: dict[str, Operation] = {}
        for operation in sorted(writes, key=lambda one: one.asked.at):
            there = [own for own in operation.asked.ids if own in self._by_id]
            if operation.outcome == "accepted":
                self._accepted(operation)
            elif operation.outcome == "refused":
                self._refused(operation)
            elif operation.outcome == "failed" and there and all(outcomes[own] == {"failed"} for own in there):
                self._find("failed", f"`{there[0]}` is recorded, and its caller heard that it was not", operation)
            if there and len(there) < len(operation.asked.ids):
                missing = next(own for own in operation.asked.ids if own not in there)
                self._find("torn", f"`{there[0]}` is recorded and `{missing}` is not, which was to be recorded with it", operation)
            for own in there:
                first_asked.setdefault(own, operation)
                if operation.outcome in ("accepted", "refused"):
                    before = first_heard.setdefault(own, operation)
                    if before.heard is not None and operation.heard is not None and operation.heard.at < before.heard.at:
                        first_heard[own] = operation
        self._real_time(first_asked, first_heard)
        self._conditions(writes)

    def _accepted(self, operation: Operation) -> None:
        heard = operation.heard
        assert heard is not None, "it was accepted"
        for place, own in enumerate(operation.asked.ids):
            entries = self._by_id.get(own)
            if not entries:
                self._find("lost", f"`{own}` was acknowledged, and is not recorded", operation)
                continue
            if place >= len(heard.positions):
                continue  # it was said to be recorded, not where
            position = heard.positions[place]
            [row, outcome, events] = next((entry for entry in entries if entry.row.last == position), entries[-1])
            digest = heard.digests[place] if place < len(heard.digests) else ""
            if row.last != position:
                self._find(
                    "elsewhere", f"`{own}` was acknowledged at position {position}, and stands at {row.last}", operation, position=row.last
                )
            elif not row.digest.hex().startswith(digest):
                self._find(
                    "elsewhere", f"the row at position {position} is not the one whose receipt `{own}` has", operation, position=position
                )
            if outcome == "refused":
                self._find("otherwise", f"`{own}` was acknowledged as accepted, and is recorded as refused", operation, position=row.last)
            elif place < len(heard.events) and outcome != "pending" and not all(map(_erased, events)) and heard.events[place] != events:
                missing = len(events) < len(heard.events[place])
                kind: Kind = "torn" if missing else "otherwise"
                self._find(kind, f"`{own}` was acknowledged with other events than are recorded for it", operation, position=row.last)

    def _refused(self, operation: Operation) -> None:
        [own] = operation.asked.ids
        entries = self._by_id.get(own)
        if not entries:
            self._find("lost", f"`{own}` was refused, and no refusal is recorded", operation)
        elif entries[-1].outcome != "refused":
            last = entries[-1].row.last
            self._find("otherwise", f"`{own}` was refused, and is recorded as {entries[-1].outcome}", operation, position=last)

    def _real_time(self, first_asked: Mapping[str, Operation], first_heard: Mapping[str, Operation]) -> None:
        """Find what was asked after another one was answered, and stands before it. On the way it is kept when the latest up to a position was asked."""
        latest: Operation | None = None
        positions, times = self._asked_at
        for own in sorted(first_asked, key=lambda own: self._by_id[own][-1].row.last):
            last = self._by_id[own][-1].row.last
            heard = first_heard.get(own)
            if latest is not None and heard is not None and heard.heard is not None and latest.asked.at > heard.heard.at:
                before = latest.asked.ids[0]
                self._find(
                    "time",
                    f"`{before}` was asked after `{own}` was answered, and stands before it, which is at {last}",
                    heard,
                    latest,
                    position=last,
                )
            asked = first_asked[own]
            if latest is None or asked.asked.at > latest.asked.at:
                latest = asked
            positions.append(last)
            times.append(latest.asked.at)

    def _newest(self, at: int) -> int:
        """Return the last position that can be there at this time: whatever follows was not asked yet."""
        positions, times = self._asked_at
        place = bisect_right(times, at)
        return self._row_before(positions[place]) if place < len(positions) else self._lasts[-1]

    def _row_before(self, position: int) -> int:
        return self._lasts[max(bisect_left(self._lasts, position) - 1, 0)]

    def _conditions(self, writes: Iterable[Operation]) -> None:
        places = [position for position, *_ in self._events]
        for operation in writes:
            unless, heard = operation.asked.unless, operation.heard
            if unless is None or heard is None:
                continue
            conflict = heard.error.startswith("Conflict: ")
            entry = self._by_id.get(operation.asked.ids[0])
            if entry is None and not conflict:
                continue
            until = self._newest(heard.at) if conflict or entry is None else entry[0].row.position - 1
            between = self._events[bisect_right(places, unless.after) : bisect_right(places, until)]
            against = next((position for position, name, terms in between if unless.query.matches(name, terms)), None)
            own = operation.asked.ids[0]
            if conflict and against is None:
                self._find("refused", f"`{own}` was refused as a conflict, and nothing that its condition excludes is recorded", operation)
            elif not conflict and against is not None:
                text = f"`{own}` is recorded at {until + 1}, and its condition excludes the event at {against}, after {unless.after}"
                self._find("boundary", text, operation, position=until + 1)

    # --- what was read

    def reads(self) -> None:
        seen: dict[tuple[str, str, str], Operation] = {}
        for operation in sorted(self._operations, key=lambda one: one.asked.at):
            asked, heard = operation
            if heard is None or asked.does not in READS or heard.outcome != "answered" or asked.does == "state":
                continue
            if asked.does == "log":
                self._read_log(operation)
                continue
            if not heard.positions:
                raise Invalid(f"a look at a {asked.does} says as of which position it is, and this one does not: {operation}")
            [position] = heard.positions
            key = asked.session, asked.does, asked.what
            before = seen.get(key)
            if position < asked.since:
                text = f"`{asked.what}` was asked for as of position {asked.since} or later, and answered as of {position}"
                self._find("stale", text, operation, position=position)
            if before is not None and before.heard is not None and position < before.heard.positions[0]:
                text = f"`{asked.what}` was answered as of {before.heard.positions[0]}, and then as of {position}"
                self._find("backwards", text, before, operation, position=position)
            self._seen(position, operation)
            seen[key] = operation

    def _seen(self, position: int, operation: Operation) -> None:
        asked, heard = operation
        assert heard is not None, "it was answered"
        if position > self._newest(heard.at):
            text = f"`{asked.what}` was answered as of position {position}, and what stands there was not there yet"
            self._find("early", text, operation, position=position)
        elif self._lasts[bisect_left(self._lasts, position)] != position:
            text = f"`{asked.what}` was answered as of position {position}, which lies inside a command"
            self._find("torn", text, operation, position=position)

    def _read_log(self, operation: Operation) -> None:
        heard = operation.heard
        assert heard is not None, "it was answered"
        found = [(position, own) for position, own in heard.rows]
        if not found:
            return
        last = found[-1][0]
        self._seen(last, operation)
        expected = {place: self._ids[place] for place in range(operation.asked.since + 1, min(last + 1, len(self._ids)))}
        seen = dict(reversed(found))
        for position in sorted(expected.keys() | seen.keys()):
            if position not in seen:
                self._find("missed", f"a reader went on to {last} and did not see the record at {position}", operation, position=position)
            elif expected.get(position) != seen[position]:
                text = f"a reader saw `{seen[position]}` at {position}, and `{expected.get(position)}` stands there"
                self._find("differs", text, operation, position=position)
            else:
                continue
            return
        if any(one[0] > other[0] for one, other in pairwise(found)):
            self._find("missed", f"a reader up to {last} saw records that are not in the order of the log", operation, position=last)

    # --- what was decided

    def decisions(self, app: Wiring) -> None:
        for divergence in decide_again(app, self._log, shown_max=1 << 30).divergences:
            said = "; ".join(f"{one.path}: {one.then!r} is recorded, {one.now!r} follows" for one in divergence.differences[:3])
            outcome = next((one for one in divergence.differences if one.path == "outcome"), None)
            refused = outcome is not None and str(outcome.then).startswith("refused") and outcome.now == "accepted"
            text = f"`{divergence.handler}` has not decided `{divergence.id}`, at {divergence.position}, on what stands before it: {said}"
            self._find("refused" if refused else "boundary", text, *self._of(divergence.id), position=divergence.position)

    # --- what the log comes to

    def folds(self, running: Running | None, app: Wiring) -> None:
        states = dict.fromkeys([*(fold.state for fold in app.folds), *app.views, *app.shares])
        by_name = {fold.name: fold for fold in map(fold_of, states) if fold.evolve is not None}
        looks: dict[int, list[tuple[Fold, Operation]]] = defaultdict(list)
        watched: dict[tuple[str, tuple[Any, ...]], list[tuple[int, Any]]] = {}
        """By name and key, as a line has it: from which position on a state was what."""
        keys: dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]] = {}
        asked_for: list[tuple[Fold, Operation]] = []
        for operation in self._operations:
            asked, heard = operation
            if heard is None or heard.outcome != "answered" or asked.does == "log":
                continue
            fold = by_name.get(asked.what)
            if fold is None:
                raise Invalid(f"`{asked.what}` was asked for, and the app has no such state: {operation}", state=asked.what)
            if asked.does == "state":
                key = dict(zip(fold.key, asked.key, strict=True))
                watched[asked.what, asked.key], keys[asked.what, asked.key] = [(0, None)], tuple(_read_as(fold, key).values())
                asked_for.append((fold, operation))
            elif not fold.joins:
                looks[heard.positions[0]].append((fold, operation))
            elif running is not None and heard.positions[0] in self._lasts:
                past = running.at(heard.positions[0]).view(_state_of(states, fold)).rows(limit=HIGH)
                self._compare(fold, past, operation)
        memory = Memory(self._log.engine, self._reader, [fold for fold in by_name.values() if not fold.joins])
        decode = self._reader.pages(app.events)
        for fold, operation in looks.pop(0, ()):
            self._compare(fold, (), operation)
        for rows in self._log.engine.read():
            for row, records in zip(rows, decode(rows), strict=True):
                memory.apply(row, None, records)
                for asked_of, versions in watched.items():
                    entry = memory.entries(by_name[asked_of[0]]).get(keys[asked_of])
                    value = entry.state if entry is not None else None
                    if value is not versions[-1][1]:
                        versions.append((row.last, value))
                for fold, operation in looks.get(row.last, ()):
                    self._compare(fold, (entry.state for entry in memory.entries(fold).values() if entry.state is not None), operation)
        self._states(asked_for, watched)

    def _compare(self, fold: Fold, states: Iterable[State], operation: Operation) -> None:
        asked, heard = operation
        assert heard is not None, "it was answered"
        [position] = heard.positions
        left = [_read_as(fold, row) for row in heard.rows]
        equal = _read_as(fold, asked.equal)
        fields = left[0].keys() if asked.does == "copy" and left else None  # it may have some of them only
        for state in states:
            row = _fields_of(state)
            if any(row[field] != value for field, value in equal.items()):
                continue
            row = row if fields is None else {field: row.get(field) for field in fields}
            if row not in left:
                text = f"the {asked.does} `{asked.what}` as of position {position} has not the row {_shown(row)}, which the log comes to"
                self._find("differs", text, operation, position=position)
                return
            left.remove(row)
        if left:
            text = (
                f"the {asked.does} `{asked.what}` as of position {position} has the row {_shown(left[0])}, which the log does not come to"
            )
            self._find("differs", text, operation, position=position)

    def _states(
        self, asked_for: Sequence[tuple[Fold, Operation]], watched: Mapping[tuple[str, tuple[Any, ...]], Sequence[tuple[int, Any]]]
    ) -> None:
        """Give each look at a state the first position that explains it, not before what its session knows already: no later one leaves more to come."""
        plainly = {key: [(start, None if one is None else _fields_of(one)) for start, one in versions] for key, versions in watched.items()}
        floors: dict[str, int] = defaultdict(int)
        wanted = {id(operation): fold for fold, operation in asked_for}
        for operation in sorted(self._operations, key=lambda one: one.asked.at):
            asked, heard = operation
            if heard is None:
                continue
            if id(operation) not in wanted:
                if asked.does == "write" and heard.positions:
                    floors[asked.session] = max(floors[asked.session], *heard.positions)
                continue
            known, floor = floors[asked.session], max(floors[asked.session], asked.since)
            value = _read_as(wanted[id(operation)], heard.rows[0]) if heard.rows else None
            versions = plainly[asked.what, asked.key]
            ends = [start - 1 for start, _ in versions[1:]] + [1 << 62]
            newest = self._newest(heard.at)
            fits = [(start, end) for (start, one), end in zip(versions, ends, strict=True) if one == value]
            good = next((start for start, end in fits if end >= floor and start <= newest), None)
            if good is not None:
                floors[asked.session] = max(floor, good)
                continue
            at = f"`{asked.what}` of {asked.key!r} was answered as {'nothing' if value is None else _shown(value)}"
            if not fits:
                self._find("differs", f"{at}, which it is at no position", operation)
            elif all(start > newest for start, _ in fits):
                self._find("early", f"{at}, which it is from {fits[0][0]} on, and that was not there yet", operation, position=fits[0][0])
            elif any(end >= known for _, end in fits) or known < asked.since:
                self._find("stale", f"{at}, which it is until {fits[-1][1]}, and was asked for as of {asked.since}", operation)
            else:
                self._find("backwards", f"{at}, which it is until {fits[-1][1]}, and its session knew position {known}", operation)


def _fields_of(state: Any) -> dict[str, Any]:
    return {field.encode_name: getattr(state, field.name) for field in msgspec.structs.fields(state)}


def _read_as(fold: Fold, row: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a line has of some fields as their types: `1.5` is the amount that `1.50` is. What can't be read stays what it is, and differs."""
    types = {field.encode_name: field.type for field in msgspec.structs.fields(fold.state)}
    found = dict(row)
    for field in found.keys() & types.keys():
        with contextlib.suppress(msgspec.ValidationError):
            found[field] = msgspec.convert(found[field], types[field])
    return found


def _shown(row: Mapping[str, Any]) -> str:
    return msgspec.json.encode(row).decode()


def _erased(event: Any) -> bool:
    return event is None


def _state_of(states: Iterable[type[State]], fold: Fold) -> type[State]:
    return next(state for state in states if fold_of(state) is fold)
