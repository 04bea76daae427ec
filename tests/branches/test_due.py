"""What is due in a branch rings in the order in which it is due, also where the log rang late."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import happened as h
from happened.testing import Clock
from tests.branches.door import Came, Greet, Greeted, greet


def hear(event: Came) -> Iterator[h.Later[Greet]]:
    """Greet whoever came, in a minute."""
    yield h.Later(Greet(event.name), after=timedelta(minutes=1))


door = h.App("door", records=[Came], deciders=[greet], reactions=[hear])


def greeted(running: h.Running) -> list[str]:
    """Return who was greeted, in order."""
    return [record.body.name for record in running.log.read() if isinstance(record.body, Greeted)]


@pytest.mark.parametrize("late", [True, False])
def test_what_only_the_branch_has_rings_behind_what_is_due_before_it(tmp_path: Path, *, late: bool) -> None:
    """Nobody was there to ring when it was due, and something was recorded meanwhile: in the branch nobody was there, either."""
    url, clock = f"sqlite:///{tmp_path}/door.db", Clock()
    with door.open(url, source=clock) as running:
        running.record(Came("ann"))
        running.settled()
        clock.move(timedelta(seconds=10))
        second = running.record(Came("bob")).position
        running.settled()
        clock.move(timedelta(seconds=10))
        running.record(Came("eve"))
        running.settled()
        if not late:
            clock.move(timedelta(minutes=2))
            settled(running)
    with door.open(url, source=clock, run=False) as running:
        clock.move(timedelta(minutes=2))
        running.record(Came("fay"))
        clock.move(timedelta(minutes=2))
    with door.open(url, source=clock) as running:
        settled(running)
        assert greeted(running) == ["ann", "bob", "eve", "fay"]

        with running.branch(h.Insert(second, Came("new"))) as branch:
            assert greeted(branch) == ["ann", "bob", "new", "eve", "fay"]
            assert [record.name for record in branch.diff().added] == ["Came", "schedule", "Greet", "Greeted"]
            assert not branch.diff().missing


def settled(running: h.Running) -> None:
    """Wait until nothing is to come any more."""
    while running.settled(wait_seconds_max=20).timers:
        pass
