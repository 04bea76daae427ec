"""A call to the outside whose decision was lost is known, where the gateway says that its calls are noted."""

import asyncio
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.core.store import Commit, Head, Unseen
from happened.log.log import EVERYTHING_SEEN
from happened.log.records import ANSWERED
from happened.sourcing.asked import NOTE
from tests.semantics.test_reading_on import held
from tests.transfer.model import until

ROOT = Path(__file__).parents[2]
Account = Annotated[str, h.Tag("account")]


class Charge(h.Command):
    account: Account


class Charged(h.Event):
    account: Account
    number: int


def card(account: str) -> int:
    """Stand for the outside."""
    return len(account)


def nothing(account: str) -> int:
    """Stand for the outside that says what the decider fails on."""
    return -1


def charge(command: Charge, world: h.World) -> Iterator[Charged]:
    """Ask it."""
    number = world.ask(card, command.account)
    if number < 0:
        raise ValueError("the code failed after it had asked")
    yield Charged(command.account, number)


def app(*, noted: bool = True) -> h.App:
    """Return an app whose gateway has its calls noted."""
    return h.App("till", deciders=[charge], gateways=[h.Gateway(card, noted=noted)])


CHILD = """
import os, sys
from tests.replay.test_lost_calls import Charge, app, card
def dies(account):
    os._exit(9)
with app().open(sys.argv[1], gateways={card: dies}) as running:
    running.enqueue(Charge("a"), id="c-1") if sys.argv[2] == "enqueue" else running.dispatch(Charge("a"), id="c-1")
    running.log.wait(1 << 60, 30)
"""


def killed(url: str, how: str) -> None:
    """Have a process die while it asks."""
    child = subprocess.run([sys.executable, "-c", CHILD, url, how], cwd=ROOT, check=False, timeout=60)
    assert child.returncode == 9


def asked(running: h.Running) -> list[str]:
    """Return the calls that are noted."""
    return [json.loads(body)["command"] for body in running.log.engine.notes(NOTE).values()]


def lost_in(running: h.Running) -> list[int]:
    """Return what the recorded answers say of calls that were lost."""
    return [record.body.get("lost", 0) for record in running.log.read() if record.kind == ANSWERED]


@pytest.mark.parametrize("how", ["dispatch", "enqueue"])
def test_a_call_whose_process_died_is_told_and_recorded_with_the_next_one(tmp_path: Path, how: str) -> None:
    """Twice killed, and then answered: the answer says that two calls were lost before it."""
    url = f"sqlite:///{tmp_path}/till.db"
    killed(url, how)
    killed(url, how)

    with app().open(url, run=False) as running:
        told = running.statistics()["lost_calls"]
        receipt = running.dispatch(Charge("a"), id="c-1") if how == "dispatch" else None
    if receipt is None:
        with app().open(url) as running:
            while not lost_in(running):
                running.log.wait(running.log.head, 1)
    with app().open(url, run=False) as running:
        assert [(one["command"], one["gateway"], one["lost"]) for one in told] == [("c-1", "card", 1)]
        assert lost_in(running) == [2]
        assert asked(running) == []
        assert running.statistics()["lost_calls"] == []


def test_a_lost_call_is_told_with_the_key_that_the_outside_was_given(tmp_path: Path) -> None:
    """By it a person finds at the outside what came of the call."""
    url = f"sqlite:///{tmp_path}/till.db"
    killed(url, "dispatch")
    keys: list[str] = []

    def listens(account: str, key: h.CallId) -> int:
        keys.append(key)
        return 1

    with app().open(url, run=False, gateways={card: listens}) as running:
        [told] = running.statistics()["lost_calls"]
        running.dispatch(Charge("a"), id="c-1")

    assert [told["key"]] == keys


def test_a_call_that_came_back_leaves_no_note(tmp_path: Path) -> None:
    """Whether it was recorded, refused, or the decider failed on it: what came of it is known."""
    url = f"sqlite:///{tmp_path}/till.db"
    with app().open(url) as running:
        running.dispatch(Charge("a"), id="c-1")
    with app().open(url, gateways={card: nothing}) as running, pytest.raises(ValueError, match="failed after"):
        running.dispatch(Charge("a"), id="c-2")

    with app().open(url, run=False) as running:
        assert (asked(running), lost_in(running), running.statistics()["lost_calls"]) == ([], [0], [])


def test_a_call_of_another_process_that_lives_is_not_lost(tmp_path: Path) -> None:
    """It may still be answered: its note says who asks."""
    url = f"sqlite:///{tmp_path}/till.db"
    seen: list[int] = []

    def looks(account: str) -> int:
        with app().open(url, run=False) as other:
            seen.append(len(asked(other)))
            seen.append(len(other.statistics()["lost_calls"]))
        return 1

    with app().open(url, gateways={card: looks}) as running:
        running.dispatch(Charge("a"), id="c-1")

    assert seen == [1, 0]


def lost_told(running: h.Running) -> list[str]:
    """Return the commands whose calls are told to be lost."""
    return [one["command"] for one in running.statistics()["lost_calls"]]


def before_it_is_durable(running: h.Running, act: Callable[[], None]) -> None:
    """Have this done between the next decision and its commit, once."""
    engine = running.log.engine
    append = engine.append

    def acting(decide: Callable[[Unseen], Commit], seen: int, **how: float) -> Head:
        def decided(unseen: Unseen) -> Commit:
            commit = decide(unseen)
            if any(note.startswith(NOTE) and body is None for note, body in commit.notes.items()):
                del engine.append
                act()
            return commit

        return append(decided, seen, **how)

    engine.append = acting  # type: ignore[method-assign]  # it is the instance's own


def test_a_call_whose_decision_is_not_durable_yet_is_not_lost(tmp_path: Path) -> None:
    """It is on its way until its commit has taken place."""
    told: list[list[str]] = []
    with app().open(f"sqlite:///{tmp_path}/till.db", run=False) as running:
        before_it_is_durable(running, lambda: told.append(lost_told(running)))
        running.dispatch(Charge("a"), id="c-1")

        assert (told, asked(running), lost_told(running)) == ([[]], [], [])


def test_a_call_whose_commit_fails_is_lost_and_told_by_the_next_one(tmp_path: Path) -> None:
    """What it came to is not recorded, and nobody hears it again."""
    with app().open(f"sqlite:///{tmp_path}/till.db", run=False) as running:

        def fails() -> None:
            raise h.StoreFailed("the disk is full")

        before_it_is_durable(running, fails)
        with pytest.raises(h.StoreFailed):
            running.dispatch(Charge("a"), id="c-1")
        told = lost_told(running)
        running.dispatch(Charge("a"), id="c-1")

        assert (told, lost_in(running), lost_told(running), asked(running)) == (["c-1"], [1], [], [])


def test_a_call_that_outlasts_its_caller_is_lost_and_told_by_the_next_one(tmp_path: Path) -> None:
    """Nobody hears its answer, whether it comes or not."""
    comes = threading.Event()

    def slow(account: str) -> int:
        comes.wait(10)
        return 1

    with app().open(f"sqlite:///{tmp_path}/till.db", run=False, gateways={card: slow}) as running:
        with pytest.raises(h.Overloaded):
            running.dispatch(Charge("a"), id="c-1", wait_seconds_max=0.2)
        told = lost_told(running)
        comes.set()
        running.dispatch(Charge("a"), id="c-1")

        assert (told, lost_in(running), lost_told(running), asked(running)) == (["c-1"], [1], [], [])


def scale(account: str) -> int:
    """Stand for an outside whose calls are not noted."""
    return 0


def charge_by_weight(command: Charge, world: h.World) -> Iterator[Charged]:
    """Ask both."""
    yield Charged(command.account, world.ask(scale, command.account) + world.ask(card, command.account))


def test_a_call_that_begins_when_its_caller_has_gone_is_lost(tmp_path: Path) -> None:
    """He is cancelled while one outside answers; his decider's thread goes on, and asks the next one."""
    entered, go = threading.Event(), threading.Event()
    calls: list[str] = []

    def weighs(account: str) -> int:
        entered.set()
        go.wait(10)
        return 1

    def counts(account: str) -> int:
        calls.append(account)
        return 1

    till = h.App("till", deciders=[charge_by_weight], gateways=[h.Gateway(card, noted=True), scale])
    with till.open(f"sqlite:///{tmp_path}/till.db", run=False, gateways={scale: weighs, card: counts}) as running:

        async def cancelled() -> None:
            asking = asyncio.create_task(running.adispatch(Charge("a"), id="c-1"))
            await asyncio.to_thread(entered.wait, 10)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            go.set()

        asyncio.run(cancelled())
        until(lambda: bool(calls))
        told = lost_told(running)
        running.dispatch(Charge("a"), id="c-1")

        assert (told, lost_in(running)[-1], lost_told(running), asked(running)) == (["c-1"], 1, [], [])


def charge_twice(command: Charge, world: h.World) -> Iterator[Charged]:
    """Ask it two questions."""
    yield Charged(command.account, world.ask(card, command.account) + world.ask(card, command.account))


def test_of_two_that_ask_for_one_command_none_leaves_a_note(tmp_path: Path) -> None:
    """Who comes second hears the first one's receipt: its own calls have come back, too."""
    url = f"sqlite:///{tmp_path}/till.db"
    twice = h.App("till", deciders=[charge_twice], gateways=[h.Gateway(card, noted=True)])
    first: list[h.Receipt] = []

    def overtaken(account: str) -> int:
        if not first:
            with twice.open(url, run=False) as other:
                first.append(other.dispatch(Charge("a"), id="c-1"))
        return 1

    with twice.open(url, run=False, gateways={card: overtaken}) as running:
        receipt = running.dispatch(Charge("a"), id="c-1")

        assert (receipt.position, receipt.repeated) == (first[0].position, True)
        assert asked(running) == []


def test_a_call_is_not_lost_where_another_one_for_the_same_command_is(tmp_path: Path) -> None:
    """Two of one process ask the same, and the commit of one fails: the other is still on its way."""
    both = threading.Barrier(2)
    last = threading.Event()
    turns = iter([0, 1])

    def slow(account: str) -> int:
        turn = next(turns)
        both.wait(10)
        if turn:
            last.wait(10)
        return turn

    def fails() -> None:
        raise h.StoreFailed("the disk is full")

    outcomes: queue.Queue[object] = queue.Queue()
    with app().open(f"sqlite:///{tmp_path}/till.db", run=False, gateways={card: slow}) as running:

        def dispatches() -> None:
            try:
                outcomes.put(running.dispatch(Charge("a"), id="c-1"))
            except h.StoreFailed as error:
                outcomes.put(error)

        before_it_is_durable(running, fails)
        for _ in range(2):
            threading.Thread(target=dispatches).start()
        failed = outcomes.get(timeout=10)
        told = lost_told(running)
        last.set()
        recorded = outcomes.get(timeout=10)

        assert isinstance(failed, h.StoreFailed)
        assert isinstance(recorded, h.Receipt)
        assert (told, lost_told(running), asked(running)) == ([], [], [])


def halting() -> tuple[Callable[[str], int], threading.Event, threading.Event]:
    """Return a gateway, and what it sets when it is asked, and what it waits for until it answers."""
    asked, go = threading.Event(), threading.Event()

    def slow(account: str) -> int:
        asked.set()
        go.wait(10)
        return 1

    return slow, asked, go


def test_a_call_that_another_thread_notes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """Two of one process ask the same; one comes to note its call when the other one has just noted its own."""
    slow, noted, go = halting()
    answers: queue.Queue[h.Receipt] = queue.Queue()

    with app().open(f"sqlite:///{tmp_path}/till.db", run=False, gateways={card: slow}) as running:
        engine = running.log.engine
        append = engine.append

        def after_the_other(decide: Callable[[Unseen], Commit], seen: int, **how: float) -> Head:
            if seen == EVERYTHING_SEEN:
                engine.append = append  # type: ignore[method-assign]  # it is the instance's own
                threading.Thread(target=lambda: answers.put(running.dispatch(Charge("a"), id="c-1"))).start()
                assert noted.wait(10)
                go.set()
            return append(decide, seen, **how)

        engine.append = after_the_other  # type: ignore[method-assign]  # it is the instance's own
        running.dispatch(Charge("a"), id="c-1")
        answers.get(timeout=10)

        assert (lost_in(running), asked(running)) == ([0], [])


@pytest.mark.parametrize("how", ["begins", "ends"])
def test_a_call_that_begins_or_ends_while_it_is_looked_for_lost_ones_is_none(tmp_path: Path, how: str) -> None:
    """Its note, and what this process is deciding, are looked at one after the other."""
    slow, entered, go = halting()

    with app().open(f"sqlite:///{tmp_path}/till.db", run=False, gateways={card: slow}) as running:
        engine = running.log.engine
        notes = engine.notes
        dispatching = threading.Thread(target=lambda: running.dispatch(Charge("a"), id="c-1"))

        def looked(start: str) -> Mapping[str, str]:
            if start != NOTE:
                return notes(start)
            engine.notes = notes  # type: ignore[method-assign]  # it is the instance's own
            if how == "begins":
                dispatching.start()
                assert entered.wait(10)
                return notes(start)
            found = notes(start)
            go.set()
            dispatching.join(10)
            return found

        if how == "ends":
            dispatching.start()
            assert entered.wait(10)
        engine.notes = looked  # type: ignore[assignment, method-assign]  # it is the instance's own
        told = lost_told(running)
        go.set()
        dispatching.join(10)

        assert told == []


def charge_anyway(command: Charge, world: h.World) -> Iterator[Charged]:
    """Ask it, and whatever comes of that decide."""
    try:
        yield Charged(command.account, world.ask(card, command.account))
    except Exception:  # noqa: BLE001 - as users write it
        yield Charged(command.account, -1)


def no_note_is_written(running: h.Running) -> list[str]:
    """Have the disk be full whenever a call is to be noted, until the list that is returned is longer than 20."""
    engine = running.log.engine
    append, refused = engine.append, list[str]()

    def refusing(decide: Callable[[Unseen], Commit], seen: int, **how: float) -> Head:
        def decided(unseen: Unseen) -> Commit:
            commit = decide(unseen)
            noted = [note for note, body in commit.notes.items() if note.startswith(NOTE) and body is not None]
            if noted and len(refused) <= 20:
                refused.extend(noted)
                raise h.StoreFailed("the disk is full")
            return commit

        return append(decided, seen, **how)

    engine.append = refusing  # type: ignore[method-assign]  # it is the instance's own
    return refused


def test_a_call_that_can_not_be_noted_is_not_made_and_said_to_be_trouble_of_the_store(tmp_path: Path) -> None:
    """Nobody takes it for an answer of the outside, and nothing is recorded."""
    calls: list[str] = []

    def counts(account: str) -> int:
        calls.append(account)
        return 7

    till = h.App("till", deciders=[charge_anyway], gateways=[h.Gateway(card, noted=True)])
    with till.open(f"sqlite:///{tmp_path}/till.db", run=False, gateways={card: counts}) as running:
        refused = no_note_is_written(running)
        with pytest.raises(h.StoreFailed, match="full"):
            running.dispatch(Charge("a"), id="c-1")
        with pytest.raises(h.StoreFailed, match="full"):
            asyncio.run(running.adispatch(Charge("a"), id="c-1"))

        assert (calls, running.log.find("c-1"), len(refused)) == ([], [], 2)
        refused += ["over"] * 20
        assert running.dispatch(Charge("a"), id="c-1").events == (Charged("a", 7),)


def test_a_note_waits_for_the_lock_as_long_as_the_caller_does(tmp_path: Path) -> None:
    """Another process takes the lock while the outside is asked, and stops: nothing is recorded."""
    url = f"sqlite:///{tmp_path}/till.db"
    taken, go = threading.Event(), threading.Event()
    holder = threading.Thread(target=held, args=(url, taken, go))

    def weighs(account: str) -> int:
        holder.start()
        taken.wait(10)
        return 1

    till = h.App("till", deciders=[charge_by_weight], gateways=[h.Gateway(card, noted=True), scale])
    with till.open(url, run=False, gateways={scale: weighs}) as running:
        began = time.monotonic()
        with pytest.raises(h.Overloaded):
            running.dispatch(Charge("a"), id="c-1", wait_seconds_max=1)
        seconds = time.monotonic() - began
        go.set()
        holder.join(10)

        assert seconds < 5
        assert running.log.find("c-1") == []


def test_a_pending_command_whose_call_can_not_be_noted_waits_and_is_not_stuck(tmp_path: Path) -> None:
    """The disk is full for a while."""
    with app().open(f"sqlite:///{tmp_path}/till.db") as running:
        refused = no_note_is_written(running)
        kept = running.enqueue(Charge("abc"), id="c-1")
        until(lambda: len(refused) >= 7)  # one try makes five rounds at most
        assert running.stuck() == []
        refused += ["over"] * 20

        assert running.outcome(kept, wait_seconds_max=30).events == (Charged("abc", 3),)


class Weighed(h.Event):
    account: Account
    number: int


class Scale(h.State):
    account: Account
    total: int = 0

    def evolve(self, event: Weighed) -> "Scale":
        if event.number > 1:
            raise ValueError("it takes no more")
        return self.but(total=self.total + event.number)


def weigh(command: Charge, scale: Scale, world: h.World) -> Iterator[Weighed]:
    """Ask the outside, and decide what the state can't take."""
    yield Weighed(command.account, world.ask(card, command.account))


def test_a_decision_that_no_state_can_take_leaves_its_answers_to_a_retry(tmp_path: Path) -> None:
    """It has failed as one whose decider raises: what came of the call is known, and the outside is not asked once more."""
    calls: list[str] = []

    def counts(account: str) -> int:
        calls.append(account)
        return 7

    scales = h.App("scales", deciders=[weigh], gateways=[h.Gateway(card, noted=True)])
    with scales.open(f"sqlite:///{tmp_path}/scales.db", run=False, gateways={card: counts}) as running:
        for _ in range(2):
            with pytest.raises(ValueError, match="no more"):
                running.dispatch(Charge("a"), id="c-1")

        assert (calls, asked(running), lost_told(running)) == (["a"], [], [])


def test_without_it_nothing_is_noted(tmp_path: Path) -> None:
    """It costs a commit, so it is asked for."""
    url = f"sqlite:///{tmp_path}/till.db"
    seen: list[int] = []

    def looks(account: str) -> int:
        with app(noted=False).open(url, run=False) as other:
            seen.append(len(asked(other)))
        return 1

    with app(noted=False).open(url, gateways={card: looks}) as running:
        running.dispatch(Charge("a"), id="c-1")

    assert seen == [0]


def test_answer_error_duration_and_attempt_are_recorded_with_the_decision(tmp_path: Path) -> None:
    """Of each question, whether it came to anything or not."""
    url = f"sqlite:///{tmp_path}/till.db"
    calls: list[str] = []

    def second(account: str) -> int:
        calls.append(account)
        if len(calls) == 1 or account == "down":
            raise ConnectionError("nobody there")
        return 7

    def charge_anyway(command: Charge, world: h.World) -> Iterator[Charged]:
        try:
            yield Charged(command.account, world.ask(card, command.account))
        except h.GatewayFailed:
            yield Charged(command.account, 0)

    till = h.App("till", deciders=[charge_anyway], gateways=[h.Gateway(card, attempts_max=2)])
    with till.open(url, gateways={card: second}) as running:
        running.dispatch(Charge("a"), id="c-1")
        running.dispatch(Charge("down"), id="c-2")
        answers = [record.body for record in running.log.read() if record.kind == ANSWERED]

    assert [(one["gateway"], one["arguments"], one.get("answer"), one.get("error"), one["attempt"]) for one in answers] == [
        ("card", ["a"], 7, None, 2),
        ("card", ["down"], None, "ConnectionError: nobody there", 2),
    ]
    assert all(one["us"] > 0 for one in answers)
