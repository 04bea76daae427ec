"""What one thread has read it does not read older after that, and no reader waits longer than he says."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from typing import Annotated

import psycopg
import pytest

import happened as h
from happened.core.store import Commit, Unseen
from happened.log.log import EVERYTHING_SEEN
from happened.opening import open_engine
from tests.semantics.model import Balance, Deposit, Deposited, bank
from tests.semantics.test_pending import stalled_behind
from tests.servers import fresh, server


def amounts(running: h.Running) -> tuple[int, int]:
    """Return what all states say of an account, and then what its state says."""
    everything = running.states(Balance)["a",].amount
    alone = running.state(Balance, "a")
    assert alone is not None
    return everything, alone.amount


def test_a_state_is_as_new_as_all_states_that_were_read_before(any_url: str) -> None:
    """Another process has recorded something since this one has looked."""
    with bank.open(any_url, run=False) as running, bank.open(any_url, run=False) as other:
        running.dispatch(Deposit("a", 1))
        other.dispatch(Deposit("a", 10))

        assert amounts(running) == (11, 11)


def transactions(url: str) -> int:
    """Return how many transactions are open on a log: those that keep its WAL from being emptied, or that its server knows of."""
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            [(busy, _, _)] = connection.execute("pragma wal_checkpoint(truncate)")
            return int(busy)
    with psycopg.connect(server().url, autocommit=True) as connection:
        [(there,)] = connection.execute("select count(*) from pg_stat_activity where state like 'idle in transaction%'")
        return int(there)


@pytest.mark.parametrize("how", ["all", "backwards", "asked for"])
def test_who_stops_reading_in_the_midst_keeps_no_transaction_open(any_url: str, how: str) -> None:
    """None outlives a page, however long its records are looked at: the WAL can be emptied, and the server clean up."""
    with h.open_log(any_url, create=True) as log:
        for number in range(20):
            log.append(h.Loose("Seen", {"number": number}, (("who", "ann"),)))
        query = h.query(names=["Seen"], who="ann") if how == "asked for" else None
        reading = log.read(query, backwards=how == "backwards", after=1, limit=12)
        found = [next(reading)]  # a page has as many rows as are asked for at most

        assert transactions(any_url) == 0
        log.append(h.Loose("Seen", {"number": 20}, (("who", "ann"),)))
        found += reading

        assert [record.body["number"] for record in found] == list(range(19, 7, -1) if how == "backwards" else range(12))


def test_who_takes_in_what_others_have_recorded_does_not_go_past_who_merges(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is stopped between the sync and the merge: what comes behind that is not in the image before it."""
    with bank.open(url, run=False) as running, ThreadPoolExecutor() as pool:
        synced, merge = stalled_behind(running.dispatch(Deposit("a", 1)), monkeypatch)
        recorded = pool.submit(running.dispatch, Deposit("a", 10))
        assert synced.wait(10)

        with pytest.raises(h.Late, match="somebody holds the lock"):
            running.catch_up(wait_seconds_max=0.2)
        merge.set()
        recorded.result(10)
        running.catch_up()

        assert amounts(running) == (11, 11)


@pytest.mark.parametrize("log", ["memory", "file"])
def test_a_state_is_as_new_as_all_states_that_were_read_behind_a_commit(url: str, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread has recorded something, and is stopped between the sync and the merge."""
    with bank.open("memory:" if log == "memory" else url, run=False) as running, ThreadPoolExecutor() as pool:
        synced, merge = stalled_behind(running.dispatch(Deposit("a", 1)), monkeypatch)
        recorded = pool.submit(running.dispatch, Deposit("a", 10))
        assert synced.wait(10)
        asked = pool.submit(amounts, running)
        wait([asked], timeout=0.2)
        merge.set()

        everything, alone = asked.result(10)
        recorded.result(10)
        assert (everything, alone) == (11, 11)


def held(url: str, taken: threading.Event, go: threading.Event) -> None:
    """Hold the lock of a log, as another process that is stopped in the middle of a commit."""
    engine = open_engine(url)

    def holds(_unseen: Unseen) -> Commit:
        taken.set()
        go.wait(30)
        return Commit()

    engine.append(holds, EVERYTHING_SEEN)
    engine.close()


def test_who_waits_for_nothing_but_the_lock_of_another_process_waits_as_long_as_he_says(any_url: str) -> None:
    """All states are read as they are recorded; what is to be as new as a receipt is late."""
    taken, go = threading.Event(), threading.Event()
    with bank.open(any_url, run=False) as running, bank.open(any_url, run=False) as other:
        running.dispatch(Deposit("a", 1))
        receipt = other.dispatch(Deposit("a", 10))
        holder = threading.Thread(target=held, args=(any_url, taken, go))
        holder.start()
        assert taken.wait(10)
        try:
            began = time.monotonic()
            with pytest.raises(h.Late, match="lock"):
                running.state(Balance, "a", since=receipt, wait_seconds_max=0.3)
            assert running.states(Balance)["a",].amount == 11
            assert time.monotonic() - began < 5
        finally:
            go.set()
            holder.join(10)

        assert running.state(Balance, "a", since=receipt) == Balance("a", 11, 2)


def test_who_waits_for_an_outcome_does_not_wait_for_the_lock_of_another_process_beyond_that(any_url: str) -> None:
    """It was decided by another process, and told when the states of this one can hold it."""
    taken, go = threading.Event(), threading.Event()
    with bank.open(any_url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        receipt = running.enqueue(Deposit("a", 10))
        with bank.open(any_url) as other:
            other.outcome(receipt)
        holder = threading.Thread(target=held, args=(any_url, taken, go))
        holder.start()
        assert taken.wait(10)
        try:
            began = time.monotonic()
            for ask in (running.outcome, running.settled):
                with pytest.raises(h.Late, match="lock"):
                    ask(receipt, wait_seconds_max=0.3)
            assert time.monotonic() - began < 6
        finally:
            go.set()
            holder.join(10)

        assert running.outcome(receipt).events == (Deposited("a", 10),)
        assert running.state(Balance, "a") == Balance("a", 11, 2)


Name = Annotated[str, h.Tag("name")]


class Slow(h.Command):
    name: Name


class Ended(h.Event):
    name: Name


deciding, ends = threading.Event(), threading.Event()


def slow(command: Slow) -> Iterator[Ended]:
    """Take its time."""
    deciding.set()
    ends.wait(10)
    yield Ended(command.name)


def test_who_waits_for_a_decider_of_his_process_waits_as_long_as_he_says() -> None:
    """In PostgreSQL another process may record something while this one decides."""
    url = fresh()
    app = h.App("slow", records=[Deposited], deciders=[slow])
    deciding.clear()
    ends.set()
    with app.open(url, run=False) as running, app.open(url, run=False) as other:
        for _ in range(2):
            running.dispatch(Slow("x"))
        deciding.clear()
        ends.clear()
        caller = threading.Thread(target=running.dispatch, args=(Slow("x"),))
        caller.start()
        assert deciding.wait(10)
        try:
            receipt = other.record(Deposited("a", 10))
            began = time.monotonic()
            with pytest.raises(h.Late, match="lock"):
                running.state(Balance, "a", since=receipt, wait_seconds_max=0.3)
            assert time.monotonic() - began < 5
        finally:
            ends.set()
            caller.join(10)

        assert running.state(Balance, "a", since=receipt) == Balance("a", 10, 1)
