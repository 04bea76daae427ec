"""Pending: commands that were kept, and are decided in the background by whoever holds the lease.

Two that share a tag are decided in their order; one without tags comes after all before it. One whose decider fails stops those that share a tag with
it, and is seen: `outcome` raises `Stuck`. One that can't be read, or has no tags, stops all after it: what it shares with them is not known. It is tried
again at the next open, or when the lease changes hands.
"""

import threading
from collections.abc import Callable
from typing import Any  # Any: commands of any class

from happened.core.errors import Closed, Diverged, Late, OutcomeUnknown, StoreFailed
from happened.core.store import Commit, Row
from happened.log.lease import Leases
from happened.log.log import EVERYTHING_SEEN, Log
from happened.log.row import decode_header, taken_apart
from happened.log.writer import CLOSE_SECONDS_MAX
from happened.sourcing.handling import PENDING_NOTE, STUCK_NOTE, Decision, Handling

LEASE = "pending"
TROUBLE = (Closed, Diverged, Late, OutcomeUnknown, StoreFailed)
RETRY_SECONDS = 0.5
LOOK_SECONDS = 0.05
"""How often to look for what other processes have kept; what this one keeps is decided at once."""


class PendingWorker:
    """Decides what is pending, in a thread, while it holds the lease."""

    def __init__(self, log: Log, handling: Handling, decide: Callable[[Decision], None]) -> None:
        self._log = log
        self._handling = handling
        self._decide = decide
        self.leases = Leases(log.engine, log.source, [LEASE])
        self._stuck: set[str] = set()
        """What this process has tried; it tries once."""
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="happened-pending", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.leases.start()
        if self.leases.epoch(LEASE) is not None:
            self._forget_stuck()  # before anybody can ask
        self._thread.start()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the command that is being decided."""
        self._stop.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS_MAX)
        self.leases.close()

    def _run(self) -> None:
        position = -1
        while not self._stop.is_set():
            if self.leases.epoch(LEASE) is None:
                position = -1  # who wins the lease tries all anew
                self._stuck.clear()
                self.leases.changed.wait(LOOK_SECONDS)
                self.leases.changed.clear()
                continue
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            try:
                head = self._log.head
                if head > position:
                    self._decide_all()
                position = head
            except Closed:
                return
            except Exception as error:  # noqa: BLE001 - of the world: counted, and all is tried again
                self._log.engine.sample("pending", "failed", 0, f"{type(error).__name__}: {error}")
                position = -1
                self._stop.wait(RETRY_SECONDS)

    def _decide_all(self) -> None:
        self._forget_stuck()
        blocked: set[str] = set()
        everything = False
        for note, known in sorted(self._log.engine.notes(PENDING_NOTE).items()):
            if self._stop.is_set() or everything:
                return
            row = self._log.row_at(int(note.removeprefix(PENDING_NOTE)))
            assert row is not None, "a pending note points to its input"
            [(_, raw)] = list(taken_apart(row))
            tags = set[str]()  # of a command that can't be read: all after it wait
            try:
                command = self._log.reader.body(raw.number, raw.body, row.position)
                tags = set(self._log.reader.terms(raw.number, command))
                if known not in self._stuck and not (blocked and (not tags or tags & blocked)):
                    self._decide(self._decision(note, known, row, command, bytes(raw.body)))
                    continue
            except TROUBLE:
                raise  # of the world, not of this command: tried again
            except Exception as error:  # noqa: BLE001 - whatever the decider raises stops its key, and is seen
                if known not in self._stuck:
                    self._stop_at(known, error)
            blocked |= tags
            everything = not tags

    def _forget_stuck(self) -> None:
        """Take back what an owner before this one has said of commands that this one will try itself."""
        said = [note for note in self._log.engine.notes(STUCK_NOTE) if note.removeprefix(STUCK_NOTE) not in self._stuck]
        if said:
            self._log.engine.append(lambda _: Commit(notes=dict.fromkeys(said)), EVERYTHING_SEEN)

    def _stop_at(self, id: str, error: Exception) -> None:
        """Say in the log, where everybody can see it, that this command can't be decided."""
        said = f"{type(error).__name__}: {error}"
        self._log.engine.append(lambda _: Commit(notes={STUCK_NOTE + id: said}), EVERYTHING_SEEN)
        self._stuck.add(id)

    def _decision(self, note: str, known: str, row: Row, command: Any, body: bytes) -> Decision:
        """Return the decision that a note stands for. `Invalid` if no decider takes the command any more."""
        header = decode_header(row.head)
        handler = self._handling.handler(command)
        now = header.now if header.now is not None else row.at
        decision = Decision(self._handling, handler, self._log.typed[type(command)], command, body, known, now, given=True)
        decision.actor, decision.correlation, decision.occurred = header.actor, header.correlation, header.occurred
        decision.traceparent = header.traceparent
        decision.decides = note
        return decision
