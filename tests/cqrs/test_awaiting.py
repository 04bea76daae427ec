"""Awaiting a view: who waits holds no thread, hears what `get` and `rows` would tell him, and can be cancelled."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any  # Any: a wrong value on purpose

import pytest

import happened as h
from happened.cqrs import watch
from tests.servers import fresh

Sku = Annotated[str, h.Tag("sku")]

MANY = 60
"""More than there are threads for what is not awaited."""
SECONDS_MAX = 30


class Received(h.Event):
    sku: Sku
    units: int


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received) -> "Stock":
        if event.units < 0:
            raise ValueError("negative")
        return self.but(units=self.units + event.units)


store = h.App("store", records=[Received], views=[Stock])


@pytest.fixture(params=["file", "memory", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a log may lie: with its views in a file, in memory, or in PostgreSQL."""
    return fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def views(request: pytest.FixtureRequest) -> str | None:
    """Return where the views lie."""
    return "memory:" if "memory" in request.node.callspec.params.values() else None


@pytest.fixture
def running(url: str, views: str | None) -> Iterator[h.Running]:
    """Yield the app, which follows its views."""
    with store.open(url, views=views) as running:
        yield running


def test_those_who_wait_hold_no_thread(running: h.Running) -> None:
    """However many wait for what has not been recorded yet, threads are there for others, and all are answered when it has."""

    async def ask() -> None:
        view = running.view(Stock)
        next_one = running.record(Received("a", 1)).position + 1
        gets = [asyncio.create_task(view.aget("a", since=next_one, wait_seconds_max=SECONDS_MAX)) for _ in range(MANY)]
        rows = [asyncio.create_task(view.arows(since=next_one, wait_seconds_max=SECONDS_MAX)) for _ in range(MANY)]
        await asyncio.sleep(0.2)
        await asyncio.wait_for(asyncio.to_thread(threading.get_ident), SECONDS_MAX / 3)
        assert not any(task.done() for task in (*gets, *rows))
        running.record(Received("a", 1))
        assert {(await task).units for task in gets} == {2}
        assert {(await task).position for task in rows} == {next_one}

    asyncio.run(ask())


def test_they_wait_for_a_view_that_another_process_follows(tmp_path: Path) -> None:
    """Who does not follow the view looks at it: one look is for all who wait."""
    url = f"sqlite:///{tmp_path}/log.db"

    async def ask(reading: h.Running, following: h.Running) -> None:
        view = reading.view(Stock)
        first = following.record(Received("a", 1)).position
        gets = [asyncio.create_task(view.aget("a", since=first + n % 3, wait_seconds_max=SECONDS_MAX)) for n in range(MANY)]
        rows = asyncio.create_task(view.arows(since=first + 2, wait_seconds_max=SECONDS_MAX))
        for _ in range(2):
            await asyncio.sleep(0.05)
            following.record(Received("a", 1))
        assert [n for n, task in enumerate(gets) if (await task).units < n % 3 + 1] == []
        assert [row.units for row in await rows] == [3]

    with store.open(url) as following, store.open(url, run=False) as reading:
        asyncio.run(ask(reading, following))


def test_they_hear_at_once_where_their_own_process_moves_the_view_on(running: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the next look: with looks an hour apart they are answered all the same."""
    monkeypatch.setattr(watch, "FIRST_POLL_SECONDS", 3600.0)
    monkeypatch.setattr(watch, "POLL_SECONDS", 3600.0)

    async def go() -> None:
        position = running.record(Received("lamp", 1)).position
        running.view(Stock).get(sku="lamp", since=position)
        for place in range(1, 4):
            waiting = asyncio.create_task(running.view(Stock).aget(sku="lamp", since=position + place, wait_seconds_max=SECONDS_MAX))
            await asyncio.sleep(0.05)  # it has looked, and waits
            await running.arecord(Received("lamp", 1))
            assert (await waiting).units == 1 + place

    asyncio.run(go())


def test_what_goes_wrong_is_what_get_would_raise(running: h.Running) -> None:
    """`NotThere`, `Late` with what holds it up, `Stuck`, `Diverged`, and what is wrong with the question."""
    receipt = running.record(Received("a", 1))
    other = h.Receipt.parse(str(receipt).replace(receipt.log, "f" * len(receipt.log)))
    bad = running.record(Received("b", -1))

    async def ask() -> None:
        view = running.view(Stock)
        assert (await view.aget("a", since=receipt)).units == 1
        with pytest.raises(h.NotThere, match="no row for 'z'"):
            await view.aget("z", since=bad)
        with pytest.raises(h.Stuck, match="negative"):
            await view.aget("b", since=bad)
        with pytest.raises(h.Stuck, match="negative"):
            await view.arows(since=bad)
        with pytest.raises(h.Late, match="position 9 was asked for"):
            await view.aget("a", since=9, wait_seconds_max=0.05)
        with pytest.raises(h.Late, match="position 9 was asked for"):
            await view.arows(since=9, wait_seconds_max=0)
        with pytest.raises(h.Diverged, match="another log"):
            await view.aget("a", since=other)
        with pytest.raises(h.Invalid, match="is str, not 1"):
            await view.aget(1)
        with pytest.raises(h.Invalid, match="`limit`"):
            await view.arows(limit=-1)
        soon: Any = None
        with pytest.raises(h.Invalid, match="wait_seconds_max"):
            await view.aget("a", wait_seconds_max=soon)

    asyncio.run(ask())


def test_a_wait_that_is_cancelled_is_over(running: h.Running) -> None:
    """Nothing goes on behind it, so a program that is told to stop can."""
    running.view(Stock).rows()  # it is built
    before = threading.active_count()

    async def ask() -> None:
        view = running.view(Stock)
        tasks = [asyncio.create_task(view.aget("a", since=9, wait_seconds_max=3600)) for _ in range(MANY)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        assert {type(found) for found in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}

    asyncio.run(ask())  # which waits for the threads that it has begun

    assert threading.active_count() == before


def test_a_view_that_stops_is_told_to_those_who_wait(url: str, views: str | None) -> None:
    """They do not wait until their time is over."""

    class Broken(h.State):
        sku: str
        units: int = 0

        @staticmethod
        def key_of(event: Received) -> str:
            raise LookupError(event.sku)

        def evolve(self, event: Received) -> "Broken":
            return self.but(units=event.units)

    async def ask(running: h.Running) -> None:
        task = asyncio.create_task(running.view(Broken).aget("a", since=3, wait_seconds_max=3600))
        await asyncio.sleep(0.05)
        running.record(Received("a", 1))
        with pytest.raises(h.Stuck, match="stopped at position 3: LookupError"):
            await task

    with h.App("store", records=[Received], views=[Broken]).open(url, views=views) as running:
        asyncio.run(ask(running))


@pytest.mark.parametrize("ask", ["get", "rows"])
def test_what_is_wrong_with_a_question_is_said_before_anybody_waits(running: h.Running, ask: str) -> None:
    """It is wrong whatever comes, so nobody waits to hear it."""
    soon: Any = None

    async def asked(view: h.View[Stock]) -> None:
        if ask == "get":
            with pytest.raises(h.Invalid, match="is str, not 1"):
                await view.aget(1, since=9, wait_seconds_max=SECONDS_MAX)
            with pytest.raises(h.Invalid, match="half a character"):
                await view.aget("\ud800", since=9, wait_seconds_max=SECONDS_MAX)
            with pytest.raises(h.Invalid, match="wait_seconds_max"):
                await view.aget("a", since=9, wait_seconds_max=soon)
        else:
            with pytest.raises(h.Invalid, match="`limit`"):
                await view.arows(limit=-1, since=9, wait_seconds_max=SECONDS_MAX)
            with pytest.raises(h.Invalid, match="wait_seconds_max"):
                await view.arows(since=9, wait_seconds_max=soon)

    asyncio.run(asyncio.wait_for(asked(running.view(Stock)), SECONDS_MAX / 3))


def test_who_waits_is_answered_also_where_the_task_that_looks_for_all_is_cancelled(running: h.Running) -> None:
    """A program may cancel all tasks that it did not begin itself, also before they have; those who wait look on."""

    async def ask(before: Sequence[float]) -> None:
        view = running.view(Stock)
        next_one = running.record(Received("a", 1)).position + 1
        gets = [asyncio.create_task(view.aget("a", since=next_one, wait_seconds_max=SECONDS_MAX)) for _ in range(3)]
        for seconds in before:
            await asyncio.sleep(seconds)
        for task in asyncio.all_tasks() - {*gets, asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.1)
        receipt = running.record(Received("a", 1))
        units = running.view(Stock).get("a", since=receipt).units
        assert {(await asyncio.wait_for(task, SECONDS_MAX / 3)).units for task in gets} == {units}

    for before in ([0.1], [0.0], [0.0, 0.0], [0.0, 0.0, 0.0]):
        asyncio.run(ask(before))
