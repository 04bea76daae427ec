"""The reactor: the threads in which reactions and publications work.

Those that ask nobody outside share a thread, and what it reads and decodes; one that may ask has a thread of its own, since the outside is slow.
Each has its own lease, its own place in the log and its own trouble.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any  # Any: what is counted is of any type

from happened.log.held import told
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.worker import IDLE_SECONDS, RETRY_SECONDS, SUBMIT_SECONDS_MAX, Pauses, Worker, outcome_of
from happened.notification.hearing import AnyHearing
from happened.notification.sharing import Reach, Sharing


class Reactor:
    """All reactions of one app on one log, or all of its publications; `name` says which."""

    def __init__(self, log: Log, leases: Leases, name: str, at_work: Sequence[AnyHearing]) -> None:
        self._log = log
        self._at_work = [Sharing(log, leases, one) for one in at_work]
        asking = [one for one in self._at_work if one.listener.wants_world]
        others = [one for one in self._at_work if not one.listener.wants_world]
        self._crews = [Crew(log, leases, name, others)] if others else []
        self._crews += [Crew(log, leases, one.listener.lease, [one]) for one in asking]

    @property
    def by(self) -> dict[str, str]:
        """By what each of them is divided, by the names of their leases; empty where it is not."""
        return {one.listener.lease: one.by for one in self._at_work}

    def start(self) -> None:
        """Begin."""
        for crew in self._crews:
            crew.start()

    def end(self) -> None:
        """Tell all to end."""
        for crew in self._crews:
            crew.end()

    def stop(self) -> None:
        """End after the runs that are going on, and note how far each reaction has come."""
        for crew in self._crews:
            crew.stop()

    def statistics(self) -> list[dict[str, Any]]:
        """Return for each: how far it has come, by whichever process, how often it ran in this one, and what is wrong."""
        head = self._log.head
        return [one.statistics(head) for one in self._at_work]


class Crew:
    """Listeners that share a thread."""

    def __init__(self, log: Log, leases: Leases, name: str, ones: Sequence[Sharing]) -> None:
        self._log = log
        self._leases = leases
        self._ones = ones
        self._of = {one.listener: one for one in ones}
        self._worker = Worker(log, None, name, begin=self._begin, step=self._step)
        self._pauses = Pauses()

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def end(self) -> None:
        """Tell it to end."""
        self._worker.end()

    def stop(self) -> None:
        """End, and note how far each has come."""
        self._worker.stop()

    def _begin(self, _epoch: int) -> None:
        for one in self._hearings():
            one.release()

    def _hearings(self) -> list[AnyHearing]:
        return [one for sharing in self._ones for one in sharing.hearings()]

    def _step(self) -> None:
        mine = [one for one in self._hearings() if self._owns(one)]
        of_each = {one.listener: one for one in mine}
        for sharing in self._ones:
            if sharing.listener in of_each:
                self._do(of_each[sharing.listener], sharing.redraw)
        mine = [one for one in mine if one.epoch is not None]
        if not mine:
            self._worker.rest()
            return
        behind = min(one.position for one in mine)
        head = self._log.wait(behind, min(IDLE_SECONDS, *(one.patience_seconds for one in mine)))
        for one in mine:
            self._do(one, one.look_after)
        mine = [one for one in mine if one.epoch is not None]  # who had trouble begins anew first: what it remembers is not what is noted
        for one in mine:
            if one.position >= head:
                one.trouble.over()  # there is nothing that it could not get past
        ahead: dict[Reach, list[AnyHearing]] = {}
        for one in mine:
            reach = self._of[one.listener].reach(one, head)
            if one.position < reach.until:
                ahead.setdefault(reach, []).append(one)
        for reach in sorted(ahead):
            self._advance(ahead[reach], reach)
        if not ahead and behind < head:
            self._worker.rest()  # for parts that are another's until its lease runs out
        for one in mine:
            self._do(one, one.save_in_time)
        if self._pauses.is_one(head):
            self._note(mine)
        if self._worker.stopping:
            for one in mine:
                self._do(one, one.save)

    def _note(self, ones: Sequence[AnyHearing]) -> None:
        """Note how far these have come, in one commit."""
        jobs = [(one, job) for one in ones if (job := one.noting()) is not None]
        if jobs:
            self._log.writer.submit_all([job for _, job in jobs], SUBMIT_SECONDS_MAX)
        for one, job in jobs:
            self._do(one, functools.partial(one.noted, job))

    def _owns(self, one: AnyHearing) -> bool:
        """Say whether this process may run a reaction now; take it over where that is new."""
        epoch = self._leases.epoch(one.lease)
        if epoch is None:
            one.trouble.left()
        if epoch is None or time.monotonic() < one.retry_at:
            one.release()
            return False
        if one.epoch != epoch:
            self._do(one, functools.partial(one.claim, epoch))
        return one.epoch == epoch

    def _advance(self, ones: Sequence[AnyHearing], reach: Reach) -> None:
        """Let those that have come equally far take the next page; where there is none of theirs up to where they may go, they have come there."""
        position, until, rows_max = reach
        events = {event for one in ones for event in one.listener.events}
        wanted = self._log.far_behind(position, until, events)
        decode = self._log.reader.pages(events)
        for rows in self._log.engine.read(position, until, wanted=wanted, rows_max=rows_max):
            try:
                pages = decode(rows)
            except Exception as error:  # noqa: BLE001 - it is of one that reads what today's code can't, and is seen there
                if len(ones) == 1:
                    ones[0].trouble.met(error)
                    ones[0].retry_at = time.monotonic() + RETRY_SECONDS
                else:
                    for one in ones:
                        self._advance([one], reach)
                return
            for one in ones:
                self._do(one, functools.partial(one.take, rows, pages, lambda: self._worker.stopping))
            return
        for one in ones:
            self._do(one, functools.partial(one.pass_over, until))

    def _do(self, one: AnyHearing, what: Callable[[], None]) -> None:
        """Do something for one reaction; trouble of the world is its own, and passes or is seen."""
        try:
            what()
        except BaseException as error:  # noqa: BLE001 - it is seen and counted; the reaction begins anew where the log says it is
            one.trouble.met(error)
            one.retry_at = time.monotonic() + RETRY_SECONDS
            one.release()
            self._log.engine.sample(one.listener.lease, outcome_of(error), 0, told(error))
