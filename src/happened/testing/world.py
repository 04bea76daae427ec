"""Worlds for tests: a clock that one sets and moves, and a `World` to call a decider with by hand.

`app.open("memory:", source=Clock())` runs the real engine in a world that stands still until it is moved.
`list(place_order(command, Stock("widget", 5), World(answers={freight: Decimal(5)})))` runs one decider, and nothing else.
"""

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any  # Any: answers and keys of any type
from uuid import UUID

from happened.core.annotations import label
from happened.core.errors import GatewayFailed, Invalid, Unanswered
from happened.core.messages import CallId
from happened.core.state import State, fold_alone_of
from happened.core.world import Chance, microseconds, moment
from happened.sourcing.gateway import Gateway, key_parameter_of, questions_in
from happened.sourcing.handling import key_from

Answers = Mapping[Callable[..., Any], Any]
"""For each gateway what it answers: a function that is called in its place, an exception that it raises, or the answer itself."""

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When a clock begins that was not told."""


class Clock:
    """Stands still until it is set or moved. Its ids are `clock-1`, `clock-2` and so on: give two clocks on one log two names."""

    def __init__(self, now: datetime = START, *, name: str = "clock") -> None:
        self._name = name
        self._ids = itertools.count(1)
        self._salts = itertools.count(1)
        self._us = _us(now)

    @property
    def now(self) -> datetime:
        """What the clock shows, in UTC."""
        return moment(self._us)

    def set(self, now: datetime) -> None:
        """Show another time, which needs a zone; an earlier one, too: clocks of real machines also jump back."""
        self._us = _us(now)

    def move(self, by: timedelta) -> datetime:
        """Move on, and return what the clock shows now."""
        self.set(self.now + by)
        return self.now

    def now_us(self) -> int:
        """Return the time in microseconds since 1970, UTC."""
        return self._us

    def new_id(self) -> str:
        """Return the next id."""
        return f"{self._name}-{next(self._ids)}"

    def salt(self, count: int) -> bytes:
        """Return the next bytes: the same in every run, and other ones at every call."""
        return hashlib.shake_128(f"{self._name}:{next(self._salts)}".encode()).digest(count)

    def owner(self) -> str:
        """Return a name in the form that a machine's has; no machine takes it for one of its own processes."""
        return f"testing:0:{self._name}"

    def gone(self, owner: str) -> bool:
        """Say no: what is tested under a set clock is never known to have ended."""
        return False


class World:
    """A `World` for a decider that is called by hand: what it sees is what it is given here, and nothing is asked outside.

    `answers` says for each gateway what it answers: a function that is called in its place, an exception that it raises, or the answer itself. A gateway
    that has none raises `Unanswered`. `states` are those that `state` finds; others are as before anything happened. Ids and numbers are drawn from `id`,
    the same in every run.
    """

    def __init__(self, *, now: datetime = START, answers: Answers | None = None, states: Iterable[State] = (), id: str = "command") -> None:
        self.now = moment(_us(now))
        self._id = id
        self._chance = Chance(id)
        self._answers = answers or {}
        self._states: dict[tuple[Any, ...], State] = {}
        for state in states:
            fold = fold_alone_of(type(state))
            self._states[type(state), *(getattr(state, field) for field in fold.key)] = state

    def new_id(self) -> UUID:
        """Return the next id."""
        return self._chance.new_id()

    def random(self) -> float:
        """Return the next number from 0 up to 1."""
        return self._chance.random()

    def state(self, state: type[State], /, *key: Any, **named: Any) -> Any:
        """Return the state of this key that was given, else the one before anything happened."""
        fold = fold_alone_of(state)
        found = key_from(fold, key, named)
        return self._states.get((state, *found)) or fold.initial(found)

    def ask(self, gateway: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return the answer that was given for a gateway; `GatewayFailed` where that is an exception, or a function that raises."""
        if gateway not in self._answers:
            raise Unanswered(
                f"`{label(gateway)}` is asked {args!r}, and has no answer: give one with World(answers={{the gateway: its answer}})"
            )
        call = answering(self._answers[gateway])
        if inspect.iscoroutinefunction(call):
            raise Invalid(f"the answer of `{label(gateway)}` is an async function, and nothing awaits it here: give a plain one")
        entry = Gateway(gateway)
        key = key_parameter_of(call, entry)
        if key is not None:
            kwargs = {key: CallId(f"{self._id}:{entry.name}"), **kwargs}
        try:
            return call(*args, **kwargs)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise GatewayFailed(f"gateway `{entry.name}` failed: {text}", gateway=entry.name, error=text, attempts=1) from error

    def ask_all(self, gateway: Callable[..., Any], questions: Iterable[tuple[Any, ...]], /) -> list[Any]:
        """Return the answers to many questions, in their order."""
        return [self.ask(gateway, *question) for question in questions_in(gateway, questions)]


def answering(given: Any) -> Callable[..., Any]:
    """Return the function that answers as was given: itself, or one that raises an exception, or one that always answers the same."""
    if isinstance(given, BaseException):

        def fail(*_args: Any, **_kwargs: Any) -> Any:
            raise given

        return fail
    return given if callable(given) else lambda *_args, **_kwargs: given


def _us(now: datetime) -> int:
    if now.tzinfo is None:
        raise Invalid(f"the clock can't show {now.isoformat()}: a time needs a zone, as in datetime(..., tzinfo=UTC)")
    return microseconds(now)
