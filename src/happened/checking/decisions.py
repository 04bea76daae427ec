"""Decisions: every recorded input is decided again by today's code, and what comes of it compared with what was recorded.

The log is read once, from its beginning, in pages. The states are kept in memory, folded from the events that were *recorded*, so that one decision that
differs makes no other differ. A page is read some way ahead: a run of a reaction reads its states as of a position that is only known from what it sent.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple  # Any: events and commands of any class

import msgspec

from happened.checking.differences import (
    Difference,
    Divergence,
    MayDiffer,
    differing_messages,
    differing_outcomes,
    plain,
    same_messages,
)
from happened.checking.gone import ERASED_TEXT, Gone
from happened.checking.memory import Memory
from happened.checking.reactions import Runs
from happened.checking.visit import seldom_collected
from happened.core.errors import Error, Invalid, Refused
from happened.core.messages import Several, events_of, name_of
from happened.core.store import Row
from happened.log.deciding import deciding
from happened.log.fingerprint import fingerprint_of
from happened.log.log import Log
from happened.log.records import INTERNAL, Reader
from happened.log.row import ANSWER, REFUSAL, Header, decode_header, encode, is_unkept, taken_apart, taken_apart_text
from happened.log.typed import Typed
from happened.sourcing.gateway import Answers, answers_in
from happened.sourcing.handling import Handler, Hearing, Refusal, refusal_in
from happened.sourcing.replay import Decided, Input, RecordedCopies, Replay, Unknown, as_recorded, now_of
from happened.wiring import Wiring

PAGES_AHEAD = 20
"""Pages of 1,000 rows that are read ahead."""

HANDLED = re.compile(r'"(?:d|s|h)":')
"""Stands in the header of each row that a handler made, and may stand in others."""
HEARS_NOTHING = Hearing("", 0, None, None, RecordedCopies({}))
"""For deciders that ask for states alone."""

NO_DECIDER = "no decider takes it today"
NOT_KEPT = 'its input was not kept (`store="decisions"`)'
ERASED = "it was erased"
NOT_DECIDED = "it is not decided yet"
SKIPPED = "somebody had it skipped"
FAILED = "its run failed, and nothing of it was recorded"


class Checked(msgspec.Struct):
    """What came of deciding a log again."""

    position: int
    """Up to where the log was read."""
    inputs: int = 0
    """Recorded inputs that were decided again."""
    same: int = 0
    declared: int = 0
    """Those that differ only where they may."""
    runs: int = 0
    """Recorded runs of reactions that were run again."""
    unproven: int = 0
    """Those that come to something else, and had read what is erased since, or may have with the same code: why can't be told."""
    diverged: int = 0
    by_handler: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """How many diverged, by decider or reaction."""
    unchecked: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """What could not be decided again, by why."""
    divergences: list[Divergence] = msgspec.field(default_factory=list[Divergence])
    """The first of them."""
    unproven_divergences: list[Divergence] = msgspec.field(default_factory=list[Divergence])
    """The first of those of which it can't be told why."""

    @property
    def hidden(self) -> int:
        """How many divergences are counted and not listed."""
        return self.diverged - len(self.divergences)


class Page(NamedTuple):
    """Rows of the log, read ahead, with what is needed of them."""

    rows: Sequence[Row]
    headers: Sequence[Header | None]
    """`None`: the row holds facts."""
    records: Sequence[Sequence[Any]]
    """For each row its records, as `Pages` decodes them."""
    commands: Sequence[Any]
    """For each row the command that it holds; `None` for none, and for one that was erased."""


class Waiting(NamedTuple):
    """An input that was enqueued, until the row comes that decides it."""

    row: Row
    command: Any


def decide_again(
    app: Wiring,
    log: Log,
    *,
    may_differ: Sequence[str] = (),
    shown_max: int = 100,
    progress: Callable[[int, int | None], None] = lambda _done, _all: None,
) -> Checked:
    """Decide every recorded input again, and run every recorded run of a reaction again. Nothing is written, and nobody outside is asked.

    `may_differ` names fields, as `OrderPlaced.total`. Of what diverges the first `shown_max` are told in full. `Incompatible` where today's classes can't
    read the log. Memory: the states, and some 20,000 rows. Cost: 10 to 20 µs for an input of a short decider.
    """
    with seldom_collected():
        return _Deciding(app, log, MayDiffer(may_differ, [*app.events, *app.handlers]), shown_max).through(progress)


class _Deciding:
    """One walk through a log."""

    def __init__(self, app: Wiring, log: Log, may_differ: MayDiffer, shown_max: int) -> None:
        self._app = app
        self._log = log
        self._may_differ = may_differ
        self._shown_max = shown_max
        self._reader = Reader(log.names, [*app.events, *app.handlers], app.called, app.lifts)
        self._typed = {event: Typed(event, log.names, name=app.called.get(event)) for event in app.events}
        self._numbers = {
            handler: {event: log.names.number(self._typed[event].wish) for event in handler.yields} for handler in app.handlers.values()
        }
        """By what numbers the events of each decider would be recorded."""
        self._replay = Replay(app.handlers, app.gateways, app.systems)
        of_deciders = [fold for handler in app.handlers.values() for fold in handler.states]
        folds = dict.fromkeys([*of_deciders, *(fold for reaction in app.reactions for fold in reaction.states)])
        self._memory = Memory(log.engine, self._reader, folds)
        self._today = {handler: fingerprint_of(handler.function).digest for handler in app.handlers.values()}
        self._head = log.head
        self.found = Checked(self._head)
        self._unchecked: Counter[str] = Counter()
        self._waiting: dict[str, Waiting] = {}
        self._gone = Gone(self._reader, self._memory.get)
        self._runs = Runs(app.reactions, log, self._reader, self._replay, self._gone)

    def through(self, progress: Callable[[int, int | None], None]) -> Checked:
        ahead: deque[Page] = deque()
        pages = self._pages()
        last = False
        while not last or ahead:
            while not last and len(ahead) < PAGES_AHEAD:
                page = next(pages, None)
                if page is None:
                    last = True
                else:
                    ahead.append(page)
                    self._runs.look_ahead(page.rows, page.headers, page.records, page.commands)
            if ahead:
                self._take(ahead.popleft())
                progress(self._memory.position, self._head)
        self._compare_runs(None)
        found = self.found
        found.runs, found.same = self._runs.run, found.same + self._runs.same
        self._unchecked.update({f"{why} (a reaction's run)": count for why, count in self._runs.unchecked.items()})
        self._unchecked[NOT_DECIDED] += len(self._waiting)
        names = {handler.name for handler in self._app.handlers.values()}
        failed = [count for handler, outcome, count, *_ in self._log.engine.samples() if outcome == "failed" and handler in names]
        self._unchecked[FAILED] += sum(failed)
        found.unchecked = {why: count for why, count in sorted(self._unchecked.items()) if count}
        return found

    def _pages(self) -> Iterator[Page]:
        reader = self._reader
        records_of, commands_of = reader.pages(self._app.events), reader.pages(self._app.handlers)
        for rows in self._log.engine.read(until=self._head):
            reader.learn(rows)
            commands = iter(commands_of.flat([(row.position, row.position + 1, f"[{row.input}]") for row in rows if row.input is not None]))
            yield Page(
                rows,
                [None if row.input is None and not HANDLED.search(row.head) else decode_header(row.head) for row in rows],
                records_of(rows),
                [next(commands).body if row.input is not None else None for row in rows],
            )

    def _take(self, page: Page) -> None:
        names, due, memory, waiting = self._log.names.by_number, self._runs.due, self._memory, self._waiting
        deciders = {number for number, name in names.items() if name.what == "decider"}
        with deciding():
            for row, header, records, command in zip(*page, strict=True):
                if header is None:  # facts
                    pass
                elif header.handler in deciders:
                    self._decide(row, header, records, command)
                elif header.outcome == "pending" and header.id is not None:
                    waiting[header.id] = Waiting(row, command)
                elif header.decides is not None:
                    waiting.pop(header.decides, None)
                    self._unchecked[SKIPPED] += 1
                memory.apply(row, header, records)
                self._gone.look(row)
                memory.position = row.last
                if row.last in due:
                    self._runs.at(row.last)
        self._compare_runs(page.rows[-1])

    def _compare_runs(self, last: Row | None) -> None:
        for diverged in self._runs.passed(last):
            self._diverged(diverged)

    # --- one input

    def _decide(self, row: Row, header: Header, records: Sequence[Any], command: Any) -> None:
        own = header.id
        kept: Waiting | None = None
        if header.decides is not None:
            own = header.decides
            kept = self._waiting.pop(own, None)
            command = kept.command if kept is not None else None
        handler = self._app.handlers.get(command.__class__)
        if own is None or handler is None:
            self._unchecked[self._why_not(row if kept is None else kept.row, command)] += 1
            return
        entry = self._gone.entry
        self._gone.begin()
        now: list[Any] = []
        refusal: Refusal | None = None
        failure: Exception | None = None
        try:
            if handler.wants_world or handler.copied:
                given = Input(own, command, now_of(row, header, kept.row if kept is not None else None))
                now = self._replay.run(handler, given, entry, Answers(answers_in(row).values()), [])
            else:
                now = handler.call(command, (), entry, [], HEARS_NOTHING)
                if self._is_word_for_word(row, handler, now):
                    self._gone.learn(_own(header, handler))
                    self.found.inputs += 1
                    self.found.same += 1
                    return
        except Refused as refused:
            refusal = as_recorded(refused)
        except Unknown as unknown:
            failure = unknown.error
        except Exception as error:  # noqa: BLE001 - whatever today's code raises is what came of it
            failure = error
        then = [one.body for one in records if one.body is not None]
        others = [one.__struct_config__.tag for one in records if one.body is None] if len(then) != len(records) else ()
        if Several in map(type, then):
            then = [event for body in then for event in events_of(body)]
        if others and self._is_erased(row, refusal):
            self._unchecked[ERASED] += 1
            return
        self._gone.learn(_own(header, handler))
        self.found.inputs += 1
        if failure is None and self._is_same(row, handler, then, now, refusal, others):
            self.found.same += 1
        else:
            self._look_closely(row, header, handler, own, Decided(now, refusal, failure))

    def _is_word_for_word(self, row: Row, handler: Handler, now: Sequence[Any]) -> bool:
        """Say whether a row holds these events and nothing else, as they would be recorded today: most do, and nothing more need be looked at."""
        numbers = self._numbers[handler]
        try:
            return encode([(numbers[event.__class__], event) for event in now]) == row.records.encode()
        except (KeyError, TypeError, UnicodeEncodeError, msgspec.MsgspecError):  # it could not be recorded: that is told later
            return False

    def _is_same(
        self, row: Row, handler: Handler, then: Sequence[Any], now: Sequence[Any], refusal: Refusal | None, others: Sequence[int]
    ) -> bool:
        """Say whether it is certain, without a closer look, that all is as it was. `others` are the numbers of what was recorded beside events."""
        if refusal is not None:
            said = [bytes(record.body) for record in taken_apart_text(row.records, row.position) if record.number == REFUSAL]
            return not then and said == [encode(refusal._asdict())]
        asked = all(number == ANSWER for number in others)
        return asked and same_messages(then, now) and all(event.__class__ in handler.yields for event in now)

    def _why_not(self, row: Row, command: Any) -> str:
        if command is not None:
            return NO_DECIDER
        if row.input is None or is_unkept(row):
            return NOT_KEPT
        _, asked = next(taken_apart(row))
        return ERASED if bytes(asked.body) == b"null" else NO_DECIDER

    def _is_erased(self, row: Row, refusal: Refusal | None) -> bool:
        """Say whether there is nothing to compare with: an event or an answer is erased, or what a refusal said, and it is refused again."""
        if ERASED_TEXT not in row.records:
            return False
        erased = {record.number for record in taken_apart_text(row.records, row.position) if bytes(record.body) == b"null"}
        return bool(erased - {REFUSAL}) or (bool(erased) and refusal is not None)

    def _look_closely(self, row: Row, header: Header, handler: Handler, id: str, decided: Decided) -> None:
        """Compare field by field."""
        refused = refusal_in(row)
        now, failure = self._checked(handler, decided)
        differences = list(differing_outcomes(refused, decided.refusal, failure))
        if failure is None and (now or refused is None):
            recorded = [(record.name, plain(record.body)) for record in self._reader.records(row) if record.kind == INTERNAL]
            differences += differing_messages(recorded, now)
        if not differences:
            self.found.same += 1
            return
        then = self._log.names.by_number.get(header.handler or 0)
        self._diverged(
            Divergence(
                row.position,
                id,
                handler.name,
                name_of(handler.command)[0],
                tuple(differences),
                then.fingerprint if then is not None else "",
                self._today[handler],
                *self._gone.read(),
            )
        )

    def _checked(self, handler: Handler, decided: Decided) -> tuple[list[tuple[str, Any]], Exception | None]:
        """Return the events as they would be recorded, or why they could not be."""
        now: list[tuple[str, Any]] = []
        try:
            for event in decided.events:
                cls: type[Any] = event.__class__
                if cls not in handler.yields:
                    raise Invalid(f"`{handler.name}` yields a `{cls.__name__}`, which its annotation does not name")
                now.append((self._app.name_in_log(cls), plain(self._typed[cls].checked(event)[1])))
        except Error as error:
            return now, decided.failure or error
        return now, decided.failure

    def _diverged(self, divergence: Divergence) -> None:
        found = self.found
        left: list[Difference] = [one for one in divergence.differences if not self._may_differ.allows(one)]
        if not left:
            found.declared += 1
            return
        shown = found.divergences
        if divergence.unproven:
            found.unproven += 1
            shown = found.unproven_divergences
        else:
            found.diverged += 1
            found.by_handler[divergence.handler] = found.by_handler.get(divergence.handler, 0) + 1
        if len(shown) < self._shown_max:
            shown.append(msgspec.structs.replace(divergence, differences=tuple(left)))


def _own(header: Header, handler: Handler) -> Iterator[Any]:
    """Return what a header says of the reads of a decision, without those of copies: their positions are another log's."""
    return (version for place, version in enumerate(header.reads) if place not in handler.copied)
