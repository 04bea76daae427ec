"""Many race for what only one can have: exactly one does, whatever the boundary is drawn by, and taking the lock away is found."""

from collections import Counter

import pytest

from happened.testing.history import History
from tests.faults.model import Ordered, Received
from tests.faults.rig import KILLS, opened, started, whole

ROUNDS = max(4, KILLS // 20)
WEAKENED_ROUNDS = 25
"""So many that two meet for certain, however busy the machine is."""


def raced(url: str, history: History, processes: int, tasks: int, *, weakened: str = "whole", rounds: int = ROUNDS) -> list["Counter[str]"]:
    """Have them race in some rounds; return what came of each."""
    with opened(url) as running:
        session = history.session("begin")
        for place in range(rounds):
            session.record(running, Received(f"last-{place}", 1))
            session.record(running, Received(f"enough-{place}", 1000))
    racing = started("racers", url, history, weakened)
    assert racing.stdin is not None
    assert racing.stdout is not None
    found: list[Counter[str]] = []
    turns = [f"{what}-{place}" for place in range(rounds) for what in ("order", "last")]
    try:
        for line in (f"{processes} {tasks}", *turns):
            racing.stdin.write(f"{line}\n")
            racing.stdin.flush()
            found.append(Counter(racing.stdout.readline().split()))
    finally:
        racing.communicate()
    assert found.pop(0) == Counter(open=processes)
    return found


@pytest.mark.parametrize(("processes", "tasks"), [(2, 1), (2, 4), (4, 16)], ids=["2", "8", "64"])
def test_of_many_racers_exactly_one_wins(url: str, history: History, processes: int, tasks: int) -> None:
    """For one order some dispatch, and some append by hand under a condition by name and tag; for the last unit of an article all have orders of their own."""
    found = raced(url, history, processes, tasks)

    assert found == [Counter(won=1, lost=processes * tasks - 1)] * (2 * ROUNDS)
    whole(history, url)
    with opened(url) as running:
        orders = [record.body for record in running.log.read() if isinstance(record.body, Ordered)]
        assert Counter(one.order for one in orders if one.order.startswith("order-")) == Counter(
            f"order-{place}" for place in range(ROUNDS)
        )
        assert Counter(one.sku for one in orders if one.sku.startswith("last-")) == Counter(f"last-{place}" for place in range(ROUNDS))


# --- without what they rest on


def test_taking_the_lock_away_is_found(url: str, history: History) -> None:
    """Both stores then fail commits, since a position is taken once; nobody is told that he has won what another one has."""
    found = raced(url, history, 2, 4, weakened="no-lock", rounds=WEAKENED_ROUNDS)

    assert found != [Counter(won=1, lost=7)] * (2 * WEAKENED_ROUNDS)


def test_not_catching_up_is_found(url: str, history: History) -> None:
    """Whoever decides on what he knew before decides what does not follow: the history says so."""
    found = raced(url, history, 2, 4, weakened="no-catch-up", rounds=WEAKENED_ROUNDS)

    assert found != [Counter(won=1, lost=7)] * (2 * WEAKENED_ROUNDS)
    with pytest.raises(AssertionError, match="boundary: "):
        whole(history, url)
