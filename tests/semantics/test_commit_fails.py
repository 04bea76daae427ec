"""A commit, a sync, a write that fails: nobody is told what is not so."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

import happened as h
from tests.semantics.faults import Faults, broken, full
from tests.semantics.model import Account, Balance, Deposit, Deposited, Transfer, bank


def own_thread(statement: str) -> Callable[[str], bool]:
    """Return a test for a statement of this thread that begins so."""
    here = threading.get_ident()
    return lambda sql: sql.startswith(statement) and threading.get_ident() == here


def fail_once(faults: Faults, matches: Callable[[str], bool], *, after: bool = False, error: Callable[[], sqlite3.Error] = broken) -> None:
    """Let the next statement that matches fail once, before or after it took place."""

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if not matches(sql):
            return run()
        faults.hook = None
        if after:
            run()
        raise error()

    faults.hook = hook


def test_a_commit_that_took_place_and_raised_is_answered_with_its_receipt(url: str, faults: Faults) -> None:
    """COMMIT raises, and the record is there: the caller gets the receipt, and so does everyone after a reopen."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        fail_once(faults, own_thread("commit"), after=True)

        receipt = running.dispatch(Deposit("a", 10), id="x")

        assert running.state(Balance, "a") == Balance("a", 11, 2)
    with bank.open(url, run=False) as running:
        again = running.dispatch(Deposit("a", 10), id="x")

        assert (again.position, again.digest, again.repeated) == (receipt.position, receipt.digest, True)
        assert running.states(Balance)["a",] == running.state(Balance, "a") == Balance("a", 11, 2)
        running.log.verify()


def test_a_commit_that_did_not_take_place_is_not_recorded_and_never_comes_back(url: str, faults: Faults) -> None:
    """COMMIT raises, and the record is not there: the caller hears so, and it stays so after a reopen."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        fail_once(faults, own_thread("commit"))

        with pytest.raises(h.StoreFailed) as failed:
            running.dispatch(Deposit("a", 10), id="x")

        assert failed.value.recorded is False
        assert running.state(Balance, "a") == Balance("a", 1, 1)
    with bank.open(url, run=False) as running:
        assert running.log.find("x") == []
        assert not running.dispatch(Deposit("a", 10), id="x").repeated
        assert running.states(Balance)["a",] == running.state(Balance, "a") == Balance("a", 11, 2)
        running.log.verify()


def test_a_commit_whose_outcome_cannot_be_learned_is_unknown_and_closes_the_log(
    url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT raises and no checkpoint succeeds: `OutcomeUnknown` with the id, later callers hear `Closed`, and the same id is safe."""
    monkeypatch.setattr("happened.stores.sqlite.SETTLE_SECONDS", 0.1)
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        commits: list[str] = []

        def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
            if sql == "commit":
                commits.append(sql)
                run()
                raise broken()
            if commits and "wal_checkpoint" in sql:
                raise broken()
            return run()

        faults.hook = hook

        with pytest.raises(h.OutcomeUnknown) as unknown:
            running.dispatch(Deposit("a", 10), id="x")
        with pytest.raises(h.Closed):
            running.dispatch(Deposit("a", 100), id="y")

        assert unknown.value.recorded is None
        assert unknown.value.facts["id"] == "x"
        faults.hook = None
    with bank.open(url, run=False) as running:
        assert running.dispatch(Deposit("a", 10), id="x").repeated
        assert not running.dispatch(Deposit("a", 100), id="y").repeated


@pytest.mark.parametrize("before", range(4))
def test_what_others_record_after_a_commit_was_settled_is_taken_in(url: str, faults: Faults, before: int) -> None:
    """The connection is another one since: by its own count of what others have changed nothing is to be told from what the former one had counted."""
    with bank.open(url, run=False) as running, bank.open(url, run=False) as other:
        for after in range(4):
            for _ in range(before):
                other.dispatch(Deposit("a", 1))
            running.dispatch(Deposit("a", 1))
            fail_once(faults, own_thread("commit"), after=True)
            running.dispatch(Deposit("a", 1))
            for _ in range(after):
                other.dispatch(Deposit("a", 1))
            running.dispatch(Deposit("a", 1))
            assert running.state(Balance, "a") == running.states(Balance)["a",]


def test_a_commit_that_failed_while_somebody_reads_is_unknown(url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead log can't be emptied meanwhile: what lies in it unseen may come back after a crash, so nobody is told that nothing was recorded."""
    monkeypatch.setattr("happened.stores.sqlite.SETTLE_SECONDS", 0.1)
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as reader:
            reader.execute("begin")
            reader.execute("select count(*) from log").fetchall()
            running.dispatch(Deposit("a", 2))
            fail_once(faults, own_thread("commit"))

            with pytest.raises(h.OutcomeUnknown):
                running.dispatch(Deposit("a", 10), id="x")
            with pytest.raises(h.Closed):
                running.dispatch(Deposit("a", 10), id="x")
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 10), id="x")
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 13, 3)


@pytest.mark.parametrize("statement", ["begin", "insert into log", "insert or replace into note", "commit"])
def test_every_error_of_the_disk_says_that_nothing_was_recorded(url: str, faults: Faults, statement: str) -> None:
    """Whichever statement fails, the caller hears `StoreFailed`, and the next command works."""
    with bank.open(url, run=False) as running:
        fail_once(faults, own_thread(statement), error=full)

        with pytest.raises(h.StoreFailed) as failed:
            running.dispatch(Deposit("a", 10), id="x")

        assert failed.value.recorded is False
        assert running.log.find("x") == []
        assert not running.dispatch(Deposit("a", 10), id="x").repeated
        assert running.state(Balance, "a") == Balance("a", 10, 1)
        running.log.verify()


def test_a_checkpoint_that_fails_after_the_commit_does_not_make_it_fail(url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after COMMIT may fail; the record is there, so the caller gets a receipt."""
    monkeypatch.setattr("happened.stores.sqlite.CHECKPOINT_PAGES", 0)
    here = threading.get_ident()
    failed: list[str] = []

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if "wal_checkpoint(passive)" in sql and threading.get_ident() == here:
            failed.append(sql)
            raise broken()
        return run()

    with bank.open(url, run=False) as running:
        faults.hook = hook
        for number in range(2000):
            running.dispatch(Deposit("a", 1), id=f"x{number}")
            if failed:
                break

        assert failed, "the writer's own checkpoint was never due"
        assert running.state(Balance, "a") == running.states(Balance)["a",]
        faults.hook = None


def test_an_index_that_fails_after_the_commit_does_not_make_it_fail(url: str, faults: Faults) -> None:
    """The first command brings names, and the index is told of them after COMMIT: an error there is no error of the command."""
    committed: list[str] = []

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql == "commit":
            committed.append(sql)
        elif committed and "position > ? order by position limit 1000" in sql:
            faults.hook = None
            raise broken()
        return run()

    with bank.open(url, run=False) as running:
        faults.hook = hook

        receipt = running.dispatch(Deposit("a", 10), id="x")

        assert receipt.position == running.log.head
        assert running.state(Balance, "a") == Balance("a", 10, 1)


def test_a_reader_never_sees_what_a_failed_write_would_have_brought(url: str, faults: Faults) -> None:
    """The disk is full in mid-batch while readers loop over states: they see durable states only, and the overlay is dropped."""
    deciding, stop = threading.Event(), threading.Event()
    seen: set[int] = set()

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))

        def look() -> None:
            while not stop.is_set():
                state = running.state(Balance, "a")
                seen.add(state.amount if state else 0)
                deciding.set()

        def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
            if sql.startswith("insert into log"):
                deciding.clear()
                assert deciding.wait(5)  # a reader has looked while the batch was decided and not durable
                raise full()
            return run()

        reader = threading.Thread(target=look)
        reader.start()
        faults.hook = hook
        for number in range(5):
            with pytest.raises(h.StoreFailed):
                list(running.dispatch_all([h.Message(Deposit("a", 100), id=f"{number}-{one}") for one in range(10)]))
        faults.hook = None
        stop.set()
        reader.join()

        assert seen == {1}
        running.dispatch(Deposit("a", 5))
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 6, 2)
        running.log.verify()


class Spoil(h.Command):
    account: Account


class Spoilt(h.Event):
    account: Account


class Ledger(h.State):
    account: Account
    count: int = 0

    def evolve(self, event: Spoilt) -> "Ledger":
        if event.account == "bad":
            raise ValueError("this event can't be taken")
        return self.but(count=self.count + 1)


def spoil(command: Spoil, ledger: Ledger) -> Iterator[Spoilt]:
    """Yield an event that the state may be unable to take."""
    yield Spoilt(command.account)


def spoil_blindly(command: Spoil) -> Iterator[Spoilt]:
    """Yield it without looking at the state."""
    yield Spoilt(command.account)


def test_an_event_that_its_state_cannot_take_is_not_recorded_behind_an_error(url: str) -> None:
    """`evolve` raises on what the decider yields: the caller hears it, and then nothing is there."""
    app = h.App("spoilt", deciders=[spoil])
    with app.open(url, run=False) as running:
        with pytest.raises(ValueError, match="can't be taken"):
            running.dispatch(Spoil("bad"), id="x")

        assert running.log.find("x") == []
        running.dispatch(Spoil("good"), id="y")
        assert running.state(Ledger, "good") == Ledger("good", 1)

        before = running.log.head
        together = [running._decision(Spoil(account), f"{account} once more", "", None) for account in ("bad", "good")]
        running._writer.submit_all(together, 5)

        assert [type(job.error) for job in together] == [ValueError, type(None)]
        assert running.state(Ledger, "good") == Ledger("good", 2)
        assert [record.name for record in running.log.read(after=before)] == ["Spoil", "Spoilt"]


def respoil(_: Deposited) -> Iterator[Spoil]:
    """Ask for what can't be taken."""
    yield Spoil("bad")


@pytest.mark.parametrize("how", ["by itself", "with others", "kept", "by a reaction"])
def test_a_run_that_comes_to_what_no_state_can_take_has_failed_and_is_counted(url: str, how: str) -> None:
    """Whoever asked for it, and however often it is tried: as many runs have failed as there were."""
    app = h.App("spoilt", records=[Deposited], deciders=[spoil], reactions=[respoil])
    with app.open(url) as running:
        match how:
            case "by itself":
                with pytest.raises(ValueError, match="can't be taken"):
                    running.dispatch(Spoil("bad"))
            case "with others":
                with pytest.raises(ValueError, match="can't be taken"):
                    running.dispatch_together([Spoil("good"), Spoil("bad")])
            case _:
                kept = running.enqueue(Spoil("bad")) if how == "kept" else running.record(Deposited("a", 1))
                assert running.settled(kept).stuck

        statistics = running.statistics()

        [spoiling] = statistics["deciders"]
        failed = [one["count"] for one in statistics["executions"] if (one["handler"], one["outcome"]) == ("spoil", "failed")]
        assert failed == [spoiling["runs"] - (how == "with others")]


def test_an_event_of_another_process_that_a_state_cannot_take_stops_its_key_only(url: str) -> None:
    """Another process recorded what our `evolve` can't take: decisions on its key stop, all others go on."""
    app = h.App("spoilt", deciders=[spoil])
    with app.open(url, run=False) as ours:
        ours.dispatch(Spoil("good"))
        with h.App("spoilt", deciders=[spoil_blindly]).open(url, run=False) as theirs:
            theirs.dispatch(Spoil("good"))
            theirs.dispatch(Spoil("bad"))

        ours.dispatch(Spoil("good"))

        assert ours.state(Ledger, "good") == Ledger("good", 3)
        with pytest.raises(h.Stuck):
            ours.dispatch(Spoil("bad"))


def test_a_transfer_is_all_or_nothing_whatever_fails(url: str, faults: Faults) -> None:
    """The n-th statement fails, for every n: the sum over all accounts stays, and `verify` is clean."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1000))
        for nth in range(1, 8):
            count = 0

            def hook(_connection: sqlite3.Connection, _sql: str, run: Callable[[], sqlite3.Cursor], nth: int = nth) -> sqlite3.Cursor:
                nonlocal count
                count += 1
                if count == nth:
                    raise broken()
                return run()

            faults.hook = hook
            try:
                running.dispatch(Transfer("a", "b", 1), id=f"t{nth}")
                told = True
            except h.Error as error:
                told = error.recorded is not False
            finally:
                faults.hook = None

            assert bool(running.log.find(f"t{nth}")) == told, f"statement {nth}"
            assert sum(one.amount for one in running.states(Balance).values()) == 1000
        running.log.verify()
