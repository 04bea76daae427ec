"""Several processes, and processes that are killed: one log, one history."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import happened as h
from tests.semantics.model import Balance, Deposit, Deposited, Take, Transfer, bank

ROOT = Path(__file__).parents[2]


def child(url: str, what: str, count: int, name: str) -> "subprocess.Popen[str]":
    """Start a process, and wait until it has the log open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.semantics.child", url, what, str(count), name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def answers(processes: list["subprocess.Popen[str]"]) -> list[list[str]]:
    """Let them all go at once, and return what each printed."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0].splitlines() for process in processes]


def dense(running: h.Running) -> None:
    """Positions are 1, 2, 3 and so on, and the chain holds."""
    assert [record.position for record in running.log.read()] == list(range(1, running.log.head + 1))
    running.log.verify()


def test_of_racing_threads_and_processes_exactly_one_wins_each_boundary(any_url: str) -> None:
    """Processes and threads race for each of fifty seats: one wins, all others are refused, and positions are dense."""
    with bank.open(any_url, run=False) as running:
        processes = [child(any_url, "seats", 50, f"p{number}") for number in range(3)]
        won: list[int] = []

        def race(name: str) -> None:
            for number in range(50):
                try:
                    running.dispatch(Take(str(number), name))
                    won.append(number)
                except h.Refused:
                    pass

        threads = [threading.Thread(target=race, args=(f"t{number}",)) for number in range(3)]
        for thread in threads:
            thread.start()
        printed = answers(processes)
        for thread in threads:
            thread.join()

        won += [int(line.split()[1]) for lines in printed for line in lines if line.startswith("won")]
        assert Counter(won) == Counter(range(50))
        assert [lines[-1] for lines in printed] == ["end"] * 3
        dense(running)


def test_an_id_from_several_processes_is_one_input(any_url: str) -> None:
    """A stateless decider, the same hundred ids from three processes at once: each is handled once, and all hear one receipt."""
    printed = answers([child(any_url, "same", 100, "x") for _ in range(3)])

    words = [line.split() for lines in printed for line in lines[:-1]]
    assert Counter(number for told, number, _ in words if told == "first") == Counter(map(str, range(100)))
    assert len({(number, receipt) for _, number, receipt in words}) == 100
    with bank.open(any_url, run=False) as running:
        assert running.states(Balance)["a",] == Balance("a", 100, 100)
        dense(running)


def test_a_stale_head_never_assigns_a_position_twice(any_url: str) -> None:
    """Two handles of one file, each of which has not seen what the other wrote: every commit begins where the log ends."""
    with bank.open(any_url, run=False) as first, bank.open(any_url, run=False) as second:
        receipts = [handle.dispatch(Deposit("a", 1)) for _ in range(20) for handle in (first, second, second)]

        assert [receipt.position for receipt in receipts] == sorted({receipt.position for receipt in receipts})
        assert second.dispatch(Transfer("a", "b", 60)).events
        with pytest.raises(h.Refused):
            first.dispatch(Transfer("a", "b", 1))
        dense(first)


def test_what_was_acknowledged_survives_a_kill_at_any_moment(any_url: str) -> None:
    """Six processes are killed at random moments: every receipt they printed is there, the log is whole, views equal states."""
    seed = 11
    print("seed", seed)
    chance = random.Random(seed)
    acknowledged: list[tuple[str, str]] = []
    for number in range(6):
        process = child(any_url, "run", 10_000, f"p{number}")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        for _ in range(chance.randrange(1, 60)):
            line = process.stdout.readline().split()
            acknowledged.append((line[1], line[2]))
        process.kill()
        rest = process.communicate()[0]
        acknowledged += [(words[1], words[2]) for line in rest.splitlines(keepends=True) if line.endswith("\n") and (words := line.split())]

    with bank.open(any_url) as running:
        for name, receipt in acknowledged:
            again = running.dispatch(Transfer("a", "b", 1), id=f"{name}-t")
            assert (again.repeated, str(again)) == (True, receipt)
        dense(running)
        states = running.states(Balance)
        assert {(row.account,): row for row in running.view(Balance).rows(since=running.log.head, wait_seconds_max=15)} == states
        assert {key: running.state(Balance, *key) for key in states} == states


def test_what_was_enqueued_survives_a_kill_and_is_decided_once(any_url: str) -> None:
    """A process that only enqueues is killed: who opens the log with `run=True` decides each kept command exactly once."""
    process = child(any_url, "enqueue", 1000, "p")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    kept = [process.stdout.readline().split()[1] for _ in range(20)]
    process.kill()
    process.communicate()

    with bank.open(any_url) as running:
        events = [running.outcome(receipt, wait_seconds_max=10).events for receipt in kept]

        assert events == [events[0]] * 20
        assert len(events[0]) == 1
        running.catch_up()
    with bank.open(any_url, run=False) as running:
        decided = Counter(record.causation for record in running.log.read() if record.name == "Deposited")
        assert set(decided.values()) == {1}
        assert len(decided) >= 20


@pytest.mark.parametrize("seed", range(4))
def test_whoever_heard_not_recorded_from_a_full_disk_is_not_there_after_a_kill(url: str, seed: int) -> None:
    """Writes in COMMIT really fail (a limit of the operating system), then kill and reopen: acknowledged is there, "not recorded" is not."""
    process = child(url, "full", 10_000, f"{seed}")

    [printed] = answers([process])

    told = [line.split() for line in printed if len(line.split()) == 2]
    assert {"True", "False"} <= {word for word, _ in told}, f"seed {seed}: the disk was not full"
    with bank.open(url, run=False) as running:
        for word, id in told:  # noqa: A001 - that is what it is
            there = len(running.log.find(id))
            assert word == "None" or there == (word == "True"), f"seed {seed}: heard {word} of {id}, and {there} are there"
        recorded = [record.id for record in running.log.read() if record.name == "Deposit"]
        assert len(recorded) == len(set(recorded)) == running.states(Balance)["a",].amount
        dense(running)


def test_a_fork_while_another_thread_decides_is_forked_at_once(url: str) -> None:
    """The child inherits a lock that nobody there will give back: it hears `Forked` instead of waiting for it, and the parent goes on."""
    entered, go = threading.Event(), threading.Event()

    def slowly(command: Deposit) -> Iterator[Deposited]:
        entered.set()
        assert go.wait(20)
        yield Deposited(command.account, command.amount)

    with h.App("slow", deciders=[slowly], records=[Deposited]).open(url, run=False) as running:
        deciding = threading.Thread(target=running.dispatch, args=(Deposit("a", 1),))
        deciding.start()
        assert entered.wait(5)
        get, put = os.pipe()
        pid = os.fork()
        if not pid:
            signal.alarm(5)  # ends a child that waits for ever
            for attempt in (
                lambda: running.dispatch(Deposit("a", 1)),
                lambda: running.record(Deposited("a", 1)),
                lambda: running.enqueue(Deposit("a", 1)),
                lambda: list(running.dispatch_all([Deposit("a", 1)])),
                running.close,
            ):
                try:
                    attempt()
                    os.write(put, b"done ")
                except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
                    os.write(put, type(error).__name__.encode() + b" ")
            os._exit(0)
        os.close(put)
        os.waitpid(pid, 0)
        go.set()
        deciding.join()

        assert os.read(get, 100).split() == [b"Forked"] * 4 + [b"done"]
        assert running.dispatch(Deposit("a", 1)).events
        dense(running)
        os.close(get)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_handle_is_of_no_use_after_a_fork(url: str, kind: str) -> None:
    """The child of a fork can't write with its parent's handle, whatever the store: `Forked`, and the parent goes on."""
    with bank.open(url if kind == "file" else "memory:", run=False) as running:
        running.dispatch(Deposit("a", 1))
        get, put = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                running.dispatch(Deposit("a", 1))
                os.write(put, b"dispatched")
            except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
                os.write(put, type(error).__name__.encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

        assert os.read(get, 100) == b"Forked"
        assert running.dispatch(Deposit("a", 1)).events
        os.close(get)
        os.close(put)


def test_a_repeated_value_is_the_same_however_it_is_written(url: str) -> None:
    """A set in another order, `1.50` for `1.5`, one instant in two zones: what is equal repeats an id, and only what is not has reused it."""
    printed = [
        subprocess.run(
            [sys.executable, "-m", "tests.semantics.repeating", url, how],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for how, seed in (("one way", "1"), ("otherwise", "2"))
    ]

    assert printed == [["False", "False", "False", "another"], ["True", "True", "True", "another"]]
