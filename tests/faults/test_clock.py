"""Clocks jump by a day, forwards and backwards, between commands and during them: nothing but ages and times has to do with them."""

import contextlib
import itertools
import random
from datetime import timedelta

import pytest

import happened as h
from happened.testing import Clock
from happened.testing.history import History
from tests.faults.model import Cancel, Deposited, Order, Transfer, app, begin
from tests.faults.rig import KILLS, Clients, chance_of, opened, whole
from tests.servers import fresh

DAY = timedelta(days=1)


def test_under_load_each_process_has_a_clock_that_jumps(url: str, history: History) -> None:
    """Clients are killed meanwhile. All is explained by one log, its times never fall, and every id is known."""
    chance = chance_of("clock")
    with opened(url) as running:
        begin(running, history.session("begin"))
    with Clients(url, history, clock="jumping") as clients:
        for _ in range(max(KILLS // 10, 6)):
            clients.start(3)
            clients.wait(0.2 + chance.random() * 0.2)
            clients.kill(chance.choice(clients.running))

    counted = whole(history, url)
    assert counted["write", "accepted"] > 20
    with opened(url) as running:
        records = list(running.log.read())
        assert [one.time for one in records] == sorted(one.time for one in records)
        assert records[-1].time - records[0].time > DAY  # a clock did jump
        for one in [one for one in records if isinstance(one.body, h.Command)][::10]:
            with contextlib.suppress(h.Refused):  # it was then, too
                assert running.dispatch(one.body, id=one.id).repeated
        assert running.log.head == records[-1].position


class Leaping(Clock):
    """A clock that jumps each time that somebody looks at it."""

    def __init__(self, seed: int) -> None:
        super().__init__(name="clock")
        self._chance = random.Random(seed)

    def now_us(self) -> int:
        """Jump, and return the time."""
        self.move(self._chance.choice([-DAY, DAY, timedelta(seconds=1)]))
        return super().now_us()


def script(url: str, clocks: "list[Clock]") -> list[tuple[int, str, str]]:
    """Run the same commands by two that have the log open, in turn; return what is recorded, in its order."""
    chance = random.Random(5)
    with app.open(url, run=False, source=clocks[0]) as one, app.open(url, run=False, source=clocks[1]) as other:
        turns = itertools.cycle([one, other, other])
        for account in "ab":
            one.record(Deposited(account, 100), id=f"d-{account}")
        commands: list[h.Command] = []
        for number in range(10):
            commands += [Transfer("a", "b", chance.randrange(40)), Order(f"o-{number % 5}", "x", 0), Cancel(f"o-{number % 7}")]
        for number in [*range(30), *range(0, 30, 3)]:  # some come a second time
            with contextlib.suppress(h.Refused):
                next(turns).dispatch(commands[number], id=f"c-{number}")
        one.log.verify()
        times = [record.time for record in one.log.read()]
        assert times == sorted(times)
        return [(record.position, record.id, record.name) for record in one.log.read()]


@pytest.mark.parametrize("seed", range(3))
def test_order_ids_and_positions_are_those_of_a_clock_that_stands_still(url: str, seed: int) -> None:
    """Two hands on one log, whose clocks jump whenever somebody looks at them, record the same as with clocks that agree."""
    second = fresh() if url.startswith("postgres") else url.replace("log.db", "second.db")

    still = script(url, [Clock(name="one"), Clock(name="other")])

    assert script(second, [Leaping(seed), Leaping(seed + 100)]) == still
    assert len(still) > 60
