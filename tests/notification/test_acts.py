"""What people decide about what is held, while those who hold it work: nothing that was decided is lost, whoever comes first."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import happened as h
from happened.core.errors import Diverged
from happened.log.held import Act, Held
from happened.log.lease import Leases
from happened.log.writer import Job
from happened.notification.reacting import Reacting
from happened.notification.reactor import Reactor
from tests.notification.model import Noted, app, by_key, done, until, ways, whole
from tests.notification.rig import Rig

# --- of a reaction


@pytest.mark.parametrize("fails_again", [False, True])
@pytest.mark.parametrize("act", ["retry", "skip", "park"])
@pytest.mark.parametrize("act_first", [False, True])
def test_an_act_in_the_very_commit_in_which_it_is_tried_again_is_not_lost(
    act: str, act_first: bool, fails_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody decides while the worker tries the event again, and both are recorded in one commit: one of both goes first, and the other sees it."""
    rig = Rig(app)
    ways.failing = {1}
    rig.running.record(Noted(1, ("a",)))
    rig.running.record(Noted(2, ("a",)))
    rig.take(100)
    [held] = rig.held()
    if not fails_again:
        ways.failing.clear()
    writer = rig.running.log.writer
    submit = writer.submit
    job = Act(rig.running.log, act, "on_noted", held.position, actor="ann", id="act", reason="")

    def together(other: Job, wait_seconds_max: float) -> None:
        monkeypatch.setattr(writer, "submit", submit)  # once
        jobs = [job, other] if act_first else [other, job]
        writer.submit_all(jobs, wait_seconds_max)
        if other.error is not None:
            raise other.error

    monkeypatch.setattr(writer, "submit", together)
    if act_first:
        with pytest.raises(Diverged):
            rig.look_after()
        rig.reacting = rig.owned()
    else:
        rig.look_after()
        assert isinstance(job.error, h.NotThere) is not fails_again
    rig.look_after()

    recorded = [record for record in rig.running.log.read() if record.id == "act"]
    assert [record.actor for record in recorded] == (["ann"] if act_first or fails_again else [])
    if recorded and act in ("skip", "park"):
        assert done(rig.running) == [2]
        assert [one.parked for one in rig.held()] == [True][: act == "park"]
    elif fails_again:
        assert done(rig.running) == []
        assert [one.act for one in rig.held()] == [""]
    else:
        assert done(rig.running) == [1, 2]
        assert rig.held() == []
    whole(rig.running)


def test_a_reaction_whose_act_was_raced_does_not_run_what_must_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of a retry fails since somebody has decided meanwhile; what comes next of that key waits all the same."""
    running = app.open(run=False)
    owners = Leases(running.log.engine, running.log.source, [])
    monkeypatch.setattr(owners, "_epochs", {by_key.lease: 1})  # for ever
    one = Reacting(by_key, running.log, running._sending)
    reactor = Reactor(running.log, owners, "reactions", [one])
    [crew] = reactor._crews
    ways.failing = {1}
    running.record(Noted(1, ("a",)))
    crew._step()
    [held] = running.stuck()
    running.record(Noted(2, ("a",)))
    ways.failing.clear()
    one._due[held.position] = 0.0
    commit = one._commit

    def raced(*given: Any, **more: Any) -> None:
        monkeypatch.setattr(one, "_commit", commit)  # once
        running.decide_about("retry", "on_noted", held.position)
        commit(*given, **more)

    monkeypatch.setattr(one, "_commit", raced)
    crew._step()
    assert done(running) == []

    def comes() -> bool:
        crew._step()
        return len(done(running)) == 2

    until(comes)
    assert done(running) == [1, 2]
    running.close()


# --- of a pending command


class Ask(h.Command):
    number: int


class Asked(h.Event):
    number: int


def outside(number: int) -> int:
    """Stand for the outside."""
    raise NotImplementedError


def ask(command: Ask, world: h.World) -> Iterator[Asked]:
    """Ask before deciding."""
    yield Asked(world.ask(outside, command.number))


asking = h.App("noting", deciders=[ask, *(handler.function for handler in app.handlers.values())], gateways=[outside], records=[Noted])


@pytest.mark.parametrize("act", ["skip", "park"])
def test_what_is_decided_while_a_pending_command_fails_once_more_is_done(url: str, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decider has failed, and before that is noted somebody decides: that is not written over."""
    ways.undecided = {1}
    with app.open(url) as running, app.open(url, run=False) as other:
        kept = running.enqueue(app.command("Do", {"number": 1, "keys": ["a"]}))
        behind = running.enqueue(app.command("Do", {"number": 2, "keys": ["a"]}))
        until(running.stuck)
        [held] = running.stuck()
        worker = running._pending
        assert worker is not None
        hold = worker._hold
        raced = threading.Event()

        def late(*given: Any) -> None:
            if not raced.is_set():
                other.decide_about(act, held.handler, held.position, actor="ann")
                raced.set()
            hold(*given)

        monkeypatch.setattr(worker, "_hold", late)
        assert raced.wait(20)

        assert running.outcome(behind).events
        if act == "skip":
            with pytest.raises(h.Refused, match="skipped"):
                running.outcome(kept)
        else:
            until(lambda: [one.parked for one in running.stuck()] == [True])
            ways.undecided.clear()
            other.decide_about("retry", held.handler, held.position)
            until(lambda: running.stuck() == [])
            assert running.outcome(kept).events
        whole(running)


def test_once_nothing_is_left_to_be_tried_nobody_looks_all_the_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pending command failed, and is decided, or parked: from then on the worker rests."""
    ways.undecided = {1, 2}
    with app.open(url) as running:
        first = running.enqueue(app.command("Do", {"number": 1, "keys": ["a"]}))
        running.enqueue(app.command("Do", {"number": 2, "keys": ["b"]}))
        until(lambda: len(running.stuck()) == 2)
        second = running.stuck()[1]
        running.decide_about("park", second.handler, second.position)
        until(lambda: any(one.parked for one in running.stuck()))
        ways.undecided.discard(1)
        until(lambda: len(running.stuck()) == 1)
        assert running.outcome(first).events
        worker = running._pending
        assert worker is not None
        looked: list[None] = []
        decide_some = worker.decide_some

        def counted() -> bool:
            looked.append(None)
            return decide_some()

        time.sleep(0.2)
        monkeypatch.setattr(worker, "decide_some", counted)
        time.sleep(0.4)

        assert looked == []


def test_a_pending_command_that_asks_is_tried_at_longer_and_longer_distances(url: str) -> None:
    """Its gateway fails: the attempts are counted, when it failed first is kept, and once it was parked it stays so until it succeeds."""
    answers: dict[int, int] = {}
    with asking.open(url, gateways={outside: answers.__getitem__}) as running:
        kept = running.enqueue(Ask(1))

        def attempts(count: int) -> Held | None:
            return next((one for one in running.stuck() if one.attempts >= count), None)

        until(lambda: attempts(1))
        first = running.stuck()[0]
        until(lambda: attempts(3))
        [held] = running.stuck()
        assert held.failed == first.failed < held.tried
        assert "KeyError" in held.error
        running.decide_about("park", held.handler, held.position)
        until(lambda: running.stuck()[0].parked)
        running.decide_about("retry", held.handler, held.position)
        until(lambda: not running.stuck()[0].act)
        assert running.stuck()[0].parked
        answers[1] = 1
        running.decide_about("retry", held.handler, held.position)
        until(lambda: running.stuck() == [])
        assert running.outcome(kept).events == (Asked(1),)
        whole(running)
