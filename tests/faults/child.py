"""Processes of their own that are at the mercy of a test: `python -m tests.faults.child WHAT URL HISTORY WEAKENED`.

`clients`: for each line `NAME SEED CLOCK` that comes in it forks a process that asks at random until it is killed, and says its number.
`racers`: for a first line `PROCESSES TASKS` it forks so many processes of so many tasks; for each line after it, `order-N` or `last-N`, all race for that.
"""

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any  # Any: a connection of what the platform has

import happened as h
from happened.core.world import Source
from happened.stores.machine import Machine
from happened.testing.history import History, Session
from tests.faults import weakened
from tests.faults.model import Order, Ordered, act, app

DAY_US = 24 * 60 * 60 * 1_000_000
THREADS = 2


class Jumping(Machine):
    """A clock that jumps by a day, forwards and backwards, at any moment."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._chance = random.Random(seed)
        self._off = self._chance.choice([-DAY_US, 0, DAY_US])

    def now_us(self) -> int:
        """Return the time of this moment, or of yesterday's, or of tomorrow's."""
        if self._chance.random() < 0.05:
            self._off = self._chance.choice([-DAY_US, 0, DAY_US])
        return super().now_us() + self._off


def work(url: str, history: History, name: str, seed: str, source: Source) -> None:
    """Ask at random from a few threads, for ever. What must not come is written beside the history."""
    try:
        with app.open(url, source=source) as running:

            def ask(number: int) -> None:
                session, chance = history.session(f"{name}.{number}"), random.Random(f"{seed} {number}")
                latest: h.Receipt | None = None
                try:
                    while True:
                        latest = act(running, session, chance, latest)
                except BaseException:  # noqa: BLE001 - the test reads what it is
                    unexpected(url, history)

            for number in range(THREADS):
                threading.Thread(target=ask, args=(number,)).start()
            threading.Event().wait()
    except (h.StoreFailed, h.Overloaded):  # the server went away while it was opened
        pass
    except h.Invalid as error:
        if "can't be opened as a log" not in str(error):  # the server is away
            unexpected(url, history)
    except BaseException:  # noqa: BLE001 - the test reads what it is
        unexpected(url, history)


def unexpected(url: str, history: History) -> None:
    """Write down what must not come."""
    with beside(history).open("a") as file:
        file.write(f"{url}\n{traceback.format_exc()}\n")


def beside(history: History) -> Path:
    """Return where what must not come is written."""
    return Path(f"{history.path}.unexpected")


def fork_each(url: str, history: History) -> None:
    """Fork a process that asks for each line, and have it say its number."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who is killed is gone at once
    for line in sys.stdin:
        name, seed, clock = line.split()
        pid = os.fork()
        if pid == 0:
            work(url, history, name, seed, Jumping(seed) if clock == "jumping" else Machine())
            os._exit(0)
        print(pid, flush=True)


def fork_racers(url: str, history: History) -> None:
    """Fork the racers' processes; hand them each line that comes in, and say what came of it in all of them."""
    processes, tasks = map(int, sys.stdin.readline().split())
    fork = multiprocessing.get_context("fork")
    racing: list[Any] = []
    for number in range(processes):
        ours, theirs = fork.Pipe()
        racing.append(ours)
        fork.Process(target=race_in, args=(url, history, f"racer-{number}", tasks, theirs), daemon=True).start()
    print(*(ours.recv() for ours in racing), flush=True)
    for line in sys.stdin:
        for ours in racing:
            ours.send(line.strip())
        print(*(word for ours in racing for word in ours.recv()), flush=True)


def race_in(url: str, history: History, name: str, tasks: int, theirs: Any) -> None:
    """Race in one process."""
    asyncio.run(race(url, [history.session(f"{name}.{number}") for number in range(tasks)], theirs))


async def race(url: str, sessions: Sequence[Session], theirs: Any) -> None:
    """Race in every round for one order, or for the last unit of an article."""
    async with app.open(url, run=False) as running:
        theirs.send("open")
        while True:
            turn = await asyncio.to_thread(theirs.recv)
            theirs.send(await asyncio.gather(*(run(running, session, number, turn) for number, session in enumerate(sessions))))


async def run(running: h.Running, session: Session, number: int, turn: str) -> str:
    """Run for it in one of three ways; say what came of it."""
    what, place = turn.split("-")
    try:
        if what == "order":
            if (
                number + sum(map(ord, session.name.partition(".")[0]))
            ) % 2:  # each process has both, and of two with one task each has another
                await session.adispatch(running, Order(turn, f"enough-{place}", 1))
            else:
                unless = h.Boundary(h.query(names=["Ordered"], order=turn))
                await session.aappend(running.log, Ordered(turn, f"{session.name}-{place}", 1), unless=unless)
        else:
            await session.adispatch(running, Order(f"{session.name}-{place}", turn, 1))
    except (h.Refused, h.Conflict):
        return "lost"
    except h.Error as error:
        return type(error).__name__
    return "won"


if __name__ == "__main__":
    what, url, path, how = sys.argv[1:]
    weakened.HOW[how]()
    if what == "clients":
        fork_each(url, History(path))
    else:
        fork_racers(url, History(path))
