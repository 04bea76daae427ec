"""World: the one door to everything that is not a function of its arguments.

A decider, a reaction or a gateway's caller sees the clock, ids, chance and the outside through it and nowhere else. All of it is fixed by the command and
by the answers that were recorded with it, so a replay sees the same.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, TypeVarTuple, overload  # Any: keys of any state
from uuid import UUID

from happened.core.state import State

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
S = TypeVar("S", bound=State)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class World(Protocol):
    """The outside, as a decider sees it: the clock, ids, chance, states by key, and questions to gateways.

    Everything here comes out the same each time the same command is decided with the same answers.
    """

    @property
    def now(self) -> datetime:
        """When the command was taken, in UTC; fixed for the whole run, and not ordered between commands."""
        ...

    def new_id(self) -> UUID:
        """Return the next id that this command makes: derived from the command's id, so the same on every replay."""
        ...

    def random(self) -> float:
        """Return the next number from 0 up to 1 that this command draws: derived from the command's id."""
        ...

    def state(self, state: type[S], /, *key: Any, **named: Any) -> S:
        """Return a state by its key, at the position of the decision; it joins the boundary. The initial state where nothing happened."""
        ...

    @overload
    def ask(self, gateway: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def ask(self, gateway: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def ask(self, gateway: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Ask the outside and return its answer; the answer is recorded with the decision, and heard instead on every later run.

        `GatewayFailed` where it failed after all attempts. `Invalid` for a function that isn't in the app's `gateways`.
        """
        ...

    @overload
    def ask_all(self, gateway: Callable[[*Ts], Awaitable[R]], questions: Iterable[tuple[*Ts]], /) -> list[R]: ...
    @overload
    def ask_all(self, gateway: Callable[[*Ts], R], questions: Iterable[tuple[*Ts]], /) -> list[R]: ...
    def ask_all(self, gateway: Callable[..., Any], questions: Iterable[tuple[Any, ...]], /) -> Any:
        """Ask many questions at once and return the answers in their order."""
        ...


class Source(Protocol):
    """Where time and new command ids come from. The machine's own is `happened.stores.machine.Machine`; tests set theirs."""

    def now_us(self) -> int:
        """Return the time in microseconds since 1970, UTC."""
        ...

    def new_id(self) -> str:
        """Return an id that no other call, process or machine returns."""
        ...

    def salt(self, count: int) -> bytes:
        """Return this many unpredictable bytes."""
        ...

    def owner(self) -> str:
        """Return a name for this process that tells whether it still runs."""
        ...

    def gone(self, owner: str) -> bool:
        """Say whether it is certain that the process of this name has ended."""
        ...


def moment(us: int) -> datetime:
    """Return microseconds since 1970 as a time in UTC; exact."""
    return EPOCH + us * MICROSECOND


def microseconds(time: datetime) -> int:
    """Return a time with a zone as microseconds since 1970; exact."""
    return (time - EPOCH) // MICROSECOND


class Chance:
    """Ids and numbers drawn from a text: the same draws for the same text, in the same order. SHA-256 of the text and a counter."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._drawn = 0

    def _draw(self) -> bytes:
        self._drawn += 1
        return hashlib.sha256(b"%d:" % self._drawn + self._text).digest()

    def new_id(self) -> UUID:
        """Return the next id: a version 8 UUID (RFC 9562), whose bits are ours to choose."""
        drawn = bytearray(self._draw()[:16])
        drawn[6] = drawn[6] & 0x0F | 0x80
        drawn[8] = drawn[8] & 0x3F | 0x80
        return UUID(bytes=bytes(drawn))

    def random(self) -> float:
        """Return the next number from 0 up to 1, with 53 bits."""
        return (int.from_bytes(self._draw()[:8], "big") >> 11) / (1 << 53)
