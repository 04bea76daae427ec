"""What is erased is gone from every file, the chain holds, and nobody goes on with what was made of it."""

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict  # Any: a view of any state

import pytest

import happened as h
from happened.core.state import fold_of
from happened.core.store import Commit, Engine, Unseen
from happened.cqrs import follower
from happened.cqrs.follower import Followers
from happened.cqrs.view import ViewBuild
from happened.log.compacting import compact
from happened.log.erasure import Choice, Erasing, erased, is_unfinished
from happened.log.held import UNREAD_NOTE
from happened.log.log import EVERYTHING_SEEN, latest_erasure
from happened.log.row import encode
from happened.log.worker import FAILING, Failing
from happened.log.writer import Writer
from happened.opening import erased_in
from happened.stores import sqlite
from tests.audit.people import SECRET, Call, Called, Met, Order, People, Person, customers, filled, mood
from tests.notification.model import Noted, app, done, ways
from tests.transfer.model import Debtor, DebtorMoved, Left, Moved, crm, until

WAIT = 20


class By(TypedDict):
    """Who erases, and why."""

    actor: str
    reason: str


BY: By = {"actor": "ann", "reason": "she has asked for it"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"


def files_with(url: str, text: str) -> list[str]:
    """Return the names of the files beside a log that have a text in their bytes."""
    folder = Path(url.removeprefix("sqlite:///")).parent
    return sorted(file.name for file in folder.iterdir() if text.encode() in file.read_bytes())


def closed(url: str) -> None:
    """Fill a log, with its views, and close it."""
    with customers.open(url) as running:
        filled(running)
        running.view(People).get(since=running.log.head, wait_seconds_max=WAIT)
        running.view(Person).rows(since=running.log.head, wait_seconds_max=WAIT)


def test_what_has_a_tag_is_gone_from_all_files_and_the_rest_is_as_it_was(url: str) -> None:
    """Input, events, answers and refusals of one customer: the text is in no file, the chain holds, the others are untouched."""
    closed(url)
    assert files_with(url, SECRET) == ["log.db", "log.views.db"]
    with h.open_log(url) as log:
        before = log.verify()
        others = [record for record in log.read() if ("customer", "c-2") in record.tags]

    dry = h.erase(url, ("customer", "c-1"), dry_run=True, **BY)
    assert files_with(url, SECRET) == ["log.db", "log.views.db"]
    found = h.erase(url, ("customer", "c-1"), **BY)

    assert files_with(url, SECRET) == []
    assert (found.scrubbed, dry.position, dry.records) == (True, 0, found.records)
    assert found.kinds == dry.kinds == {"input": 5, "internal": 3, "answer": 3, "output": 1}
    with h.open_log(url) as log:
        after = log.verify()
        [said] = [record for record in log.read() if record.name == "erasure"]
        assert [record for record in log.read() if ("customer", "c-2") in record.tags] == others
        assert [
            record for record in log.read() if record.position not in range(said.position, said.position + 1) and "c-1" in str(record.body)
        ] == []
    assert (after.position, after.erased, after.unexplained) == (before.position + 1, found.records, 0)
    assert (said.kind, said.actor, said.body["reason"], said.body["by"]) == ("system", "ann", "she has asked for it", "tag customer")
    assert sum(last - first + 1 for first, last in said.body["positions"]) == found.records
    with customers.open(url) as running:
        running.log.verify()
        assert running.state(Person, "c-1") is None
        assert running.states(Person).keys() == {("c-2",)}
        assert running.view(People).get(since=running.log.head, wait_seconds_max=WAIT).count == 1
        assert running.view(Person).find("c-1") is None
    assert files_with(url, SECRET) == []


def test_a_key_that_a_decider_asked_its_world_for_is_in_no_header(url: str) -> None:
    """A header is part of the chain and stays: what was read is told there by the name of the state and its version."""

    def recommend(command: Order, world: h.World) -> Iterator[Called]:
        yield Called(command.customer, world.state(Person, command.what).calls, "recommended")

    app = h.App("customers", records=[Met], deciders=[recommend])
    with app.open(url, run=False) as running:
        running.record(Met(SECRET, "Rosalind"), id="met-1")
        running.dispatch(Order("c-2", SECRET), id="order-1")

        running.erase(("customer", SECRET), **BY)
        running.erase("order-1", **BY)

    assert files_with(url, SECRET) == []


def test_what_is_packed_or_snapped_is_gone_too(url: str) -> None:
    """A segment of the cold part is packed anew, and snapshots, which may hold what was erased, are no longer used and no longer there."""
    closed(url)
    with customers.open(url, run=False) as running:
        compact(running.log, keep=2)
        running.snapshots.take(fold_of(Person), running.log.head)
        running.snapshots.renew(fold_of(Person))
        assert {state.name for state in running.at(running.log.head).states(Person).values()} == {SECRET, "Max"}

        running.erase(("customer", "c-1"), **BY)

        assert running.state(Person, "c-1") is None
        assert [state.name for state in running.at(running.log.head).states(Person).values()] == ["Max"]
        running.log.verify()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///").replace("log.db", "log.snapshots.db"))) as file:
        assert file.execute("select count(*) from _chunk").fetchall() == [(0,)]
    with customers.open(url) as running:
        assert running.state(Person, "c-1") is None
        assert running.state(Person, "c-2") is not None
        assert [record for record in running.log.read() if SECRET in str(record.body)] == []
        assert running.log.verify().erased > 0


def test_an_id_is_erased_with_all_that_its_message_has_recorded(url: str) -> None:
    """The id stays used: whatever comes under it is its repetition. A record that has an id of its own is erased alone."""
    closed(url)
    with customers.open(url, run=False) as running:
        [event] = [record for row in running.log.find("call-1") for record in running.log.reader.records(row) if record.kind == "internal"]
        alone = running.erase(event.id, **BY)
        assert (alone.records, alone.names) == (1, {"Called": 1})
        rest = running.erase("call-1", **BY)
        assert rest.kinds == {"input": 1, "answer": 1}
        assert running.erase("call-1", **BY).records == 0
        assert running.dispatch(Order("c-9", "anything"), id="order-2").repeated is False
        running.log.verify()
        with pytest.raises(h.NotThere):
            running.erase("nobody", **BY)
    with customers.open(url, run=False) as running:
        assert running.log.verify().unexplained == 0


def test_answers_that_are_kept_for_a_retry_go_with_the_id(url: str) -> None:
    """A command has failed on what it was answered, and something else was recorded under its id: whoever erases that erases the answers, too."""

    def fail(command: Call, world: h.World) -> Iterator[Called]:
        yield Called(command.customer, 1, world.ask(mood, command.customer) + str(1 // 0))

    with h.App("customers", records=[Met], deciders=[fail], gateways=[mood]).open(url, run=False) as running:
        with pytest.raises(ZeroDivisionError):
            running.dispatch(Call("c-1", "hello"), id="x")
        assert SECRET in running.log.engine.notes("answers/x")["answers/x"]
        running.record(Met("c-2", "Max"), id="x")

        assert running.erase("x", **BY).notes == 1

        assert running.log.engine.notes("answers/") == {}
    assert files_with(url, SECRET) == []


def test_what_is_kept_of_somebody_beside_or_behind_his_records_goes_with_the_tag(url: str) -> None:
    """Answers for a retry, what could not be done, a command that is to come, and what was published without the tag. That of others stays."""

    class Known(h.Event):
        name: str

    def fail(command: Call, world: h.World) -> Iterator[Called]:
        yield Called(command.customer, 1, world.ask(mood, command.customer) + str(1 // 0))

    def call_later(event: Met) -> Iterator[h.Later[Call]]:
        yield h.Later(Call(event.customer, event.name), after=timedelta(days=30))

    def known(event: Met) -> Known:
        return Known(event.name)

    app = h.App("customers", records=[Met], deciders=[fail], gateways=[mood], reactions=[call_later], publications=[known])
    with app.open(url) as running:
        for customer, name in (("c-1", SECRET), ("c-2", "Max")):
            running.settled(running.record(Met(customer, name)), wait_seconds_max=WAIT)
            with pytest.raises(ZeroDivisionError):
                running.dispatch(Call(customer, "hello"), id=f"call-{customer}")
            failing = encode(Failing(f"reaction/of-{customer}", f"ValueError: {customer} {name}", 1))
            unread = encode({"position": 1, "error": f"nobody knows {customer}"})
            commit = Commit(notes={f"{FAILING}of-{customer}": failing.decode(), f"{UNREAD_NOTE}crm/of-{customer}": unread.decode()})
            running.log.engine.append(partial(said, commit), EVERYTHING_SEEN)
        before = running.log.engine.notes("")

        found = running.erase(("customer", "c-1"), **BY)

        after = running.log.engine.notes("")
        assert [one.name for one in found.published] == ["Known"]
        assert found.names == {"Met": 1, "schedule": 1, "Known": 1}
        assert {key for key in before.keys() - after.keys() if not key.startswith("timer/")} == {"answers/call-c-1", f"{FAILING}of-c-1"}
        assert len([key for key in before.keys() - after.keys() if key.startswith("timer/")]) == 1
        assert [customer in after[f"{UNREAD_NOTE}crm/of-{customer}"] for customer in ("c-1", "c-2")] == [False, True]
        running.log.verify()
    assert files_with(url, SECRET) == []


def test_tags_that_are_kept_lead_to_what_is_left(url: str) -> None:
    """A pseudonym may stay, to say that there was something."""
    closed(url)
    found = h.erase(url, ("customer", "c-1"), keep=["customer"], **BY)

    with h.open_log(url) as log:
        left = list(log.read(h.query(customer="c-1")))
        log.verify()
    assert left
    assert all(record.body is None and record.tags == (("customer", "c-1"),) for record in left)
    assert found.records > len(left)


def test_states_forget_what_is_erased_also_where_that_is_interrupted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes after the commit, before the states are let go."""
    let_go = Writer.let_go

    def interrupted(writer: Writer) -> None:
        monkeypatch.setattr(Writer, "let_go", let_go)
        raise KeyboardInterrupt

    with customers.open(url, run=False) as running:
        filled(running)
        assert running.state(Person, "c-1") is not None
        monkeypatch.setattr(Writer, "let_go", interrupted)
        with pytest.raises(KeyboardInterrupt):
            running.erase(("customer", "c-1"), **BY)

        assert running.state(Person, "c-1") is None
        assert running.dispatch(Order("c-1", "tea")).events != ()
        assert running.log.verify().erased > 0


@pytest.mark.parametrize("where", ["this process", "another"])
def test_states_in_memory_forget_before_the_next_decision(url: str, where: str) -> None:
    """A decision after the erasure is made on what the log says then, whoever has erased."""
    with customers.open(url, run=False) as running:
        filled(running)
        known = running.state(Person, "c-1")
        assert known is not None
        assert known.calls == 3
        if where == "another":
            h.erase(url, ("customer", "c-1"), **BY)
        else:
            running.erase(("customer", "c-1"), **BY)

        receipt = running.dispatch(h_call("c-1"))

        assert isinstance(receipt.events[0], Called)
        assert receipt.events[0].nth == 1
        now = running.state(Person, "c-1")
        assert now is not None
        assert now.calls == 1
        running.log.verify()


def h_call(customer: str) -> Call:
    """Return a call."""
    return Call(customer, "again")


def test_a_decision_that_shares_the_moment_is_not_made_on_what_is_erased(url: str) -> None:
    """What waits while the erasure has the lock is decided after it, on states without it."""
    with customers.open(url, run=False) as running:
        filled(running)
        running.state(Person, "c-1")
        choice = Choice(running.log, ("customer", "c-1"), ())
        for rows in running.log.engine.read():
            choice.look(rows)
        meanwhile = running.dispatch(h_call("c-1"))  # recorded after the log was looked through
        job = Erasing(running.log, choice, actor="ann", reason="")
        running.log.writer.alone(job, 10)

        assert [event.nth for event in meanwhile.events] == [4]
        assert [event.nth for event in running.dispatch(h_call("c-1")).events] == [1]
        row = running.log.row_at(meanwhile.position)
        assert row is not None
        assert "again" not in f"{row.input}{row.records}"
        running.log.verify()


def test_views_of_a_process_that_runs_are_folded_anew(url: str) -> None:
    """It goes on all the time, and another process erases: nobody is answered from what is gone, and the rest is there again."""
    with customers.open(url) as running:
        filled(running)
        view, people = running.view(Person), running.view(People)
        view.get("c-1", since=running.log.head, wait_seconds_max=WAIT)

        found = h.erase(url, ("customer", "c-1"), **BY)

        assert view.find("c-1", since=found.position, wait_seconds_max=WAIT) is None
        assert view.get("c-2", since=found.position, wait_seconds_max=WAIT).calls == 1
        assert people.get(since=found.position, wait_seconds_max=WAIT).count == 1
        running.erase(("customer", "c-2"), **BY)
        assert view.find("c-2", since=running.log.head, wait_seconds_max=WAIT) is None
    assert files_with(url, SECRET) == []


@pytest.mark.parametrize("of", ["memory", "branch", "saved branch"])
def test_snapshots_of_what_is_erased_are_gone_wherever_they_lie(url: str, of: str) -> None:
    """In memory; and beside the file of a branch, whose own events are erased."""
    saved = url.replace("log.db", "saved.db")
    with customers.open("memory:" if of == "memory" else url, run=False) as running:
        filled(running)
        with running.branch(at=0) as branch:
            if of == "saved branch":
                branch.save(saved)
            with customers.open(saved, run=False) if of == "saved branch" else contextlib.nullcontext(branch) as other:
                one = running if of == "memory" else other
                one.snapshots.take(fold_of(Person), one.log.head)

                assert one.erase(("customer", "c-1"), **BY).scrubbed

                assert one.snapshots.file.listed() == []
    assert files_with(saved, SECRET) == (["log.db"] if of != "memory" else [])


@pytest.mark.parametrize("log", ["memory", "file"])
def test_views_in_memory_say_nothing_of_what_is_erased_from_then_on(url: str, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever follows them is stopped before he can see it: they are not answered from until they are folded anew."""
    armed, go = threading.Event(), threading.Event()
    real = Followers._erased_since

    def stalled(followers: Followers, builds: Sequence[ViewBuild[Any]]) -> bool:
        assert not armed.is_set() or go.wait(WAIT)
        return real(followers, builds)

    monkeypatch.setattr(Followers, "_erased_since", stalled)
    with customers.open("memory:" if log == "memory" else url, views="memory:") as running:
        filled(running)
        view = running.view(Person)
        view.get("c-1", since=running.log.head, wait_seconds_max=WAIT)
        armed.set()

        running.erase(("customer", "c-1"), **BY)

        asks: list[Callable[[], object]] = [lambda: view.find("c-1", wait_seconds_max=0), lambda: view.rows(wait_seconds_max=0)]
        for ask in asks:
            with pytest.raises(h.Late):
                ask()
        go.set()
        assert view.find("c-1", wait_seconds_max=WAIT) is None
        assert view.get("c-2", since=running.log.head, wait_seconds_max=WAIT).calls == 1


def test_views_are_folded_anew_whenever_between_two_looks_it_was_erased(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when whoever follows has just looked for erasures, before he reads how far he goes: nobody need record anything else for it to be seen."""
    armed, real = threading.Event(), latest_erasure

    def look(engine: Engine) -> int:
        found = real(engine)
        if armed.is_set() and threading.current_thread().name == "happened-views":
            armed.clear()
            with h.open_log(url) as log:
                erased(log, ("customer", "c-1"), **BY)
        return found

    monkeypatch.setattr(follower, "latest_erasure", look)
    with customers.open(url) as running:
        filled(running)
        view = running.view(Person)
        view.get("c-1", since=running.log.head, wait_seconds_max=WAIT)
        before = running.log.head

        armed.set()
        with customers.open(url, run=False) as other:  # what a process records itself is not read, and nothing is looked for then
            other.record(Met("c-3", "Eva"))
        until(lambda: running.log.head > before + 1)  # the erasure is recorded behind that

        assert view.find("c-1", since=running.log.head, wait_seconds_max=WAIT) is None
        assert view.get("c-3", since=running.log.head).name == "Eva"


def test_what_a_process_has_at_hand_and_another_has_erased_since_is_not_folded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that is begun after the erasure comes by small pages to what its own process has recorded, and keeps, and does not know yet to be erased."""
    monkeypatch.setattr(follower, "PAGE_ROWS", 2)
    monkeypatch.setattr(follower, "FAR", 1_000)  # it comes by page
    with customers.open(url) as running:
        view = running.view(Person)
        running.log.writer.latest.behind(0, 1)
        filled(running)
        view.get("c-1", since=running.log.head, wait_seconds_max=WAIT)

        for _ in range(3):
            found = h.erase(url, ("customer", "c-1"), **BY)
            running.rebuild(Person)

            assert view.find("c-1", since=found.position, wait_seconds_max=WAIT) is None
            running.record(Met("c-1", "Rosa"))
            assert view.get("c-1", since=running.log.head, wait_seconds_max=WAIT).name == "Rosa"


def test_a_view_is_folded_anew_where_it_was_erased_while_what_its_process_has_recorded_is_folded(url: str) -> None:
    """It has that at hand, and looks for no erasure; who erases here does not empty the view."""
    with customers.open(url) as running:
        filled(running)
        view, followers = running.view(Person), running._followers
        view.get("c-1", since=running.log.head, wait_seconds_max=WAIT)
        commit, armed, done = followers._commit, threading.Event(), threading.Event()

        def beside(builds: Any, pages: Any, last: Any) -> Any:
            if armed.is_set():
                armed.clear()
                with h.open_log(url) as log:
                    erased(log, ("customer", "c-1"), **BY)
                done.set()
            return commit(builds, pages, last)

        followers._commit = beside  # type: ignore[method-assign]  # between a page and its commit
        armed.set()
        running.record(Met("c-3", "Eva"))
        assert done.wait(WAIT)

        assert view.find("c-1", since=running.log.head, wait_seconds_max=WAIT) is None
        assert view.get("c-3", since=running.log.head).name == "Eva"


@pytest.mark.parametrize("by", ["this process", "another one"])
def test_a_view_of_the_past_says_nothing_of_what_is_erased_from_then_on(url: str, by: str) -> None:
    """It was folded before that, and is asked in every way there is: the rest of it is as it was."""
    with customers.open(url, run=False) as running:
        filled(running)
        past = running.at(running.log.head)
        person, people = past.view(Person), past.view(People)
        assert person.get("c-1").name
        assert people.get().count == 2
        narrowed = person.where(customer="c-1")
        assert len(narrowed.rows()) == 1

        if by == "this process":
            running.erase(("customer", "c-1"), **BY)
        else:
            h.erase(url, ("customer", "c-1"), **BY)

        assert (person.find("c-1"), person.position_of("c-1"), len(narrowed.rows())) == (None, None, 0)
        assert person.sql("select count(*) from Person") == [(1,)]
        assert person.get("c-2").calls == 1
        assert past.view(Person).find("c-1") is None
        assert people.get().count == 1
        assert past.state(Person, "c-1") is None
        with pytest.raises(h.Invalid, match="as of position"):
            person.get("c-2", since=running.log.head)


def test_views_that_were_emptied_are_not_answered_from_by_who_only_reads(url: str) -> None:
    """Nobody follows them: until somebody does, and they are whole again, an answer is late, and never that there is no row."""
    closed(url)
    with customers.open(url, run=False) as running:
        assert running.view(Person).get("c-2").calls == 1

        h.erase(url, ("customer", "c-1"), **BY)

        for ask in (running.view(Person).find, running.view(Person).position_of):
            with pytest.raises(h.Late):
                ask("c-2", wait_seconds_max=0.05)
        with pytest.raises(h.Late):
            running.view(Person).rows(wait_seconds_max=0.05)


def test_a_snapshot_of_before_an_erasure_is_not_used(url: str) -> None:
    """Another process has written it just then: what it holds may be what was erased."""
    closed(url)
    snapshots = Path(url.removeprefix("sqlite:///").replace("log.db", "log.snapshots.db"))
    with customers.open(url, run=False) as running:
        running.snapshots.take(fold_of(Person), running.log.head)
    kept = snapshots.read_bytes()
    h.erase(url, ("customer", "c-1"), **BY)
    for file in snapshots.parent.glob("log.snapshots.db-*"):
        file.unlink()
    snapshots.write_bytes(kept)

    with customers.open(url, run=False) as running:
        assert [one.wrong for one in running.snapshots.listed([fold_of(Person)])] == ["it was made by other code"]
        assert running.snapshots.since(fold_of(Person), running.log.head).position == 0
        assert running.state(Person, "c-1") is None


def test_views_elsewhere_are_folded_anew_when_they_are_opened(url: str, tmp_path: Path) -> None:
    """Nobody told the eraser of them."""
    views = f"sqlite:///{tmp_path}/elsewhere.db"
    with customers.open(url, views=views) as running:
        filled(running)
        running.view(Person).get("c-1", since=running.log.head, wait_seconds_max=WAIT)
    h.erase(url, ("customer", "c-1"), **BY)

    with customers.open(url, views=views) as running:
        assert running.view(Person).find("c-1", since=running.log.head, wait_seconds_max=WAIT) is None
        assert running.view(Person).get("c-2").calls == 1


def test_who_is_stopped_after_the_commit_can_go_on(url: str) -> None:
    """The bodies are gone from the rows, their bytes not yet from the file: a note says so, and whoever comes finishes it."""
    closed(url)
    with h.open_log(url) as log:
        erased(log, ("customer", "c-1"), **BY)
        assert is_unfinished(log)
        log.verify()
    assert files_with(url, SECRET) != []

    with h.open_log(url) as log:
        assert erased_in(log, None, url.replace(".db", ".views.db")).scrubbed
        assert not is_unfinished(log)
    assert files_with(url, SECRET) == []


def test_what_somebody_still_reads_is_not_said_to_be_gone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader holds the file as it was: erasing says that it is not at its end, and whoever comes later does the rest."""
    monkeypatch.setattr(sqlite, "SCRUB_SECONDS_MAX", 0.1)
    closed(url)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from log").fetchall()

        assert not h.erase(url, ("customer", "c-1"), **BY).scrubbed

        assert files_with(url, SECRET) != []
        with h.open_log(url) as log:
            assert is_unfinished(log)

    with h.open_log(url) as log:
        assert erased_in(log, None, url.replace(".db", ".views.db")).scrubbed
        assert not is_unfinished(log)
    assert files_with(url, SECRET) == []


ERASER = """
import sys
import happened as h
print("go", flush=True)
h.erase(sys.argv[1], ("customer", "c-1"), actor="ann", reason="asked")
print("done", flush=True)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment_leaves_a_whole_log_and_all_or_nothing(url: str, seed: int) -> None:
    """Whenever it comes, the log verifies, the customer is there whole or gone, and erasing once more finishes it."""
    closed(url)
    with h.open_log(url) as log:
        digest = log.verify().digest
    child = subprocess.Popen([sys.executable, "-c", ERASER, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "go\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.25))
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()

    with h.open_log(url) as log:
        verified = log.verify(noted=digest)
        assert verified.erased in (0, 12), f"seed {seed}"
    assert h.erase(url, ("customer", "c-1"), **BY).scrubbed
    assert files_with(url, SECRET) == [], f"seed {seed}"
    with h.open_log(url) as log:
        assert log.verify().erased == 12


def test_what_waits_for_its_decision_is_not_erased(url: str) -> None:
    """Somebody was promised an outcome: it comes first."""
    with customers.open(url, run=False) as running:
        running.enqueue(h_call("c-1"), id="later")
        with pytest.raises(h.Invalid, match="waits for its decision"):
            running.erase("later", **BY)
        running.log.verify()


@pytest.mark.parametrize("what", ["", ("customer",), ("", "x"), 7])
def test_what_is_neither_an_id_nor_a_tag_is_invalid(url: str, what: object) -> None:
    """Nothing is recorded."""
    with customers.open(url, run=False) as running, pytest.raises(h.Invalid):
        running.erase(what, **BY)  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize("keep", ["customer", [""], [7], 7])
def test_what_is_no_list_of_tags_is_not_taken_for_what_is_to_be_kept(url: str, keep: Any) -> None:
    """A text would be taken for its letters, and the tag that it names would be lost for good."""
    with customers.open(url, run=False) as running:
        receipt = running.record(Met("c-1", "Max"))
        with pytest.raises(h.Invalid, match=r"`keep` lists the tags"):
            running.erase(("customer", "c-1"), keep=keep, **BY)
        assert running.log.head == receipt.position


billing = h.App("billing", subscriptions={"crm": [DebtorMoved]}, replicas={"crm": [Debtor]})


@pytest.fixture
def systems(tmp_path: Path) -> Iterator[tuple[h.Running, h.Running]]:
    """Run two systems of which one listens to the other."""
    with crm.open(f"sqlite:///{tmp_path}/log.db") as one, billing.open(f"sqlite:///{tmp_path}/billing.db", channels={"crm": one}) as other:
        yield one, other


def test_what_was_published_is_listed_and_copies_are_made_anew(systems: tuple[h.Running, h.Running]) -> None:
    """What others were told is listed; the share begins a new generation without it, and copies follow."""
    one, other = systems
    one.record(Moved("c-1", SECRET, "France"))
    kept = one.record(Moved("c-2", "Main Street", "Spain"))
    other.replica(Debtor, "c-2", since=kept, wait_seconds_max=WAIT)
    until(lambda: len([1 for record in other.log.read() if record.name == "crm/AddressChanged"]) == 2)

    found = one.erase(("customer", "c-1"), **BY)

    assert sorted((told.what, told.name) for told in found.published) == [("notification", "AddressChanged"), ("share", "Card")]
    new = one.record(Left("c-2"))
    assert other.replica(Debtor, "c-2", since=new, wait_seconds_max=WAIT).state is None
    until(lambda: other.replica(Debtor, "c-1").state is None)
    one.log.verify()
    assert other.statistics()["replicas"][0]["state"] != "diverged"


@pytest.mark.parametrize("by", ["tag", "id", "tag, since it is read"])
def test_what_came_from_another_system_and_could_not_be_read_is_erased_too(tmp_path: Path, by: str) -> None:
    """By its id, and by the tag that our class of it has; also what came so and is read by now. That of others stays, and is read when it can be."""

    @h.named("AddressChanged", version=2)
    class Strange(h.Event):
        customer: Annotated[str, h.Tag("customer")]
        country: str

    def strange(old: h.Data) -> h.Data:
        if old["customer"] in wrong:
            raise ValueError(f"nobody knows {old['customer']}")
        return {"customer": old["customer"], "country": "none"}

    wrong = [SECRET, "Max"]
    billing = h.App("billing", subscriptions={"crm": [Strange]}, upcasts=[h.Upcast("crm/AddressChanged", 1, strange)])
    url = f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        with billing.open(url, channels={"crm": upstream}) as running:
            for customer in (SECRET, "Max"):
                upstream.record(Moved(customer, "High Street", "France"))
            until(lambda: len(running.statistics()["subscriptions"][0]["unread"]) == 2)
            first = running.statistics()["subscriptions"][0]["unread"][0]["id"]
        if by == "tag, since it is read":
            wrong.clear()
        with billing.open(url, channels={"crm": upstream}) as running:
            read = [] if wrong else [SECRET, "Max"]
            until(lambda: of_strange(running) == read)

            found = running.erase(first if by == "id" else ("customer", SECRET), **BY)

            assert found.records == 1 + len(read) // 2
            left = running.statistics()["subscriptions"][0]["unread"]
            assert len(left) == (0 if read else 1)
            assert SECRET not in str(left)
            running.log.verify()
        wrong.clear()
        with billing.open(url, channels={"crm": upstream}) as running:
            until(lambda: of_strange(running) == ["Max"])
    assert [name for name in files_with(url, SECRET) if name.startswith("billing")] == []


def said(commit: Commit, _: Unseen) -> Commit:
    """Commit this."""
    return commit


def of_strange(running: h.Running) -> list[str]:
    """Return of whom something strange was read."""
    found: list[Any] = [record.body for record in running.log.read(h.query(names=["crm/AddressChanged"]))]
    return [body.customer for body in found if body is not None and not isinstance(body, dict)]


def test_an_event_that_others_wait_for_is_not_erased(tmp_path: Path) -> None:
    """What waits for it would be forgotten with it; once it is parked they have gone on, and nothing is lost."""
    ways.clear()
    ways.failing = {1}
    with app.open(f"sqlite:///{tmp_path}/held.db") as running:
        running.record(Noted(1, ("a",)), id="held")
        running.record(Noted(2, ("a",)))
        until(lambda: running.stuck() != [])
        [held] = running.stuck()
        with pytest.raises(h.Invalid, match="those after it wait") as refused:
            running.erase("held", **BY)
        assert refused.value.facts["position"] == held.position
        running.decide_about("park", held.handler, held.position)
        until(lambda: done(running) == [2])
        assert running.erase("held", **BY).records == 1
        assert running.stuck() == []
        running.record(Noted(3, ("a",)))
        until(lambda: done(running) == [2, 3])
        running.log.verify()


def test_up_to_what_was_noted_it_is_known_who_erased(url: str) -> None:
    """That is said behind what is gone, so behind what was noted before, too."""
    closed(url)
    with h.open_log(url) as log:
        noted = log.verify()
    found = h.erase(url, ("customer", "c-1"), **BY)

    with h.open_log(url) as log:
        again = log.verify(noted=noted.digest)

    assert (again.position, again.erased, again.unexplained) == (noted.position, found.records, 0)
