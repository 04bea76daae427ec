"""Asked: which calls to the outside are on their way, as the log knows it.

For a gateway that says so, a note is made in the log before it is asked for a command, and goes in the commit that records the decision. A note whose owner has
ended is a call that was made, and of which nobody knows what came: its decision was lost in a crash. Whoever decides the command again asks with the same
key, and what is recorded then says how many calls were lost before.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from happened.core.store import Commit, Engine, Unseen
from happened.core.world import Source
from happened.log.log import EVERYTHING_SEEN
from happened.sourcing.gateway import Answer, Gateway, Question, call_id

NOTE = "asked/"


class Made(msgspec.Struct, frozen=True):
    """A call that was made, as it is noted."""

    command: str
    gateway: str
    at: int
    """When, in microseconds since 1970."""
    owner: str
    lost: int = 0
    """How many were made for the same before whose decisions were lost."""


_decode = msgspec.json.Decoder(Made).decode


class Asked:
    """The notes of calls, of one process and log."""

    def __init__(self, engine: Engine, source: Source, gateways: Iterable[Gateway]) -> None:
        self._engine = engine
        self._source = source
        self._noted = {gateway.name for gateway in gateways if gateway.noted}
        self._lock = threading.Lock()
        self._under_way: set[str] = set()

    def note(self, command: str, questions: Sequence[Question]) -> Mapping[Question, int]:
        """Note that these are asked for a command; return for each how many calls of it were lost before. Cost: one commit."""
        owner, now = self._source.owner(), self._source.now_us()
        lost: dict[Question, int] = {}
        with self._lock:
            mine = set(self._under_way)
            self._under_way.update(NOTE + call_id(command, question) for question in questions)

        def decide(unseen: Unseen) -> Commit:
            notes: dict[str, str | None] = {}
            for question in questions:
                key = NOTE + call_id(command, question)
                before = unseen.notes(key).get(key)
                made = _decode(before) if before is not None else None
                lost[question] = made.lost + self._is_lost(made, key in mine) if made is not None else 0
                notes[key] = msgspec.json.encode(Made(command, question[0], now, owner, lost[question])).decode()
            return Commit(notes=notes)

        self._engine.append(decide, EVERYTHING_SEEN)
        return lost

    def over(self, command: str, answers: Iterable[Answer]) -> dict[str, str | None]:
        """Return the notes that go, since what came of these answers is known."""
        if not self._noted:
            return {}
        gone = {
            NOTE + call_id(command, (one.gateway, bytes(one.arguments), one.nth)): None for one in answers if one.gateway in self._noted
        }
        with self._lock:
            self._under_way.difference_update(gone)
        return dict(gone)

    def lost(self) -> dict[str, Made]:
        """Return by their keys the calls that were made and whose decisions were lost, as far as it is certain, and not made again since."""
        with self._lock:
            mine = set(self._under_way)
        made = {key: _decode(body) for key, body in self._engine.notes(NOTE).items()}
        return {key.removeprefix(NOTE): one for key, one in made.items() if self._is_lost(one, key in mine)}

    def _is_lost(self, made: Made, under_way: bool) -> bool:
        return self._source.gone(made.owner) or (made.owner == self._source.owner() and not under_way)
