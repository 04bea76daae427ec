"""Where two things happen at once: workers, callers, owners, and the end of a process."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import happened as h
from happened.core.errors import StoreFailed
from happened.core.state import Fold, Key
from happened.log.held import back_off_seconds
from happened.log.names import Wish
from happened.log.row import Header, Written, decode_header
from happened.log.slices import Progress, progress_of
from happened.log.worker import Advance, Course
from happened.log.writer import Batch, Draft
from happened.notification import hearing
from happened.sourcing.memory_image import Entry, MemoryImage
from tests.notification.model import Do, Done, Noted, Undo, app, by_key, do, done, undo, until, ways, whole
from tests.notification.rig import Killed, Rig
from tests.semantics.model import Account, Balance, Deposit, deposit
from tests.servers import fresh


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest, url: str) -> str:
    """Return the URL of a log that is not there yet, in each store that several processes can share."""
    return fresh() if request.param == "postgres" else url


def test_names_given_in_what_is_taken_back_are_recorded_by_who_uses_them_next(url: str) -> None:
    """A worker's job gives names, fails, and is taken back; a command in the same commit uses those names: they are in the log."""
    with app.open(url, run=False) as running:

        def fails(batch: Batch) -> None:
            running._handling.declare(batch)
            batch.number(Wish("reaction", "new", 1, "x"))
            raise RuntimeError("it fails here")

        job = Advance("new", None, Progress(0, 1), fails)
        decision = running._decision(Do(1), "do", "", None)
        running.log.writer.submit_all([job, decision], 10)
        assert isinstance(job.error, RuntimeError)
        assert decision.error is None
    with app.open(url, run=False) as running:
        assert done(running) == [1]
        assert [record.name for record in running.log.read()][-2:] == ["Do", "Done"]
        whole(running)


def added(batch: Batch) -> None:
    """Put a row into a commit, and a note, and one that is kept whether anything is recorded or not."""
    number = batch.number(Wish("act", "did", 1, ""))
    batch.kept["noted anyway"] = "1"
    batch.add(Draft(Header(id="added"), None, [Written(number, b"{}")], (), (), (), {"noted": "1"}))


def test_what_a_worker_has_put_into_a_commit_is_taken_back_where_it_fails(url: str) -> None:
    """Its row, the id of it, and how far it has come: the others of the commit are recorded, also one under that id."""
    with app.open(url, run=False) as running:

        def fails(batch: Batch) -> None:
            added(batch)
            raise RuntimeError("it fails here")

        log = running.log
        job, fact = Advance("new", None, Progress(0, 1), fails), log._job(h.Loose("Seen", {}), None, "added", "", None)
        log.writer.submit_all([job, running._decision(Do(1), "do", "", None), fact], 10)

        assert (isinstance(job.error, RuntimeError), fact.error) == (True, None)
        assert [record.name for row in log.find("added") for record in log.reader.records(row)] == ["Seen"]
        assert (dict(log.engine.notes("noted")), progress_of(log.engine, "new")) == ({}, None)
        assert done(running) == [1]
        whole(running)


def test_what_others_record_before_what_a_worker_adds_is_not_counted_as_done(url: str) -> None:
    """A worker passes over what it records itself, where that follows at once on what it has done, and nowhere else."""
    with app.open(url, run=False) as running:
        log = running.log
        running.record(Noted(1))
        for between in (False, True):
            head = log.head
            before = progress_of(log.engine, "new")
            advance = Advance("new", before, Progress(head, 1))
            advance.add = partial(Course._add_own, advance, added)
            others = [log._job(h.Loose("Seen", {}), None, None, "", None)] if between else []

            log.writer.submit_all([*others, advance], 10)

            assert progress_of(log.engine, "new") == advance.after
            assert advance.after.position == (head if between else log.head)


class Slow:
    """A gateway that hangs until it is let go."""

    def __init__(self) -> None:
        self.inside, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, number: int) -> int:
        self.inside.release()
        self.go.wait(60)
        return number


def outside(number: int) -> int:
    """Stand for the outside."""
    raise NotImplementedError


def asking(name: str) -> Any:
    """Return a reaction that asks."""

    @h.named(name)
    def asks(event: Noted, world: h.World) -> Iterator[Do]:
        yield Do(world.ask(outside, event.number), (name,))

    return asks


many = h.App(
    "many",
    records=[Noted],
    deciders=[do, undo],
    reactions=[asking(name) for name in "abcd"],
    gateways=[h.Gateway(outside, wait_seconds_max=60)],
)


def test_close_is_bounded_once_whatever_number_of_reactions_hangs(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are told to end first, and then waited for together; what hung records nothing, and is done by the next owner, once."""
    joined: list[float | None] = []
    join = threading.Thread.join

    def counted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name.startswith("happened-reaction/"):
            joined.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr("happened.log.worker.CLOSE_SECONDS_MAX", 0.3)
    slow = Slow()
    running = many.open(url, gateways={outside: slow})
    receipt = running.record(Noted(1))
    for _ in range(4):
        assert slow.inside.acquire(timeout=20)
    monkeypatch.setattr(threading.Thread, "join", counted)
    running.close()
    monkeypatch.undo()
    assert len(joined) == 4
    assert joined[1:] == [0, 0, 0]
    slow.go.set()
    with many.open(url, gateways={outside: int}) as running:
        until(lambda: running.settled(receipt).done)
        assert sorted(record.body.keys for record in running.log.read() if isinstance(record.body, Done)) == [
            ("a",),
            ("b",),
            ("c",),
            ("d",),
        ]
        whole(running)


def test_a_reaction_that_asks_records_each_answer_before_it_asks_for_the_next_row(url: str) -> None:
    """It hangs at the second event of a page, and is abandoned: the first is recorded, and is not asked again."""
    asked: list[int] = []
    slow = Slow()

    def second_hangs(number: int) -> int:
        asked.append(number)
        return slow(number) if number == 2 and not slow.go.is_set() else number

    one = h.App(
        "many",
        records=[Noted],
        deciders=[do],
        reactions=[h.Reaction(asking("a"), since=0)],
        gateways=[h.Gateway(outside, wait_seconds_max=60)],
    )
    with one.open(url, run=False) as running:
        for number in (1, 2, 3):
            running.record(Noted(number))
    running = one.open(url, gateways={outside: second_hangs})
    assert slow.inside.acquire(timeout=20)
    assert done(running) == [1]
    slow.go.set()
    running.close()
    with one.open(url, gateways={outside: second_hangs}) as running:
        until(lambda: done(running) == [1, 2, 3])
        assert asked.count(1) == 1


def test_an_error_between_the_commit_and_what_is_remembered_runs_nothing_twice(url: str) -> None:
    """The outcome of the progress commit is unknown, though it took place: the reaction begins anew where the log says it is."""
    with app.open(url) as running:
        submit = running.log.writer.submit
        armed = threading.Event()

        def unknown(job: Any, wait_seconds_max: float) -> None:
            submit(job, wait_seconds_max)
            if isinstance(job, Advance) and not armed.is_set() and job.name == by_key.lease:
                armed.set()
                raise h.OutcomeUnknown("nobody knows")

        running.log.writer.submit = unknown  # type: ignore[method-assign]  # the moment after the commit
        first = running.record(Noted(1, ("a",)))
        second = running.record(Noted(2, ("a",)))

        until(lambda: running.settled(first).done and running.settled(second).done)
        assert armed.is_set()
        assert done(running) == [1, 2]
        assert running.stuck() == []
        whole(running)


def test_trouble_of_the_disk_in_a_run_holds_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states can't be read for a moment: that is no event's trouble, and passes."""
    with app.open(url) as running:
        as_of = running._sending.states_as_of
        failed: list[int] = []

        def fails_once(position: int) -> Any:
            if not failed:
                failed.append(position)
                raise StoreFailed("the device is gone for a moment")
            return as_of(position)

        monkeypatch.setattr(running._sending, "states_as_of", fails_once)
        receipt = running.record(Noted(1, ("a",)))

        assert running.settled(receipt).done
        assert failed
        assert running.stuck() == []
        assert running.statistics()["reactions"][0]["failure"] is None


def test_a_process_that_only_reads_may_skip_retry_and_park_for_one_that_works(url: str) -> None:
    """Each act is an input of the log with its actor, and what it was about; one that is repeated counts once."""
    ways.failing = {1, 2, 3}
    with app.open(url) as running, app.open(url, run=False) as other:
        for number in (1, 2, 3):
            other.record(Noted(number, (str(number),)))
        until(lambda: len(other.stuck()) == 3)
        first, second, third = (held.position for held in other.stuck())
        for act, position in (("skip", first), ("park", second)):
            receipt = other.decide_about(act, "on_noted", position, actor="ann", reason="so it is", id=f"{act}-it")
            assert other.decide_about(act, "on_noted", position, actor="ann", id=f"{act}-it").position == receipt.position
        until(lambda: [(held.position, held.parked) for held in other.stuck()] == [(second, True), (third, False)])
        with pytest.raises(h.IdReused, match="was used for something else"):
            other.decide_about("retry", "on_noted", third, id="skip-it")
        ways.failing = {3}
        other.decide_about("retry", "on_noted", second, actor="bob")
        until(lambda: done(other) == [2])
        with pytest.raises(h.NotThere, match=rf"`on_noted` holds nothing at position {first}; held are: on_noted {third}"):
            other.decide_about("retry", "on_noted", first)
        for given in ({"act": "drop"}, {"position": "7"}, {"position": -1}, {"reason": 7}, {"actor": 7}):
            with pytest.raises(h.Invalid):
                other.decide_about(**{"act": "retry", "handler": "on_noted", "position": third, **given})  # type: ignore[arg-type]  # what a checker would see

        acts = [record for record in other.log.read() if record.name in ("skip", "park", "retry")]
        assert [(record.name, record.kind, record.actor, record.body["position"]) for record in acts] == [
            ("skip", "input", "ann", first),
            ("park", "input", "ann", second),
            ("retry", "input", "bob", second),
        ]
        assert acts[0].body["reason"] == "so it is"
        assert "1 fails" in acts[0].body["error"]
        assert running.statistics()["reactions"][0]["failure"] is None
        whole(other)


def test_thousands_wait_and_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand events of a few keys wait for one, across many commits; in the middle its owner is killed."""
    monkeypatch.setattr(hearing, "RUNS_MAX", 100)
    rig = Rig(app)
    ways.failing = {0}
    rig.running.record(Noted(0, ("a",)))
    rig.running.record_all([Noted(number, ("a", "b") if number % 1000 == 1 else ("ab"[number % 2],)) for number in range(1, 3000)])
    while rig.take(500):
        pass
    assert done(rig.running) == []
    ways.failing = {1500}
    rig.kill_in = 20
    with pytest.raises(Killed):
        rig.look_after()
    rig.reacting = rig.owned()
    rig.look_after()
    assert [held.attempts for held in rig.held()] == [1]
    ways.failing.clear()
    for _ in range(3):
        rig.look_after()

    assert rig.held() == []
    found = done(rig.running)
    assert sorted(found) == list(range(3000))
    whole(rig.running)


def test_what_fails_is_tried_at_longer_and_longer_distances_and_succeeds_by_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure is counted; a new owner tries at once."""
    distances: list[float] = []

    def short(attempts: int) -> float:
        distances.append(back_off_seconds(attempts))
        return 0.0

    monkeypatch.setattr(hearing, "back_off_seconds", short)
    ways.failing = {1}
    with app.open(url) as running:
        running.record(Noted(1, ("a",)))
        until(lambda: len(distances) >= 12)
        [held] = running.stuck()
        assert held.attempts >= 11
        assert held.failed <= held.tried
        assert distances[:12] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
        ways.failing.clear()
        until(lambda: running.stuck() == [])
        assert done(running) == [1]


def test_after_a_fork_nothing_works_in_the_child_and_all_in_the_parent(url: str) -> None:
    """The child has no threads that work: whoever asks it hears so."""
    with app.open(url) as running:
        receipt = running.record(Noted(1, ("a",)))
        running.settled(receipt)
        read, write = os.pipe()
        if os.fork() == 0:
            said: list[str] = []
            for ask in (lambda: running.settled(receipt), running.stuck, lambda: running.decide_about("retry", "on_noted", 1)):
                try:
                    ask()
                except BaseException as error:  # noqa: BLE001 - the parent hears of it
                    said.append(type(error).__name__)
            os.write(write, " ".join(said).encode())
            os._exit(0)
        assert os.read(read, 1000) == b"Forked Forked Forked"
        assert running.settled(running.record(Noted(2, ("a",)))).done
        assert done(running) == [1, 2]


def test_commands_of_a_reaction_keep_their_order_where_one_of_them_asks_or_fails(url: str) -> None:
    """They are pending then, and are decided in order of their shared tags; others go on."""
    ways.undecided = {2}
    with app.open(url) as running:
        receipts = [running.record(Noted(number, ("a",) if number < 5 else ("b",))) for number in range(1, 7)]
        until(lambda: set(done(running)) == {1, 5, 6})
        ways.undecided.clear()
        until(lambda: all(running.settled(receipt).done for receipt in receipts))

        assert [number for number in done(running) if number < 5] == [1, 2, 3, 4]
        assert [number for number in done(running) if number > 4] == [5, 6]
        whole(running)


def test_many_pending_commands_are_decided_in_few_commits(url: str) -> None:
    """A thousand that were kept before anybody ran."""
    with app.open(url, run=False) as running:
        for number in range(1000):
            running.enqueue(Undo(number) if number % 100 == 0 else Do(number, (str(number % 7),)))
    with app.open(url) as running:
        until(lambda: running.statistics()["pending"] == 0)

        assert running.statistics()["commits"] < 60
        assert sorted(done(running)) == [number for number in range(1000) if number % 100]
        for key in range(7):
            of_key = [number for number in done(running) if number % 7 == key]
            assert of_key == sorted(of_key)
        whole(running)


class Compared(h.Event):
    source: Account
    target: Account


class Say(h.Command):
    text: str


class Said(h.Event):
    text: str


def compare(event: Compared, source: Balance, target: Balance) -> Iterator[Say]:
    """Say what both are."""
    yield Say(f"{event.source} {source.amount}, {event.target} {target.amount}")


def say(command: Say) -> Iterator[Said]:
    """Say it."""
    yield Said(command.text)


@pytest.mark.parametrize(("before", "text"), [(True, "a 5, b 7"), (False, "a 0, b 0")])
def test_the_states_of_a_run_are_as_of_the_position_that_is_recorded_with_it(
    any_url: str, monkeypatch: pytest.MonkeyPatch, before: bool, text: str
) -> None:
    """Both change before the first is read, or between the two: who runs it again as of then reads the same."""
    compares = h.App("compares", records=[Compared], deciders=[deposit, say], reactions=[compare])
    get = MemoryImage.get
    with compares.open(any_url) as running:
        running.dispatch(Deposit("z", 1))

        def changing(image: MemoryImage, fold: Fold, key: Key) -> Entry:
            monkeypatch.setattr(MemoryImage, "get", get)
            found = None if before else get(image, fold, key)
            with ThreadPoolExecutor() as pool:  # this thread runs a handler, from which nothing can be dispatched
                for account, amount in (("a", 5), ("b", 7)):
                    pool.submit(running.dispatch, Deposit(account, amount)).result(10)
            return get(image, fold, key) if found is None else found

        monkeypatch.setattr(MemoryImage, "get", changing)
        compared = running.record(Compared("a", "b"))
        assert running.settled(compared).done

        assert [record.body for record in running.log.read(h.query(names=["Said"]))] == [Said(text)]
        [sent] = [header.sent for row in running.log.conversation(compared.id) if (header := decode_header(row.head)).sent is not None]
        as_it_was = [running.at(sent.seen).state(Balance, account) or Balance(account) for account in "ab"]
        assert ", ".join(f"{one.account} {one.amount}" for one in as_it_was) == text
        with running.branch(at=compared.position - 1) as branch:
            assert not branch.diff()
