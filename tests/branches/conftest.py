"""A desk that runs, and a history of it made of a seed."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import happened as h
from happened.testing import Clock
from tests.branches.desk import Draw, Opened, Paid, desk, sharing, telling


class Made:
    """A running desk, with a clock that only the test moves."""

    def __init__(self, running: h.Running, clock: Clock, chance: random.Random) -> None:
        self.running = running
        self.clock = clock
        self.chance = chance

    def step(self) -> None:
        """Do something, by chance; sometimes nothing is waited for, so that handlers are behind."""
        chance, running = self.chance, self.running
        self.clock.move(timedelta(seconds=chance.randrange(60)))
        account = f"a{chance.randrange(3)}"
        amount = Decimal(chance.randrange(60))
        what = chance.random()
        try:
            if what < 0.2:
                running.record(Paid(account, amount + 20), actor="bank", occurred=self.clock.now - timedelta(days=1))
            elif what < 0.3:
                running.log.append([Opened(account, "one"), Opened(account, "other")])
            elif what < 0.7:
                running.dispatch(Draw(account, amount), actor="desk", correlation=f"visit {chance.randrange(9)}")
            elif what < 0.85:
                running.enqueue(Draw(account, amount))
            else:
                self.settle()
        except h.Refused:
            return

    def settle(self) -> None:
        """Have all done that is due now."""
        self.running.settled(wait_seconds_max=30)

    def records(self) -> list[h.Record]:
        """Return what is in the log, without what it says of itself."""
        return told(self.running)


def told(running: h.Running) -> list[h.Record]:
    """Return what is in a log, without what it says of itself."""
    return [record for record in running.log.read() if record.kind != "system"]


Make = Callable[[int, int], Made]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make a history of so many steps, of a seed: in memory if that is even, else in a file."""
    yield from _makes(tmp_path, desk)


@pytest.fixture
def make_telling(tmp_path: Path) -> Iterator[Make]:
    """Make one of a desk that publishes."""
    yield from _makes(tmp_path, telling)


@pytest.fixture
def make_sharing(tmp_path: Path) -> Iterator[Make]:
    """Make one of a desk that shares states."""
    yield from _makes(tmp_path, sharing)


def _makes(tmp_path: Path, app: h.App) -> Iterator[Make]:
    made: list[h.Running] = []

    def one(seed: int, steps: int) -> Made:
        clock = Clock()
        url = f"sqlite:///{tmp_path / f'{seed}.db'}" if seed % 2 else "memory:"
        running = app.open(url, source=clock, views="memory:")
        made.append(running)
        history = Made(running, clock, random.Random(seed))
        print(f"seed {seed}, {steps} steps, {url}")
        for _ in range(steps):
            history.step()
        return history

    yield one
    for running in made:
        running.close()
