"""`settled`: when all that a message has caused is done, or what of it stands still."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any  # Any: what an engine is asked

import pytest

import happened as h
from happened.core.store import Engine, Row
from happened.log.slices import Part, parts_in
from happened.testing import Clock
from tests.notification.model import Do, Noted, app, done, until, ways
from tests.servers import fresh

Key = Annotated[str, h.Tag("key")]


class First(h.Event):
    key: Key


class Second(h.Event):
    key: Key


class Third(h.Event):
    key: Key


class MakeSecond(h.Command):
    key: Key


class MakeThird(h.Command):
    key: Key


class Rung(h.Event):
    key: Key


class Ring(h.Command):
    key: Key


def make_second(command: MakeSecond) -> Iterator[Second]:
    """Go on."""
    yield Second(command.key)


def make_third(command: MakeThird) -> Iterator[Third]:
    """Go on."""
    yield Third(command.key)


def ring(command: Ring) -> Iterator[Rung]:
    """Ring."""
    yield Rung(command.key)


def on_first(event: First) -> Iterator[MakeSecond]:
    """Cause the second."""
    yield MakeSecond(event.key)


def on_second(event: Second) -> Iterator[MakeThird | h.Later[Ring]]:
    """Cause the third, and a timer."""
    yield MakeThird(event.key)
    yield h.Later(Ring(event.key), after=timedelta(days=1))


chain = h.App("chain", records=[First], deciders=[make_second, make_third, ring], reactions=[on_first, on_second])


def test_a_timer_that_is_due_and_not_sent_is_waited_for(url: str) -> None:
    """Nobody runs who would send it: neither the conversation nor the log is settled, until somebody does."""
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    with chain.open(url, source=clock) as running:
        receipt = running.record(First("a"))
        assert running.settled(receipt).done
    clock.move(timedelta(days=1))
    with chain.open(url, run=False, source=clock) as looking:
        for asked in (receipt, None):
            with pytest.raises(h.Late, match="what was due at 2026-01-02"):
                looking.settled(asked, wait_seconds_max=0.05)
    with chain.open(url, source=clock) as running:
        assert running.settled(receipt).timers == ()


def test_a_chain_of_reactions_is_waited_for_and_its_timers_are_not(url: str) -> None:
    """Two reactions and two commands later all is done; the timer is named, and rung it is gone."""
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    with chain.open(url, source=clock) as running, chain.open(url, run=False, source=Clock(name="other")) as other:
        receipt = other.record(First("a"))

        for handle in (running, other):
            found = handle.settled(receipt)
            assert (found.done, found.stuck) == (True, ())
            assert found.timers == (datetime(2026, 1, 2, tzinfo=UTC),)
            assert [record.name for record in handle.log.read() if record.position == found.position] == ["Third"]

        clock.move(timedelta(days=1))
        until(lambda: any(record.name == "Rung" for record in running.log.read()))
        assert running.settled(receipt).timers == ()
        assert running.settled(str(receipt)).done
        assert running.settled(int(receipt.position)).done


def test_where_nobody_works_it_is_late_and_says_what_is_missing(url: str) -> None:
    """A process that runs nothing, and no other: what is waited for is named."""
    with chain.open(url, run=False) as running:
        receipt = running.record(First("a"))

        with pytest.raises(h.Late, match="`on_first` has not heard position"):
            running.settled(receipt, wait_seconds_max=0.1)
        with pytest.raises(h.Invalid, match="there is nothing at position 1000"):
            running.settled(1000)


def test_what_goes_on_while_it_is_looked_at_is_looked_at_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the conversation is read nothing has come of it; when it is asked how far the handlers are all has."""

    def goes_on(engine: Engine, handler: str) -> list[Part]:
        monkeypatch.setattr("happened.notification.settling.parts_in", parts_in)
        with chain.open(url) as other:
            other.settled(receipt)
        return parts_in(engine, handler)

    with chain.open(url, run=False) as running:
        receipt = running.record(First("a"))
        monkeypatch.setattr("happened.notification.settling.parts_in", goes_on)
        found = running.settled(receipt)

        assert [record.name for record in running.log.read() if record.position == found.position] == ["Third"]
        assert len(found.timers) == 1


@pytest.mark.parametrize("what", ["its conversation", "the log"])
@pytest.mark.parametrize("store", ["file", "PostgreSQL"])
def test_what_others_have_named_since_is_waited_for(url: str, store: str, what: str) -> None:
    """Who asks was opened before anything was recorded: no name had a number then."""
    url = fresh() if store == "PostgreSQL" else url
    with chain.open(url, run=False) as asking, chain.open(url, run=False) as other:
        receipt = other.record(First("a"))

        with pytest.raises(h.Late, match="`on_first` has not heard position"):
            asking.settled(receipt if what == "its conversation" else None, wait_seconds_max=0.1)


def test_a_handler_that_no_process_has_begun_with_is_waited_for(url: str) -> None:
    """It is to hear what was recorded before it was there."""
    with h.App("chain", records=[First]).open(url) as running:
        receipt = running.record(First("a"))
    late = h.App("chain", records=[First], deciders=[make_second], reactions=[h.Reaction(on_first, since=0)])

    with late.open(url, run=False) as running, pytest.raises(h.Late, match="`on_first` has not heard position"):
        running.settled(receipt, wait_seconds_max=0.1)


def test_what_is_recorded_while_the_log_is_looked_through_is_looked_for_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event comes after the end of the log was read, and before the index is."""
    with chain.open(url, run=False) as running, chain.open(url, run=False) as other:
        read = running.log.engine.read

        def behind(*given: Any, **how: Any) -> Iterator[Sequence[Row]]:
            if how.get("backwards"):
                monkeypatch.setattr(running.log.engine, "read", read)
                other.record(First("a"))
            return read(*given, **how)

        other.enqueue(MakeSecond("b"))
        monkeypatch.setattr(running.log.engine, "read", behind)

        with pytest.raises(h.Late, match="`on_first` has not heard position"):
            running.settled(wait_seconds_max=0.2)


def test_what_waits_for_a_held_event_is_not_late(url: str) -> None:
    """An event that comes after one of its key failed will not be run: that is said at once, with what stands in its way; others are done."""
    ways.failing = {1}
    with app.open(url) as running, app.open(url, run=False) as other:
        first = running.record(Noted(1, ("a",)))
        until(running.stuck)
        behind = running.record(Noted(2, ("a", "b")))
        far_behind = running.record(Noted(3, ("b",)))
        free = running.record(Noted(4, ("c",)))

        for handle in (running, other):
            for receipt in (first, behind, far_behind):
                found = handle.settled(receipt)
                assert not found.done
                assert [(one.handler, one.event) for one in found.stuck] == [("on_noted", "Noted")]
                assert "1 fails" in found.stuck[0].error
            assert handle.settled(free).done

        running.decide_about("park", "on_noted", first.position)
        until(lambda: running.settled(behind).done and running.settled(far_behind).done)
        assert [one.parked for one in running.settled(first).stuck] == [True]
        ways.failing.clear()
        running.decide_about("retry", "on_noted", first.position)
        until(lambda: running.settled(first).done)
        assert sorted(done(running)) == [1, 2, 3, 4]


def test_a_command_that_waits_for_a_stuck_one_is_not_late(url: str) -> None:
    """A pending command stands still, and others behind it, as far as they share a tag: what keeps each is named, in every process."""
    ways.undecided = {1}
    with app.open(url) as running, app.open(url, run=False) as other:
        first = running.record(Noted(1, ("a",)))
        until(running.stuck)
        behind = running.record(Noted(2, ("a", "b")))
        far_behind = running.record(Noted(3, ("b",)))
        free = running.record(Noted(4, ("c",)))
        assert running.settled(free).done
        until(lambda: running.statistics()["pending"] == 3)
        everything = running.enqueue(Do(5))

        for handle in (running, other):
            assert handle.settled(free).done
            for receipt in (first, behind, far_behind, everything):
                found = handle.settled(receipt)
                assert not found.done
                assert [(one.handler, one.event) for one in found.stuck] == [("Do", "Do")]

        ways.undecided.clear()
        until(lambda: all(running.settled(receipt).done for receipt in (first, behind, far_behind, everything)))
        assert done(running) == [4, 1, 2, 3, 5]


def test_a_command_behind_one_that_is_parked_does_not_stand_still(url: str) -> None:
    """It is in nobody's way: what comes behind it is going to be decided, and waited for until it is."""
    ways.undecided = {1}
    with app.open(url) as running:
        parked = running.record(Noted(1, ("a",)))
        until(running.stuck)
        running.decide_about("park", "Do", running.stuck()[0].position)
        until(lambda: running.stuck()[0].parked)
        assert not running.settled(parked).done
    with app.open(url, run=False) as running:
        behind = running.enqueue(Do(2, ("a",)))

        with pytest.raises(h.Late):
            running.settled(behind, wait_seconds_max=0.2)
    ways.clear()


def test_a_timer_that_can_not_ring_is_stuck(url: str) -> None:
    """Nobody takes its command any more: it is not done, and not just a timer that is to come."""
    clock = Clock()
    with chain.open(url, source=clock) as running:
        receipt = running.record(First("a"))
        assert running.settled(receipt).done
        clock.move(timedelta(days=2))
        until(lambda: not running.settled(receipt).timers)
        again = running.record(First("b"))
        assert running.settled(again).timers

    def on_second_now(event: Second) -> Iterator[MakeThird]:
        yield MakeThird(event.key)

    without = h.App(
        "chain",
        records=[First, Rung],
        deciders=[make_second, make_third],
        reactions=[on_first, h.named("on_second")(on_second_now)],
        ignores=["Ring"],
    )
    clock.move(timedelta(days=2))
    with without.open(url, source=clock) as running:
        until(running.stuck)

        found = running.settled(again)

        assert (found.done, found.timers, [one.handler for one in found.stuck]) == (False, (), ["timers"])
        assert running.settled(receipt).done
    with chain.open(url, source=clock) as running:
        until(lambda: [record.body.key for record in running.log.read() if isinstance(record.body, Rung)] == ["a", "b"])
        assert running.settled(again).done
