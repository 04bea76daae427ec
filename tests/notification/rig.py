"""A reaction at work by hand, step by step, without threads: killed and taken over between any two commits."""

import random
from typing import Any

import happened as h
from happened.core.world import Source
from happened.log.held import Held
from happened.log.writer import Job
from happened.notification.reacting import Reacting


class Killed(BaseException):
    """The process ends here."""


class Rig:
    """One log, and one reaction on it that is owned by one process after the other."""

    def __init__(self, app: h.App, url: str = "memory:", *, source: Source | None = None) -> None:
        self.app = app
        self.url = url
        self.source = source
        self.epoch = 0
        self.kill_in: int | None = None
        """Commits until the process is killed: before one if it is even, after it if it is odd."""
        self.running = self._opened()
        self.reacting = self.owned()

    def _opened(self) -> h.Running:
        running = self.app.open(self.url, run=False, source=self.source)
        submit = running.log.writer.submit

        def submitted(job: Job, wait_seconds_max: float) -> None:
            self._come_nearer()
            submit(job, wait_seconds_max)
            self._come_nearer()

        running.log.writer.submit = submitted  # type: ignore[method-assign]  # the place where a process is killed
        return running

    def restart(self) -> None:
        """Close the log, and open it again."""
        self.running.close()
        self.running = self._opened()
        self.reacting = self.owned()

    def _come_nearer(self) -> None:
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in == 0:
                raise Killed

    def owned(self) -> Reacting:
        """Let another process take it over."""
        self.kill_in = None
        self.epoch += 1
        reacting = Reacting(self.app.reactions[0], self.running.log, self.running._sending)
        reacting.claim(self.epoch)
        return reacting

    def take(self, rows_max: int) -> bool:
        """Let it take a page; return whether there was one."""
        decode = self.running.log.reader.pages(self.app.reactions[0].events)
        for rows in self.running.log.engine.read(self.reacting.position, rows_max=rows_max):
            self.reacting.take(rows, decode(rows))
            return True
        return False

    def look_after(self) -> None:
        """Let it try again all that is held, whenever that is due, and do what was decided."""
        one = self.reacting
        one._acts_at = 0.0
        one._due = dict.fromkeys(one._due, 0.0)
        for _ in range(len(one._held)):
            one.look_after()
            if not any(one._due.get(held.position, 0.0) == 0.0 for held in one._held if not held.parked):
                break  # however slow the machine: none is left to another turn

    def held(self) -> list[Held]:
        """Return what is held."""
        return self.running.stuck()

    def perhaps_killed(self, chance: random.Random, what: Any, *given: Any) -> None:
        """Do something, and kill the process now and then in its midst."""
        self.kill_in = chance.choice([None, None, 1, 2, 3, 4])
        try:
            what(*given)
        except Killed:
            self.reacting = self.owned()
        self.kill_in = None
