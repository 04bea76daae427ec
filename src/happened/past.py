"""Past: an open app as it was at a position. States and views are folded from the log; nothing is emitted, asked or recorded."""

import functools
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar  # Any: keys of any type

import msgspec

from happened.core.errors import Invalid
from happened.core.messages import Position
from happened.core.state import State, fold_alone_of, fold_of
from happened.core.world import moment
from happened.cqrs.ask import View, no_view
from happened.cqrs.past import view_as_of
from happened.log.log import Log, not_there_yet
from happened.log.receipt import Receipt
from happened.log.row import decode_header
from happened.sourcing.handling import key_from
from happened.sourcing.time_travel import Travel

S = TypeVar("S", bound=State)


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a handler was by then, as the log says: the latest event on which it had acted, and where what it did is recorded."""

    handler: str
    position: int
    acted_at: int


class Past:
    """An app as of a position. `Running.at` returns it. Every method may be called from any thread, and reads only."""

    def __init__(self, log: Log, travel: Travel, views: Sequence[type[State]], handlers: Iterable[str], position: int) -> None:
        self._log = log
        self._travel = travel
        self._views = views
        self._handlers = tuple(handlers)
        self._asked: dict[type[State], View[Any]] = {}
        self.position = Position(position)
        row = log.row_at(position) if position else None
        self.time: datetime | None = moment(row.at) if row is not None else None
        """When the record at the position was recorded; `None` before the first."""

    def __repr__(self) -> str:
        """Tell as of when it is."""
        return f"<Past at {self.position}, {self.time}>"

    def state(self, state: type[S], /, *key: Any, **named: Any) -> S | None:
        """Return a state as it was, `None` where it had not happened yet, or was gone. Cost: the events of its key since the nearest snapshot."""
        fold = fold_alone_of(state)
        whole = fold.checked(key) if len(key) == len(fold.key) and not named else key_from(fold, key, named)
        return self._travel.state(fold, whole, self.position)  # type: ignore[return-value]  # states of a fold are of its class

    def states(self, state: type[S]) -> dict[tuple[Any, ...], S]:
        """Return all states of a class as they were, by key. Cost: what was recorded since the nearest snapshot; memory holds the result.

        Look them up, or sort them: they come in no order that holds. From a snapshot it is another than that of their first events.
        """
        return self._travel.states(fold_alone_of(state), self.position)  # type: ignore[return-value]  # see above

    def view(self, state: type[S]) -> View[S]:
        """Return a view as it was, to ask as one asks a view of today. `Invalid` if the state is not among the app's `views`.

        Its rows are folded at the first call and held in memory: from the nearest snapshot on. Where something is erased later they are folded anew.
        """
        if state not in self._views:
            raise no_view(state, self._views)
        found = self._asked.get(state)
        if found is None:
            start = functools.partial(self._travel.start, fold_of(state), self.position)
            found = self._asked[state] = view_as_of(self._log, state, self.position, start)
        return found

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Return how far each reaction and publication was by then: by what it had done, since the log does not say what one has passed over.

        How far views were is not in the log. Cost: reads backwards until each has been met that had ever done something.
        """
        numbers = {name.number: name.name for name in list(self._log.names.by_number.values()) if name.name in self._handlers}
        found: list[Checkpoint] = []
        for rows in self._log.engine.read(until=self.position, backwards=True) if numbers else ():
            for row in rows:
                sent = decode_header(row.head).sent if '"s"' in row.head else None
                handler = numbers.pop(sent.handler, None) if sent is not None else None
                if handler is not None:
                    found.append(Checkpoint(handler, self._cause_of(decode_header(row.head).causation or ""), row.position))
            if not numbers:
                break
        return tuple(sorted(found, key=lambda one: one.handler))

    def _cause_of(self, id: str) -> int:
        message, sign, _ = id.rpartition("#")
        for row in [*self._log.find(id), *(self._log.find(message) if sign and message else ())]:
            for record in self._log.reader.records(row):
                if record.id == id:
                    return record.position
        return 0


def position_of(log: Log, when: "Receipt | str | int | datetime") -> int:
    """Return the end of the last whole command at a position, a receipt's, or at or before a time. `Invalid` for a position that is not there yet."""
    if isinstance(when, datetime):
        return log.position_at(when)
    if when is None:  # pyright: ignore[reportUnnecessaryComparison]  # a checker has not seen every caller; to `since=` it is the beginning
        raise Invalid("None is no position: say which, a receipt, or a time with a zone")
    position = log.since(when)
    row = log.row_at(position) if position else None
    if row is None:
        if position:
            raise not_there_yet(position, log.head)
        return 0
    return row.last if row.last == position else row.position - 1
