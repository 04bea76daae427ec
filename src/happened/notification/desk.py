"""The desk: what reactions and timers need of the rest to run and to send. The app gives it to them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol  # Any: commands and states of any class

from happened.core.state import Fold, Key
from happened.core.world import World
from happened.log.row import Sent, Written
from happened.log.typed import Typed
from happened.log.worker import Envelope
from happened.log.writer import Batch


class Prepared(Protocol):
    """A command that is ready to be sent."""

    id: str
    sent: Sent | None
    asked_typed: Typed
    asked_bytes: bytes


class States(Protocol):
    """The durable states as one run sees them."""

    @property
    def position(self) -> int:
        """As of which position all are that were read so far."""
        ...

    def state(self, fold: Fold, key: Key) -> Any:
        """Return a state, or `None`."""
        ...


class Desk(Protocol):
    """States, the outside, deciders."""

    def states_as_of(self, position: int) -> States:
        """Have the durable states reach a position at least; return them."""
        ...

    def ask(self, id: str, now: int, states: Any, run: Callable[[World], Any]) -> tuple[Any, list[Written]]:
        """Run something with a `World` of these states; return what it returns, and the answers it got."""
        ...

    def prepared(self, command: Any, envelope: Envelope) -> Prepared:
        """Check a command and have it ready to be sent."""
        ...

    def read(self, number: int, body: bytes, envelope: Envelope, position: int) -> Prepared:
        """Do so with a command that was recorded before."""
        ...

    def load(self, decisions: Sequence[Any]) -> None:
        """Have in memory what the deciders of these commands read, so that nobody waits for the disk under the lock."""
        ...

    def send(self, batch: Batch, decisions: Sequence[Any]) -> None:
        """Record commands in their order."""
        ...

    def declare(self, batch: Batch) -> None:
        """Have the names of all handlers recorded."""
        ...
