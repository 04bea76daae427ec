"""Replay: what was decided then, decided again, by today's code on the same states.

A recorded input comes with all that its decider heard: the answers of the outside, the copies of other systems' states, when it was taken, and the id that
its own ids and chance are drawn from. Here it hears them again. No gateway, clock, chance, socket or file is touched, and nothing is recorded: the states are
given by the caller, as of the position of the decision. A question that has no recorded answer ends the run as `Unanswered`, or is answered by a policy.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn  # Any: commands, events and answers of any class

import msgspec

from happened.core.annotations import label
from happened.core.errors import Invalid, NotThere, Refused, Unanswered
from happened.core.messages import Command
from happened.core.state import Fold, Key, State, fold_of
from happened.core.store import Row
from happened.log.deciding import deciding
from happened.log.records import Reader
from happened.log.row import Header, decode_header, encode, is_unkept, taken_apart
from happened.sourcing.gateway import Answer, Answers, Asking, Gateway, Wanted, answers_in
from happened.sourcing.handling import DecidingWorld, Handler, Hearing, Refusal, said_in

Policy = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]
"""What answers a question that was not asked then: from the gateway and its arguments to the answer, or it raises what the outside would."""

Entries = Callable[[Fold, Key], Any]
"""From a state's fold and key to its entry, with `state` (`None`: there is none) and `version`. `Stuck` where it stands still."""


class Input(NamedTuple):
    """An input as it was recorded, and what its decider heard."""

    id: str
    command: Command
    now: int
    """What `world.now` says, in microseconds since 1970."""
    answers: Sequence[Answer] = ()


class Decided(NamedTuple):
    """What today's code decides: events, or a refusal, or it fails, as `Unanswered` where it asked what was not asked then."""

    events: Sequence[Any] = ()
    """As the decider yields them, not checked."""
    refusal: Refusal | None = None
    """As it would be recorded."""
    failure: Exception | None = None
    answers: Sequence[Answer] = ()
    """All it may have heard of the outside: those recorded then, and those of the policy."""
    reads: Sequence[Any] = ()
    """The version of each state that was read."""


class Unknown(BaseException):
    """A question was asked that has no recorded answer. Not an `Exception`, so that a decider's own handlers let it pass."""

    def __init__(self, error: Unanswered) -> None:
        super().__init__(str(error))
        self.error = error


class Recorded:
    """What a replay has in the place of the outside: the table of gateways, and a policy for what was not asked then."""

    def __init__(self, gateways: Iterable[Gateway], policy: Policy | None = None) -> None:
        self._gateways = {gateway.call: gateway for gateway in gateways}
        self._policy = policy

    def gateway(self, call: Callable[..., Any]) -> Gateway:
        """Return the entry of a gateway; `Invalid` if it is not in the app's table."""
        found = self._gateways.get(call)
        if found is None:
            raise Invalid(f"`{label(call)}` is not among the app's gateways: add it to `gateways=[...]`", gateway=label(call))
        return found

    def answer(self, wanted: Sequence[Wanted], command: str, loop: asyncio.AbstractEventLoop | None, deadline: float) -> list[Answer]:
        """Have the policy answer what was not asked then. Without one it is `Unanswered`."""
        return [self._answer(one, command) for one in wanted]

    def _answer(self, one: Wanted, command: str) -> Answer:
        gateway, arguments, nth = one.question
        if self._policy is None:
            shown = ", ".join([*map(repr, one.args), *(f"{name}={value!r}" for name, value in one.kwargs.items())])
            raise Unknown(
                Unanswered(
                    f"`{gateway}({shown})` is asked for `{command}`, and no answer to it was recorded",
                    gateway=gateway,
                    arguments=msgspec.json.decode(arguments),
                    nth=nth,
                    id=command,
                )
            )
        try:
            body = encode(self._policy(one.gateway.call, one.args, one.kwargs))
            one.gateway.decode(body)
        except Exception as error:  # noqa: BLE001 - whatever the policy raises is what the outside would have raised
            return Answer(gateway, msgspec.Raw(arguments), nth, error=f"{type(error).__name__}: {error}")
        return Answer(gateway, msgspec.Raw(arguments), nth, msgspec.Raw(body))


class RecordedCopies:
    """What a replay has in the place of copies of other systems' states: what was heard of them is among the answers."""

    def __init__(self, systems: Mapping[type[State], str]) -> None:
        self._systems = systems

    def name(self, state: type[State]) -> str:
        """Return what a copy is called."""
        return f"{self._systems[state]}/{fold_of(state).name}"

    def wait(self, state: type[State], wait_seconds_max: float) -> None:
        """Wait for nothing."""

    def get(self, state: type[State], key: Key) -> NoReturn:
        """Say that it was not read then."""
        name = self.name(state)
        raise Unknown(
            Unanswered(
                f"the copy `{name}` of {key!r} is read, and what it said was not recorded", replica=name, key=[str(value) for value in key]
            )
        )


class Replay:
    """The deciders of an app, to decide what was recorded. `systems` says which system each replica is of; `policy` answers what was not asked then."""

    def __init__(
        self,
        handlers: Mapping[type, Handler],
        gateways: Iterable[Gateway],
        systems: Mapping[type[State], str] | None = None,
        *,
        policy: Policy | None = None,
    ) -> None:
        self.handlers = handlers
        self._recorded = Recorded(gateways, policy)
        self._copies = RecordedCopies(systems or {})

    def decide(self, given: Input, entry: Entries) -> Decided:
        """Decide an input on these states. `Invalid` where no decider takes it; whatever the decider raises is in what is returned."""
        handler = self.handler(given)
        reads: list[Any] = []
        answers = Answers(given.answers)
        try:
            with deciding():
                events = self.run(handler, given, entry, answers, reads)
        except Refused as refused:
            return Decided((), as_recorded(refused), None, _known(answers), reads)
        except Unknown as unknown:
            return Decided((), None, unknown.error, _known(answers), reads)
        except Exception as error:  # noqa: BLE001 - whatever today's code raises is what came of it
            return Decided((), None, error, _known(answers), reads)
        return Decided(events, None, None, _known(answers), reads)

    def handler(self, given: Input) -> Handler:
        """Return the decider of an input. `Invalid` where none takes it."""
        found = self.handlers.get(type(given.command))
        if found is None:
            raise Invalid(f"no decider takes `{type(given.command).__name__}`", type=type(given.command).__name__)
        return found

    def run(self, handler: Handler, given: Input, entry: Entries, answers: Answers, reads: list[Any]) -> list[Any]:
        """Run the decider and return what it yields; whatever it raises is raised, and `Unknown` for a question that was not asked then.

        For whoever wants to be there: `decide` says what came of it instead.
        """
        asking = self.asking(answers, given.id) if handler.wants_world else None
        return handler.call(given.command, (), entry, reads, Hearing(given.id, given.now, answers, asking, self._copies))

    def asking(self, answers: Answers, id: str) -> Asking:
        """Return what hears these answers, and asks nobody else but the policy."""
        return Asking(self._recorded, answers, id, None, may_ask=True)

    def world(self, id: str, now: int, answers: Answers, entry: Entries) -> DecidingWorld:
        """Return a `World` that says what it said then: for reactions."""
        return DecidingWorld(now, id, self.asking(answers, id), entry, [])


def input_in(reader: Reader, row: Row, kept: Row | None = None, header: Header | None = None) -> Input:
    """Return the input that a row decides, with what was heard then. `kept` is the row that holds it, where it was enqueued.

    `NotThere` where it can't be had: the row decides none, it was not kept, or was erased.
    """
    about = header if header is not None else decode_header(row.head)
    own = about.id if about.decides is None else about.decides
    if about.handler is None or own is None:
        raise NotThere(f"the row at position {row.position} decides no input", position=row.position)
    holder = kept if kept is not None else row
    if holder.input is None:
        raise NotThere(f"the input `{own}` that the row at position {row.position} decides is not kept", id=own, position=row.position)
    _, asked = next(taken_apart(holder))
    command = reader.body(asked.number, asked.body, holder.position)
    if command is None:
        why = 'is not kept (`store="decisions"`)' if is_unkept(holder) else "was erased"
        raise NotThere(f"the input `{own}` at position {holder.position} {why}", id=own, position=holder.position)
    return Input(own, command, now_of(row, about, kept), list(answers_in(row).values()))


def now_of(row: Row, header: Header, kept: Row | None = None) -> int:
    """Return what `world.now` said. Where no `World` was asked for it was not recorded: then it is the recorded time."""
    if header.now is not None:
        return header.now
    before = decode_header(kept.head).now if kept is not None else None
    return before if before is not None else row.at


def as_recorded(refused: Refused) -> Refusal:
    """Return a refusal as it would be recorded, its facts as plain data."""
    try:
        return said_in(encode(Refusal(str(refused), refused.facts)._asdict()))
    except (TypeError, msgspec.MsgspecError):  # it could not be recorded; whoever compares sees what it says
        return Refusal(str(refused), {name: repr(value) for name, value in refused.facts.items()})


def _known(answers: Answers) -> Sequence[Answer]:
    return list(answers.known.values())
