"""Waits that end in strange ways, notes that are late or lost: every caller hears what is so, and nobody is decided twice."""

import asyncio
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any  # Any: notes and answers of any kind

import pytest

import happened as h
from happened.core.store import Commit, Head, Unseen
from happened.log import writer
from happened.log.log import EVERYTHING_SEEN
from happened.log.writer import DONE, Job
from tests.semantics.faults import Faults, broken, full
from tests.semantics.model import Account, Balance, Deposit, Deposited, Transfer, bank
from tests.semantics.test_waiting import Gate, Pause, in_thread, paused


class Buy(h.Command):
    account: Account


def rate(account: str) -> int:
    """Stand for the outside."""
    raise NotImplementedError


def rated(account: str) -> int:
    """Answer at once."""
    return 1


def buy(command: Buy, world: h.World) -> Iterator[Deposited]:
    """Ask before deciding."""
    yield Deposited(command.account, world.ask(rate, command.account))


class Mended:
    """A decider that fails until it is mended."""

    def __init__(self) -> None:
        self.fails = True
        self.go = threading.Event()
        self.go.set()

    def app(self) -> h.App:
        """Return an app that has it."""

        def mendable(command: Deposit) -> Iterator[Deposited]:
            if self.fails:
                raise ValueError("to be mended")
            assert self.go.wait(10)
            yield Deposited(command.account, command.amount)

        return h.App("mended", deciders=[mendable])


def once_on(faults: Faults, matches: Callable[[str], bool], error: Callable[[], BaseException], *, after: bool = False) -> None:
    """Let the next statement that matches fail once, before or after it took place."""

    def hook(_connection: object, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if not matches(sql):
            return run()
        faults.hook = None
        if after:
            run()
        raise error()

    faults.hook = hook


def in_pending(statement: str) -> Callable[[str], bool]:
    """Return a test for a statement of the thread that decides what is pending."""
    return lambda sql: sql.startswith(statement) and threading.current_thread().name == "happened-pending"


# --- waits


@pytest.mark.parametrize("wait_seconds_max", [math.inf, 1e300])
def test_an_endless_wait_stops_neither_the_writer_nor_anybody_else(url: str, wait_seconds_max: float) -> None:
    """Somebody waits for ever behind a slow decider: it gets its receipt, and so does everybody after it."""
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        leader, _ = in_thread(lambda: running.dispatch(Pause("p")))
        assert gate.entered.wait(5)
        patient, answer = in_thread(lambda: asyncio.run(running.adispatch(Deposit("a", 1), id="x", wait_seconds_max=wait_seconds_max)))
        while not running._writer._queue:
            pass
        gate.go.set()
        leader.join(5)
        patient.join(5)

        assert isinstance(answer[0], h.Receipt)
        assert running.dispatch(Deposit("a", 1), wait_seconds_max=wait_seconds_max).events
        assert running.state(Balance, "a") == Balance("a", 2, 2)


@pytest.mark.parametrize("wait_seconds_max", [-1.0, -math.inf, math.nan])
def test_a_wait_that_is_over_already_is_answered_at_once(url: str, wait_seconds_max: float) -> None:
    """A negative time to wait, or none at all, is no time: behind a slow decider the caller hears so, and nothing of it is recorded."""
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        leader, led = in_thread(lambda: running.dispatch(Pause("p")))
        assert gate.entered.wait(5)
        hurried, answers = in_thread(lambda: running.dispatch(Deposit("a", 1), id="x", wait_seconds_max=wait_seconds_max))
        appended, appends = in_thread(lambda: running.log.append(Deposited("a", 1), id="y", wait_seconds_max=wait_seconds_max))
        hurried.join(5)
        appended.join(5)
        gate.go.set()
        leader.join(5)

        assert [type(answer) for answer in answers + appends] == [h.Overloaded, h.Overloaded]
        assert isinstance(led[0], h.Receipt)
        running.dispatch(Deposit("b", 1))
        assert running.log.find("x") == running.log.find("y") == []


WAITS: dict[str, Callable[[h.Running, Any], object]] = {
    "state": lambda running, seconds: running.state(Balance, "a", since=FAR, wait_seconds_max=seconds),
    "catch_up": lambda running, seconds: running.catch_up(FAR, wait_seconds_max=seconds),
    "view.get": lambda running, seconds: running.view(Balance).get("a", since=FAR, wait_seconds_max=seconds),
    "view.rows": lambda running, seconds: running.view(Balance).rows(since=FAR, wait_seconds_max=seconds),
    "view.sql": lambda running, seconds: running.view(Balance).sql("select 1", since=FAR, wait_seconds_max=seconds),
}
FAR = 1_000


@pytest.mark.parametrize("ask", WAITS.values(), ids=WAITS)
def test_whoever_waits_is_late_when_that_is_over_and_hears_what_is_no_time(any_url: str, ask: Callable[[h.Running, Any], object]) -> None:
    """What is asked for never comes: no number (NaN) is no wait, and not one without an end; what is no number at all is said."""
    with bank.open(any_url) as running:
        running.view(Balance).rows(since=running.dispatch(Deposit("a", 1)))
        for seconds in (0.01, 0, -1, math.nan, -math.inf):
            with pytest.raises(h.Late):
                ask(running, seconds)
        for none in (None, "5", [1]):
            with pytest.raises(h.Invalid, match="`wait_seconds_max` is a number of seconds, not "):
                ask(running, none)


@pytest.mark.parametrize("seconds", [math.inf, 10**400])
def test_what_is_there_is_answered_however_long_somebody_would_wait(any_url: str, seconds: float) -> None:
    """More seconds than a machine can count are for ever."""
    with bank.open(any_url) as running:
        receipt = running.dispatch(Deposit("a", 1), wait_seconds_max=seconds)

        assert running.view(Balance).get("a", since=receipt, wait_seconds_max=seconds).amount == 1
        assert running.catch_up(receipt, wait_seconds_max=seconds) >= receipt.position
        assert running.log.wait(0, seconds) >= receipt.position
        assert running.settled(receipt, wait_seconds_max=seconds).done


def test_without_a_thread_to_start_everybody_is_answered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no thread left for the writer: who was recorded gets a receipt, and the next caller leads who waits."""
    gate = Gate()
    start = threading.Thread.start

    def no_writer(thread: threading.Thread) -> None:
        if thread.name == "happened-writer":
            raise RuntimeError("can't start new thread")
        start(thread)

    with paused(gate).open(url, run=False) as running:
        monkeypatch.setattr(threading.Thread, "start", no_writer)
        leader, led = in_thread(lambda: running.dispatch(Pause("p")))
        assert gate.entered.wait(5)
        waiting, waited = in_thread(lambda: running.dispatch(Deposit("a", 1)))
        while not running._writer._queue:
            pass
        gate.go.set()
        leader.join(5)

        assert isinstance(led[0], h.Receipt)
        assert running.dispatch(Deposit("a", 1), wait_seconds_max=5).events
        waiting.join(5)
        assert isinstance(waited[0], h.Receipt)


def test_a_time_out_that_meets_an_answer_hears_the_receipt(url: str) -> None:
    """The loop was busy while the writer answered: when the time is over too, what is known is said."""
    gate = Gate()

    async def main() -> h.Receipt:
        async with paused(gate).open(url, run=False) as running:
            running.dispatch(Deposit("a", 1))
            running._engine.sync_seconds = 1  # so slow that the loop leaves it to the writer's thread
            loop = asyncio.get_running_loop()
            now = loop.time()
            waiting = asyncio.create_task(running.adispatch(Pause("p"), wait_seconds_max=0.2))
            await asyncio.sleep(0.02)
            assert gate.entered.wait(5)
            [job] = running._writer._taken

            def busy() -> None:
                gate.go.set()
                while job.state != DONE:
                    pass

            loop.call_at(now + 0.1, busy)
            loop.call_at(now + 0.05, time.sleep, 0.3)  # both timers come due in one turn
            return await waiting

    receipt = asyncio.run(main())

    assert receipt.events == (Deposited("p", 100),)


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 0.002])
def test_an_event_loop_commits_and_looks_by_itself_only_where_a_sync_is_short(
    url: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Half a millisecond is the limit. Where a sync takes longer all of it is done in threads, and the loop goes on."""
    at: list[int] = []

    class Kept(h.State):
        account: Account
        amount: int = 0

        def evolve(self, event: Deposited) -> "Kept":
            return self.but(amount=event.amount)

    def deposit(command: Deposit) -> Iterator[Deposited]:
        at.append(threading.get_ident())
        yield Deposited(command.account, command.amount)

    async def main() -> None:
        async with h.App("keeping", deciders=[deposit], views=[Kept]).open(url) as running:
            view = running.view(Kept)
            view.get("a", since=running.dispatch(Deposit("a", 1)))
            looked = view.of.looked

            def noted(*given: Any) -> Any:
                at.append(threading.get_ident())
                return looked(*given)

            monkeypatch.setattr(view.of, "looked", noted)
            at.clear()
            running._engine.sync_seconds = seconds
            receipt = await running.adispatch(Deposit("a", 2))
            running._engine.sync_seconds = seconds
            assert (await view.aget("a", since=receipt)).amount == 2

    asyncio.run(main())

    assert [one == threading.get_ident() for one in at] == [seconds < 0.0005] * 2


class Noting:
    """A lock that notes how long a thread is ready to wait for it."""

    def __init__(self, of: Any, waits: list[float]) -> None:
        self._of = of
        self._here = threading.get_ident()
        self._waits = waits

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if threading.get_ident() == self._here:
            self._waits.append(timeout if blocking else 0.0)
        return bool(self._of.acquire(blocking, timeout))

    def release(self) -> None:
        self._of.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_a_loop_that_finds_its_own_process_at_work_waits_no_longer_than_for_a_sync(url: str) -> None:
    """Another thread tries what would be decided, which takes its time: the loop leaves its tasks to the writer's thread, and goes on."""
    waits: list[float] = []
    held, go = threading.Event(), threading.Event()

    async def main() -> h.Receipt:
        async with bank.open(url, run=False) as running:
            running.dispatch(Deposit("a", 1))
            guard = running._image.guard

            def hold() -> None:
                with guard:
                    held.set()
                    go.wait(10)

            thread, _ = in_thread(hold)
            held.wait(10)
            running._image.guard = Noting(guard, waits)  # type: ignore[assignment]  # it does what one does
            running._engine.sync_seconds = 0.0  # so quick that the loop commits by itself
            asked = asyncio.create_task(running.adispatch(Deposit("a", 1)))
            while not waits:  # noqa: ASYNC110 - nobody says when the loop has tried
                await asyncio.sleep(0)
            go.set()
            thread.join()
            return await asked

    assert asyncio.run(main()).events == (Deposited("a", 1),)
    assert max(waits) <= writer.LOOP_SYNC_SECONDS_MAX


def test_a_loop_that_finds_the_lock_taken_leaves_its_tasks_to_the_writers_thread(url: str) -> None:
    """It may not wait itself, and nobody else comes who would lead: they are committed as soon as the lock is free."""

    async def main() -> tuple[float, h.Receipt]:
        async with bank.open(url, run=False) as running:
            running.dispatch(Deposit("a", 1))
            running._engine.sync_seconds = 0.0  # so quick that the loop commits by itself
            stopped = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
            stopped.execute("begin immediate")
            waiting = asyncio.create_task(running.adispatch(Deposit("a", 1), wait_seconds_max=30))
            await asyncio.sleep(0.1)
            stopped.close()
            began = time.monotonic()
            receipt = await waiting
            return time.monotonic() - began, receipt

    seconds, receipt = asyncio.run(main())

    assert receipt.events == (Deposited("a", 1),)
    assert seconds < 10


def test_of_many_tasks_half_go_on_while_the_others_are_committed(url: str) -> None:
    """Where a commit is slow. What is handed in at once, and nobody waits for one by one, stays together."""

    async def main() -> tuple[int, int]:
        async with bank.open(url, run=False) as running:
            running.dispatch(Deposit("a", 1))
            running._engine.sync_seconds = 1  # so slow that the loop leaves it to the writer's thread
            before = running._writer.commits
            await asyncio.gather(*(running.adispatch(Deposit("a", 1)) for _ in range(100)))
            among = running._writer.commits
            list(running.dispatch_all([Deposit("a", 1)] * 100))
            return among - before, running._writer.commits - among

    of_tasks, at_once = asyncio.run(main())

    assert of_tasks >= 2
    assert at_once == 1


def test_threads_that_come_again_share_the_next_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as were answered together are waited for, no longer than a commit takes: with a thread that comes no more the others go on."""
    monkeypatch.setattr(writer, "GATHER_SECONDS_MAX", 1.0)
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        append = running._engine.append

        def slowly(decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
            time.sleep(0.02)
            return append(decide, seen, wait_seconds_max=wait_seconds_max)

        monkeypatch.setattr(running._engine, "append", slowly)

        def ask(times: int) -> None:
            for _ in range(times):
                running.dispatch(Deposit("a", 1))

        before = running._writer.commits
        threads = [threading.Thread(target=ask, args=(times,)) for times in (40, 40, 40, 40, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        commits = running._writer.commits - before
        assert running.state(Balance, "a") == Balance("a", 166, 166)
    assert commits < 165 // 3


# --- all or none, one after the other


def test_together_with_a_refused_id_records_nothing(url: str) -> None:
    """One of the commands was refused before: all are taken back, and the error says that nothing was recorded."""
    with bank.open(url, run=False) as running:
        with pytest.raises(h.Refused) as alone:
            running.dispatch(Transfer("x", "y", 5), id="t")

        with pytest.raises(h.Refused) as together:
            running.dispatch_together([h.Message(Deposit("a", 1), "d"), h.Message(Transfer("x", "y", 5), "t")])

        assert (alone.value.recorded, together.value.recorded) == (True, False)
        assert running.log.find("d") == []
        assert running.state(Balance, "a") is None


def test_what_is_only_tried_or_taken_back_says_that_nothing_was_recorded(url: str) -> None:
    """A refusal of `would` or of `dispatch_together` is in no log."""
    with bank.open(url, run=False) as running:
        with pytest.raises(h.Refused) as would:
            running.would(Transfer("x", "y", 5))
        with pytest.raises(h.Refused) as together:
            running.dispatch_together([Deposit("a", 1), Transfer("x", "y", 5)])

        assert (would.value.recorded, together.value.recorded) == (False, False)
        assert running.log.head == 0


def test_what_dispatch_all_does_not_know_is_not_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that asks the outside was taken when its time was over: that is said, and it is recorded once."""
    app = h.App("x", deciders=[buy], gateways=[rate])
    with app.open(url, run=False, gateways={rate: rated}) as running:
        submit = running._writer.submit

        def late(job: Job, wait_seconds_max: float) -> None:
            submit(job, wait_seconds_max)
            raise h.OutcomeUnknown("it was taken, and not answered")

        monkeypatch.setattr(running._writer, "submit", late)

        with pytest.raises(h.OutcomeUnknown):
            list(running.dispatch_all([Buy("a")]))

        assert [record.name for record in running.log.read() if record.kind == "input"] == ["Buy"]


def test_a_log_closed_while_dispatch_all_asks_is_said_so(url: str) -> None:
    """The log is closed while a gateway answers: the caller hears `Closed`, not that its decider goes on asking."""
    app = h.App("x", deciders=[buy], gateways=[rate])

    def closing(_account: str) -> int:
        running._writer.close()
        return 1

    with app.open(url, run=False, gateways={rate: closing}) as running, pytest.raises(h.Closed):
        list(running.dispatch_all([Buy("a")]))


def test_a_queue_that_is_full_while_dispatch_all_asks_is_said_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue fills up while a gateway answers: the caller hears `Overloaded`, and may send all again."""
    app = h.App("x", deciders=[buy], gateways=[rate])

    def filling(_account: str) -> int:
        monkeypatch.setattr("happened.log.writer.QUEUE_MAX", 0)
        return 1

    with app.open(url, run=False, gateways={rate: filling}) as running:
        with pytest.raises(h.Overloaded) as over:
            list(running.dispatch_all([h.Message(Buy("a"), "x")]))

        assert over.value.recorded is False
        assert running.log.find("x") == []


# --- notes


@pytest.mark.parametrize("after", [True, False])
def test_a_commit_of_notes_that_raised_says_what_took_place(url: str, faults: Faults, after: bool) -> None:
    """COMMIT raises for notes alone: it has worked if they are there, and is said to have failed if they are not."""
    with bank.open(url, run=False) as running:
        once_on(faults, lambda sql: sql == "commit", broken, after=after)

        try:
            running._engine.append(lambda _: Commit(notes={"note": "1"}), EVERYTHING_SEEN)
            worked = True
        except h.StoreFailed:
            worked = False

        assert worked is after
        assert dict(running._engine.notes("note")) == ({"note": "1"} if after else {})
        assert running.dispatch(Deposit("a", 1)).events


def test_a_read_that_fails_does_not_stop_what_decides_the_pending(url: str, faults: Faults) -> None:
    """The store can't be read once, by the thread that decides: it looks again."""
    with bank.open(url) as running:
        running.dispatch(Deposit("a", 1))
        failed = threading.Event()

        def fail() -> sqlite3.Error:
            failed.set()
            return broken()

        once_on(faults, in_pending("select position + count"), fail)
        assert failed.wait(60)  # one of several threads looks for all: which one is up to chance

        kept = running.enqueue(Deposit("b", 1))

        assert running.outcome(kept, wait_seconds_max=5).events == (Deposited("b", 1),)


def test_a_note_of_what_is_stuck_that_fails_once_is_written_again(url: str, faults: Faults) -> None:
    """The disk is full as it is noted that a command can't be decided: whoever waits hears it all the same."""
    with Mended().app().open(url) as running:
        once_on(faults, in_pending("insert or replace into note"), full)

        kept = running.enqueue(Deposit("a", 1))

        with pytest.raises(h.Stuck, match="to be mended"):
            running.outcome(kept, wait_seconds_max=5)
        assert faults.hook is None


def test_what_was_stuck_before_the_code_was_mended_is_not_said_any_more(url: str) -> None:
    """The log is opened with mended code: who waits for the command waits for the new try, and does not hear of the old one."""
    mended = Mended()
    with mended.app().open(url) as running:
        kept = running.enqueue(Deposit("a", 1))
        with pytest.raises(h.Stuck):
            running.outcome(kept, wait_seconds_max=5)
    mended.fails = False
    mended.go.clear()
    with mended.app().open(url) as running:
        waiting, answer = in_thread(lambda: running.outcome(kept, wait_seconds_max=5))
        waiting.join(0.3)
        mended.go.set()
        waiting.join(5)

        assert isinstance(answer[0], h.Receipt)


def test_what_was_stuck_is_tried_again_when_the_lease_comes_back(url: str) -> None:
    """The lease was lost and won again, and the code is mended: what was stuck is decided."""
    mended = Mended()
    with mended.app().open(url) as running:
        kept = running.enqueue(Deposit("a", 1))
        with pytest.raises(h.Stuck):
            running.outcome(kept, wait_seconds_max=5)
        mended.fails = False
        leases: Any = running._leases  # Any: a test looks within
        leases._epochs = {}
        time.sleep(0.2)  # so that the worker sees that it has lost it
        leases._compete()

        deadline = time.monotonic() + 5
        while running.statistics()["stuck"] and time.monotonic() < deadline:
            time.sleep(0.01)

        assert running.outcome(kept, wait_seconds_max=5).events == (Deposited("a", 1),)
