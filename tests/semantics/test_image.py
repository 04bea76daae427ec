"""The memory image equals the log: whoever reads, loads, evicts, catches up or comes late."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator

import pytest

import happened as h
from happened.core.store import Commit, Head, Unseen
from tests.semantics.faults import Faults
from tests.semantics.model import Account, Balance, Deposit, Deposited, Seat, SeatNo, Take, Transfer, bank, deposit


def test_catching_up_while_another_thread_commits_applies_nothing_twice(url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread asks to catch up, waits for the lock, and gets it when the commit is in the image already: each event counts once."""
    here = threading.get_ident()
    committing, asked, answered = threading.Event(), threading.Event(), threading.Event()

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql == "commit" and threading.get_ident() == here:
            committing.set()
            asked.wait(0.3)  # it may also be held back before it asks for the lock: then there is nothing to apply twice
        elif sql.startswith("begin") and threading.get_ident() != here:
            assert answered.wait(5)
        return run()

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 10))
        running.state(Balance, "a")
        append = running.log.engine.append

        def noting(decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
            if threading.get_ident() != here:
                asked.set()
            return append(decide, seen, wait_seconds_max=wait_seconds_max)

        monkeypatch.setattr(running.log.engine, "append", noting)

        def look() -> None:
            assert committing.wait(5)
            running.catch_up()

        other = threading.Thread(target=look)
        faults.hook = hook
        other.start()
        running.dispatch(Deposit("a", 5))
        answered.set()
        other.join()
        faults.hook = None

        assert running.states(Balance)["a",] == Balance("a", 15, 2)
        assert running.state(Balance, "a") == Balance("a", 15, 2)


@pytest.mark.parametrize("look", ["catch_up", "would"])
def test_readers_that_take_the_lock_leave_the_image_equal_to_the_log(url: str, look: str) -> None:
    """Threads catch up, or ask what would be, while two processes' worth of commands come: state() equals states()."""
    stop = threading.Event()
    with bank.open(url, run=False) as running, bank.open(url, run=False) as other:
        running.dispatch(Transfer("a", "b", 0))
        running.dispatch(Deposit("a", 1))
        looking: Callable[[], object] = running.catch_up if look == "catch_up" else lambda: running.would(Deposit("a", 1))

        def again() -> None:
            while not stop.is_set():
                looking()

        threads = [threading.Thread(target=again) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            running.dispatch(Deposit("a", 1))
            other.dispatch(Deposit("a", 1))
        stop.set()
        for thread in threads:
            thread.join()
        running.catch_up()

        assert running.states(Balance)["a",].amount == 201
        assert running.state(Balance, "a") == running.states(Balance)["a",]


class Tally(h.State):
    account: Account
    amount: int = 0

    def evolve(self, event: Deposited) -> "Tally":
        return self.but(amount=self.amount + event.amount)


class Count(h.Command):
    account: Account


class Counted(h.Event):
    account: Account
    amount: int


def count(command: Count, world: h.World) -> Iterator[Counted]:
    """Ask for a state that no parameter names."""
    yield Counted(command.account, world.state(Tally, command.account).amount)


@pytest.mark.parametrize("before", [0, 1])
def test_a_state_first_asked_for_in_mid_batch_has_all_that_the_batch_decided(url: str, before: int) -> None:
    """`world.state` of a class met for the first time, in one batch with events for it: the decider sees them, and so does everyone later."""
    app = h.App("counting", deciders=[deposit, count])
    with app.open(url, run=False) as running:
        for _ in range(before):
            running.dispatch(Deposit("z", 1))

        _, receipt = running.dispatch_together([Deposit("a", 5), Count("a")])

        assert receipt.events == (Counted("a", 5),)
        assert running.state(Tally, "a") == running.states(Tally)["a",] == Tally("a", 5)


class Gate:
    """Holds a decider up while it runs."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()


class Pause(h.Command):
    account: Account


def pausing(gate: Gate) -> Callable[[Pause], Iterator[Deposited]]:
    """Return a decider that waits in mid-batch."""

    def pause(command: Pause) -> Iterator[Deposited]:
        gate.entered.set()
        assert gate.go.wait(5)
        yield Deposited(command.account, 100)

    return pause


@pytest.mark.parametrize("before", [0, 1])
def test_a_state_first_read_while_a_batch_is_decided_is_not_left_behind(url: str, before: int) -> None:
    """A reader is the first to ask for a class, while a batch has decided events for it: after the commit it has them."""
    gate = Gate()
    app = h.App("pausing", deciders=[deposit, pausing(gate)])
    with app.open(url, run=False) as running:
        for _ in range(before):
            running.dispatch(Deposit("a", 1))
        batch = threading.Thread(target=running.dispatch_together, args=([Deposit("a", 5), Pause("b")],))
        batch.start()
        assert gate.entered.wait(5)

        early = running.state(Tally, "a")
        gate.go.set()
        batch.join()

        assert (early.amount if early else 0) == before
        assert {key: running.state(Tally, *key) for key in (("a",), ("b",))} == running.states(Tally)


def test_a_name_is_found_after_the_log_was_closed_and_opened(url: str) -> None:
    """The index of names survives: a query by name, and a state without tags, come out the same after a reopen."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        before = [record.position for record in running.log.read(h.query(names=["Deposited"]))]
    with bank.open(url, run=False) as running:
        after = [record.position for record in running.log.read(h.query(names=["Deposited"]))]

        assert before == after != []


class Many(h.Command):
    count: int


class Rare(h.Event):
    number: int


class Common(h.Event):
    number: int


class Total(h.State):
    count: int = 0

    def evolve(self, event: Rare) -> "Total":
        return self.but(count=self.count + 1)


def many(command: Many, total: Total) -> Iterator[Rare]:
    """Yield many events of one name, that have no tag."""
    for number in range(command.count):
        yield Rare(number)


def test_a_state_without_tags_is_loaded_whole_across_the_blocks_of_the_index(url: str) -> None:
    """A command's events lie across a boundary of the index's blocks: scan and index give the same, before and after a reopen."""
    app = h.App("blocks", records=[Common], deciders=[many])
    with app.open(url, run=False) as running:
        running.record(Common(0))
        while running.log.head < 4090:
            running.record_all([Common(number) for number in range(min(500, 4090 - running.log.head))])
        running.dispatch(Many(50))
        running.record_all([Common(number) for number in range(5000)])

        assert len(list(running.log.read(h.query(names=["Rare"])))) == 50
        assert running.state(Total) == running.states(Total)[()] == Total(50)
    with app.open(url, run=False) as running:
        assert running.state(Total) == running.states(Total)[()] == Total(50)
        assert len(list(running.log.read(h.query(names=["Rare"])))) == 50


def test_a_query_of_names_or_tags_finds_what_either_finds(url: str) -> None:
    """Items by name and items by tag in one query: the union, forwards and backwards, for rows of several records too."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        running.record_all([Deposited("b", 1) for _ in range(9000)])
        running.dispatch(Take("1", "x"))
        query = h.query(h.Item(names=frozenset({"Taken"})), h.Item(tags=frozenset({("account", "a")})))

        found = [record.name for record in running.log.read(query)]

        assert found == ["Deposited", "Taken"]
        assert [record.name for record in running.log.read(query, backwards=True)] == found[::-1]


def test_states_equal_the_log_while_threads_write_and_states_make_room(url: str) -> None:
    """Few states fit in memory, many threads dispatch and read: every state by index equals the scan."""
    seed = 20
    print("seed", seed)
    accounts = [f"a{number}" for number in range(40)]
    with bank.open(url, run=False, states_max=10) as running:
        for account in accounts:
            running.dispatch(Deposit(account, 1000))

        def work(own: random.Random) -> None:
            for _ in range(60):
                source, target = own.sample(accounts, 2)
                running.dispatch(Transfer(source, target, own.randrange(10)))
                running.state(Balance, own.choice(accounts))

        threads = [threading.Thread(target=work, args=(random.Random(seed + number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        scanned = running.states(Balance)
        assert {key: running.state(Balance, *key) for key in scanned} == scanned
        assert sum(one.amount for one in scanned.values()) == 40_000


def test_a_state_that_makes_room_is_never_taken_for_one_that_never_happened(url: str) -> None:
    """A reader asks for a key in the very moment that it is evicted: it is loaded from the log."""
    with bank.open(url, run=False, states_max=10) as running:
        seen: list[tuple[str, Balance | None]] = []
        kept = next(kept for fold, kept in running._image.kept.items() if fold.state is Balance)

        class Evicting(dict[tuple[str], object]):
            def __delitem__(self, key: tuple[str]) -> None:
                super().__delitem__(key)
                if not seen:
                    seen.append((key[0], running.state(Balance, *key)))

        kept.entries = Evicting()  # type: ignore[assignment]  # a dict that reads at the worst moment
        for number in range(12):
            running.dispatch(Deposit(f"a{number}", 7))

        assert [state for _, state in seen] == [Balance(account, 7, 1) for account, _ in seen]
        assert seen


def test_an_event_that_comes_while_a_state_is_loaded_is_in_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load has read the log and waits; a command for its key is committed; then the load ends: nothing is lost, nothing counts twice."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
    with bank.open(url, run=False) as running:
        read = running.log.engine.read_bare
        loaded, go = threading.Event(), threading.Event()

        def slow(*args: object, **kwargs: object) -> Iterator[object]:
            pages = list(read(*args, **kwargs))  # type: ignore[arg-type]  # handed on as they come
            if threading.current_thread().name == "loader":
                loaded.set()
                assert go.wait(5)
            yield from pages

        monkeypatch.setattr(running.log.engine, "read_bare", slow)
        loader = threading.Thread(target=running.state, args=(Balance, "a"), name="loader")
        loader.start()
        assert loaded.wait(5)
        running.dispatch(Deposit("a", 10))
        running.dispatch(Deposit("a", 100))
        go.set()
        loader.join()

        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 111, 3)


class Tagged(h.Event):
    account: Account
    seat: str


def test_scan_equals_index_after_a_field_became_a_tag(url: str) -> None:
    """Tomorrow's class has one tag more under the same name: states by the new tag are found in yesterday's records."""
    with h.App("tags", records=[Tagged]).open(url, run=False) as running:
        running.record_all([Tagged("a", str(number % 3)) for number in range(50)])
        yesterday = running.log.head

    @h.named("Tagged")
    class Retagged(h.Event):
        account: Account
        seat: SeatNo

    class Visits(h.State):
        seat: SeatNo
        count: int = 0

        def evolve(self, event: Retagged) -> "Visits":
            return self.but(count=self.count + 1)

    app = h.App("tags", records=[Retagged], views=[Visits])
    for _ in range(2):
        with app.open(url, run=False) as running:
            running.record(Retagged("a", "1"))

            scanned = running.states(Visits)
            assert {key: running.state(Visits, *key) for key in scanned} == scanned
            assert len(list(running.log.read(h.query(seat="1"), until=yesterday))) == 17


def test_a_refused_seat_stays_refused_by_what_was_evicted(url: str) -> None:
    """Deciders hear the log, not the luck of what is in memory."""
    with bank.open(url, run=False, states_max=5) as running:
        for number in range(50):
            running.dispatch(Take(str(number), "first"))

        for number in range(50):
            with pytest.raises(h.Refused):
                running.dispatch(Take(str(number), "second"))
        assert {seat.who for seat in running.states(Seat).values()} == {"first"}


class Paid(h.Event):
    """What no state reads is the memo."""

    account: Account
    amount: int
    memo: str


class Stamped(h.Event):
    account: Account
    memo: str


class Read(h.State):
    """Reads one field."""

    account: Account
    amount: int = 0

    def evolve(self, event: Paid) -> "Read":
        return self.but(amount=self.amount + event.amount)


class Times(h.State):
    """Reads no field, of two events."""

    account: Account
    count: int = 0

    def evolve(self, event: Paid | Stamped) -> "Times":
        return self.but(count=self.count + 1)


class Late(h.State):
    """Asks what each is called in the log."""

    account: Account
    last: str = ""

    def evolve(self, event: Stamped | Paid, record: h.Recorded) -> "Late":
        return self.but(last=record.id)


class Keyed(h.State):
    """Computes its key."""

    first: str
    count: int = 0

    def evolve(self, event: Paid) -> "Keyed":
        return self.but(count=self.count + 1)

    @staticmethod
    def key_of(event: Paid) -> str:
        return event.account[:1]


class Whole(h.State):
    """Hands the event on, so that all of it is read."""

    account: Account
    last: str = ""

    def evolve(self, event: Paid) -> "Whole":
        return self.but(last=repr(event))


class Look(h.Command):
    account: Account
    first: str


class Looked(h.Event):
    account: Account
    said: str


def look_at(command: Look, read: Read, times: Times, late: Late, whole: Whole, world: h.World) -> Iterator[Looked]:
    """Record what the states say."""
    keyed = world.state(Keyed, command.first)
    yield Looked(command.account, f"{read.amount} {times.count} {late.last} {keyed.count} {whole.last}")


looking = h.App("looking", records=[Paid, Stamped], deciders=[look_at])


def test_what_others_record_is_taken_in_whatever_states_read_of_it(any_url: str) -> None:
    """Many rows at once, of events of which states read some fields, none, or all: a decision, the states in memory and those of the log say the same."""
    with looking.open(any_url, run=False) as one, looking.open(any_url, run=False) as other:
        one.dispatch(Look("a", "a"))  # has all states in memory
        for number in range(7):
            other.record_all([Paid("a", number, "m"), Paid("ab", 1, "n")])
            other.record(Stamped("a", "m"), id=f"last-{number}")

        [said] = one.dispatch(Look("a", "a")).events

        assert isinstance(said, Looked)
        assert said.said == f"21 14 last-6 14 {Paid('a', 6, 'm')!r}"
        kinds: list[type[h.State]] = [Read, Times, Late, Whole]
        for kind in kinds:
            assert one.state(kind, "a") == one.states(kind)["a",]
