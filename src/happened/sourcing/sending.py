"""Sending: commands that the log itself has caused, by a reaction or a timer, recorded with the progress of whoever sends them.

Where nothing is pending, such a command is decided in the very commit that records it. Where something is, or its decider asks the outside, or fails, it is
kept as pending, behind what is pending before it, and decided by whoever holds the lease of those.
"""

from collections.abc import Callable, Sequence
from typing import Any  # Any: commands and keys of any class

from happened.core.errors import GatewayFailed, Invalid
from happened.core.state import Fold, Key
from happened.core.world import World
from happened.log.log import Log
from happened.log.row import ANSWER, Written, encode
from happened.log.worker import Envelope
from happened.log.writer import Batch
from happened.sourcing.gateway import Answer, Answers, Asking, TimeOver
from happened.sourcing.handling import PENDING_NOTE, DecidingWorld, Decision, Handling, Known, Pending
from happened.sourcing.memory_image import Entry, MemoryImage

ASK_SECONDS_MAX = 600.0
"""How long the outside may take to answer one run of a reaction; each gateway has its own, shorter one."""


TRIES_MAX = 10
"""How often a state is looked at anew that changes whenever it is looked at."""


class Seen:
    """The durable states as one run sees them: all of them as of one position, whatever is recorded meanwhile.

    It is the latest that could be had when the last of them was read. Where one that was read before has changed since, it stays where it is, and the
    others are read from the log.
    """

    def __init__(self, image: MemoryImage, position: int) -> None:
        self.position = position
        self._image = image
        self._read: dict[tuple[Fold, Key], int] = {}
        """What was read, in which version."""

    def entry(self, fold: Fold, key: Key) -> Entry:
        """Return a state with its version. `Stuck` where it stands still."""
        entry = self._image.get(fold, key)
        for _ in range(TRIES_MAX):
            if entry.version <= self.position:
                break
            reached = self._image.reached()
            if any(self._image.get(*one).version != version for one, version in self._read.items()):
                break
            self.position = reached
            entry = self._image.get(fold, key)
        if entry.version > self.position:
            entry = self._image.as_of(fold, key, self.position)
        self._read[fold, key] = entry.version
        return entry

    def state(self, fold: Fold, key: Key) -> Any:
        """Return a state, `None` where there is none. `Stuck` where it stands still."""
        return self.entry(fold, key).state


class Sending:
    """Prepares and records the commands of one open log that its own records cause."""

    def __init__(self, log: Log, handling: Handling, image: MemoryImage) -> None:
        self._log = log
        self._handling = handling
        self._image = image
        self.heard: Sequence[Answer] = ()
        """Answers that were recorded before, and are heard first."""
        self._newest = ""
        """The note of the last command that was found pending: while that waits, none need be looked for."""

    def states_as_of(self, position: int) -> Seen:
        """Have the durable states reach a position at least; return them."""
        if self._image.position < position:
            self._log.writer.catch_up()
        return Seen(self._image, self._image.position)

    def ask(self, id: str, now: int, states: Seen, run: Callable[[World], Any]) -> tuple[Any, list[Written]]:
        """Run something that may ask the outside; return what it returns, and the answers to be recorded with it.

        Its ids, its chance and the keys offered to gateways come from `id`: run again, it offers the same.
        """
        answers = Answers(self.heard)
        deadline = self._handling.outside.deadline(ASK_SECONDS_MAX)
        asking = Asking(self._handling.outside, answers, id, None, may_ask=True, deadline=deadline)
        world = DecidingWorld(now, id, asking, states.entry, [])
        try:
            found = world.through(run)
        except TimeOver as error:
            raise GatewayFailed(f"the outside did not answer within {ASK_SECONDS_MAX:g} s", attempts=1) from error
        if not self._handling.keeps_asked:
            return found, []
        return found, [Written(ANSWER, encode(answer)) for answer in answers.known.values()]

    def prepared(self, command: Any, envelope: Envelope) -> Decision:
        """Check and encode a command. `Invalid` where it can't be sent."""
        handler, typed = self._handling.taker(command)
        body, command = typed.checked(command)
        return self._loaded(Decision(self._handling, handler, typed, command, body, envelope.id, envelope.now, given=False), envelope)

    def read(self, number: int, body: bytes, envelope: Envelope, position: int) -> Decision:
        """Do what `prepared` does with a command that was recorded before."""
        self._log.names.known(number)  # whoever has scheduled it may have named it
        command = self._log.reader.body(number, body, position)
        if command is None:
            raise Invalid(f"the command that is due at position {position} was erased", position=position)
        return self.prepared(command, envelope)

    def _loaded(self, decision: Decision, envelope: Envelope) -> Decision:
        decision.causation, decision.actor = envelope.causation, envelope.actor
        decision.correlation = envelope.correlation if envelope.correlation != envelope.id else None
        decision.depth = envelope.depth
        return decision

    def load(self, decisions: Sequence[Decision]) -> None:
        """Have in memory what the deciders of these commands read."""
        self._handling.preload_all(decisions)

    def declare(self, batch: Batch) -> None:
        """Have the names of all handlers recorded."""
        self._handling.declare(batch)

    def send(self, batch: Batch, decisions: Sequence[Decision]) -> None:
        """Record commands in their order: decided, or pending."""
        waiting = self._is_any_pending(batch)
        for decision in decisions:
            if waiting or not self.decided(batch, decision):
                waiting = True
                self.keep(batch, decision)

    def _is_any_pending(self, batch: Batch) -> bool:
        if not self._newest or self._newest not in batch.notes_of(self._newest):
            self._newest = max(batch.notes_of(PENDING_NOTE), default="")
        return bool(self._newest) or any(note.startswith(PENDING_NOTE) for note in batch.notes)

    @staticmethod
    def keep(batch: Batch, decision: Decision) -> None:
        """Record a command as pending."""
        decision.again()
        draft = Pending(decision).draft(batch)
        if draft is not None:  # else it was sent before
            batch.add(draft)

    @staticmethod
    def decided(batch: Batch, decision: Decision) -> bool:
        """Record a command with what is decided on it; say whether that could be done now."""
        decision.taken_at = batch.began
        try:
            draft = decision.draft(batch)
            if draft is None:
                return isinstance(decision.result, Known)
            decision.added(batch, draft)
        except Exception:  # noqa: BLE001 - it is counted where it was raised, and raised again where it is pending: there it is seen, and stops its key
            return False
        return True
