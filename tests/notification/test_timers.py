"""Timers: what is sent later is sent once, in due order, with its due time as `now`, whatever ran meanwhile."""

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import pytest

import happened as h
from happened.core.store import Commit, Engine
from happened.log.held import all_held
from happened.log.log import EVERYTHING_SEEN
from happened.log.writer import Batch, Job
from happened.notification import timer
from happened.notification.timer import Ring as RingJob
from happened.notification.timer import Timers, due_before, next_due, note_of
from happened.sourcing.handling import Decision
from happened.sourcing.sending import Sending
from happened.testing import Clock
from tests.log.erase import erase
from tests.notification.model import until, whole

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Key = Annotated[str, h.Tag("key")]


class Planned(h.Event):
    key: Key
    seconds: tuple[int, ...]
    at: datetime | None = None


class Ring(h.Command):
    key: Key
    second: int


class Rung(h.Event):
    key: Key
    second: int
    now: datetime


def plan(event: Planned) -> Iterator[h.Later[Ring]]:
    """Ring at all these seconds."""
    for second in event.seconds:
        if event.at is None:
            yield h.Later(Ring(event.key, second), after=timedelta(seconds=second))
        else:
            yield h.Later(Ring(event.key, second), at=event.at + timedelta(seconds=second))


def ring(command: Ring, world: h.World) -> Iterator[Rung]:
    """Ring."""
    yield Rung(command.key, command.second, world.now)


app = h.App("clockwork", records=[Planned], deciders=[ring], reactions=[plan])


def rung(running: h.Running) -> list[tuple[str, int]]:
    """Return what has rung, in the order of the log."""
    return [(record.body.key, record.body.second) for record in running.log.read() if isinstance(record.body, Rung)]


def test_what_was_due_while_nothing_ran_rings_at_the_next_start_in_due_order(url: str) -> None:
    """Also across events, and what is due at the same time in the order of its ids; `world.now` is when it was due, not when it rang."""
    clock = Clock(NOON)
    with app.open(url, source=clock) as running:
        running.settled(running.record(Planned("a", (30, 10, 5000))))
        running.settled(running.record(Planned("b", (20, -70), at=NOON)))
        running.settled(running.record(Planned("c", (60,), at=NOON.astimezone(tz=None))))
        until(lambda: rung(running) == [("b", -70)])
    clock.move(timedelta(hours=1))
    with app.open(url, source=clock) as running:
        until(lambda: len(rung(running)) == 5)
        assert rung(running) == [("b", -70), ("a", 10), ("b", 20), ("a", 30), ("c", 60)]
        for record in running.log.read():
            if isinstance(record.body, Rung):
                assert record.body.now == NOON + timedelta(seconds=record.body.second)
                assert record.time >= record.body.now
        clock.set(NOON - timedelta(days=400))  # a clock that jumps back rings nothing early, and nothing twice
        running.settled(running.record(Planned("d", (1,))))
        clock.set(NOON + timedelta(days=1))
        until(lambda: len(rung(running)) == 7)
        whole(running)


def test_two_processes_ring_each_once(url: str) -> None:
    """Both are due for the same timers: one process owns them; it goes, and the other goes on."""
    clocks = [Clock(NOON, name="one"), Clock(NOON, name="two")]
    with app.open(url, source=clocks[1]) as other:
        with app.open(url, source=clocks[0]) as running:
            running.settled(running.record(Planned("a", tuple(range(1, 301)))))
            for seconds in range(0, 150, 7):
                for clock in clocks:
                    clock.set(NOON + timedelta(seconds=seconds))
            until(lambda: len(rung(other)) >= 147)
        for clock in clocks:
            clock.set(NOON + timedelta(hours=1))
        until(lambda: len(rung(other)) == 300)
        assert rung(other) == [("a", number) for number in range(1, 301)]
        whole(other)


def test_an_owner_that_was_paused_rings_nothing_that_its_successor_has_rung(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read what is due, and stops before it commits; another process rings all; then it goes on."""
    clocks = [Clock(NOON, name="one"), Clock(NOON, name="two")]
    stopped, go = threading.Event(), threading.Event()

    with app.open(url, source=clocks[0]) as running:
        running.settled(running.record(Planned("a", (1, 2, 3))))
        submit = running.log.writer.submit

        def paused(job: object, wait_seconds_max: float) -> None:
            if isinstance(job, RingJob) and not stopped.is_set():
                stopped.set()
                assert go.wait(20)
            submit(job, wait_seconds_max)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a job

        monkeypatch.setattr(running.log.writer, "submit", paused)
        clocks[0].set(NOON + timedelta(seconds=10))
        assert stopped.wait(20)
        clocks[1].set(NOON + timedelta(minutes=10))  # the lease has run out
        with app.open(url, source=clocks[1]) as other:
            until(lambda: len(rung(other)) == 3)
            go.set()
            until(
                lambda: (
                    running._timers is not None and running._timers.worker.failure is None and running._leases.epoch("timers") is not None
                )
            )
            other.settled(other.record(Planned("b", (1,))))
            clocks[1].move(timedelta(seconds=2))
            until(lambda: len(rung(other)) == 4)
            whole(other)


@pytest.mark.parametrize("gone", ["erased", "unclaimed"])
def test_what_can_not_be_sent_is_held_and_the_others_ring(url: str, gone: str) -> None:
    """Its command was erased, or nobody takes it any more: it is seen, and does not stop the others. Skipped it is gone; parked it stays."""
    clock = Clock(NOON)

    class Other(h.Command):
        key: Key

    def other(command: Other) -> Iterator[Rung]:
        yield Rung(command.key, 0, NOON)

    def plan_other(event: Planned) -> Iterator[h.Later[Other]]:
        yield h.Later(Other(event.key), after=timedelta(seconds=15))

    both = h.App("clockwork", records=[Planned], deciders=[ring, other], reactions=[plan, plan_other])
    with both.open(url, source=clock) as running:
        receipt = running.record(Planned("a", (10, 20)))
        running.settled(receipt)
        [position] = [record.position for record in running.log.read() if record.name == "schedule" and record.handler == "plan_other"]
    if gone == "erased":
        erase(url.removeprefix("sqlite:///"), position, ())
    clock.move(timedelta(minutes=1))
    app_then = both if gone == "erased" else h.App("clockwork", records=[Planned], deciders=[ring], reactions=[plan], ignores=["Other"])
    with app_then.open(url, source=clock) as running:
        until(lambda: len(rung(running)) == 2 and running.stuck())
        assert rung(running) == [("a", 10), ("a", 20)]
        [held] = running.stuck()
        assert (held.handler, held.position) == ("timers", position)
        assert [one.position for one in running.settled(receipt).stuck] == [position]
        running.decide_about("park", "timers", position, actor="ann")
        until(lambda: [one.parked for one in running.stuck()] == [True])
        running.decide_about("retry", "timers", position, actor="ann")
        until(lambda: [one.act for one in running.stuck()] == [""])
        running.decide_about("skip", "timers", position, actor="ann")
        until(lambda: running.stuck() == [])
        assert [record.name for record in running.log.read() if record.actor == "ann"] == ["park", "retry", "skip"]


def test_ten_thousand_timers(url: str) -> None:
    """All ring, each once, in due order."""
    chance = random.Random(5)
    clock = Clock(NOON)
    seconds = [chance.randrange(1, 100_000) for _ in range(10_000)]
    with app.open(url, source=clock) as running:
        for start in range(0, 10_000, 2_000):
            running.settled(running.record(Planned("a", tuple(seconds[start : start + 2_000]))), wait_seconds_max=60)
        assert rung(running) == []
        clock.move(timedelta(seconds=50_000))
        half = sum(second <= 50_000 for second in seconds)
        latest = sorted(seconds)[half - 1]
        until(lambda: not due_before(running.log.engine, clock.now_us()), 120)
        assert [second for _, second in rung(running)][-1] == latest
        clock.move(timedelta(seconds=50_000))
        until(lambda: next_due(running.log.engine) is None, 120)
        assert [second for _, second in rung(running)] == sorted(seconds)


def test_many_that_are_due_are_looked_for_once_and_ring_in_order(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at a time, and a few hundred thousand after a night in which nothing ran: not all of them are read for each three."""
    looks: list[int] = []

    def looked(engine: Engine, now: int) -> list[tuple[str, int]]:
        looks.append(now)
        return due_before(engine, now)

    clock = Clock(NOON)
    with app.open(url, source=clock) as running:
        running.settled(running.record(Planned("a", tuple(range(100, 130)))))
    monkeypatch.setattr(timer, "RINGS_MAX", 3)
    monkeypatch.setattr(timer, "LOOKED_MAX", 20)
    monkeypatch.setattr(timer, "due_before", looked)
    clock.move(timedelta(hours=1))
    with app.open(url, source=clock, run=False) as running:
        timers = Timers(running.log, running._leases, running._sending)
        for _ in range(11):
            timers._step()
        assert len(looks) == 2
        assert rung(running) == [("a", second) for second in range(100, 130)]
        timers._step()
        assert next_due(running.log.engine) is None
        whole(running)


def test_trouble_of_the_disk_while_a_timer_is_read_holds_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, and rings: nothing is wrong with it."""
    clock = Clock(NOON)
    with app.open(url, source=clock) as running:
        running.settled(running.record(Planned("a", (1,))))
        read = running._sending.read
        failed: list[None] = []

        def fails_once(*given: object) -> object:
            if not failed:
                failed.append(None)
                raise h.StoreFailed("the device is gone for a moment")
            return read(*given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what it is given

        monkeypatch.setattr(running._sending, "read", fails_once)
        clock.move(timedelta(seconds=2))
        until(lambda: failed)
        until(lambda: rung(running) or running.stuck())
        assert running.stuck() == []


class Night(h.Event):
    """A night has come."""


class Sweep(h.Command):
    """Do what is done every night."""


def sweep(_command: Sweep) -> Iterator[Night]:
    """Do it."""
    yield Night()


@pytest.mark.parametrize(("pause", "ends"), [(timedelta(days=1), False), (timedelta(milliseconds=999), True)])
def test_what_sends_itself_anew_goes_on_for_ever_unless_it_goes_round_at_once(pause: timedelta, ends: bool) -> None:
    """Every night is no circle, however many they are; what comes again within a second is."""

    def again(_event: Night) -> Iterator[h.Later[Sweep]]:
        yield h.Later(Sweep(), after=pause)

    clock = Clock(NOON)
    with h.App("nights", records=[Night], deciders=[sweep], reactions=[again]).open(source=clock) as running:
        running.record(Night())
        nights = 0
        while nights < 130 and (timers := running.settled().timers):
            clock.set(timers[0])
            nights += 1

        assert bool(running.stuck()) == ends
        assert (nights < 130) == ends
        whole(running)


def test_a_timer_that_was_sent_meanwhile_is_not_held(url: str) -> None:
    """A former owner could not read its command, and its successor could, and has sent it: nothing is left to be held."""
    with h.App("none", records=[]).open(url, run=False) as running:
        timers = Timers(running.log, running._leases, running._sending)

        timers._hold(note_of(1, "sent"), 1, ValueError("it can't be read here"))

        assert all_held(running.log.engine) == []


def test_a_timer_that_another_owner_has_put_back_and_rung_is_not_put_back_again(url: str) -> None:
    """A former owner has read that it is held, and was paused: in the log it is held no more."""
    with h.App("none", records=[]).open(url, run=False) as running:
        timers = Timers(running.log, running._leases, running._sending)
        before = {note_of(1, "it"): "1"}
        running.log.engine.append(lambda _: Commit(notes=dict(before)), EVERYTHING_SEEN)
        timers._hold(note_of(1, "it"), 1, ValueError("it can't be read here"))
        [held] = all_held(running.log.engine)

        timers._put_back(held)
        assert dict(running.log.engine.notes("timer/")) == before
        running.log.engine.append(lambda _: Commit(notes=dict.fromkeys(before)), EVERYTHING_SEEN)  # it rings
        timers._put_back(held)

        assert next_due(running.log.engine) is None


def test_where_not_all_that_is_due_can_be_sent_none_is_and_then_each_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails as the second is being recorded, and the commit goes on with what others have put into it."""
    clock = Clock(NOON)
    with app.open(url, source=clock) as running:
        running.settled(running.record(Planned("a", (1, 2))))
        decided, fails = Sending.decided, iter([False, True])

        def failing(batch: Batch, decision: Decision) -> bool:
            if next(fails, False):
                raise h.StoreFailed("the device is gone for a moment")
            return decided(batch, decision)

        submit = running.log.writer.submit

        def with_another(job: Job, wait_seconds_max: float) -> None:
            if isinstance(job, RingJob):
                running.log.writer.submit_all([job, running._fact(h.Message(Planned("b", ())))], wait_seconds_max)
            else:
                submit(job, wait_seconds_max)

        monkeypatch.setattr(Sending, "decided", staticmethod(failing))
        monkeypatch.setattr(running.log.writer, "submit", with_another)
        clock.move(timedelta(seconds=5))
        until(lambda: next_due(running.log.engine) is None)

        assert rung(running) == [("a", 1), ("a", 2)]
        assert next(fails, None) is None
        whole(running)
