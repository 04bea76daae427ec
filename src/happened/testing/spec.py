"""Given, when, then: what an app decides and shows, told as events.

    spec(shop).given(StockReceived("widget", 3)).when(Order("o-1", "widget", 5)).then_refused("only 3 left")

It runs on a real log in memory, with the real engine and a clock that is set; `given` is recorded, `when` is done once, each `then` looks at what came
of it. Every call of `given` and `when` begins from what was said so far and changes none of it, so a common beginning can be kept in a variable.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple  # Any: answers, keys and fields of any class

import msgspec

from happened.app import App
from happened.core.errors import Error, Invalid, Refused, Stuck, Unanswered
from happened.core.messages import Command, Event, Message, Recorded, called
from happened.core.state import Fold, Key, Replica, State, fold_of
from happened.core.world import moment
from happened.log.records import INTERNAL, Record
from happened.log.row import encode
from happened.notification.timer import next_due
from happened.running import Running
from happened.sourcing.handling import Heard
from happened.sourcing.memory_image import STATES_MAX
from happened.testing.world import START, Answers, Clock, answering

WAIT_SECONDS_MAX = 10.0
"""How long a view may take to show what was recorded."""
ROWS_MAX = 1_000_000


def spec(app: App, *, now: datetime = START, answers: Answers | None = None, copies: "Iterable[State | Replica[Any]]" = ()) -> "Spec":
    """Begin to tell what an app does, with the clock at `now`.

    `answers` says for each gateway what it answers: a function that is called in its place, an exception that it raises, or the answer itself. A gateway
    that is asked without one raises `Unanswered`: nothing is asked outside. `copies` says what the copies of other systems' states hold: states, or
    `Replica(state, position, age)` where a decider looks at those. Of other keys the origin has nothing.
    """
    if not _is_app(app):
        raise Invalid(f"`spec` takes an app, as in `spec(App(...))`, not {called(app)}; a state is looked at with `then_state`")
    return Spec(app, now, answers or {}, Told(app, copies), ())


class Told:
    """What is told of the copies of other systems' states."""

    def __init__(self, app: App, copies: "Iterable[State | Replica[Any]]") -> None:
        self._app = app
        self._heard: dict[tuple[type[State], Key], Heard] = {}
        for one in copies:
            told = one if isinstance(one, Replica) else Replica(one, 0, timedelta(0))
            state = told.state
            if not isinstance(state, State) or type(state) not in app.systems:
                raise Invalid(f"`copies` takes states of the app's replicas, or `Replica(state, position, age)` of one, not {called(one)}")
            key = _key(fold_of(type(state)), state)
            age_us = told.age // timedelta(microseconds=1)
            self._heard[type(state), key] = Heard(told.position, told.position, age_us, msgspec.Raw(encode(state)))

    def name(self, state: type[State]) -> str:
        """Return what a copy is called."""
        return f"{self._app.systems[state]}/{fold_of(state).name}"

    def wait(self, state: type[State], wait_seconds_max: float) -> None:
        """Wait for nothing: all is told."""

    def get(self, state: type[State], key: Key) -> Heard:
        """Return what was told of a key, else that there is nothing."""
        return self._heard.get((state, key), Heard(0, 0, 0))


class Spec:
    """What was given so far."""

    def __init__(self, app: App, now: datetime, answers: Answers, copies: Told, given: "Sequence[Event | Message | timedelta]") -> None:
        self._app = app
        self._now = now
        self._answers = answers
        self._copies = copies
        self._given = tuple(given)

    def given(self, *history: "Event | Message | timedelta") -> "Spec":
        """Say what has happened, in order: events of any class of the app, also those that only deciders yield; a `timedelta` lets time pass.

        Reactions hear all of it, and what they send is decided, now or when it is due, before what is given next. A `Message` gives an event an id or the time it happened.
        """
        for one in history:
            _check(one, "`given` takes events one after the other, as in `given(A(...), B(...))`")
            body = one.body if isinstance(one, Message) else one
            if isinstance(body, Command):
                raise Invalid(f"`{type(body).__name__}` is a command: `given` takes events, a command is what `when` does")
        return Spec(self._app, self._now, self._answers, self._copies, (*self._given, *history))

    def when(self, act: "Command | Event | Message | timedelta") -> "Outcome":
        """Do one thing: dispatch a command, record an event, or let time pass; a `Message` gives an id or an actor.

        What reactions send on it is decided, too, and timers that come due ring one after the other. What is raised, but a refusal, is raised here.
        """
        _check(act, "`when` does one thing, a command, a fact or a `timedelta`; what came before is said with `given`")
        return self._run([act])

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what is missing before a `then`."""
            if hasattr(Outcome, name):
                raise AttributeError(f"`{name}` looks at what came of an act: say `.when(...)` before `.{name}(...)`", name=name, obj=self)
            raise AttributeError(f"`Spec` has no `{name}`: it has given, when, then_state and then_view", name=name, obj=self)

    def then_state(self, state: State) -> "Outcome":
        """Check a state after what was given."""
        return self._run([]).then_state(state)

    def then_view(self, state: State) -> "Outcome":
        """Check the row of a view after what was given."""
        return self._run([]).then_view(state)

    def _run(self, acts: "Sequence[Command | Event | Message | timedelta]") -> "Outcome":
        clock = Clock(self._now)
        missing: list[str] = []
        gateways = {gateway.call: _unanswered(gateway.name, missing) for gateway in self._app.gateways}
        gateways |= {gateway: answering(given) for gateway, given in self._answers.items()}
        systems = dict.fromkeys([*self._app.subscriptions, *self._app.replicas])  # what comes from there is said with `given`
        runs = bool(self._app.views or self._app.reactions)
        with Running(
            self._app,
            "memory:",
            run=runs,
            channels=systems,
            gateways=gateways,
            views=None,
            source=clock,
            states_max=STATES_MAX,
            outside=True,
            progress=lambda _done, _all: None,
            copies=self._copies,
        ) as running:
            for given in self._given:
                _do(running, clock, given)
            before, refused = running.log.head, None
            try:
                for act in acts:
                    _do(running, clock, act)
            except Refused as refusal:
                refused = refusal
            except Error:
                _check_answered(missing)
                raise
            _check_answered(missing)
            history = [record for record in running.log.read() if isinstance(record.body, Event)]
            views = {view: _rows(running, view) for view in self._app.views}
        return Outcome([record.body for record in history if record.position > before and record.kind == INTERNAL], refused, history, views)


class Outcome:
    """What came of it. Each `then` looks at one side, raises `AssertionError` with what was expected and what is there, and can be followed by more."""

    def __init__(
        self, events: Sequence[Event], refused: Refused | None, history: Sequence[Record], views: "Mapping[type[State], Shown]"
    ) -> None:
        self.events = tuple(events)
        self.refused = refused
        self._history = history
        self._views = views

    def then(self, *events: Event) -> "Outcome":
        """Check that exactly these events were decided, in this order."""
        for event in events:
            _check(event, "`then` takes the events one after the other, as in `then(A(...), B(...))`")
        self._not_refused(f"{len(events)} event{'s' * (len(events) != 1)}: {', '.join(map(repr, events))}" if events else "nothing")
        if self.events != events:
            raise AssertionError(_listed(events, self.events))
        return self

    def then_nothing(self) -> "Outcome":
        """Check that nothing was decided, and nothing refused."""
        return self.then()

    def then_refused(self, text: str, /, **facts: Any) -> "Outcome":
        """Check that it was refused with this text, and with these facts where any are named: as they are raised, or as plain data."""
        if self.refused is None:
            raise AssertionError(f"expected a refusal: {text!r}\n     got {_shown(self.events)}")
        if str(self.refused) != text:
            raise AssertionError(f"the refusal differs\nexpected {text!r}\n     got {str(self.refused)!r}")
        different = [
            f"  {name}: expected {value!r}, got {self.refused.facts.get(name, '(no such fact)')!r}"
            for name, value in _plain(facts).items()
            if name not in self.refused.facts or self.refused.facts[name] != value
        ]
        if different:
            raise AssertionError("\n".join([f"the facts of the refusal {text!r} differ", *different]))
        return self

    def then_state(self, state: State) -> "Outcome":
        """Check that the state of this key is now exactly so, as deciders see it."""
        _check_state(state)
        fold = fold_of(type(state))
        states = dict(_folded(fold, self._history))
        self._look("state", state, fold, states)
        return self

    def then_view(self, state: State) -> "Outcome":
        """Check that the view's row of this key is exactly so. What the view raised is raised here."""
        _check_state(state)
        shown = self._views.get(type(state))
        if shown is None:
            raise Invalid(f"`{type(state).__name__}` is not among the app's views: use `then_state`, or list it in `views`")
        if shown.error is not None:
            raise shown.error
        fold = fold_of(type(state))
        self._look("view", state, fold, {_key(fold, row): row for row in shown.rows})
        return self

    def _look(self, what: str, state: State, fold: Fold, there: Mapping[Key, State]) -> None:
        found = there.get(_key(fold, state))
        if found is None:
            keys = ", ".join(repr(key[0] if len(key) == 1 else key) for key in there) or "none"
            raise AssertionError(f"the {what} is not there\nexpected {state!r}\n     got nothing under this key; there are: {keys}")
        if found != state:
            raise AssertionError("\n".join([f"the {what} differs", f"expected {state!r}", f"     got {found!r}", *_fields(state, found)]))

    def _not_refused(self, expected: str) -> None:
        if self.refused is not None:
            raise AssertionError(f"expected {expected}\n     got a refusal: {str(self.refused)!r} {self.refused.facts or ''}".rstrip())


class Shown(NamedTuple):
    """What a view showed at the end, or why it could not."""

    rows: Sequence[State]
    error: Error | None


def _do(running: Running, clock: Clock, act: "Command | Event | Message | timedelta") -> None:
    """Do one thing, and wait for all that it causes."""
    if isinstance(act, timedelta):
        _pass(running, clock, clock.now + act)
    elif isinstance(act, Message) and isinstance(act.body, Command):
        running.dispatch(act.body, id=act.id, actor=act.actor, correlation=act.correlation)
    elif isinstance(act, Command):
        running.dispatch(act)
    else:
        running.log.append(act)
    _settle(running)


def _pass(running: Running, clock: Clock, until: datetime) -> None:
    """Let time pass from one timer to the next: what a timer causes is recorded when it is due, and so is what that sends later."""
    while (due := next_due(running.log.engine)) is not None and moment(due) <= until:
        clock.set(max(moment(due), clock.now))
        _settle(running)
    clock.set(until)


def _settle(running: Running) -> None:
    """Wait for reactions and what they send. `Stuck` with what a reaction or a decider raised."""
    if not running.app.reactions:
        return
    found = running.settled(wait_seconds_max=WAIT_SECONDS_MAX)
    for held in found.stuck:
        raise Stuck(f"`{held.handler}` can't get past `{held.event}`: {held.error}\n{held.trace}", handler=held.handler, error=held.error)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts as a caller hears them."""
    plain: dict[str, Any] = msgspec.json.decode(encode(facts))
    return plain


def _is_app(given: object) -> bool:
    return isinstance(given, App)


def _check(given: object, takes: str) -> None:
    """Raise `Invalid` for what is neither a message nor a time: a checker has not seen every test."""
    if not isinstance(given, Event | Command | Message | timedelta):
        raise Invalid(f"{takes}, not {called(given)}")


def _check_state(given: object) -> None:
    if not isinstance(given, State):
        raise Invalid(f'`then_state` and `then_view` take the state as it should be, as in `Stock("widget", 5)`, not {called(given)}')


def _unanswered(name: str, missing: list[str]) -> Callable[..., Any]:
    def ask(*args: Any, **_kwargs: Any) -> Any:
        missing.append(f"`{name}` is asked {args!r}")
        raise Unanswered(missing[-1])

    return ask


def _check_answered(missing: Sequence[str]) -> None:
    if missing:
        raise Unanswered(f"{missing[0]}, and has no answer: give one with spec(app, answers={{the gateway: its answer}})")


def _rows(running: Running, view: type[State]) -> Shown:
    try:
        return Shown(running.view(view).rows(limit=ROWS_MAX, since=running.log.head, wait_seconds_max=WAIT_SECONDS_MAX), None)
    except Error as error:
        return Shown((), error)


def _folded(fold: Fold, history: Sequence[Record]) -> Iterator[tuple[Key, State]]:
    states: dict[Key, State | None] = {}
    for record in history:
        envelope = Recorded(record.id, record.time, record.occurred, record.actor)
        for key, message in fold.touched(record.body, envelope):
            states[key] = fold.step(states.get(key), key, message, (envelope,) if fold.wants_record else ())
    for key, state in states.items():
        if state is not None:
            yield key, state


def _key(fold: Fold, state: State) -> Key:
    return tuple(getattr(state, field) for field in fold.key)


def _listed(expected: Sequence[Event], actual: Sequence[Event]) -> str:
    lines = ["the events differ", f"expected {_shown(expected)}", f"     got {_shown(actual)}"]
    for place in range(max(len(expected), len(actual))):
        wanted = expected[place] if place < len(expected) else None
        found = actual[place] if place < len(actual) else None
        if wanted == found:
            continue
        if type(wanted) is type(found):
            lines += [f"event {place + 1}, {type(wanted).__name__}", *_fields(wanted, found)]
        else:
            lines.append(f"event {place + 1}: expected {_one(wanted)}, got {_one(found)}")
    return "\n".join(lines)


def _fields(expected: Any, actual: Any) -> Iterator[str]:
    for field in msgspec.structs.fields(expected):
        wanted, found = getattr(expected, field.name), getattr(actual, field.name)
        if wanted != found:
            yield f"  {field.name}: expected {wanted!r}, got {found!r}"


def _one(message: Any) -> str:
    return "nothing" if message is None else repr(message)


def _shown(events: Sequence[Event]) -> str:
    return ", ".join(map(repr, events)) or "nothing"
