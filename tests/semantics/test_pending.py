"""Commands that were enqueued: kept, decided once, in order, and seen where they can't be."""

import asyncio
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any  # Any: JSON

import msgspec
import pytest

import happened as h
from happened.core.store import Engine
from happened.log.deciding import inside_decider
from happened.log.held import Held, all_held, failed_with
from happened.log.lease import Leases
from happened.log.worker import Envelope
from happened.log.writer import Batch, Job
from happened.sourcing.handling import Decision, Pending
from happened.sourcing.memory_image import ImageOverlay
from happened.sourcing.pending import PendingWorker, Skipped
from happened.sourcing.sending import Sending
from happened.stores.machine import Machine
from tests.semantics.faults import Faults, broken, full
from tests.semantics.model import Account, Balance, Deposit, Deposited, Transfer, bank, deposit
from tests.transfer.model import until


class Jumping(Machine):
    """A clock that can be set on or back."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


class Fail(h.Command):
    account: Account


class Gone(h.Command):
    account: Account


def fail(command: Fail) -> Iterator[Deposited]:
    """Raise what is no refusal."""
    if command.account:
        raise ValueError("can't be decided")
    yield Deposited(command.account, 1)


def gone(command: Gone) -> Iterator[Deposited]:
    """Decide something that later code knows nothing of."""
    yield Deposited(command.account, 1)


def test_two_that_share_a_tag_are_decided_in_their_order(url: str) -> None:
    """Deposits and transfers of one account were kept before anybody ran: they are decided in the order they were kept in."""
    with bank.open(url, run=False) as running:
        kept = [running.enqueue(command) for _ in range(10) for command in (Deposit("a", 5), Transfer("a", "b", 5))]
    with bank.open(url) as running:
        assert all(len(running.outcome(receipt).events) == 1 + number % 2 for number, receipt in enumerate(kept))
        assert running.state(Balance, "a") == Balance("a", 0, 20)
        running.log.verify()


def stalled_behind(receipt: h.Receipt, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have whoever decides what comes after a receipt stop between the sync and the merge; return what says so, and what lets him go on."""
    synced, merge = threading.Event(), threading.Event()
    merged = ImageOverlay.merge

    def stalled(overlay: ImageOverlay, position: int) -> None:
        if position > receipt.position:
            synced.set()
            assert merge.wait(10)
        merged(overlay, position)

    monkeypatch.setattr(ImageOverlay, "merge", stalled)
    return synced, merge


def test_an_outcome_is_told_when_the_states_hold_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decides is stopped between the sync and the merge: nobody hears an outcome that `state` of the same process does not know."""
    with bank.open(url, run=False) as running:
        kept = running.enqueue(Deposit("a", 5), id="first")
    synced, merge = stalled_behind(kept, monkeypatch)
    with bank.open(url) as running, ThreadPoolExecutor() as pool:

        def balance_after(outcome: Callable[[], h.Receipt]) -> Balance | None:
            outcome()
            return running.state(Balance, "a")

        assert synced.wait(10)
        asked = [
            pool.submit(balance_after, outcome)
            for outcome in (lambda: running.outcome(kept), lambda: running.dispatch(Deposit("a", 5), id="first"))
        ]
        wait(asked, timeout=0.2)
        merge.set()

        assert [one.result(10) for one in asked] == [Balance("a", 5, 1)] * 2


def test_a_refusal_is_told_when_the_states_hold_what_it_was_decided_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was decided in one commit with a deposit before it, and whoever decides is stopped before the merge."""
    with bank.open(url, run=False) as running:
        first = running.enqueue(Deposit("a", 5))
        second = running.enqueue(Transfer("a", "b", 9))
    synced, merge = stalled_behind(second, monkeypatch)
    with bank.open(url) as running, ThreadPoolExecutor() as pool:

        def balance_after() -> Balance | None:
            with pytest.raises(h.Refused):
                running.outcome(second)
            return running.state(Balance, "a")

        assert synced.wait(10)
        asked = pool.submit(balance_after)
        wait([asked], timeout=0.2)
        merge.set()

        assert asked.result(10) == Balance("a", 5, 1)
        assert running.outcome(first).events == (Deposited("a", 5),)


@pytest.mark.parametrize("way", ["outcome", "dispatch", "adispatch"])
def test_what_is_kept_is_recorded_also_where_the_log_is_closed_meanwhile(any_url: str, way: str) -> None:
    """Nobody decides it, and who waits for it hears that it is recorded, whatever keeps him from hearing more."""
    with bank.open(any_url, run=False) as running, ThreadPoolExecutor() as pool:
        kept = running.enqueue(Deposit("a", 5), id="first")
        ways: dict[str, Callable[[], h.Receipt]] = {
            "outcome": lambda: running.outcome(kept),
            "dispatch": lambda: running.dispatch(Deposit("a", 5), id="first"),
            "adispatch": lambda: asyncio.run(running.adispatch(Deposit("a", 5), id="first")),
        }
        asked = pool.submit(ways[way])
        wait([asked], timeout=0.5)
        assert not asked.done()
        running.close()

        error = asked.exception(10)
        assert isinstance(error, h.Error)
        assert error.recorded is True


def test_what_is_recorded_and_can_not_be_read_says_that_it_is_recorded(any_url: str) -> None:
    """The id is known, and its event is one that this code can't read: the command was recorded all the same."""

    @h.named("Deposited", version=2)
    class Later(h.Event):
        account: Account
        amount: int

    @h.named("deposit")
    def later(command: Deposit) -> Iterator[Later]:
        yield Later(command.account, command.amount)

    failing: list[str] = []

    def lift(data: dict[str, Any]) -> dict[str, Any]:
        if failing:
            raise ValueError(f"{data} can't be lifted")
        return data

    with h.App("bank", deciders=[deposit]).open(any_url, run=False) as running:
        running.dispatch(Deposit("a", 5), id="first")
    with h.App("bank", deciders=[later], upcasts=[h.Upcast("Deposited", 1, lift)]).open(any_url, run=False) as running:
        failing.append("from now on")
        with pytest.raises(h.Incompatible) as raised:
            running.dispatch(Deposit("a", 5), id="first")

        assert raised.value.recorded is True


def test_one_that_fails_is_stuck_stops_its_key_and_no_other(url: str) -> None:
    """What shares its tag waits behind it, what does not is decided."""
    app = h.App("failing", deciders=[deposit, fail])
    with app.open(url) as running:
        failing = running.enqueue(Fail("a"))
        behind = running.enqueue(Deposit("a", 1))
        other = running.enqueue(Deposit("b", 1))

        assert running.outcome(other).events == (Deposited("b", 1),)
        with pytest.raises(h.Stuck):
            running.outcome(failing)
        with pytest.raises((h.Late, h.Stuck)):
            running.outcome(behind, wait_seconds_max=0.3)


def outside(number: int) -> int:
    """Stand for the outside."""
    raise NotImplementedError


class Move(h.Command):
    number: int
    accounts: tuple[Account, ...]


class Moved(h.Event):
    number: int


failing: set[int] = set()
"""Numbers whose decider fails."""
asking: set[int] = set()
"""Numbers whose decider asks the outside first."""


def move(command: Move, world: h.World) -> Iterator[Moved]:
    """Ask first, or fail, or do neither, by the number."""
    if command.number in failing:
        raise ValueError("can't be decided")
    if command.number in asking:
        world.ask(outside, command.number)
    yield Moved(command.number)


def by_hand(running: h.Running) -> PendingWorker:
    """Return who decides what is pending, without a thread."""
    return PendingWorker(running.log, Leases(running.log.engine, running.log.source, []), running._handling, running._decide_pending)


def moved(running: h.Running, worker: PendingWorker) -> list[int]:
    """Let all be decided that can be now; return what was, in its order."""
    while not worker.decide_some():
        pass
    return [record.body.number for record in running.log.read() if isinstance(record.body, Moved)]


@pytest.mark.parametrize("why", ["fails", "asks"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_waits_for_one_that_can_not_be_decided_now_is_waited_for_too(tmp_path: Path, kind: str, why: str) -> None:
    """The first has the accounts a and d, the second c and d, the third c alone: it waits for the second, which waits for the first; who has b waits for none."""
    failing.clear()
    asking.clear()
    (failing if why == "fails" else asking).add(1)
    url = "memory:" if kind == "memory" else f"sqlite:///{tmp_path}/log.db"
    with h.App("moves", deciders=[move], gateways=[outside]).open(url, run=False, gateways={outside: abs}) as running:
        for number, accounts in enumerate([("a", "d"), ("c", "d"), ("c",), ("b",)], 1):
            running.enqueue(Move(number, accounts))
        worker = by_hand(running)
        if why == "fails":
            assert moved(running, worker) == [4]
            worker._begin(0)  # another process takes it over: all that is pending is tried at once
            assert moved(running, worker) == [4]
            failing.clear()
            worker._begin(0)
        assert moved(running, worker) == [4, 1, 2, 3]
        running.log.verify()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_waits_behind_one_that_fails_is_read_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be many: who has nothing to do with them is decided without a look at them, and in the end they are, in their order."""
    failing.clear()
    failing.add(1)
    asking.clear()
    looked: list[int] = []
    kept = PendingWorker.kept

    def counted(worker: PendingWorker, note: str, known: str) -> Any:
        found = kept(worker, note, known)
        assert found.decision is not None
        looked.append(found.decision.command.number)
        return found

    monkeypatch.setattr(PendingWorker, "kept", counted)
    monkeypatch.setattr("happened.sourcing.pending.STRETCH", 2)  # so few are looked through at once, and what waits fills more than that
    url = "memory:" if kind == "memory" else f"sqlite:///{tmp_path}/log.db"
    with h.App("moves", deciders=[move]).open(url, run=False) as running:
        waiting = list(range(1, 50))
        for number in waiting:
            running.enqueue(Move(number, ("a",)))
        worker = by_hand(running)
        assert moved(running, worker) == []
        worker._due = dict.fromkeys(worker._due, math.inf)  # it is not tried again meanwhile, however long this takes
        looked.clear()
        for number in range(100, 105):
            running.enqueue(Move(number, (f"b{number}",)))
            assert moved(running, worker)[-1] == number
        others = list(range(100, 105))
        assert set(looked) == {1, *others}

        failing.clear()
        worker._begin(0)
        assert moved(running, worker) == [*others, *waiting]


@pytest.mark.parametrize("meanwhile", ["skipped", "decided"])
def test_what_was_done_about_a_command_while_it_failed_stands(any_url: str, meanwhile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its failure and the note of that somebody skips it, or another process, which has the code for it, decides it."""
    failing.clear()
    asking.clear()
    failing.add(1)
    with h.App("moves", deciders=[move], gateways=[outside]).open(any_url, run=False) as running:
        kept = running.enqueue(Move(1, ("a",)))
        worker = by_hand(running)
        told = failed_with

        def late(error: BaseException) -> tuple[str, str]:
            monkeypatch.setattr("happened.sourcing.pending.failed_with", told)
            if meanwhile == "skipped":
                running.decide_about("skip", "Move", kept.position, actor="ann")
            else:
                failing.clear()
                with h.App("moves", deciders=[move], gateways=[outside]).open(any_url, run=False) as other:
                    assert moved(other, by_hand(other)) == [1]
            return told(error)

        if meanwhile == "skipped":  # what is stuck for the first time nobody knows of yet
            assert moved(running, worker) == []
            running.decide_about("retry", "Move", kept.position, actor="ann")
        monkeypatch.setattr("happened.sourcing.pending.failed_with", late)
        moved(running, worker)

        assert running.stuck() == []
        if meanwhile == "skipped":
            with pytest.raises(h.Refused, match="skipped"):
                running.outcome(kept, wait_seconds_max=1)
        else:
            assert running.outcome(kept, wait_seconds_max=1).events == (Moved(1),)


def test_what_somebody_says_of_a_command_while_a_new_owner_takes_it_over_stands(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new owner takes back what the one before has said is stuck: what a person has said of it meanwhile he does not."""
    failing.clear()
    asking.clear()
    failing.add(1)
    with h.App("moves", deciders=[move], gateways=[outside]).open(any_url, run=False) as running:
        kept = running.enqueue(Move(1, ("a",)))
        worker = by_hand(running)
        assert moved(running, worker) == []

        def looked(engine: Engine) -> list[Held]:
            found = all_held(engine)
            running.decide_about("skip", "Move", kept.position, actor="ann")
            return found

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr("happened.sourcing.pending.all_held", looked)
            worker.forget_held()

        assert [held.act for held in running.stuck()] == ["skip"]


def test_of_two_who_are_to_skip_a_command_one_does(any_url: str) -> None:
    """The first owner is paused before it commits, and goes on when another one has done what was said: the command has one outcome."""
    failing.clear()
    asking.clear()
    failing.add(1)
    with h.App("moves", deciders=[move], gateways=[outside]).open(any_url, run=False) as running:
        kept = running.enqueue(Move(1, ("a",)), id="it")
        worker = by_hand(running)
        assert moved(running, worker) == []
        running.decide_about("skip", "Move", kept.position, actor="ann")
        [held] = running.stuck()
        paused = Skipped(worker.kept(f"pending/{kept.position:020d}", "it"), held)
        with h.App("moves", deciders=[move], gateways=[outside]).open(any_url, run=False) as other:
            assert moved(other, by_hand(other)) == []
        running._writer.submit(paused, 5)

        assert [row.position for row in running.log.find("it")] == [kept.position, running.log.head]
        assert running.stuck() == []


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_one_without_tags_that_waits_keeps_none_before_it_from_being_decided(tmp_path: Path, kind: str) -> None:
    """The third has no tags and stands behind the first, which fails, and then fails itself: the second is decided, and so is the first where somebody says so."""
    asking.clear()
    failing.clear()
    failing.update({1, 3})
    url = "memory:" if kind == "memory" else f"sqlite:///{tmp_path}/log.db"
    with h.App("moves", deciders=[move], gateways=[outside]).open(url, run=False, gateways={outside: abs}) as running:
        worker = by_hand(running)
        first = running.enqueue(Move(1, ("a",))).position
        assert moved(running, worker) == []
        worker._due = dict.fromkeys(worker._due, math.inf)  # it is not tried again by itself meanwhile
        running.enqueue(Move(2, ("b",)))
        third = running.enqueue(Move(3, ())).position
        assert moved(running, worker) == [2]

        running.decide_about("park", "Move", first)
        assert moved(running, worker) == [2]
        assert [held.position for held in running.stuck()] == [first, third]
        worker._due = dict.fromkeys(worker._due, math.inf)
        failing.discard(1)
        running.decide_about("retry", "Move", first)
        assert moved(running, worker) == [2, 1]

        failing.clear()
        running.decide_about("retry", "Move", third)
        assert moved(running, worker) == [2, 1, 3]
        running.log.verify()


class Sends(Job):
    """Sends a command, as what a reaction or a timer has come to."""

    def __init__(self, sending: Sending, decision: Decision) -> None:
        super().__init__(decision.id)
        self.sending, self.decision = sending, decision

    def draft(self, batch: Batch) -> None:
        """Send it."""
        self.sending.send(batch, [self.decision])


def test_what_is_sent_waits_behind_what_was_enqueued_in_the_same_commit(any_url: str) -> None:
    """Both share a tag: the one that was kept first is decided first."""
    with bank.open(any_url, run=False) as running:
        sending = running._sending
        one, two = [sending.prepared(Deposit("a", n), Envelope(f"it:{n}", "outside", None, "", 0, 1)) for n in (1, 2)]

        running._writer.submit_all([Pending(one), Sends(sending, two)], 5)

        assert list(running.log.engine.notes("pending/").values()) == ["it:1", "it:2"]
        assert running.states(Balance) == {}
    with bank.open(any_url) as running:
        running.settled()
        assert [record.body for record in running.log.read(h.query(names=["Deposited"]))] == [Deposited("a", 1), Deposited("a", 2)]


def test_what_is_pending_is_read_once_for_all_that_is_sent_meanwhile(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be many, and each commit of what a reaction sends asks whether there is any. The last one that was decided keeps nothing waiting."""
    read: list[int] = []
    begin = Batch.__init__

    def counting(batch: Batch, *given: Any, **named: Any) -> None:
        begin(batch, *given, **named)
        notes_of = batch.notes_of

        def counted(start: str) -> Any:
            found = notes_of(start)
            read.append(sum(key.startswith("pending/") for key in found))
            return found

        batch.notes_of = counted

    with bank.open(any_url, run=False) as running:
        for number in range(20):
            running.enqueue(Deposit("a", number))
        sent = [running._sending.prepared(Deposit("b", n), Envelope(f"it:{n}", "outside", None, "", 0, 1)) for n in range(7)]
        monkeypatch.setattr(Batch, "__init__", counting)
        for decision in sent[:5]:
            running._writer.submit(Sends(running._sending, decision), 5)
        assert sorted(one for one in read if one) == [1, 1, 1, 1, 20]
        assert len(running.log.engine.notes("pending/")) == 25

        while not by_hand(running).decide_some():
            pass
        assert running.state(Balance, account="b") is not None
        running._writer.submit(Sends(running._sending, sent[5]), 5)
        assert running.log.engine.notes("pending/") == {}
        running.enqueue(Deposit("a", 100))
        running._writer.submit(Sends(running._sending, sent[6]), 5)
        assert len(running.log.engine.notes("pending/")) == 2


def test_a_full_disk_makes_a_pending_command_wait_not_stuck(url: str, faults: Faults) -> None:
    """The store fails once while it is decided: nothing is wrong with the command, so it is decided with the next try."""

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql.startswith("insert into log") and threading.current_thread().name == "happened-pending":
            faults.hook = None
            raise full()
        return run()

    with bank.open(url) as running:
        faults.hook = hook

        kept = running.enqueue(Deposit("a", 1))

        assert running.outcome(kept, wait_seconds_max=5).events == (Deposited("a", 1),)


def look(command: Deposit, world: h.World) -> Iterator[Deposited]:
    """Ask for a state in the midst of the decision."""
    balance = world.state(Balance, account=command.account)
    yield Deposited(command.account, command.amount + balance.amount)


def test_a_disk_that_fails_while_a_state_is_read_makes_a_pending_command_wait_not_stuck(url: str, faults: Faults) -> None:
    """The decider asks for a state that is not in memory: what the store says to that is no failure of the command."""
    looker = h.App("looker", deciders=[look], records=[Deposited])
    with looker.open(url, run=False) as running:
        running.record(Deposited("a", 5))
        kept = running.enqueue(Deposit("a", 1))
    failed: list[str] = []

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if inside_decider() and threading.current_thread().name == "happened-pending" and len(failed) < 40:
            failed.append(sql)
            raise broken()
        return run()

    faults.hook = hook
    with looker.open(url) as running:
        until(lambda: len(failed) > 0)
        time.sleep(0.3)
        assert running.stuck() == []
        failed += ["over"] * 40

        assert running.outcome(kept, wait_seconds_max=10).events == (Deposited("a", 6),)


def test_a_pending_command_that_no_decider_takes_any_more_does_not_stop_the_others(url: str) -> None:
    """A decider was removed while a command for it was pending: that one is stuck and seen, others are decided."""
    with h.App("removed", deciders=[deposit, gone]).open(url, run=False) as running:
        orphan = running.enqueue(Gone("a"))
        other = running.enqueue(Deposit("b", 1))
    with h.App("removed", deciders=[deposit], ignores=["Gone", "gone"]).open(url) as running:
        assert running.outcome(other, wait_seconds_max=3).events == (Deposited("b", 1),)
        with pytest.raises(h.Stuck):
            running.outcome(orphan, wait_seconds_max=3)


class Ask(h.Command):
    number: int


class Answered(h.Event):
    number: int


class Slow:
    """A gateway that holds up whoever asks first."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, number: int) -> int:
        if not self.entered.is_set():
            self.entered.set()
            assert self.go.wait(10)
        return number


def ask(command: Ask, world: h.World) -> Iterator[Answered]:
    """Ask before deciding."""
    yield Answered(world.ask(outside, command.number))


def test_a_paused_owner_does_not_decide_what_its_successor_has_decided(url: str) -> None:
    """An owner hangs in a gateway, its lease runs out, another process decides; when the first comes back it must not decide again."""
    slow = Slow()
    app = h.App("asking", deciders=[ask], gateways=[outside])
    later = Jumping()
    later.ahead_us = 60_000_000
    with app.open(url, gateways={outside: slow}) as first:
        kept = first.enqueue(Ask(1), id="once")
        assert slow.entered.wait(5)
        with app.open(url, gateways={outside: slow}, source=later) as second:
            assert second.outcome(kept, wait_seconds_max=10).events == (Answered(1),)

            slow.go.set()
            second.enqueue(Ask(2), id="next")
            first.close()

            decided = [record for record in second.log.read() if record.name == "Answered" and record.causation == "once"]
            assert len(decided) == 1


def test_the_recorded_time_never_falls_when_the_clock_jumps_back(url: str) -> None:
    """The clock goes an hour back, within one process and across a reopen: recorded times stay in order, and positions by time too."""
    clock = Jumping()
    with bank.open(url, run=False, source=clock) as running:
        for ahead in (0, -3_600_000_000, 5_000_000, -1):
            clock.ahead_us = ahead
            running.dispatch(Deposit("a", 1))
    clock.ahead_us = -7_200_000_000
    with bank.open(url, run=False, source=clock) as running:
        running.dispatch(Deposit("a", 1))

        times = [record.time for record in running.log.read()]
        assert times == sorted(times)
        running.log.verify()


class Book(h.Command):
    account: Account
    amount: int


@h.named("Book")
class BookWithCurrency(h.Command):
    account: Account
    amount: int
    currency: Annotated[str, msgspec.Meta(min_length=3)]


def book(command: Book) -> Iterator[Deposited]:
    """Decide what was enqueued by this code."""
    yield Deposited(command.account, command.amount)


@h.named("book")
def book_with_currency(command: BookWithCurrency) -> Iterator[Deposited]:
    """Decide, by code that came later and can't read what was kept."""
    yield Deposited(command.account, command.amount)


def test_who_dispatches_what_was_enqueued_hears_that_its_id_was_known(any_url: str) -> None:
    """What came of it, whoever has decided it: the caller has not."""
    with bank.open(any_url) as running:
        kept = running.enqueue(Deposit("a", 1), id="it")
        decided = running.outcome(kept)

        for again in (running.dispatch(Deposit("a", 1), id="it"), *running.dispatch_all([h.Message(Deposit("a", 1), id="it")])):
            assert again == msgspec.structs.replace(decided, repeated=True)
        assert not decided.repeated


@h.named("BookNow", version=2)
class BookNow(h.Command):
    account: Account
    amount: int


def book_now(command: BookNow) -> Iterator[Deposited]:
    """Decide what was once called otherwise."""
    yield Deposited(command.account, command.amount)


def book_badly(command: Book) -> Iterator[Deposited]:
    """Raise what is no refusal."""
    if command.amount:
        raise ValueError("can't be decided")
    yield Deposited(command.account, 0)


@pytest.mark.parametrize("parked", [False, True])
def test_a_command_that_was_held_under_a_former_name_is_held_no_more_once_it_is_decided(any_url: str, *, parked: bool) -> None:
    """Somebody has said that it be tried again, and the next release calls it otherwise."""
    with h.App("book", deciders=[book_badly]).open(any_url) as running:
        kept = running.enqueue(Book("a", 10))
        until(lambda: bool(running.stuck()))
        if parked:
            running.decide_about("park", "Book", kept.position)
            until(lambda: running.stuck()[0].parked)
    renamed = h.App("book", deciders=[book_now], upcasts=[h.Upcast("Book", 1, to="BookNow")])
    with renamed.open(any_url, run=False) as running:
        running.decide_about("retry", "Book", kept.position)
    with renamed.open(any_url) as running:
        until(lambda: any(record.body == Deposited("a", 10) for record in running.log.read()))

        assert running.stuck() == []
        assert running.settled(kept).done


def test_a_pending_command_that_the_code_cannot_read_is_stuck_and_seen_and_decided_by_code_that_can(url: str) -> None:
    """A field was added without a default: every process says so, all kept after it wait, dispatches go on; mended code decides all in order."""
    before = h.App("book", deciders=[book, deposit])
    after = h.App("book", deciders=[book_with_currency, deposit])
    with before.open(url, run=False) as running:
        first = running.enqueue(Deposit("a", 1), id="first")
        unreadable = running.enqueue(Book("a", 10), id="unreadable")
        behind = running.enqueue(Deposit("b", 100), id="behind")
    with after.open(url) as running, after.open(url, run=False) as other:
        assert running.outcome(first).events == (Deposited("a", 1),)
        for handle in (running, other):
            with pytest.raises(h.Stuck, match="can't be decided") as stuck:
                handle.outcome(unreadable)
            assert stuck.value.recorded is True
            assert handle.statistics()["pending"] == 2
            assert list(handle.statistics()["stuck"]) == ["unreadable"]
        with pytest.raises(h.Late):
            running.outcome(behind, wait_seconds_max=0.3)
        assert running.dispatch(Deposit("a", 1000)).events
    with before.open(url) as running:
        assert running.outcome(behind).events == (Deposited("b", 100),)
        assert running.outcome(unreadable).events == (Deposited("a", 10),)
        assert (running.statistics()["pending"], running.statistics()["stuck"]) == (0, {})
        decided = [record.causation for record in running.log.read() if record.name == "Deposited"]
        assert [name for name in decided if name in ("first", "unreadable", "behind")] == ["first", "unreadable", "behind"]


def test_what_is_stuck_is_written_once(url: str, faults: Faults) -> None:
    """A command that can't be read is looked at with every commit of others: that costs no commit of its own each time."""
    with h.App("book", deciders=[book, deposit]).open(url, run=False) as running:
        unreadable = running.enqueue(Book("a", 10))
    written: list[str] = []

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql == "commit" and threading.current_thread().name == "happened-pending":
            written.append(sql)
        return run()

    faults.hook = hook
    with h.App("book", deciders=[book_with_currency, deposit]).open(url) as running:
        for _ in range(3):
            running.dispatch(Deposit("a", 1))
            with pytest.raises(h.Stuck):
                running.outcome(unreadable)
            time.sleep(0.15)

        assert len(written) == 1


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_was_enqueued_and_comes_to_nothing_is_decided_and_the_log_goes_on(tmp_path: Path, kind: str) -> None:
    """A row has at least one record: what comes after it stands behind it, and in SQL, too, it says that nothing came of it."""

    class Wave(h.Command):
        account: Annotated[str, h.Tag("account")]

    def wave(_: Wave) -> Iterator[Deposited]:
        yield from ()

    wave.__annotations__ = {"_": Wave, "return": Iterator[Deposited]}
    url = "memory:" if kind == "memory" else f"sqlite:///{tmp_path}/log.db"
    with h.App("waves", records=[Deposited], deciders=[wave]).open(url) as running:
        receipts = [running.enqueue(Wave("a"), id=f"w-{number}") for number in range(5)]
        outcomes = [running.outcome(receipt, wait_seconds_max=30) for receipt in receipts]
        running.record(Deposited("a", 1))

        assert [outcome.events for outcome in outcomes] == [()] * 5
        assert running.dispatch(Wave("a"), id="w-0").position == outcomes[0].position
        assert [record.kind for record in running.log.read() if record.name == "nothing"] == ["output"] * 5
        running.log.verify()
        if kind == "sqlite":
            with closing(sqlite3.connect(tmp_path / "log.db")) as file:
                assert file.execute("select count(*), max(kind) from record where name = 'nothing'").fetchall() == [(5, "output")]
