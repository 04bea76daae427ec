"""Clients in processes of their own, which are killed, stopped, and started again; and what is proven at the end."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Self

import happened as h
from happened.testing.history import History, check
from tests.faults.child import beside
from tests.faults.model import app

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("HAPPENED_KILLS", "15"))
"""How many processes are killed on SQLite; on PostgreSQL a tenth of them."""
WORK_SECONDS_MAX = 120.0
SEED = int(os.environ.get("HAPPENED_SEED", "7"))


class Clients:
    """Processes that ask at random."""

    def __init__(self, url: str, history: History, *, weakened: str = "whole", clock: str = "true") -> None:
        self._clock = clock
        self._history = history
        self._count = 0
        self.running: list[int] = []
        self._forks = started("clients", url, history, weakened)

    def start(self, count: int) -> None:
        """Have so many of them at work."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        while len(self.running) < count:
            self._count += 1
            self._forks.stdin.write(f"client-{self._count} {SEED}-{self._count} {self._clock}\n")
            self._forks.stdin.flush()
            self.running.append(int(self._forks.stdout.readline()))

    def wait(self, seconds: float) -> None:
        """Let them work for a while: when somebody is killed is up to chance."""
        time.sleep(seconds)

    def wait_for(self, accepted: int) -> None:
        """Let them work until more than so many writes were accepted: on a busy machine most of them are killed before they have come so far."""
        deadline = time.monotonic() + WORK_SECONDS_MAX
        while time.monotonic() < deadline:
            self.start(3)
            time.sleep(0.2)
            if sum((one.asked.does, one.outcome) == ("write", "accepted") for one in self._history.operations()) > accepted:
                return

    def kill(self, victim: int) -> None:
        """Kill one of them, whatever it does."""
        with contextlib.suppress(ProcessLookupError):  # it has ended, since it found no server
            os.kill(victim, signal.SIGKILL)
        self.running.remove(victim)

    def pause(self, victim: int, seconds: float) -> None:
        """Stop one of them for a while, whatever it does and holds."""
        with contextlib.suppress(ProcessLookupError):  # as above
            os.kill(victim, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(victim, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for victim in list(self.running):
            self.kill(victim)
        self._forks.communicate()


def started(what: str, url: str, history: History, weakened: str) -> "subprocess.Popen[str]":
    """Start a process of tests/faults/child.py."""
    command = [sys.executable, "-m", "tests.faults.child", what, url, str(history.path), weakened]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def whole(history: History, url: str) -> "Counter[tuple[str, str]]":
    """Prove that one log explains the history; return how often what came of what."""
    operations = history.operations()
    counted = Counter((one.asked.does, one.outcome) for one in operations)
    print(f"seed {SEED}:", ", ".join(f"{does} {outcome}: {count}" for (does, outcome), count in sorted(counted.items())))
    if beside(history).exists():
        raise AssertionError(beside(history).read_text())
    with app.open(url) as running:
        findings = check(history, running)
        assert not findings, "\n".join(map(str, findings[:20]))
        running.log.verify()
    return counted


def chance_of(what: str) -> random.Random:
    """Return the chance of one test."""
    print("HAPPENED_SEED", SEED, "HAPPENED_KILLS", KILLS)
    return random.Random(f"{SEED} {what}")


def opened(url: str) -> h.Running:
    """Open the log to dispatch only."""
    return app.open(url, run=False)
