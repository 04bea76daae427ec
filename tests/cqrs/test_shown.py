"""How long it takes until a view shows what came: counted with the checkpoint, once, and only of what came while it was followed."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any  # Any: statistics are plain data

import pytest

import happened as h
from happened.testing import Clock

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku


class Noted(h.Event):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received) -> "Stock":
        if event.sku == "bad":
            raise ValueError("bad")
        return self.but(units=self.units + 1)


shop = h.App("shop", records=[Received, Noted], views=[Stock])


def shown(running: h.Running) -> dict[str, Any]:
    """Return what was counted."""
    [view] = running.statistics()["views"]
    counted: dict[str, Any] = view["shown"]
    return counted


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where views are kept."""
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/views.db"


def test_what_comes_while_it_is_followed_is_counted(tmp_path: Path, url: str) -> None:
    """Each row that says something to the view once; what it does not follow is not counted, nor what was there before."""
    with shop.open(f"sqlite:///{tmp_path}/log.db", run=False, views="memory:") as running:
        running.record_all(Received("nut") for _ in range(50))
    with shop.open(f"sqlite:///{tmp_path}/log.db", views=url) as running:
        running.view(Stock).get("nut", since=running.log.head)
        assert shown(running) == {
            "count": 0,
            "since_taken": {"p50_us": None, "p99_us": None},
            "since_recorded": {"p50_us": None, "p99_us": None},
        }
        for sku in ("nut", "bolt", "bad", "nut"):
            running.view(Stock).of.wait(running.record(Received(sku)).position, 10)
        running.view(Stock).of.wait(running.record(Noted("nut")).position, 10)
        told = shown(running)
        running.rebuild(Stock)

        assert told["count"] == 4
        assert 0 < told["since_recorded"]["p50_us"] <= told["since_recorded"]["p99_us"] < 1 << 30
        assert shown(running)["count"] == 0


def test_counts_outlast_the_process_and_go_on(tmp_path: Path) -> None:
    """They lie in the views' file; a process that only reads sees them."""
    url = f"sqlite:///{tmp_path}/log.db"
    for turn in (1, 2):
        with shop.open(url) as running:
            running.view(Stock).of.wait(0, 10)
            for _ in range(3):
                running.view(Stock).of.wait(running.record(Received("nut")).position, 10)
            assert shown(running)["count"] == 3 * turn
    with shop.open(url, run=False) as running:
        assert shown(running)["count"] == 6


def test_no_time_is_negative() -> None:
    """A clock that jumps back shows nothing before it was recorded."""
    clock = Clock()
    with shop.open(source=clock) as running:
        running.view(Stock).of.wait(0, 10)
        running.view(Stock).of.wait(running.record(Received("nut")).position, 10)
        clock.move(-timedelta(days=1))
        running.view(Stock).of.wait(running.record(Received("nut")).position, 10)

        assert shown(running)["count"] == 2
        assert shown(running)["since_recorded"] == {"p50_us": 0, "p99_us": 0}
