"""Asked: which calls to the outside are on their way, as the log knows it.

For a gateway that says so, a note is made in the log before it is asked for a command, and goes in the commit that records the decision. A note whose owner has
ended, or whose owner has given the decision up, is a call that was made, and of which nobody knows what came: its decision was lost in a crash, its commit
has failed, or its time was over. Whoever decides the command again asks with the same key, and what is recorded then says how many calls were lost before.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from happened.core.store import Commit, Engine, Unseen
from happened.core.world import Source
from happened.log.log import EVERYTHING_SEEN
from happened.log.writer import LOCK_SECONDS_MAX
from happened.sourcing.gateway import Answers, Gateway, Question, call_id

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
        """Nobody reads or writes the log while he holds it: notes are compared with what is under way under the lock of the log."""
        self._under_way: set[Answers] = set()
        """What this process is deciding, and has noted calls for: until its commit has taken place, or it is given up."""

    def note(self, command: str, answers: Answers, questions: Sequence[Question], wait_seconds_max: float) -> Mapping[Question, int]:
        """Note that these are asked for a command; return for each how many calls of it were lost before. Cost: one commit.

        `Overloaded` where the lock of the log is not free in time.
        """
        owner, now = self._source.owner(), self._source.now_us()
        lost: dict[Question, int] = {}
        with self._lock:
            answers.noted |= {NOTE + call_id(command, question) for question in questions}
            if not answers.over:
                self._under_way.add(answers)

        def decide(unseen: Unseen) -> Commit:
            notes: dict[str, str | None] = {}
            mine = self._noted_by_others(answers)
            for question in questions:
                key = NOTE + call_id(command, question)
                before = unseen.notes(key).get(key)
                made = _decode(before) if before is not None else None
                lost[question] = made.lost + self._is_lost(made, key in mine) if made is not None else 0
                notes[key] = msgspec.json.encode(Made(command, question[0], now, owner, lost[question])).decode()
            return Commit(notes=notes)

        self._engine.append(decide, EVERYTHING_SEEN, wait_seconds_max=min(wait_seconds_max, LOCK_SECONDS_MAX))
        return lost

    def over(self, command: str, answers: Answers) -> dict[str, str | None]:
        """Return the notes that go with the commit that records what came of these answers."""
        if not self._noted:
            return {}
        return {
            NOTE + call_id(command, (one.gateway, bytes(one.arguments), one.nth)): None
            for one in answers.known.values()
            if one.gateway in self._noted
        }

    def ended(self, answers: Answers | None) -> None:
        """Hear that its decision is recorded, or given up: what is noted for it still was lost, and what it notes from now on will be."""
        if answers is not None:
            with self._lock:
                answers.over = True
                self._under_way.discard(answers)

    def lost(self) -> dict[str, Made]:
        """Return by their keys the calls that were made and whose decisions were lost, as far as it is certain, and not made again since."""
        noted = self._engine.notes(NOTE)
        mine = self._noted_by_others(None)
        still = self._engine.notes(NOTE) if noted else noted  # whose decision was recorded since has none any more
        made = {key: _decode(body) for key, body in noted.items() if still.get(key) == body}
        return {key.removeprefix(NOTE): one for key, one in made.items() if self._is_lost(one, key in mine)}

    def _noted_by_others(self, but: Answers | None) -> set[str]:
        """Return the notes of what this process is deciding, but for one."""
        with self._lock:
            return {key for one in self._under_way if one is not but for key in one.noted}

    def _is_lost(self, made: Made, under_way: bool) -> bool:
        return self._source.gone(made.owner) or (made.owner == self._source.owner() and not under_way)
