"""Views: equal to the states, as new as is asked for, never part of their rows, never of another history."""

import itertools
import shutil
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any  # Any: what a store is asked passes through here

import pytest

import happened as h
from happened.cqrs import follower
from tests.semantics.model import Account, Balance, Deposit, Deposited, Transfer, bank, deposit


def file_of(url: str) -> Path:
    """Return the path in a URL."""
    return Path(url.removeprefix("sqlite:///"))


def test_a_view_equals_the_states_also_after_its_file_was_deleted(url: str) -> None:
    """Rows are made anew from the log, and come out the same."""
    for _ in range(2):
        with bank.open(url) as running:
            for number in range(50):
                running.dispatch(Deposit(f"a{number % 7}", number))
            running.dispatch(Transfer("a1", "b", 1))

            rows = running.view(Balance).rows(since=running.log.head)

            assert {(row.account,): row for row in rows} == running.states(Balance)
        file_of(url).with_name("log.views.db").unlink()


def older_copy(url: str) -> h.Receipt:
    """Put an older copy in the log's place; return a receipt of what that copy does not have."""
    log = file_of(url)
    with bank.open(url) as running:
        receipt = running.dispatch(Deposit("a", 1))
        running.view(Balance).get("a", since=receipt)
    shutil.copy(log, log.with_suffix(".old"))
    with bank.open(url) as running:
        receipt = running.dispatch(Deposit("a", 100))
        running.view(Balance).get("a", since=receipt)
    shutil.copy(log.with_suffix(".old"), log)
    return receipt


def test_an_older_log_under_newer_views_is_diverged(url: str) -> None:
    """The views know more than the log: that is said at open, not folded over."""
    older_copy(url)

    with pytest.raises(h.Diverged):
        bank.open(url).close()


def test_views_of_a_log_that_was_begun_anew_are_named_with_what_to_do(url: str) -> None:
    """Its file alone was deleted: what is said names the file of the views, and deleting that is all that is needed."""
    with bank.open(url) as running:
        running.view(Balance).get("a", since=running.dispatch(Deposit("a", 1)))
    file_of(url).unlink()
    views = file_of(url).with_name("log.views.db")

    with pytest.raises(
        h.Diverged, match=f"the view `Balance` in {views} was folded from another log, .* Then delete {views}: its views are built again"
    ):
        bank.open(url)
    views.unlink()
    with bank.open(url) as running:
        assert running.view(Balance).get("a", since=running.dispatch(Deposit("a", 2))).amount == 2


def test_a_receipt_of_a_history_that_was_replaced_is_diverged(url: str) -> None:
    """An older copy of the log has gone another way past a receipt's position: the digest says that it is not its history."""
    receipt = older_copy(url)
    file_of(url).with_name("log.views.db").unlink()
    with bank.open(url) as running:
        while running.log.head <= receipt.position:
            running.dispatch(Deposit("a", 7))

        with pytest.raises(h.Diverged):
            running.state(Balance, "a", since=receipt)
        with pytest.raises(h.Diverged):
            running.view(Balance).find("a", since=str(receipt))


def test_the_age_of_an_idle_log_is_nothing_and_of_one_left_behind_is_since_then(any_url: str) -> None:
    """At the head the age is 0 however long nothing happens; a view that nobody follows is as old as what it has not seen."""
    with bank.open(any_url) as running:
        receipt = running.dispatch(Deposit("a", 1))
        running.view(Balance).get("a", since=receipt)
        time.sleep(0.3)

        assert running.view(Balance).rows().age == timedelta(0)
    with bank.open(any_url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        time.sleep(0.3)

        assert running.view(Balance).rows().age >= timedelta(seconds=0.3)


def test_a_receipt_always_reads_its_own_write(any_url: str) -> None:
    """Threads write and read with `since=`, in the image and in the view: each finds its own write, every time."""
    wrong: list[object] = []
    with bank.open(any_url) as running, bank.open(any_url, run=False) as other:

        def work(name: str) -> None:
            for number in range(1, 41):
                receipt = running.dispatch(Deposit(name, 1))
                seen = [
                    running.state(Balance, name, since=receipt),
                    other.state(Balance, name, since=str(receipt)),
                    running.view(Balance).get(name, since=receipt),
                    other.view(Balance).get(name, since=receipt),
                ]
                wrong.extend((number, one) for one in seen if one != Balance(name, number, number))

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong[:3] == []


def test_a_rebuild_is_not_noticed_by_readers(any_url: str) -> None:
    """Readers loop while a view is rebuilt: always all rows, no error."""
    stop = threading.Event()
    answers: set[str] = set()
    with bank.open(any_url) as running:
        receipt = running.record_all([Deposited(f"a{number}", 1) for number in range(500)])
        running.view(Balance).rows(since=receipt)

        def look() -> None:
            while not stop.is_set():
                try:
                    answers.add(str(len(running.view(Balance).rows())))
                    answers.add(str(500 if running.view(Balance).find("a7") else None))
                except Exception as error:  # noqa: BLE001 - whatever it is, a reader must not see it
                    answers.add(repr(error))

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            running.rebuild(Balance)
        stop.set()
        for thread in threads:
            thread.join()

        assert answers == {"500"}


def test_a_view_that_was_never_whole_does_not_answer_with_a_part_of_its_rows(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built page by page, and stands still in the midst: in every process it is `Late`, and says how far it is."""
    monkeypatch.setattr(follower, "PAGE_ROWS", 10)
    monkeypatch.setattr(follower, "FAR", 1_000)
    entered, go = threading.Event(), threading.Event()

    class Halting(h.State):
        account: Account
        amount: int = 0

        def evolve(self, event: Deposited) -> "Halting":
            if event.account == "a35":
                entered.set()
                assert go.wait(60)
            return self.but(amount=self.amount + event.amount)

    app = h.App("halting", records=[Deposited], views=[Halting])
    with app.open(any_url, run=False) as reader:
        receipt = reader.record_all([Deposited(f"a{number}", 1) for number in range(60)])
        with app.open(any_url) as running:
            assert entered.wait(30)
            [told] = running.statistics()["views"]
            for handle in (running, reader):
                for ask in (handle.view(Halting).rows, partial(handle.view(Halting).find, "a1"), partial(handle.view(Halting).find, "a59")):
                    with pytest.raises(h.Late, match=rf"not been built up to the head yet \({told['position']} of {running.log.head}\)"):
                        ask(wait_seconds_max=0.05)
            go.set()

            assert 0 < told["position"] < running.log.head
            assert len(running.view(Halting).rows(since=receipt)) == 60


def test_a_view_does_not_fall_back_when_a_rebuild_takes_its_place(any_url: str) -> None:
    """Others record without pause: whoever has read as of a position reads nothing older from the new table."""
    stop = threading.Event()
    fell: list[tuple[int, int]] = []
    with bank.open(any_url) as running:
        receipt = running.record_all([Deposited(f"a{number}", 1) for number in range(500)])
        running.view(Balance).rows(since=receipt)

        def write() -> None:
            while not stop.is_set():
                running.record(Deposited("b", 1))

        def look() -> None:
            last = 0
            while not stop.is_set():
                position = running.view(Balance).rows(limit=1).position
                if position < last:
                    fell.append((last, position))
                last = position

        threads = [threading.Thread(target=do) for do in (write, look, look)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            running.rebuild(Balance)
        stop.set()
        for thread in threads:
            thread.join()

        assert fell == []


def test_close_does_not_wait_for_an_evolve_that_does_not_end(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it folds is written when it does end, or by whoever follows the view next; the file is given back then."""
    monkeypatch.setattr(follower, "CLOSE_SECONDS_MAX", 0.2)
    entered, may_go = threading.Event(), threading.Event()

    class Waiting(h.State):
        account: Account
        count: int = 0

        def evolve(self, event: Deposited) -> "Waiting":
            entered.set()
            may_go.wait(60)
            return self.but(count=self.count + event.amount)

    app = h.App("bank", records=[Deposited], views=[Waiting])
    running = app.open(any_url)
    running.record(Deposited("a", 3))
    assert entered.wait(60)
    [thread] = [one for one in threading.enumerate() if one.name == "happened-views"]
    running.close()
    assert thread.is_alive(), "evolve has not ended"
    may_go.set()
    thread.join(60)
    assert not thread.is_alive()
    with app.open(any_url) as running:
        assert running.view(Waiting).get("a", since=running.log.head).count == 3


def test_a_process_that_only_reads_follows_a_rebuild(any_url: str) -> None:
    """Another process rebuilds a view, twice: who only reads answers from the new table, and can still be asked to be as new as a receipt."""
    with bank.open(any_url) as owner, bank.open(any_url, run=False) as reader:
        receipt = owner.record(Deposited("a", 1))
        assert reader.view(Balance).get("a", since=receipt) == Balance("a", 1, 1)

        for amount in (2, 3):
            owner.rebuild(Balance)
            receipt = owner.record(Deposited("a", 1))

            assert reader.view(Balance).get("a", since=receipt) == Balance("a", amount, amount)
            assert list(reader.view(Balance).rows()) == [Balance("a", amount, amount)]


def test_what_is_recorded_before_a_page_is_read_and_after_the_head_was_looked_at_stops_no_view(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether rows are read with what they say of themselves is decided by the head of then: what has come since waits for the next look."""
    monkeypatch.setattr(follower, "FAR", -1)  # as where much is caught up with
    with bank.open(any_url) as running:
        running.view(Balance).get("a", since=running.record(Deposited("a", 1)))
        running.rebuild(Balance)
        read, came = running.log.engine.read_bare, threading.Event()

        def late(after: int, *args: Any, heads: bool = False, **options: Any) -> Any:
            if after == running.log.head and not heads and not came.is_set():
                came.set()
                running.record(Deposited("a", 1))
            return read(after, *args, heads=heads, **options)

        monkeypatch.setattr(running.log.engine, "read_bare", late)
        deadline = time.monotonic() + 30
        while not came.is_set():  # of each view what is counted begins with the head then, also where whoever follows had come late
            assert time.monotonic() < deadline
            for state in bank.views:
                running.rebuild(state)
        receipt = running.record(Deposited("a", 1))

        assert running.view(Balance).get("a", since=receipt) == Balance("a", 3, 3)


def test_a_view_that_stops_in_mid_page_counts_nothing_twice(any_url: str) -> None:
    """`key_of` fails on the second of two facts, then no more: the first was not written without its checkpoint."""
    failing = threading.Event()  # no part of the code's fingerprint, as a flag would be
    failing.set()

    class Tally(h.State):
        account: str
        amount: int = 0

        @staticmethod
        def key_of(event: Deposited) -> str:
            if event.account == "b" and failing.is_set():
                raise ValueError("not now")
            return event.account

        def evolve(self, event: Deposited) -> "Tally":
            return self.but(amount=self.amount + event.amount)

    app = h.App("tally", records=[Deposited], deciders=[deposit], views=[Tally])
    with app.open(any_url) as running:
        running.view(Tally).get("a", since=running.record(Deposited("a", 1)))
    with app.open(any_url) as running:
        last = running.record_all([Deposited("a", 1), Deposited("b", 1)])
        with pytest.raises(h.Stuck, match="not now"):
            running.view(Tally).get("a", since=last)

    failing.clear()
    with app.open(any_url) as running:
        assert set(running.view(Tally).rows(since=last)) == {Tally("a", 2), Tally("b", 1)}


class Brittle(h.State):
    account: Account
    amount: int = 0

    def evolve(self, event: Deposited) -> "Brittle":
        if event.amount < 0:
            raise ValueError("negative")
        return self.but(amount=self.amount + event.amount)


def test_a_key_that_stops_is_said_and_others_go_on(any_url: str) -> None:
    """`evolve` raises for one key: its row stands still and raises `Stuck`, also after a reopen, and other rows go on."""
    app = h.App("brittle", records=[Deposited], deciders=[deposit], views=[Brittle])
    for opened in range(1, 3):
        with app.open(any_url) as running:
            running.record(Deposited("a", -1))
            receipt = running.record(Deposited("b", 1))

            assert running.view(Brittle).get("b", since=receipt) == Brittle("b", opened)
            with pytest.raises(h.Stuck):
                running.view(Brittle).get("a", since=receipt)
            assert running.view(Brittle).rows().stuck == 1


def test_a_page_never_ends_inside_a_command(any_url: str) -> None:
    """Pages of one row, forwards and backwards, from within a command too: never half a transfer; backwards is forwards reversed."""
    with bank.open(any_url, run=False) as running:
        running.dispatch(Deposit("a", 100))
        for _ in range(20):
            running.dispatch(Transfer("a", "b", 1))
        engine = running.log.engine
        for after in range(running.log.head):
            forwards = list(engine.read(after, rows_max=1))
            backwards = list(engine.read(after, backwards=True, rows_max=1))

            assert all(len(rows) == 1 for rows in forwards)
            assert [rows[0] for rows in backwards] == [rows[0] for rows in forwards][::-1]
            assert all(before[0].last + 1 == rows[0].position for before, rows in itertools.pairwise(forwards))

        whole = list(running.log.read())
        assert list(running.log.read(backwards=True)) == whole[::-1]
        for query in (h.query(account="a"), h.query(names=["Withdrawn"]), h.query(names=["Deposited"], account="b")):
            found = list(running.log.read(query))
            assert found
            assert list(running.log.read(query, backwards=True)) == found[::-1]
            assert list(running.log.read(query, limit=3)) == found[:3]
