"""Threads and processes that meet between two steps: the memory image equals the log, names and index too."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any  # Any: entries and notes of any class

import pytest

import happened as h
from happened.core.state import fold_of
from happened.core.store import Commit, Row, Terms
from happened.log.log import EVERYTHING_SEEN, Log
from happened.log.names import Names
from happened.log.records import Reader
from happened.log.row import decode_header
from happened.sourcing.memory_image import MemoryImage
from happened.stores import memory
from happened.stores.memory import MemoryStore
from happened.stores.sqlite import SqliteStore
from tests.semantics.faults import Faults, full
from tests.semantics.model import Account, Balance, Deposit, Deposited, Seat, Take, Taken, Transfer, bank, deposit, take, transfer
from tests.semantics.test_waiting import Gate, Pause, in_thread


class Ping(h.Event):
    text: str


class Pong(h.Event):
    number: int


@h.named("Taken")
class TakenElsewhere(h.Event):
    """The event of the next release, whose field carries another tag."""

    seat: Annotated[str, h.Tag("place")]
    who: str


class Audit(h.State):
    """A state whose key can't be told of one amount."""

    who: str
    changes: int = 0

    @staticmethod
    def key_of(event: Deposited) -> str:
        if event.amount == 13:
            raise ValueError("unlucky")
        return event.account

    def evolve(self, event: Deposited) -> "Audit":
        return self.but(changes=self.changes + 1)


class Look(h.Command):
    account: Account


class Looked(h.Event):
    account: Account
    amount: int


class Tally(h.State):
    """A state that no decider has as a parameter: it is first met in a batch."""

    account: Account
    amount: int = 0

    def evolve(self, event: Deposited) -> "Tally":
        return self.but(amount=self.amount + event.amount)


class Count(h.Command):
    account: Account


class Latest(h.State):
    """What the envelope of the last deposit says."""

    account: Account
    occurred: datetime | None = None
    id: str = ""

    def evolve(self, event: Deposited, record: h.Recorded) -> "Latest":
        return self.but(occurred=record.occurred, id=record.id)


@h.named("Placed", version=2)
class Placed(h.Event):
    account: Account
    amount: int


class Places(h.State):
    """What has been placed, in whichever version."""

    account: Account
    count: int = 0

    def evolve(self, event: Placed) -> "Places":
        return self.but(count=self.count + 1)


class Inspect(h.Command):
    who: str


class Touch(h.Command):
    account: Account


class Bad(h.Command):
    account: Account


def look(command: Look, balance: Balance) -> Iterator[Looked]:
    """Say what the balance is."""
    yield Looked(command.account, balance.amount)


def count(command: Count, world: h.World) -> Iterator[Looked]:
    """Say what the tally is."""
    yield Looked(command.account, world.state(Tally, command.account).amount)


def inspect(command: Inspect, world: h.World) -> Iterator[Looked]:
    """Decide on a state whose key may not be told."""
    yield Looked(command.who, world.state(Audit, command.who).changes)


def touch(command: Touch, latest: Latest) -> Iterator[Deposited]:
    """Decide on an envelope."""
    if latest.id:
        raise h.Refused(latest.id)
    yield Deposited(command.account, 1)


def bad(command: Bad) -> Iterator[Deposited]:
    """Raise what is no refusal."""
    if command.account:
        raise ValueError("can't be decided")
    yield Deposited(command.account, 1)


def once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, between: Callable[[], object], *, before: bool = False) -> None:
    """Let something happen the next time that a method is called, before or after it."""
    method = getattr(owner, name)

    def called(*arguments: object) -> object:
        monkeypatch.setattr(owner, name, method)
        if before:
            between()
        answer = method(*arguments)
        if not before:
            between()
        return answer

    monkeypatch.setattr(owner, name, called)


class Meeting(dict[Any, Any]):  # Any: see above
    """A dictionary in which something happens at the nth look at a key."""

    def __init__(self, known: dict[Any, Any], key: object, nth: int, between: Callable[[], object]) -> None:  # Any: see above
        super().__init__(known)
        self.key, self.left, self.between = key, nth, between

    def get(self, key: Any, default: Any = None) -> Any:  # Any: see above
        if key == self.key:
            self.left -= 1
            if self.left == 0:
                self.between()
        return super().get(key, default)


# --- names


def test_names_declared_while_a_log_is_opened_never_share_a_number(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process declares a name and is gone before this one has read the index: this one's own name has another number."""
    with h.App("x", records=[Deposited]).open(url, run=False) as running:
        running.record(Deposited("a", 1))

    def declare() -> None:
        with h.App("x", records=[Deposited, Ping]).open(url, run=False) as other:
            other.record(Ping("hello"))

    once(monkeypatch, Log, "_check_claimed", declare)
    with h.App("x", records=[Deposited, Pong], ignores=["Ping"]).open(url, run=False) as running:
        running.record(Pong(7))

    with h.open_log(url) as log:
        assert [record.name for record in log.read() if record.kind == "input"] == ["Deposited", "Ping", "Pong"]
        log.verify()


def test_a_name_added_while_a_page_decoder_is_made_is_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader lists the names, another thread's commit adds some: what that commit recorded is read from then on."""
    with h.App("x", records=[Deposited]).open(url, run=False) as running:
        running.log.append(h.Loose("Zero", {}, ()))
        once(monkeypatch, Reader, "class_of", lambda: in_thread(lambda: running.record(Deposited("a", 1)))[0].join(5))

        running.states(Balance)

        assert running.states(Balance) == {("a",): Balance("a", 1, 1)}


def test_a_name_added_while_the_names_are_looked_through_does_not_stop_the_reader(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is loaded, and another thread's commit adds a name meanwhile."""
    with bank.open(url, run=False) as running:
        running.dispatch(Take("s", "first"))
    with bank.open(url, run=False) as running:
        once(monkeypatch, Reader, "class_of", lambda: in_thread(lambda: running.log.append(h.Loose("New", {}, ())))[0].join(5))

        assert running.state(Seat, "s") == Seat("s", "first")


def test_decoders_that_another_thread_begins_anew_are_not_missed(url: str) -> None:
    """Between making a decoder and using it another thread meets a new name."""

    class Begun(dict[int, Any]):  # Any: see above
        def __setitem__(self, number: int, decoder: Any) -> None:  # Any: see above
            super().__setitem__(number, decoder)
            if threading.current_thread() is threading.main_thread() and not met:
                met.append(number)
                in_thread(meet)[0].join(5)

    met: list[int] = []
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        reader = running.log.reader
        recorded = len(list(running.log.read()))

        def meet() -> None:
            running.log.append(h.Loose("New", {}, ()))
            reader.body(max(reader.names.by_number), b"{}", 1)

        reader._decoders = Begun()

        assert len(list(running.log.read(until=recorded))) == recorded
        assert met


@pytest.mark.parametrize("who", ["states", "view"])
def test_a_page_is_lifted_to_its_end_though_another_thread_meets_a_new_name(url: str, who: str) -> None:
    """An upcast goes through a page while another thread records under a new name, and reads the same: the rest of the page is heard."""
    between: list[Callable[[], object]] = []

    def lift(data: h.Data) -> h.Data:
        if between:
            in_thread(between.pop())[0].join(5)
        return {**data, "amount": 1}

    app = h.App("places", records=[Placed], views=[Places], upcasts=[h.Upcast("Placed", 1, lift)])
    with app.open(url, run=who == "view") as running, h.open_log(url) as other:

        def meet() -> None:
            running.log.append(h.Loose("New", {}, ()))
            running.states(Places)

        facts = [h.Loose("Placed", {"account": "a"}, (("account", "a"),)) for _ in range(10)]
        if who == "view":
            between.append(meet)
            found = running.view(Places).get("a", since=other.append(facts))
        else:
            other.append(facts)
            running.catch_up()
            between.append(meet)
            found = running.states(Places)["a",]

        assert found == Places("a", 10)
        assert not between


def test_a_name_that_was_not_committed_is_not_taken_for_one_that_another_process_has_recorded(
    url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit with a new name fails, and before that is forgotten another process gives its number to a name of its own: who reads that hears what it is."""
    seen: list[list[str]] = []

    def names() -> list[str]:
        return [record.name for record in one.read() if record.kind == "input"]

    def between() -> None:
        other.append(h.Loose("Theirs", {}))
        seen.append(names())

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if not sql.startswith("insert into log"):
            return run()
        faults.hook = None
        raise full()

    with h.open_log(url, create=True) as one, h.open_log(url) as other:
        one.append(h.Loose("Known", {}))
        faults.hook = hook
        once(monkeypatch, Names, "dropped", between, before=True)
        with pytest.raises(h.StoreFailed):
            one.append(h.Loose("Ours", {}))

        assert seen == [["Known", "Theirs"]]
        one.append(h.Loose("Ours", {}))
        assert names() == ["Known", "Theirs", "Ours"]
        one.verify()


# --- the image


def test_a_fact_whose_key_cannot_be_told_has_happened_for_all_other_states(url: str) -> None:
    """`key_of` of one state fails: the fact is recorded, image and log agree, and only that state is stuck."""
    app = h.App("audit", records=[Deposited], deciders=[look])
    with app.open(url, run=False) as running:
        running.record(Deposited("a", 1))
        running.state(Audit, "a")

        running.record_all([h.Message(Deposited("a", 13), "unlucky"), h.Message(Deposited("c", 5), "good")])

        assert len(running.log.find("unlucky")) == 1
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 14, 2)
        assert running.dispatch(Look("a")).events == (Looked("a", 14),)
        with pytest.raises(h.Stuck):
            running.state(Audit, "a")


def test_a_fact_of_another_process_whose_key_cannot_be_told_stops_no_other_state(url: str) -> None:
    """Another process, which has no such state, records the fact: commands on other states are decided here."""
    with h.App("audit", records=[Deposited], deciders=[look]).open(url, run=False) as running:
        running.record(Deposited("a", 1))
        running.state(Audit, "a")
        with h.App("audit", records=[Deposited], ignores=["Looked", "Look", "Withdrawn"]).open(url, run=False) as other:
            other.record(Deposited("a", 13))

        assert [running.dispatch(Look(account)).events for account in "az"] == [(Looked("a", 14),), (Looked("z", 0),)]


def test_on_a_state_whose_key_cannot_be_told_nothing_is_decided(url: str) -> None:
    """It is not known which of its states the fact belongs to: neither of one in memory nor of one that never happened is anything said."""
    with h.App("audit", records=[Deposited], deciders=[inspect]).open(url, run=False) as running:
        running.record(Deposited("a", 1))
        assert running.dispatch(Inspect("a")).events == (Looked("a", 1),)

        running.record(Deposited("a", 13))

        for who in "az":
            with pytest.raises(h.Stuck):
                running.dispatch(Inspect(who), id=who)
            assert running.log.find(who) == []


@pytest.mark.parametrize("reopened", [False, True], ids=["live", "reopened"])
def test_a_state_whose_key_cannot_be_told_is_stuck_however_it_is_asked_for(url: str, *, reopened: bool) -> None:
    """From memory and from the log, one and all, today and as it was: it is said where the fact stands."""
    app = h.App("audit", records=[Deposited], deciders=[inspect])
    with app.open(url, run=False) as running:
        running.record(Deposited("a", 1))
        assert running.state(Audit, "a") == Audit("a", 1)
        position = running.record(Deposited("a", 13)).position
        if not reopened:
            asked_for_in_vain(running, position)
    if reopened:
        with app.open(url, run=False) as running:
            asked_for_in_vain(running, position)


def asked_for_in_vain(running: h.Running, position: int) -> None:
    """Ask in every way for a state whose key can't be told of the fact at a position."""
    ways: list[Callable[[], object]] = [
        lambda: running.state(Audit, "a"),
        lambda: running.states(Audit),
        lambda: running.at(position).state(Audit, "a"),
        lambda: running.dispatch(Inspect("a")),
    ]
    for way in ways:
        with pytest.raises(h.Stuck, match=f"position {position}.*unlucky"):
            way()
    assert running.at(position - 1).state(Audit, "a") == Audit("a", 1)


def test_a_fact_whose_key_cannot_be_told_stops_nothing_where_it_is_not_recorded(url: str, faults: Faults) -> None:
    """The disk is full in that commit: nothing has happened, and the state is told as before, also after another batch."""

    def hook(_connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql.startswith("insert into log"):
            raise full()
        return run()

    with h.App("audit", records=[Deposited], deciders=[inspect]).open(url, run=False) as running:
        running.record(Deposited("a", 1))
        assert running.state(Audit, "a") == Audit("a", 1)
        faults.hook = hook
        with pytest.raises(h.StoreFailed):
            running.record(Deposited("a", 13))
        faults.hook = None

        assert running.state(Audit, "a") == Audit("a", 1)
        assert running.dispatch(Inspect("a")).events == (Looked("a", 1),)
        running.record_all([Deposited("a", 13), Deposited("a", 1)])
        with pytest.raises(h.Stuck):
            running.state(Audit, "a")


def test_a_class_first_met_in_commands_that_are_taken_back_has_all_that_the_batch_decided(url: str) -> None:
    """A state is first asked for inside a `dispatch_together` that is refused: it has what was decided before it, and what comes after."""
    gate = Gate()

    def pause(command: Pause) -> Iterator[Deposited]:
        gate.entered.set()
        assert gate.go.wait(10)
        yield Deposited("p", 1)

    with h.App("x", deciders=[deposit, count, transfer, pause]).open(url, run=False) as running:
        running.dispatch(Deposit("z", 1))
        leader, _ = in_thread(lambda: running.dispatch(Pause("p")))
        assert gate.entered.wait(5)
        calls: list[Callable[[], object]] = [
            lambda: running.dispatch(Deposit("a", 5)),
            lambda: running.dispatch_together([Count("a"), Transfer("nobody", "b", 9)]),
            lambda: running.dispatch(Deposit("a", 7)),
            lambda: running.dispatch(Count("a")),
        ]
        waiting: list[tuple[threading.Thread, list[Any]]] = []  # Any: see above
        for call in calls:
            waiting.append(in_thread(call))
            while len(running._writer._queue) < len(waiting):
                pass
        gate.go.set()
        for thread, _ in [(leader, None), *waiting]:
            thread.join(5)

        assert isinstance(waiting[1][1][0], h.Refused)
        assert waiting[3][1][0].events == (Looked("a", 12),)
        assert running.state(Tally, "a") == running.states(Tally)["a",] == Tally("a", 12)


def make_room(image: MemoryImage) -> None:
    """Let another thread evict half of what is kept."""
    image._states_max = 5
    in_thread(image._make_room)[0].join(5)


@pytest.mark.parametrize("who", ["reader", "reaction", "decider"])
def test_a_state_evicted_while_it_is_looked_for_is_not_one_that_never_happened(who: str) -> None:
    """Another thread makes room between the look at the entry and the look whether the image is complete."""
    with bank.open("memory:", run=False, states_max=10) as running:
        for number in range(10):
            running.dispatch(Take(f"s{number}", "first"))
        kept = running._image.kept[fold_of(Seat)]
        kept.entries = Meeting(kept.entries, ("s0",), 1, lambda: make_room(running._image))

        if who == "reader":
            assert running.state(Seat, "s0") == Seat("s0", "first")
        elif who == "reaction":
            assert running._sending.states_as_of(0).state(kept.fold, ("s0",)) == Seat("s0", "first")
        else:
            with pytest.raises(h.Refused):
                running.dispatch(Take("s0", "second"))


def test_a_state_evicted_while_facts_of_the_batch_wait_for_others_is_not_one_that_never_happened() -> None:
    """The batch has a fact of a state that is not in memory, so it looks for every state once more: another thread makes room just then."""
    with bank.open("memory:", run=False, states_max=30) as running:
        for number in range(10):
            running.dispatch(Take(f"s{number}", "first"))
        receipts = [running.record(Deposited(f"a{number}", 100)) for number in range(25)]
        image, row = running._image, running.log.row_at(receipts[0].position)
        assert row is not None
        kept = image.kept[fold_of(Seat)]
        assert (kept.complete, image.kept[fold_of(Balance)].complete) == (True, False)
        overlay = image.begin()
        overlay.apply_facts([(row, decode_header(row.head), [(0, Deposited("a0", 1), None)])])
        kept.entries = Meeting(kept.entries, ("s0",), 2, lambda: make_room(image))

        assert overlay.get(kept.fold, ("s0",)).state == Seat("s0", "first")
        assert not kept.complete


def test_who_sees_how_far_the_image_has_come_sees_its_states() -> None:
    """Readers take no lock: the position is the last that changes in a merge."""

    class Taking(dict[Any, Any]):  # Any: see above
        def update(self, *changed: Any, **named: Any) -> None:  # Any: see above
            seen.append(running._image.position)
            super().update(*changed, **named)
            seen.append(running._image.position)

    seen: list[int] = []
    with bank.open("memory:", run=False) as running:
        before = running.record(Deposited("a", 1)).position
        kept = running._image.kept[fold_of(Balance)]
        kept.entries = Taking(kept.entries)

        after = running.record(Deposited("a", 1)).position

        assert (seen, running._image.position) == ([before, before], after)


def test_a_state_that_changes_and_makes_room_while_it_is_loaded_is_as_of_now(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader has folded it from the log; before he keeps it a command has changed it, and room was made again: what he keeps has that change."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        image = running._image
        image.forget()

        def change() -> None:
            running.dispatch(Transfer("a", "b", 1))
            image.kept[fold_of(Balance)].entries.clear()

        once(monkeypatch, MemoryImage, "_fold_keys", change)

        assert running.state(Balance, "a") == Balance("a", 0, 2)
        assert running.state(Balance, "a") == running.states(Balance)["a",]


def test_a_state_that_is_loaded_while_bodies_are_erased_is_loaded_once_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was folded of the bodies before is not kept."""
    with bank.open(url, run=False) as running:
        running.record(Deposited("a", 1))
        running._image.forget()
        once(monkeypatch, MemoryImage, "_fold_keys", lambda: running.erase(("account", "a"), actor="ann", reason="asked"))

        assert running.state(Balance, "a") is None
        assert running.dispatch(Deposit("a", 7)).events == (Deposited("a", 7),)
        assert running.state(Balance, "a") == Balance("a", 7, 1)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_state_evicted_while_a_fact_is_applied_does_not_begin_anew(nth: int) -> None:
    """Another thread makes room while the writer applies a fact: the state goes on from what it was."""
    with bank.open("memory:", run=False, states_max=10) as running:
        for number in range(10):
            running.record(Deposited(f"a{number}", 100))
        kept = running._image.kept[fold_of(Balance)]
        kept.entries = Meeting(kept.entries, ("a0",), nth, lambda: make_room(running._image))

        running.record(Deposited("a0", 1))

        assert running.state(Balance, "a0") == running.states(Balance)["a0",] == Balance("a0", 101, 2)


@pytest.mark.parametrize("store", ["memory:", "file"])
def test_evolve_hears_the_same_envelope_live_as_from_the_log(url: str, store: str) -> None:
    """A fact is appended with its own id and time: `evolve` that asks for `Recorded` gets these from the image too."""
    with h.App("x", records=[Deposited], deciders=[touch]).open(url if store == "file" else store, run=False) as running:
        long_ago = datetime(2001, 1, 1, tzinfo=UTC)

        running.log.append(h.Message(Deposited("a", 1), id="mine", occurred=long_ago))

        assert running.state(Latest, "a") == running.states(Latest)["a",] == Latest("a", long_ago, "mine")


# --- the index


@pytest.mark.parametrize("young", [False, True])
def test_code_whose_index_was_made_anew_by_other_code_hears_so_and_decides_nothing(url: str, young: bool) -> None:
    """The next release, which reads tags otherwise, opens the log: the process of the old one must not find fewer events than there are.

    Also where the log is so young that no part of its index was written.
    """
    old = h.App("x", records=[Taken], deciders=[take])
    if not young:
        with old.open(url, run=False) as running:
            running.dispatch(Take("s1", "first"))
    with old.open(url, run=False) as running:
        if young:
            running.dispatch(Take("s1", "first"))
        with h.App("x", records=[TakenElsewhere], ignores=["Take"]).open(url, run=False):
            pass
        head = running.log.head

        if not young:  # else it is in memory, as of what this process has seen
            with pytest.raises(h.Incompatible):
                running.state(Seat, "s1")
        with pytest.raises(h.Incompatible):
            running.dispatch(Take("s1", "second"))

        assert running.log.head == head


def test_a_commit_of_notes_lets_go_of_what_it_wrote_of_the_index(url: str) -> None:
    """A process that records nothing itself writes its part of the index with its notes, and is then done with it."""
    with bank.open(url, run=False) as one, bank.open(url, run=False) as other:
        assert isinstance(other._engine, SqliteStore)
        list(one.dispatch_all([Deposit(f"a{number}", 1) for number in range(600)]))

        other._engine.append(lambda _: Commit(notes={"note": "1"}), EVERYTHING_SEEN)

        assert not other._engine._runs.due()


def test_counts_of_executions_survive_a_commit_that_fails(url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that would write the counts fails: they are counted still, and once."""
    monkeypatch.setattr("happened.stores.runs.FLUSH_RECORDS", 1)
    with h.App("x", deciders=[bad, deposit]).open(url, run=False) as running:

        def counted() -> list[tuple[str, int]]:
            return [(found["handler"], found["count"]) for found in running.statistics()["executions"]]

        running.dispatch(Deposit("a", 1))
        for _ in range(3):
            with pytest.raises(ValueError, match="can't be decided"):
                running.dispatch(Bad("a"))

        def hook(_connection: object, sql: str, run: Callable[[], Any]) -> Any:  # Any: a cursor
            if sql == "commit":
                faults.hook = None
                raise full()
            return run()

        faults.hook = hook
        with pytest.raises(h.StoreFailed):
            running.dispatch(Deposit("a", 1))
        assert counted() == [("bad", 3)]

        running.dispatch(Deposit("a", 1))
        assert counted() == [("bad", 3)]


def test_a_full_log_is_said_and_nothing_is_recorded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index keeps so many positions and no more (here 31): the command that would go past it is refused, and reading goes on."""
    monkeypatch.setattr("happened.stores.runs.POSITION", 31)
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1), id="first")
        while running.log.head + 2 <= 31:
            running.dispatch(Deposit("a", 1))
        head = running.log.head

        with pytest.raises(h.Invalid, match="full"):
            running.dispatch(Deposit("a", 1), id="x")

        assert (running.log.head, running.log.find("x")) == (head, [])
        assert running.state(Balance, "a") == running.states(Balance)["a",]
        assert running.dispatch(Deposit("a", 1), id="first").repeated


# --- processes


def test_a_state_asked_for_after_a_fork_is_forked(url: str) -> None:
    """The child's image stands still for ever: it says so, also while the parent commits; closing there ends at once."""
    gate = Gate()

    def pause(command: Pause) -> Iterator[Deposited]:
        gate.entered.set()
        assert gate.go.wait(10)
        yield Deposited("p", 1)

    with h.App("x", deciders=[pause, deposit]).open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        running.state(Balance, "a")  # from now on it is in memory
        leader, _ = in_thread(lambda: running.dispatch(Pause("p")))
        assert gate.entered.wait(5)
        get, put = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                for call in (
                    lambda: running.state(Balance, "a"),
                    lambda: running.states(Balance),
                    lambda: running.dispatch(Deposit("a", 1)),
                ):
                    try:
                        call()
                        os.write(put, b"worked ")
                    except h.Forked:
                        os.write(put, b"Forked ")
                running.close()
                os.write(put, b"closed")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        gate.go.set()
        leader.join(5)

        assert os.read(get, 100) == b"Forked Forked Forked closed"
        assert running.dispatch(Deposit("a", 1)).events
        os.close(get)
        os.close(put)


# --- what is pending


def test_what_is_pending_in_memory_is_decided_whenever_it_is_seen() -> None:
    """The row of an enqueued command is there before its note: whoever looks between the two must look again."""

    class Slow(dict[str, str]):
        def __setitem__(self, key: str, body: str) -> None:
            if key.startswith("pending/"):
                time.sleep(0.2)  # longer than the worker waits between two looks
            super().__setitem__(key, body)

    with bank.open("memory:") as running:
        running.dispatch(Deposit("a", 1))
        assert isinstance(running._engine, MemoryStore)
        running._engine._notes = Slow(running._engine._notes)

        kept = running.enqueue(Deposit("b", 1))

        assert running.outcome(kept, wait_seconds_max=3).events == (Deposited("b", 1),)


def test_what_is_looked_up_in_memory_while_it_is_recorded_is_there_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is in the index before its row is in the log: whoever looks between the two waits for a moment."""
    filed = memory._file
    gate = Gate()

    def stalled(index: tuple[Any, Any, Any], row: Row, terms: Terms) -> None:  # Any: see above
        filed(index, row, terms)
        gate.entered.set()
        gate.go.wait(10)

    with bank.open("memory:", run=False) as running:
        running.dispatch(Deposit("a", 1))
        monkeypatch.setattr(memory, "_file", stalled)
        recording, _ = in_thread(lambda: running.dispatch(Deposit("a", 2)))
        assert gate.entered.wait(5)
        reading, found = in_thread(lambda: [record.body for record in running.log.read(h.query(account="a"))])
        reading.join(0.1)
        gate.go.set()
        for thread in (recording, reading):
            thread.join(5)

        assert found == [[Deposited("a", 1), Deposited("a", 2)]]


def test_what_is_recorded_together_in_memory_is_seen_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of one commit come one after the other: whoever looks meanwhile sees all of them or none."""
    filed = memory._file
    gate = Gate()
    positions: list[int] = []

    def stalled(index: tuple[Any, Any, Any], row: Row, terms: Terms) -> None:  # Any: see above
        positions.append(row.position)
        if len(positions) == 2:
            gate.entered.set()
            gate.go.wait(10)
        filed(index, row, terms)

    with bank.open("memory:", run=False) as running:
        running.dispatch(Deposit("a", 1))
        head = running.log.head
        monkeypatch.setattr(memory, "_file", stalled)
        recording, _ = in_thread(lambda: running.dispatch_together([Deposit("a", 2), Deposit("b", 2)]))
        assert gate.entered.wait(5)
        looks: list[Callable[[], object]] = [
            lambda: {key: balance.amount for key, balance in running.states(Balance).items()},
            lambda: len({record.position for record in running.log.read(after=head)}),
            lambda: running.log.wait(head, 5) - head,
        ]
        looking = [in_thread(look) for look in looks]
        for thread, _ in looking:
            thread.join(0.1)
        gate.go.set()
        for thread in (recording, *(thread for thread, _ in looking)):
            thread.join(5)

        assert [found for _, found in looking] == [[{("a",): 3, ("b",): 2}], [4], [4]]
