"""Handling: one command, from what it says to what is recorded.

A `Handler` is a decider read once: what fills its parameters, what it may yield. A `Decision` is a job for the writer: it looks whether the id is known,
fills the states from the batch's overlay, runs the decider, and drafts the row: what was asked, the answers of the outside, and what was decided or refused.
Everything that the decider yields is encoded and read back, so that what is recorded is what a replay will see.
"""

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar  # Any: commands and events of any class

import msgspec

from happened.core.annotations import Parameter, label, parameters_of, yielded_by
from happened.core.errors import Error, IdReused, Invalid, Overloaded, Refused, Unanswered
from happened.core.filling import Fill, fill_for
from happened.core.messages import Command, Event, Recorded, called, instead_of, name_of
from happened.core.plain import NO_DATA, encoded
from happened.core.state import Fold, Key, Replica, State, fold_alone_of, replica_in, state_in
from happened.core.store import Row
from happened.core.tags import is_a
from happened.core.waiting import within
from happened.core.world import Chance, World, moment
from happened.log.deciding import deciding
from happened.log.held import note_of
from happened.log.names import Wish
from happened.log.row import (
    ANSWER,
    NOTHING,
    REFUSAL,
    SALT_BYTES,
    Header,
    Sent,
    Written,
    body_digest,
    decode_extra,
    decode_header,
    encode,
    is_erased,
    taken_apart,
)
from happened.log.typed import Typed, encode_in_order
from happened.log.worker import outcome_of as counted_as
from happened.log.writer import Batch, Draft, Job
from happened.sourcing.asked import Asked
from happened.sourcing.gateway import Answer, Answers, Asking, NeedsOutside, NotNoted, Outside, TimeOver, questions_in
from happened.sourcing.memory_image import Kept, MemoryImage

R = TypeVar("R")

ANSWERS_NOTE = "answers/"
PENDING_NOTE = "pending/"

_NO_NOTES: dict[str, str | None] = {}
_decode_answers = msgspec.json.Decoder(list[Answer]).decode


class Heard(msgspec.Struct, frozen=True, gc=False):
    """What a decider heard of another system's state, as it is recorded: an answer."""

    version: int
    position: int
    age_us: int
    state: msgspec.Raw = msgspec.Raw(b"null")


class Copies(Protocol):
    """The copies of other systems' states, as deciders read them."""

    def name(self, state: type[State]) -> str:
        """Return what a copy is called."""
        ...

    def wait(self, state: type[State], wait_seconds_max: float) -> None:
        """Wait until a copy can be answered from. `Late` if it can't in time."""
        ...

    def get(self, state: type[State], key: Key) -> Heard:
        """Return what a copy says of a key. `Late` if it can't say anything yet."""
        ...


class Copied(NamedTuple):
    """A parameter that is a copy of another system's state: whether it asks for position and age, too, and how the state is read."""

    whole: bool
    decode: Callable[[msgspec.Raw], Any]


class Handler:
    """A decider, read once. `copies` are the states that are kept by other systems, of which it may ask for the copy here."""

    def __init__(self, function: Callable[..., Any], copies: Container[type[State]] = ()) -> None:
        checked: object = function  # a checker has not seen every caller
        if not callable(checked) or isinstance(checked, type):
            raise Invalid(f"`deciders` lists `{function!r}`, which is no function", entry=repr(function))
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise Invalid(
                f"`{label(function)}` is `async`, and a decider is a plain function: what waits for the outside is a gateway, asked by `World.ask`",
                function=label(function),
            )
        self.function = function
        self.generates = inspect.isgeneratorfunction(function)
        self.name, self.version = name_of(function)
        parameters = parameters_of(function)
        if not parameters:
            raise Invalid(f"`{label(function)}` is no decider: its first parameter must be a command", function=label(function))
        command = parameters[0].annotation
        if not is_a(command, Command):
            raise Invalid(
                f"`{label(function)}` is no decider: its first parameter must be a command, not `{label(command)}`",
                function=label(function),
            )
        self.command: type[Command] = command
        self.yields = frozenset(self._events(function))
        self.fills: list[Fill] = []
        self.slots: list[int | str] = []
        """For each parameter after the command: the place of its fill, or `world`."""
        self.copied: dict[int, Copied] = {}
        """The places of fills that are copies of another system's states."""
        for parameter in parameters[1:]:
            copied = replica_in(parameter.annotation)
            asked = state_in(parameter.annotation)
            if parameter.annotation is World:
                self.slots.append("world")
            elif copied is not None or (asked is not None and asked[0] in copies):
                self._add_copy(function, command, parameter, copies)
            elif state_in(parameter.annotation) is not None:
                fill = fill_for(function, command, parameter, self.fills)
                if fill.fold.evolve is None:
                    raise Invalid(
                        f"`{fill.fold.state.__name__}` has no `evolve`, so `{label(function)}` can't decide on it",
                        state=fill.fold.state.__name__,
                    )
                if fill.fold.joins:
                    raise Invalid(
                        f"`{fill.fold.state.__name__}` asks for other states in `evolve` or `key_of`, so no boundary follows from it: "
                        "a state that decides may ask for `Recorded` only",
                        state=fill.fold.state.__name__,
                    )
                self.slots.append(len(self.fills))
                self.fills.append(fill)
            elif parameter.annotation is Recorded:
                raise Invalid(f"`{label(function)}` asks for `Recorded`: a command is not recorded yet when it is decided; use `World`")
            elif not parameter.default:
                raise Invalid(
                    f"parameter `{parameter.name}` of `{label(function)}` can't be filled: a decider may ask for states and the `World`",
                    parameter=parameter.name,
                )
        self.wants_world = "world" in self.slots
        self.states = [fill.fold for place, fill in enumerate(self.fills) if place not in self.copied]
        self.wish = Wish("decider", self.name, self.version, "")
        self.runs = 0
        self.ran_seconds = self.longest_seconds = 0.0
        """Of all runs under the lock in this process, those that came to nothing, too."""

    def _add_copy(self, function: Callable[..., Any], command: type[Command], parameter: Parameter, copies: Container[type[State]]) -> None:
        """Add a parameter that is filled from a copy of another system's state."""
        state = replica_in(parameter.annotation)
        whole = state is not None
        if state is None:
            asked = state_in(parameter.annotation)
            assert asked is not None, "it was looked at"
            state, many = asked
            if many:
                raise Invalid(
                    f"parameter `{parameter.name}` of `{label(function)}`: a decider asks for one copy of `{state.__name__}`, not for a Mapping of them",
                    parameter=parameter.name,
                )
        if state not in copies:
            raise Invalid(
                f"parameter `{parameter.name}` of `{label(function)}` is a copy of `{state.__name__}`, which the app keeps none of: list it in "
                "`replicas={...}`",
                parameter=parameter.name,
            )
        fill = fill_for(function, command, parameter._replace(annotation=state, optional=parameter.optional or whole), self.fills)
        self.copied[len(self.fills)] = Copied(whole, msgspec.json.Decoder(state | None).decode)
        self.slots.append(len(self.fills))
        self.fills.append(fill)

    def ran(self, seconds: float) -> int:
        """Count a run; return how long it was in microseconds."""
        self.runs += 1
        self.ran_seconds += seconds
        if seconds > self.longest_seconds:  # noqa: PLR1730 - `max` is a call more, for every command
            self.longest_seconds = seconds
        return int(seconds * 1e6)

    def listed(self, returned: Any) -> list[Any]:
        """Return the events of a decider that is no generator. `Invalid` where it returned none, or one that is in no list."""
        if isinstance(returned, Iterable):
            events: list[Any] = list(returned)  # pyright: ignore[reportUnknownArgumentType]  # whatever it is, each is checked when it is recorded
            return events
        shown = "None: yield its events" if returned is None else f"a `{type(returned).__name__}`: yield it"
        raise Invalid(
            f"`{label(self.function)}` returned {shown}, or return {'an empty list' if returned is None else 'a list'}",
            function=label(self.function),
        )

    def call(self, command: Any, keys: Sequence[Any], entry: Callable[[Fold, Key], Any], reads: list[Any], hearing: "Hearing") -> list[Any]:
        """Call the function on a command, with these states and what it hears; return what it yields, and say in `reads` as of which versions.

        `keys` are those of the first parameters, where they are known already.
        """
        filled: list[Any] = []
        copied: dict[int, Any] = {}
        known = len(keys)
        for place, fill in enumerate(self.fills):
            key = keys[place] if place < known else fill.find(command, filled)
            if place in self.copied:
                heard = hearing.copy(command, fill, key)
                reads.append(heard.version)
                state = self.copied[place].decode(heard.state)
                state = state if state is not None or fill.optional else fill.fold.initial(key)
                if self.copied[place].whole:
                    copied[place] = Replica(state, heard.position, timedelta(microseconds=heard.age_us))
                filled.append(state)
            elif fill.many:
                entries = {one: entry(fill.fold, one) for one in key}
                single = len(fill.fold.key) == 1
                states = {
                    (one[0] if single else one): found.state if found.state is not None else fill.fold.initial(one)
                    for one, found in entries.items()
                }
                reads.append([found.version for found in entries.values()])
                filled.append(states)
            elif key is None:
                if not fill.optional:
                    raise Invalid(f"`{type(command).__name__}` has no value for the key of `{fill.parameter}`", parameter=fill.parameter)
                reads.append(0)
                filled.append(None)
            else:
                found = entry(fill.fold, key)
                reads.append(found.version)
                filled.append(found.state if found.state is not None or fill.optional else fill.fold.initial(key))
        arguments = filled
        world: DecidingWorld | None = None
        if self.wants_world:
            world = hearing.world(entry, reads)
            arguments = [world if slot == "world" else filled[slot] for slot in self.slots]  # type: ignore[index]  # a slot is a place or `world`
        elif copied:
            arguments = list(filled)
        for place, copy in copied.items():
            arguments[self.slots.index(place)] = copy
        try:
            yielded = self.function(command, *arguments)
            return list(yielded) if self.generates else self.listed(yielded)
        finally:
            if world is not None:
                world.check_all_read()

    @staticmethod
    def _events(function: Callable[..., Any]) -> Iterable[type]:
        events = yielded_by(function)
        for event in events:
            if not is_a(event, Event):
                raise Invalid(
                    f"`{label(function)}` yields `{label(event)}`, which is no event of its own: name the events", function=label(function)
                )
        return events


_decode_heard = msgspec.json.Decoder(Heard).decode


class Refusal(NamedTuple):
    """What a refused command hears, the first time and every time after."""

    text: str
    facts: dict[str, Any]

    def error(self) -> Refused:
        """Return it as the error that it is to the caller."""
        return Refused(self.text, **self.facts)

    def withdrawn(self) -> Refused:
        """Return it as the error of what was only tried, or taken back: nothing was recorded."""
        error = self.error()
        error.recorded = False
        return error


def said_in(body: bytes | msgspec.Raw) -> Refusal:
    """Return a refusal as it was recorded, its facts as plain data: so the first hearing and all repeated ones are the same."""
    found: dict[str, Any] = msgspec.json.decode(body) or {"text": "it was refused, and why was erased", "facts": {}}
    return Refusal(found["text"], found["facts"])


class Known(NamedTuple):
    """The id was known: the row that used it."""

    row: Row


class DecidingWorld:
    """The `World` of one run of a decider."""

    def __init__(self, now: int, id: str, asking: Asking, entry: Callable[[Fold, Key], Any], reads: list[Any]) -> None:
        self.now = moment(now)
        self._chance = Chance(id)
        self._asking = asking
        self._entry = entry
        self._reads = reads
        self.unread: Error | None = None
        """Why a state could not be read."""

    def new_id(self) -> Any:
        """Return the next id of this command."""
        return self._chance.new_id()

    def random(self) -> float:
        """Return the next number of this command."""
        return self._chance.random()

    def state(self, state: type[State], /, *key: Any, **named: Any) -> Any:
        """Return a state by its key, at the position of the decision."""
        fold = fold_alone_of(state)
        found = key_from(fold, key, named)
        try:
            entry = self._entry(fold, found)
        except Error as error:
            self.unread = error
            raise
        self._reads.append((fold.name, entry.version))  # without its key: a header outlasts the erasure of what it is about
        return entry.state if entry.state is not None else fold.initial(found)

    def ask(self, gateway: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Ask the outside."""
        return self._asking.ask(gateway, args, kwargs)

    def ask_all(self, gateway: Callable[..., Any], questions: Iterable[tuple[Any, ...]], /) -> list[Any]:
        """Ask the outside many questions at once."""
        return self._asking.ask_all(gateway, [(args, {}) for args in questions_in(gateway, questions)])

    def through(self, run: Callable[["DecidingWorld"], R]) -> R:
        """Run something with this `World`, and check that it could read all that it asked for."""
        try:
            return run(self)
        finally:
            self.check_all_read()

    def check_all_read(self) -> None:
        """Raise why a state could not be read: nothing is decided without it, whatever a function that caught the error has made of it."""
        if self.unread is not None:
            raise self.unread


class Hearing(NamedTuple):
    """What one run of a decider hears beside its states: the clock, ids, chance and answers of one command."""

    id: str
    now: int
    answers: Answers | None
    """The answers so far; `None` where it hears no World and no copies."""
    asking: Asking | None
    copies: Copies

    def world(self, entry: Callable[[Fold, Key], Any], reads: list[Any]) -> DecidingWorld:
        """Return its `World`."""
        assert self.asking is not None, "whoever hears a World may ask"
        return DecidingWorld(self.now, self.id, self.asking, entry, reads)

    def copy(self, command: object, fill: Fill, key: Key | None) -> Heard:
        """Return what a copy of another system's state says; the first time it is asked, and every later run of this decision hears the same."""
        if key is None:
            if not fill.optional:
                raise Invalid(f"`{type(command).__name__}` has no value for the key of `{fill.parameter}`", parameter=fill.parameter)
            return Heard(0, 0, 0)
        assert self.answers is not None, "what copies say is recorded as an answer"
        state = fill.fold.state
        question = (self.copies.name(state), encode(key), 0)
        known = self.answers.known.get(question)
        if known is None:
            known = Answer(question[0], msgspec.Raw(question[1]), answer=msgspec.Raw(encode(self.copies.get(state, key))))
            self.answers.put(known)
        return _decode_heard(known.answer)


def key_from(fold: Fold, key: tuple[Any, ...], named: Mapping[str, Any]) -> Key:
    """Return a key given by position or by name. `Invalid` for missing or unknown fields, and for values of a wrong type."""
    whole = (*key, *[named[field] for field in fold.key[len(key) :] if field in named])
    if len(whole) != len(fold.key) or not set(named) <= set(fold.key):
        raise fold.not_the_key(key, named)
    return fold.checked(whole)


class Decision(Job):
    """One command that is to be decided."""

    __slots__ = (
        "actor",
        "answers",
        "asked_bytes",
        "asked_typed",
        "causation",
        "command",
        "correlation",
        "decides",
        "depth",
        "events",
        "given",
        "handler",
        "handling",
        "keys",
        "needs_outside",
        "now",
        "occurred",
        "rounds",
        "sent",
        "traceparent",
    )

    def __init__(
        self, handling: "Handling", handler: Handler, typed: Typed, command: Any, body: bytes, id: str, now: int, *, given: bool
    ) -> None:
        Job.__init__(self, id)
        self.handling = handling
        self.handler = handler
        self.asked_typed = typed
        self.command = command
        self.asked_bytes = body
        self.now = now
        self.given = given
        self.actor = ""
        self.correlation: str | None = None
        self.causation: str | None = None
        self.occurred: int | None = None
        self.traceparent: str | None = None
        self.answers: Answers | None = None
        self.events: tuple[Any, ...] = ()
        self.needs_outside = False
        self.rounds = 0
        self.decides: str | None = None
        """The note of the pending input that this decides."""
        self.sent: Sent | None = None
        self.depth = 0
        self.keys: Sequence[Any] = ()
        """Of the states that the decider reads, as far as the command alone says them."""

    def may_be_ahead(self) -> bool:
        """Say whether nothing but states and ids decides it."""
        return self.decides is None and self.causation is None and not self.handler.wants_world and not self.handler.copied

    def draft(self, batch: Batch) -> Draft | None:
        """Decide, on what the batch has come to."""
        self.needs_outside = False
        if self.given and not self._may_decide(batch):
            return None
        if self.causation is not None and self.sent is None and self.decides is None:
            self.sent = batch.heard(self.causation)
        handling, handler = self.handling, self.handler
        handling.declare(batch)
        if self.given and self.answers is None and ((handler.wants_world and handling.outside.gateways) or handler.copied):
            kept = batch.notes_of(ANSWERS_NOTE + self.id).get(ANSWERS_NOTE + self.id)
            if kept is not None:
                self.answers = Answers(_decode_answers(kept))
        started = time.perf_counter()
        reads: list[Any] = []
        overlay: Any = batch.overlay
        refusal: Refusal | None = None
        try:
            try:
                asked = handling.only_states[handler]
                if asked is not None and len(asked) == len(self.keys) and None not in self.keys:
                    yielded = handler.function(self.command, *overlay.states(asked, self.keys, reads))
                    decided = list(yielded) if handler.generates else handler.listed(yielded)
                else:
                    decided = self.run(overlay.get, reads, may_ask=False)
            except Refused as refused:
                decided, refusal = [], Refusal(str(refused), refused.facts)
            if len(decided) == 1 and self.decides is None and self.answers is None:
                return self._drafted_one(batch, decided[0], reads, started)
            return self._drafted(batch, decided, refusal, reads, started)
        except NeedsOutside:
            self.needs_outside = True
            return None
        except Exception as error:
            self._failed(batch, error, handler.ran(time.perf_counter() - started))
            raise

    def not_added(self, batch: Batch, draft: Draft, error: Exception) -> None:
        """Hear that no state can take what was decided: it has failed, as where the decider raises."""
        self._failed(batch, error, draft.header.ran)

    def _failed(self, batch: Batch, error: Exception, ran: int) -> None:
        handling, answers = self.handling, self.answers
        batch.engine.sample(self.handler.name, counted_as(error), ran, f"{self.id}: {''.join(traceback.format_exception(error))[-2000:]}")
        if answers is None:
            return
        batch.kept.update(handling.asked.over(self.id, answers))
        heard = [answer for answer in answers.known.values() if not answer.error] if self.given else []
        if heard:  # for a retry of the same id; what failed is asked again then
            batch.kept[ANSWERS_NOTE + self.id] = encode(heard).decode()

    def _may_decide(self, batch: Batch) -> bool:
        """Say whether the id, which was given, is free; else `result` says who has used it, or the input is another owner's by now."""
        if self.decides is not None:
            free = self.decides not in batch.notes and self.decides in batch.notes_of(self.decides)
        else:
            row = batch.row_with(self.id)
            if row is not None:
                self.result = Known(self._same(batch, row))
            free = row is None
        if not free and self.answers is not None:  # somebody else has decided it while the outside was asked
            batch.kept.update(self.handling.asked.over(self.id, self.answers))
        return free

    def run(
        self,
        entry: Callable[[Fold, Key], Any],
        reads: list[Any],
        *,
        may_ask: bool,
        loop: asyncio.AbstractEventLoop | None = None,
        deadline: float = 0.0,
    ) -> list[Any]:
        """Run the decider on these states and return what it yields."""
        handling, handler = self.handling, self.handler
        if self.answers is None and (handler.wants_world or handler.copied):
            self.answers = Answers()
        asking = None
        if handler.wants_world and self.answers is not None:
            note = handling.asked.note
            asking = Asking(handling.outside, self.answers, self.id, loop, may_ask=may_ask, deadline=deadline, note=note)
        return handler.call(self.command, self.keys, entry, reads, Hearing(self.id, self.now, self.answers, asking, handling.copies))

    def refusal(self) -> Refusal | None:
        """Return the refusal, if that is what came of it."""
        return self.result if isinstance(self.result, Refusal) else None

    def refused_before(self) -> Refusal | None:
        """Return the refusal of the first time, if the id is known from then."""
        return refusal_in(self.result.row) if isinstance(self.result, Known) else None

    def _drafted_one(self, batch: Batch, event: object, reads: Sequence[Any], started: float) -> Draft:
        """Draft what nearly every command comes to: one event, and nothing was asked of the outside. The same as `_drafted` makes of it."""
        handling, handler = self.handling, self.handler
        typed = handling.yields[handler].get(type(event)) or handling.undeclared(handler, event)
        body, event = typed.checked(event)  # from here on it is the event as it will be read again
        self.events = (event,)
        number = typed.number(batch)
        asked = self._asked(batch)
        header = self._header(reads, started, "accepted")
        return Draft(header, asked, (Written(number, body),), ((1, event, None),), typed.terms(event), (number,), _NO_NOTES)

    def _drafted(self, batch: Batch, decided: Sequence[object], refusal: Refusal | None, reads: Sequence[Any], started: float) -> Draft:
        handling, handler = self.handling, self.handler
        records: list[Written] = []
        events: list[tuple[int, Any, Any]] = []
        heard: list[Any] = []
        names: list[int] = []
        tags: dict[str, None] = {}
        answers = None if self.answers is None else self.answers.known.values()
        if answers and handling.keeps_asked:
            records += [Written(ANSWER, encode(answer)) for answer in answers]
        ordinal = len(records) + (self.decides is None)
        yields = handling.yields[handler]
        for event in decided:
            typed = yields.get(type(event)) or handling.undeclared(handler, event)
            body, event = typed.checked(event)  # noqa: PLW2901 - from here on it is the event as it will be read again
            number = typed.number(batch)
            heard.append(event)
            events.append((ordinal, event, None))
            records.append(Written(number, body))
            ordinal += 1
            if number not in names:
                names.append(number)
            tags.update(dict.fromkeys(typed.terms(event)))
        self.events = tuple(heard)
        notes: dict[str, str | None] = {}
        outcome = "accepted"
        if refusal is not None:
            outcome = "refused"
            said = self._encoded(refusal)
            records.append(Written(REFUSAL, said))
            self.result = said_in(said)
        if self.given and answers:
            notes[ANSWERS_NOTE + self.id] = None
        if answers and self.answers is not None:
            notes.update(self.handling.asked.over(self.id, self.answers))
        asked: Written | None = None
        if self.decides is None:
            asked = self._asked(batch)
        else:
            if not records:  # a row has at least one: this one says that it was decided, and that nothing came of it
                records.append(Written(NOTHING, b"{}"))
            notes[self.decides] = None
            place = int(self.decides.removeprefix(PENDING_NOTE))
            notes.update((note_of(name, place), None) for name in self.asked_typed.called)  # it may have been held under a former name
        return Draft(self._header(reads, started, outcome), asked, records, events, list(tags), names, notes)

    def _asked(self, batch: Batch) -> Written:
        number = self.asked_typed.number(batch)
        if self.handling.keeps_asked:
            return Written(number, self.asked_bytes)
        return Written(number, encode_in_order(self.command), b"", kept=False)

    def _header(self, reads: Sequence[Any], started: float, outcome: str) -> Header:
        handler, first = self.handler, self.decides is None
        return Header(
            self.id if first else None,
            self.actor,
            self.correlation,
            self.causation,
            self.occurred,
            self.now if handler.wants_world else None,
            self.traceparent,
            outcome,
            None if first else self.id,
            self.handling.numbers[handler],
            int((started - self.taken_at) * 1e6),
            handler.ran(time.perf_counter() - started),
            self.rounds + 1,
            tuple(reads),
            self.sent if first else None,
            self.depth,
        )

    def _encoded(self, refusal: Refusal) -> bytes:
        try:
            return encoded(refusal._asdict(), encode)
        except NO_DATA as error:
            raise Invalid(
                f"`{label(self.handler.function)}` refused with a text or facts that can't be recorded: {error}. Give plain data",
                function=label(self.handler.function),
            ) from error

    def _same(self, batch: Batch, row: Row) -> Row:
        """Return the row if it holds the same command; `IdReused` if it holds another one."""
        same_as(self.id, row, self.asked_typed, self.asked_bytes, batch)
        return row


def same_as(id: str, row: Row, typed: Typed, body: bytes, batch: Batch) -> None:
    """Raise `IdReused` unless this row holds this body under the id. Bodies of another version, or erased, are taken for the same."""
    recorded = next(record for _, record in taken_apart(row))
    name = batch.names.by_number.get(recorded.number)
    if name is None or name.name not in typed.called or name.what != typed.what:
        raise IdReused(
            f"the id `{id}` was used by `{name.name if name else '?'}`, not by `{typed.wish.name}`", id=id, position=row.position
        )
    if name.fingerprint != typed.wish.fingerprint:
        return
    if is_erased(recorded) and any(row.salts[:SALT_BYTES]):  # it was never kept, and its digest tells
        same = body_digest(row.salts[:SALT_BYTES], typed.in_order(body)).hex() == decode_extra(recorded.extra).erased
    else:
        same = typed.same(bytes(recorded.body), body)
    if not same:
        raise IdReused(
            f"the id `{id}` was used by a `{name.name}` with another body; a new intention needs a new id", id=id, position=row.position
        )


class Pending(Job):
    """A command that is to be kept now and decided later."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.id)
        self.decision = decision

    def draft(self, batch: Batch) -> Draft | None:
        """Keep the input."""
        decision = self.decision
        if decision.given:
            row = batch.row_with(self.id)
            if row is not None:
                same_as(self.id, row, decision.asked_typed, decision.asked_bytes, batch)
                self.result = Known(row)
                return None
        decision.handling.declare(batch)
        if decision.causation is not None and decision.sent is None:
            decision.sent = batch.heard(decision.causation)
        asked = Written(decision.asked_typed.number(batch), decision.asked_bytes)
        note = f"{PENDING_NOTE}{batch.position:020d}"
        header = Header(
            id=self.id,
            actor=decision.actor,
            correlation=decision.correlation,
            causation=decision.causation,
            occurred=decision.occurred,
            now=decision.now,
            traceparent=decision.traceparent,
            outcome="pending",
            sent=decision.sent,
            depth=decision.depth,
        )
        return Draft(header, asked, (), (), (), (), {note: self.id})


class Handling:
    """All deciders of an app, over one log."""

    def __init__(
        self,
        handlers: Mapping[type, Handler],
        typed: Mapping[type, Typed],
        image: MemoryImage,
        outside: Outside,
        declare: Callable[[Batch], None],
        copies: Copies,
        asked: Asked,
        *,
        keeps_asked: bool = True,
    ) -> None:
        self.copies = copies
        self.asked = asked
        self.keeps_asked = keeps_asked
        """What was asked, and what the outside has answered, is recorded."""
        self.handlers = handlers
        self.typed = typed
        self.takes = {command: (handler, typed[command]) for command, handler in handlers.items()}
        self.yields = {handler: {event: typed[event] for event in handler.yields} for handler in handlers.values()}
        self.image = image
        self.outside = outside
        self.declare = declare
        self._reads = {
            handler: [
                (fill.find, fill.many, None if place in handler.copied else image.follow(fill.fold))
                for place, fill in enumerate(handler.fills)
            ]
            for handler in handlers.values()
        }
        self.only_states = {
            handler: None if handler.wants_world or handler.copied or any(fill.many for fill in handler.fills) else self._asked(handler)
            for handler in handlers.values()
        }
        """The parameters after the command, where they are states and nothing else: what each reads, and whether it may be missing."""
        self.numbers: dict[Handler, int] = {}
        """What stands for each decider in this log, from the first declaration on."""

    def _asked(self, handler: Handler) -> list[tuple[Kept, bool]]:
        return [(self.image.follow(fill.fold), fill.optional) for fill in handler.fills]

    def taker(self, command: object) -> tuple[Handler, Typed]:
        """Return the decider of a command, and how commands of its class are read. `Invalid` where there is none."""
        found = self.takes.get(type(command))
        if found is None:
            if not isinstance(command, Command):
                instead = instead_of(command, one="dispatch", many="dispatch_all", make="command")
                raise Invalid(
                    f"{called(command)} is no command: {instead or 'facts are recorded by `record`'}", type=type(command).__name__
                )
            raise Invalid(f"no decider takes `{type(command).__name__}`: add one to `deciders=[...]`", type=type(command).__name__)
        return found

    def undeclared(self, handler: Handler, event: Any) -> NoReturn:
        """Raise `Invalid`: a decider yielded what its annotation does not name."""
        raise Invalid(
            f"`{label(handler.function)}` yields a `{type(event).__name__}`, which its annotation does not name",
            function=label(handler.function),
        )

    def collect(self, decision: Decision, loop: asyncio.AbstractEventLoop | None, deadline: float) -> None:
        """Run the decider on the durable image, outside the lock, and let it ask. What it decides is thrown away: only the answers are kept.

        `Overloaded` if an answer has not come by the deadline, by the monotonic clock, and what a note of a call raises: nothing was recorded.
        """
        try:
            with deciding():
                decision.run(self.image.get, [], may_ask=True, loop=loop, deadline=deadline)
        except TimeOver:
            raise Overloaded(
                f"the outside did not answer `{decision.handler.name}` in the time allowed; nothing was recorded", id=decision.id
            ) from None
        except NotNoted as trouble:
            raise trouble.error from None
        except Unanswered:  # nothing outside is reached, and asking again would not change that
            raise
        except Error:
            return  # refused, or failed on an answer: the run under the lock says so, with the same answers
        except Exception:  # noqa: BLE001 - the run under the lock raises it, or the state has moved on and it does not
            return

    def wait_for_copies(self, handler: Handler, wait_seconds_max: float) -> None:
        """Wait for copies of other systems' states that can't say anything yet. `Late` if they can't in time."""
        deadline = time.monotonic() + within(wait_seconds_max)
        for place in handler.copied:
            self.copies.wait(handler.fills[place].fold.state, max(0.0, deadline - time.monotonic()))

    def preload(self, decision: Decision) -> None:
        """Load what the decider reads and is not in memory, in the caller's thread, so that the writer need not wait for the disk."""
        for kept, keys in self._missing(decision):
            self.image.load(kept, keys)

    def preload_all(self, decisions: Iterable[Decision]) -> None:
        """Do so for many, with one look at the log for each class of states."""
        missing: dict[Kept, dict[Key, None]] = {}
        for decision in decisions:
            for kept, keys in self._missing(decision):
                missing.setdefault(kept, {}).update(dict.fromkeys(keys))
        for kept, wanted in missing.items():
            self.image.load(kept, list(wanted))

    def _missing(self, decision: Decision) -> Sequence[tuple[Kept, Sequence[Key]]]:
        """Find the keys of the states that a decider reads, and return those that are not in memory."""
        command = decision.command
        keys: list[Any] = []
        decision.keys = keys
        missing: Sequence[tuple[Kept, Sequence[Key]]] = ()
        for find, many, kept in self._reads[decision.handler]:
            try:
                key = find(command, ())
            except IndexError:  # its key comes from a state left of it: loaded when that is known
                return missing
            keys.append(key)
            if kept is None or (not many and key in kept.entries) or kept.complete or key is None:
                continue
            found = [one for one in (key if many else [key]) if one not in kept.entries]
            if found:
                missing = [*missing, (kept, found)]
        return missing


def refusal_in(row: Row) -> Refusal | None:
    """Return the refusal that a row holds, if its command was refused."""
    if decode_header(row.head).outcome != "refused":
        return None
    for _, record in taken_apart(row):
        if record.number == REFUSAL:
            return said_in(record.body)
    return None


def outcome_of(rows: Sequence[Row]) -> tuple[Row, Header] | None:
    """Return the row that says what came of a command, of those that use its id."""
    for row in rows:
        header = decode_header(row.head)
        if header.outcome != "pending":
            return row, header
    return None
