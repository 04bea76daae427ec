"""Callers: each is answered, once, with what is so."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from zlib import crc32

import pytest

import happened as h
from happened.sourcing.memory_image import ImageOverlay
from tests.semantics.faults import Faults
from tests.semantics.model import Account, Balance, Deposit, Deposited, bank, deposit


class Pause(h.Command):
    account: Account


class Leave(h.Command):
    account: Account


class Interrupt(h.Command):
    account: Account


class Gate:
    """Holds a decider up, and with it the lock."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()


def leave(command: Leave) -> Iterator[Deposited]:
    """Raise what is no `Exception`."""
    if command.account:
        raise SystemExit(1)
    yield Deposited(command.account, 1)


def interrupt(command: Interrupt) -> Iterator[Deposited]:
    """Let somebody press Ctrl-C here."""
    yield Deposited(command.account, 1000)
    raise KeyboardInterrupt


def paused(gate: Gate) -> h.App:
    """Return an app one of whose deciders waits."""

    def pause(command: Pause) -> Iterator[Deposited]:
        gate.entered.set()
        assert gate.go.wait(10)
        yield Deposited(command.account, 100)

    return h.App("paused", deciders=[deposit, pause, leave, interrupt], records=[Deposited])


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Call in a thread; what comes back or is raised is put into the list."""
    answer: list[object] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # noqa: BLE001 - it is the answer
            answer.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answer


def test_one_id_several_times_in_one_batch_is_one_input(url: str) -> None:
    """Tasks of one turn dispatch the same id: one is handled, the others hear its receipt."""

    async def main() -> list[h.Receipt]:
        async with bank.open(url, run=False) as running:
            receipts = await asyncio.gather(*[running.adispatch(Deposit("a", 1), id="x") for _ in range(5)])
            assert running.state(Balance, "a") == Balance("a", 1, 1)
            return receipts

    receipts = asyncio.run(main())

    assert sorted(receipt.repeated for receipt in receipts) == [False, True, True, True, True]
    assert len({str(receipt) for receipt in receipts}) == 1


def test_the_cancelled_leader_of_a_batch_does_not_take_the_others_with_it(url: str) -> None:
    """The first task of a turn is cancelled: it is withdrawn, all others get receipts."""

    async def main() -> None:
        async with bank.open(url, run=False) as running:
            tasks = [asyncio.create_task(running.adispatch(Deposit("a", 1), id=f"x{number}")) for number in range(4)]
            await asyncio.sleep(0)
            tasks[0].cancel()

            answers = await asyncio.gather(*tasks, return_exceptions=True)

            assert isinstance(answers[0], asyncio.CancelledError)
            assert all(isinstance(answer, h.Receipt) for answer in answers[1:])
            assert running.log.find("x0") == []
            assert running.state(Balance, "a") == Balance("a", 3, 3)

    asyncio.run(main())


def test_a_time_out_withdraws_what_was_not_taken_and_is_unknown_for_what_was(url: str) -> None:
    """Behind a slow decider: a command in the queue is withdrawn and never recorded."""
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        leader, _ = in_thread(lambda: running.dispatch(Pause("a")))
        assert gate.entered.wait(5)

        with pytest.raises(h.Overloaded) as late:
            running.dispatch(Deposit("a", 1), id="x", wait_seconds_max=0.05)
        gate.go.set()
        leader.join()

        assert late.value.recorded is False
        running.dispatch(Deposit("a", 1))
        assert running.log.find("x") == []


def test_a_time_out_of_what_was_taken_is_unknown_and_it_may_be_recorded(url: str) -> None:
    """A slow decider stands before it in the same commit: it is not known yet what comes of it, and the id tells later."""
    gates = {"a": Gate(), "b": Gate()}

    def pause(command: Pause) -> Iterator[Deposited]:
        gates[command.account].entered.set()
        assert gates[command.account].go.wait(10)
        yield Deposited(command.account, 100)

    with h.App("paused", deciders=[deposit, pause]).open(url, run=False) as running:
        calls: list[Callable[[], object]] = [
            lambda: running.dispatch(Pause("a")),
            lambda: running.dispatch(Pause("b")),
            lambda: running.dispatch(Deposit("b", 1), id="thread", wait_seconds_max=2),
            lambda: asyncio.run(running.adispatch(Deposit("b", 1), id="task", wait_seconds_max=2)),
        ]
        threads: list[tuple[threading.Thread, list[object]]] = []
        for number, call in enumerate(calls):
            threads.append(in_thread(call))
            assert gates["a"].entered.wait(5)
            while len(running._writer._queue) < number:
                pass
        gates["a"].go.set()
        assert gates["b"].entered.wait(5)

        for thread, answer in threads[2:]:
            thread.join(5)
            assert [(type(error), error.recorded) for error in answer if isinstance(error, h.Error)] == [(h.OutcomeUnknown, None)]
        gates["b"].go.set()
        threads[1][0].join(5)

        for known in ("thread", "task"):
            assert running.dispatch(Deposit("b", 1), id=known).repeated
        assert running.state(Balance, "b") == Balance("b", 102, 3)


def test_a_task_that_is_cancelled_while_the_lock_is_waited_for_records_nothing(url: str) -> None:
    """Its command is in the batch that the writer's thread is to commit, and was not taken: it is withdrawn, and the others are recorded."""
    with (
        bank.open(url, run=False) as running,
        contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other,
    ):
        running.dispatch(Deposit("a", 1))

        async def cancel() -> list[object]:
            tasks = [asyncio.create_task(running.adispatch(Deposit("a", 1), id=known)) for known in ("x", "y")]
            while {job.id for job in running._writer._taken} != {"x", "y"}:  # noqa: ASYNC110 - nobody says when they are taken
                await asyncio.sleep(0.001)
            tasks[0].cancel()
            await asyncio.sleep(0)
            other.execute("rollback")
            return await asyncio.gather(*tasks, return_exceptions=True)

        other.execute("begin immediate")
        cancelled, receipt = asyncio.run(cancel())

        assert isinstance(cancelled, asyncio.CancelledError)
        assert isinstance(receipt, h.Receipt)
        assert running.log.find("x") == []
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 2, 2)


def test_a_full_queue_is_said_at_once_and_nothing_is_recorded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many waiting as may wait, one more hears `Overloaded`, and the others get receipts."""
    monkeypatch.setattr("happened.log.writer.QUEUE_MAX", 3)
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        leader, _ = in_thread(lambda: running.dispatch(Pause("a")))
        assert gate.entered.wait(5)
        waiting = [in_thread(lambda: running.dispatch(Deposit("a", 1))) for _ in range(3)]
        while len(running._writer._queue) < 3:
            pass

        with pytest.raises(h.Overloaded) as over:
            running.dispatch(Deposit("a", 1), id="x")
        gate.go.set()
        for thread, _ in [(leader, None), *waiting]:
            thread.join()

        assert over.value.recorded is False
        assert running.log.find("x") == []
        assert all(isinstance(answer[0], h.Receipt) for _, answer in waiting)


def test_those_whose_time_is_over_do_not_fill_the_queue(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as may wait have given up behind a slow decider: who comes then waits for his turn."""
    monkeypatch.setattr("happened.log.writer.QUEUE_MAX", 3)
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        leader, _ = in_thread(lambda: running.dispatch(Pause("a")))
        assert gate.entered.wait(5)
        for number in range(3):
            with pytest.raises(h.Overloaded, match="withdrawn"):
                running.dispatch(Deposit("a", 1), id=f"over-{number}", wait_seconds_max=0.01)

        waiting = [in_thread(lambda: running.dispatch(Deposit("a", 1))) for _ in range(3)]
        while [job.id.startswith("over") for job in list(running._writer._queue)] != [False] * 3:
            assert not any(answer for _, answer in waiting)
        with pytest.raises(h.Overloaded, match="3 commands are waiting"):
            running.dispatch(Deposit("a", 1))
        gate.go.set()
        for thread, _ in [(leader, None), *waiting]:
            thread.join()

        assert all(isinstance(answer[0], h.Receipt) for _, answer in waiting)
        assert [running.log.find(f"over-{number}") for number in range(3)] == [[], [], []]


def test_close_answers_every_caller(url: str) -> None:
    """One command is being decided, others wait: the first gets its receipt, the others `Closed`, and what they heard is so."""
    gate = Gate()
    running = paused(gate).open(url, run=False)
    leader = in_thread(lambda: running.dispatch(Pause("a"), id="lead"))
    assert gate.entered.wait(5)
    waiting = [in_thread(lambda number=number: running.dispatch(Deposit("a", 1), id=f"x{number}")) for number in range(3)]  # type: ignore[misc]  # bound now
    while len(running._writer._queue) < 3:
        pass

    closing, _ = in_thread(running.close)
    for thread, answer in waiting:
        thread.join(5)
        assert isinstance(answer[0], h.Closed)
    gate.go.set()
    leader[0].join(5)
    closing.join(5)

    assert not closing.is_alive()
    with paused(Gate()).open(url, run=False) as again:
        recorded = bool(again.log.find("lead"))
        assert isinstance(leader[1][0], h.Receipt) == recorded
        assert [again.log.find(f"x{number}") for number in range(3)] == [[], [], []]


@pytest.mark.parametrize("how", ["dispatch", "dispatch_all", "thread", "loop"])
def test_a_decider_that_leaves_does_not_stop_the_log(url: str, how: str) -> None:
    """A decider raises `SystemExit`: whoever led the batch, the next command is decided."""
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        match how:
            case "dispatch":
                with pytest.raises(BaseException, match="1"):
                    running.dispatch(Leave("a"))
            case "dispatch_all":
                with pytest.raises(BaseException, match="1"):
                    list(running.dispatch_all([Leave("a")]))
            case "thread":
                leader, _ = in_thread(lambda: running.dispatch(Pause("a")))
                assert gate.entered.wait(5)
                follower, _ = in_thread(lambda: running.dispatch(Leave("a"), wait_seconds_max=5))
                while not running._writer._queue:
                    pass
                gate.go.set()
                leader.join()
                follower.join()
            case _:

                async def main() -> None:
                    await running.adispatch(Leave("a"))

                with pytest.raises(BaseException, match="1"):
                    asyncio.run(main())

        assert running.dispatch(Deposit("a", 1), wait_seconds_max=2).events


def test_a_loop_that_is_busy_does_not_hold_up_another_loop(url: str) -> None:
    """A task has dispatched in a loop that then computes for long: dispatches of another loop are committed meanwhile."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        busy, answered = threading.Event(), threading.Event()
        in_time: list[bool] = []

        async def compute() -> None:
            task = asyncio.ensure_future(running.adispatch(Deposit("a", 1)))

            def block() -> None:
                busy.set()
                in_time.append(answered.wait(2))

            asyncio.get_running_loop().call_soon(block)
            await task

        def other() -> None:
            assert busy.wait(5)
            asyncio.run(running.adispatch(Deposit("b", 1), wait_seconds_max=1))
            answered.set()

        first, _ = in_thread(lambda: asyncio.run(compute()))
        second, _ = in_thread(other)
        first.join()
        second.join()

        assert in_time == [True]


def test_a_known_id_hears_its_first_answer_across_a_reopen(url: str) -> None:
    """Receipts and refusals are kept for the life of the log; another body under the id, or another name, is `IdReused`."""
    from tests.semantics.model import Take

    for repeated in (False, True):
        with bank.open(url, run=False) as running:
            receipt = running.dispatch(Deposit("a", 1), id="x")
            running.dispatch(Take("1", "me"), id="s")
            with pytest.raises(h.Refused) as refused:
                running.dispatch(Take("1", "you"), id="y")

            assert receipt.repeated is repeated
            assert refused.value.facts == {"by": "me"}
            with pytest.raises(h.IdReused):
                running.dispatch(Deposit("a", 2), id="x")
            with pytest.raises(h.IdReused):
                running.dispatch(Take("1", "me"), id="x")
            with pytest.raises(h.IdReused):
                running.record(Deposited("a", 1), id="x")


class Opened(h.Event):
    account: Account


class Shut(h.Event):
    account: Account


def test_a_fact_of_another_name_and_the_same_body_is_another_fact(url: str) -> None:
    """An id was used for one event; another event whose fields look the same is `IdReused`, not the first one again."""
    with h.App("doors", records=[Opened, Shut]).open(url, run=False) as running:
        running.record(Opened("a"), id="x")

        with pytest.raises(h.IdReused):
            running.record(Shut("a"), id="x")


@pytest.mark.parametrize("store", ["memory:", "file"])
def test_two_ids_that_the_index_can_not_tell_apart_are_two(url: str, store: str) -> None:
    """The index of a file knows ids by 32 bits: the row says whether it is the one."""
    one, other = "plumless", "buckeroo"
    assert crc32(one.encode()) == crc32(other.encode())
    with bank.open(url if store == "file" else store, run=False) as running:
        first = running.dispatch(Deposit("a", 1), id=one)

        second = running.dispatch(Deposit("a", 2), id=other)

        assert (second.repeated, second.events) == (False, (Deposited("a", 2),))
        repeated = [running.dispatch(Deposit("a", amount), id=known) for amount, known in ((1, one), (2, other))]
        assert [(receipt.repeated, receipt.position) for receipt in repeated] == [(True, first.position), (True, second.position)]
        assert [row.position for row in running.log.find(other)] == [second.position - 1]


def test_a_slow_decider_is_measured_and_listed(url: str) -> None:
    """It holds the lock while it runs: how often, how long in all and how long at worst can be seen, of runs that failed, too."""

    def leave(command: Leave) -> Iterator[Deposited]:
        time.sleep(0.05 if command.account == "slow" else 0)
        if command.account == "broken":
            raise ValueError("broken")
        yield Deposited(command.account, 1)

    with h.App("slow", deciders=[leave, deposit]).open(url, run=False) as running:
        for account in ("quick", "slow"):
            running.dispatch(Leave(account))
        with pytest.raises(ValueError, match="broken"):
            running.dispatch(Leave("broken"))

        [slow, other] = running.statistics()["deciders"]

    assert (slow["decider"], slow["runs"]) == ("leave", 3)
    assert 50_000 <= slow["longest_us"] <= slow["ran_us"]
    assert other == {"decider": "deposit", "runs": 0, "ran_us": 0, "longest_us": 0}


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin immediate")
print("held", flush=True)
sys.stdin.read()
connection.execute("rollback")
"""


@contextlib.contextmanager
def held(url: str) -> Generator[None]:
    """Have another process hold the log's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url.removeprefix("sqlite:///")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:  # in the end its standard input is closed, and it is waited for
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield


def as_answered(url: str, answers: dict[str, object]) -> None:
    """Check in a fresh handle that each receipt is in the log, once, and whoever heard that nothing was recorded is not."""
    with bank.open(url, run=False) as running:
        for name, answer in answers.items():
            assert len(running.log.find(name)) == isinstance(answer, h.Receipt), f"{name}: {answer!r}"
        running.log.verify()


def test_a_wait_for_the_lock_that_is_over_is_an_overload_for_the_impatient_only(url: str) -> None:
    """Another process holds the lock: whoever waits 0.05 s hears `Overloaded`, and whoever waits long is recorded once the lock is free."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        with held(url):
            waiting = {  # name -> how long it waits at most, its thread, its answer
                f"{number}": (seconds, in_thread(partial(running.dispatch, Deposit("a", 1), id=f"{number}", wait_seconds_max=seconds)))
                for number, seconds in enumerate([60, 0.05, 60, 0.05, 0.05, 60])
            }
            for seconds, (thread, _) in waiting.values():
                if seconds < 1:
                    thread.join(30)
                    assert not thread.is_alive(), "the lock is still held, and it is over for this one"
        for _, (thread, _) in waiting.values():
            thread.join(60)

    answers = {name: answer[0] for name, (_, (_, answer)) in waiting.items()}
    assert [type(answer) for answer in answers.values()] == [h.Receipt, h.Overloaded, h.Receipt, h.Overloaded, h.Overloaded, h.Receipt]
    as_answered(url, answers)


def test_a_thousand_tasks_hear_a_receipt_or_an_overload_while_the_lock_is_held(url: str) -> None:
    """What only waited for the lock was not recorded for certain: nobody hears that it is not known, and nobody waits for ever."""

    async def main() -> dict[str, object]:
        async with bank.open(url, run=False) as running:
            running.dispatch(Deposit("a", 1))
            with held(url):
                tasks = [
                    asyncio.ensure_future(running.adispatch(Deposit("a", 1), id=f"{number}", wait_seconds_max=0.05 if number % 2 else 60))
                    for number in range(1000)
                ]
                await asyncio.wait_for(asyncio.gather(*tasks[1::2], return_exceptions=True), 30)
            answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            return {f"{number}": answer for number, answer in enumerate(answers)}

    answers = asyncio.run(main())

    other = {name: answer for name, answer in answers.items() if type(answer) is not (h.Overloaded if int(name) % 2 else h.Receipt)}
    assert other == {}
    as_answered(url, answers)


def interrupted(call: Callable[[], object]) -> threading.Thread:
    """Call in a thread whose end by an interrupt is expected."""

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("who", ["caller", "writer"])
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # the writer's thread ends by it, and another takes over
def test_an_interrupt_is_of_one_thread_only(url: str, who: str) -> None:
    """Ctrl-C in a decider ends the thread that leads: others of the batch hear `OutcomeUnknown` or a receipt, what they heard is so, and the log goes on."""
    gate = Gate()
    with paused(gate).open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        leader = in_thread(lambda: running.dispatch(Pause("a")))
        assert gate.entered.wait(5)
        others = [in_thread(lambda: running.dispatch(Deposit("a", 10), id="before", wait_seconds_max=5))]
        while len(running._writer._queue) < 1:
            pass
        if who == "writer":
            others.append(in_thread(lambda: running.dispatch(Interrupt("a"), id="it", wait_seconds_max=5)))
            while len(running._writer._queue) < 2:
                pass
        others.append(in_thread(lambda: running.dispatch(Deposit("a", 10), id="after", wait_seconds_max=5)))
        while len(running._writer._queue) < len(others):
            pass
        gate.go.set()
        for thread, _ in [leader, *others]:
            thread.join(10)
        if who == "caller":
            interrupted(lambda: running.dispatch(Interrupt("a"), id="it")).join(10)

        heard = [answer[0] for _, answer in others]
        assert [isinstance(answer, h.Receipt | h.OutcomeUnknown) for answer in heard] == [True] * len(others)
        assert running.log.find("it") == []
        assert running.dispatch(Deposit("a", 10), id="before", wait_seconds_max=5).repeated is isinstance(heard[0], h.Receipt)
        assert running.dispatch(Deposit("a", 10), id="after", wait_seconds_max=5).repeated is isinstance(heard[-1], h.Receipt)
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 121, 4)
        running.log.verify()


def test_who_is_interrupted_while_another_one_leads_records_nothing(url: str) -> None:
    """Ctrl-C ends the waiting, and what the writer has not taken is withdrawn, as where a task is cancelled."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    gate = Gate()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with paused(gate).open(url, run=False) as running:
            leader, _ = in_thread(lambda: running.dispatch(Pause("a")))
            assert gate.entered.wait(5)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                running.dispatch(Deposit("a", 10), id="it")
            gate.go.set()
            leader.join(10)

            assert running.dispatch(Deposit("b", 1)).events
            assert running.log.find("it") == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("statement", ["begin immediate", "insert into log", "commit", "pragma data_version"])
def test_an_interrupt_at_any_statement_leaves_a_log_that_goes_on(url: str, faults: Faults, statement: str, when: str) -> None:
    """Ctrl-C before or after a statement of a commit: the same id is safe, it counts once, and image and log say the same."""

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if not sql.startswith(statement):
            return run()
        faults.hook = None
        if when == "after":
            run()
        raise KeyboardInterrupt

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        with bank.open(url, run=False) as other:
            other.dispatch(Deposit("a", 1))
        faults.hook = hook
        with pytest.raises(KeyboardInterrupt):
            running.dispatch(Deposit("a", 10), id="x")

        taken_place = statement == "commit" and when == "after"
        assert running.dispatch(Deposit("b", 1)).events
        assert running.dispatch(Deposit("a", 10), id="x").repeated is taken_place
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 12, 3)
        running.log.verify()


@pytest.mark.parametrize("how", ["dispatch", "take in", "catch up"])
def test_an_interrupt_after_the_merge_counts_nothing_twice(url: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Ctrl-C when what was committed, or taken in, is in the image already: it is not taken in once more."""
    merge = ImageOverlay.merge

    def interrupting(overlay: ImageOverlay, position: int) -> None:
        monkeypatch.setattr(ImageOverlay, "merge", merge)
        merge(overlay, position)
        raise KeyboardInterrupt

    with bank.open(url, run=False) as running, bank.open(url, run=False) as other:
        running.dispatch(Deposit("a", 1))
        if how != "dispatch":
            other.dispatch(Deposit("a", 10))
        monkeypatch.setattr(ImageOverlay, "merge", interrupting)
        with pytest.raises(KeyboardInterrupt):
            running.catch_up() if how == "catch up" else running.dispatch(Deposit("a", 100))

        running.state(Balance, "a")
        running.dispatch(Deposit("a", 1000))

        assert running.state(Balance, "a") == running.states(Balance)["a",]


def test_close_ends_though_a_decider_does_not(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decider sleeps in the writer's thread: `close` waits for it in bounded time, then its caller hears `OutcomeUnknown`."""
    monkeypatch.setattr("happened.log.writer.CLOSE_SECONDS_MAX", 0.2)
    monkeypatch.setattr("happened.stores.sqlite.CLOSE_SECONDS_MAX", 0.2)
    first, gate = Gate(), Gate()

    def pause(command: Pause) -> Iterator[Deposited]:
        mine = first if command.account == "first" else gate
        mine.entered.set()
        assert mine.go.wait(10)
        yield Deposited(command.account, 100)

    running = h.App("paused", deciders=[pause]).open(url, run=False)
    leader = in_thread(lambda: running.dispatch(Pause("first")))
    assert first.entered.wait(5)
    sleeping = in_thread(lambda: running.dispatch(Pause("a"), id="x"))
    while not running._writer._queue:
        pass
    first.go.set()
    assert gate.entered.wait(5)
    behind = in_thread(lambda: running.dispatch(Pause("b"), id="y"))
    while not running._writer._queue:
        pass

    began = time.monotonic()
    running.close()
    seconds = time.monotonic() - began
    for thread, _ in (leader, sleeping, behind):
        thread.join(2)
    answered = [not thread.is_alive() for thread, _ in (leader, sleeping, behind)]
    writer = running._writer._thread
    gate.go.set()
    assert writer is not None
    writer.join(5)
    running.log.engine.close()  # it could not be, while that decided

    assert seconds < 2
    assert answered == [True] * 3
    assert not writer.is_alive()
    assert isinstance(leader[1][0], h.Receipt)
    assert isinstance(sleeping[1][0], h.OutcomeUnknown)
    assert sleeping[1][0].facts["id"] == "x"
    assert isinstance(behind[1][0], h.Closed)
    with paused(Gate()).open(url, run=False) as again:
        assert again.log.find("y") == []
        again.log.verify()


def test_close_answers_a_task_whose_commit_a_caller_leads_that_does_not_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has taken what a task of this turn has asked for into its commit, and its own decider sleeps: the task need not wait for that."""
    monkeypatch.setattr("happened.log.writer.CLOSE_SECONDS_MAX", 0.2)
    monkeypatch.setattr("happened.stores.sqlite.CLOSE_SECONDS_MAX", 0.2)
    gate = Gate()
    leaders: list[tuple[threading.Thread, list[object]]] = []
    running = paused(gate).open(url, run=False)
    running.dispatch(Deposit("a", 1))

    def lead() -> None:
        leaders.append(in_thread(lambda: running.dispatch(Pause("a"), id="lead", wait_seconds_max=60)))
        assert gate.entered.wait(5)

    async def main() -> object:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(running.adispatch(Deposit("a", 1), id="task", wait_seconds_max=60))
        loop.call_soon(lead)  # after the task has asked, and before the end of the turn, at which it would be committed
        await asyncio.sleep(0)
        await loop.run_in_executor(None, running.close)
        [answer] = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5)
        return answer

    answer = asyncio.run(main())
    gate.go.set()
    leaders[0][0].join(5)
    running.log.engine.close()  # it could not be, while that decided

    assert isinstance(answer, h.OutcomeUnknown)
    assert isinstance(leaders[0][1][0], h.Receipt)
    with paused(Gate()).open(url, run=False) as again:
        assert [len(again.log.find(known)) for known in ("task", "lead")] == [1, 1]
        again.log.verify()


def test_close_answers_who_waits_for_a_lock_that_is_not_free(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has stopped with the lock: who would wait for a minute hears `Closed` all the same."""
    monkeypatch.setattr("happened.log.writer.CLOSE_SECONDS_MAX", 0.2)
    monkeypatch.setattr("happened.stores.sqlite.CLOSE_SECONDS_MAX", 0.2)
    running = bank.open(url, run=False)
    running.dispatch(Deposit("a", 1))
    stopped = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    stopped.execute("begin immediate")
    impatient = in_thread(lambda: running.dispatch(Deposit("a", 1), wait_seconds_max=2))
    while not running._writer._leading:
        pass
    patient = in_thread(lambda: running.dispatch(Deposit("a", 1), id="x", wait_seconds_max=60))
    while not running._writer._queue:  # behind the one who leads
        pass
    impatient[0].join(10)
    while running._writer._queue:  # the writer's thread has taken it, and waits for the lock
        pass

    running.close()
    patient[0].join(3)
    answered = not patient[0].is_alive()
    stopped.close()
    writer = running._writer._thread
    assert writer is not None
    writer.join(5)
    running.log.engine.close()  # it could not be, while that waited

    assert answered
    assert isinstance(impatient[1][0], h.Overloaded)
    assert isinstance(patient[1][0], h.Closed)
    with bank.open(url, run=False) as again:
        assert again.log.find("x") == []
