"""A connection may be lost at any moment: nobody hears "failed" for what was recorded, and nothing is recorded twice."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any  # Any: what a question returns

import psycopg
import pytest

import happened as h
from happened.core.store import Commit, Row, Unseen, Wanted
from happened.log.row import decode_header
from happened.stores import postgres, postgres_tables
from happened.stores.postgres import PostgresStore
from happened.testing.rows import Fact, Scribe, check_whole, flat, read_by, terms_of, without
from tests.postgres_log.proxy import CLIENT, HOLD_COMMIT, LOSE_ANSWER, LOSE_COMMIT, SERVER, Line, Proxy
from tests.servers import Server, as_role_with, fresh, server


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(server()) as proxy:
        yield proxy


@pytest.fixture
def url() -> str:
    return fresh()


def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    return store


def kill_all(url: str) -> int:
    """End all connections to the server but this one; return how many there were."""
    with psycopg.connect(server().url, autocommit=True) as connection:
        found = connection.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'happened:%' and pid <> pg_backend_pid()"
        ).fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.parametrize("notes", [False, True])
@pytest.mark.parametrize("trouble", [LOSE_ANSWER, HOLD_COMMIT, LOSE_COMMIT])
def test_a_commit_whose_answer_is_lost_is_answered_by_what_took_place(url: str, proxy: Proxy, trouble: str, notes: bool) -> None:
    """Also where the server commits only later: its lock is waited for. What never came there is not recorded, and said so."""
    store = opened(proxy.url(url))
    scribe = Scribe(store)
    scribe.append(Fact(("a=1",)))
    proxy.trouble = trouble

    def append() -> None:
        if notes:
            store.append(lambda _unseen: Commit(notes={"a": "1"}), scribe.seen)
        else:
            scribe.append(Fact(("a=2",), id="second"))

    if trouble == LOSE_COMMIT:
        with pytest.raises(h.StoreFailed, match="nothing was recorded"):
            append()
    else:
        append()
    assert proxy.idle.wait(5)
    assert proxy.done == [trouble]
    recorded = trouble != LOSE_COMMIT
    assert store.notes("") == ({"a": "1"} if notes and recorded else {})
    assert len(store.find_id("second")) == (not notes and recorded)
    scribe.append(Fact(("a=3",), id="third"))
    rows = flat(store.read())
    check_whole(rows)
    assert len(rows) == 2 + (not notes and recorded)
    store.close()


@pytest.mark.parametrize("trouble", [LOSE_ANSWER, LOSE_COMMIT, HOLD_COMMIT])
def test_counts_that_went_with_a_commit_whose_answer_is_lost_count_once(
    url: str, proxy: Proxy, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They took place with it, or are written with the next one."""
    monkeypatch.setattr("happened.stores.samples.WRITTEN_AFTER_SECONDS", -1.0)
    store = opened(proxy.url(url))
    scribe = Scribe(store)
    scribe.append(Fact())
    store.sample("order", "failed", 5, "1")
    proxy.trouble = trouble
    with contextlib.suppress(h.StoreFailed):
        scribe.append(Fact())
    assert proxy.idle.wait(5)
    scribe.append(Fact())
    assert [tuple(one) for one in store.samples()] == [("order", "failed", 1, 5, "1")]
    store.close()


def test_what_took_place_is_learned_by_a_role_that_only_reads_unless_it_says_otherwise(url: str, proxy: Proxy) -> None:
    """The lock is taken for it: that is no transaction that only reads."""
    opened(url).close()
    theirs = as_role_with(url, "default_transaction_read_only = on")
    store = opened(proxy.url(theirs))
    proxy.trouble = LOSE_ANSWER
    [row] = Scribe(store).append(Fact())
    assert flat(store.read()) == [row]
    store.close()


def test_a_connection_that_was_lost_before_a_decision_is_made_anew(url: str) -> None:
    """Writers and readers go on, and nobody hears of it."""
    store = opened(url)
    scribe = Scribe(store)
    [first] = scribe.append(Fact(("a=1",), id="first"))

    assert kill_all(url) >= 1
    [second] = scribe.append(Fact(("a=1",)))
    assert kill_all(url) >= 1

    assert flat(store.read()) == [first, second]
    assert list(store.find_id("first")) == [first.position]
    store.close()


def test_a_connection_that_is_lost_in_a_decision_records_nothing(url: str) -> None:
    """The caller hears it, and the next one goes on."""
    store = opened(url)
    scribe = Scribe(store)
    [first] = scribe.append(Fact())

    def decide(unseen: Unseen) -> Commit:
        row = scribe.row_after(unseen.head, Fact(id="lost"))
        kill_all(url)
        return Commit([row], [terms_of(row)])

    with pytest.raises(h.StoreFailed, match="nothing was recorded"):
        store.append(decide, scribe.seen)
    [second] = scribe.append(Fact())
    assert flat(store.read()) == [first, second]
    store.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a filter of packets is of Linux")
def test_a_line_that_goes_silent_is_lost_after_a_while(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says that it broke. Who writes and who reads goes on by another one, long before the system itself gives it up."""
    monkeypatch.setattr(postgres_tables, "SILENT", dict.fromkeys(postgres_tables.SILENT, "1") | {"tcp_user_timeout": "1000"})
    with contextlib.closing(Line(server())) as line:
        store = opened(line.url(url))
        scribe = Scribe(store)
        rows = scribe.append(Fact(("a=1",)))
        assert flat(store.read()) == rows

        silent = line.go_silent()
        done: list[list[Row]] = []
        using = threading.Thread(target=lambda: done.append([*flat(store.read()), *scribe.append(Fact())]), daemon=True)
        using.start()
        using.join(60)

        assert silent == 2
        assert done == [flat(store.read())]
        assert len(done[0]) == 2
        store.close()


def test_a_server_that_is_started_again_is_found_again(url: str) -> None:
    """What was acknowledged is there; who waits for the server waits for so long as he said."""
    own = Server()
    try:
        store = opened(f"{own.url}&schema=kept")
        scribe = Scribe(store)
        rows = [scribe.append(Fact((f"a={n}",)))[0] for n in range(5)]
        own.stop()
        with pytest.raises(h.StoreFailed, match="can't be reached"):
            scribe.append(Fact(), wait_seconds_max=0.2)
        with pytest.raises(h.StoreFailed, match="can't be reached"):
            flat(store.read())
        waiting = threading.Thread(target=lambda: rows.extend(scribe.append(Fact(("late=1",)))))
        waiting.start()
        own.start()
        waiting.join()

        assert flat(store.read()) == rows
        assert len(rows) == 6
        store.close()
    finally:
        own.remove()


def test_the_same_id_is_recorded_once_whatever_is_lost(url: str, proxy: Proxy) -> None:
    """An app that dispatches every id again until it has a receipt has each once."""

    class Count(h.Command):
        number: int

    class Counted(h.Event):
        number: int

    def count(command: Count) -> list[Counted]:
        return [Counted(command.number)]

    app = h.App("count", deciders=[count])
    heard: list[str] = []
    with app.open(proxy.url(url)) as running:
        for number in range(30):
            proxy.trouble = (LOSE_ANSWER, LOSE_COMMIT, HOLD_COMMIT)[number % 3]
            proxy.hold_seconds = 0.02
            for _ in range(5):
                try:
                    running.dispatch(Count(number), id=f"count-{number}")
                except h.StoreFailed as error:
                    heard.append(str(error))
                else:
                    break
        assert [record.body.number for record in running.log.read(h.query(names=["Counted"]))] == list(range(30))
        assert proxy.idle.wait(5)
        assert proxy.done.count(LOSE_COMMIT) == 10
        assert len(heard) < 3  # who decided before he had the lock decides again under it, and nobody hears of what was surely not recorded
        assert running.log.verify().position == running.log.head


def test_who_waits_is_woken_across_processes_and_without_a_notice_looks_himself(url: str) -> None:
    """By the notice soon; where it is lost within about a second."""
    waiting, writing = opened(url), opened(url)
    seen: list[tuple[int, float]] = []

    def wait() -> None:
        started = time.monotonic()
        seen.append((waiting.wait(0, 20), time.monotonic() - started))

    thread = threading.Thread(target=wait)
    thread.start()
    Scribe(writing).append(Fact())
    thread.join()
    with psycopg.connect(server().url, autocommit=True) as other:  # a commit that nobody tells of
        head = writing.where.sql("update @head set position = position + 1").decode()
        thread = threading.Thread(target=lambda: seen.append((waiting.wait(1, 20), 0)))
        thread.start()
        other.execute(head.encode())
        thread.join()
        other.execute(writing.where.sql("update @head set position = position - 1"))
    waiting.close()
    writing.close()
    assert [position for position, _ in seen] == [1, 2]


def test_a_notice_wakes_who_waits_long_before_he_would_look(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks ten times a second finds what is new without one: here he would look after minutes."""
    monkeypatch.setattr(postgres, "LOOK_SECONDS", 1000.0)
    found: list[int] = []
    with contextlib.closing(opened(url)) as waiting, contextlib.closing(opened(url)) as writing:
        scribe = Scribe(writing)
        scribe.append(Fact())

        def wait(after: int) -> None:
            found.append(waiting.wait(after, 60))

        for position in (1, 2, 3):
            thread = threading.Thread(target=wait, args=(position,))
            thread.start()
            while not waiting._told:  # he listens, and has looked once since
                time.sleep(0.01)
            scribe.append(Fact())
            thread.join(20)
            assert found[-1:] == [position + 1]


def test_nobody_is_told_where_nobody_listens(url: str) -> None:
    """A notice costs as much as a small commit. Who begins to listen says so, and is told from then on."""
    writing, waiting = opened(url), opened(url)
    scribe = Scribe(writing)
    scribe.append(Fact())
    assert [thread.name for thread in writing._threads] == []

    threads = [threading.Thread(target=waiting.wait, args=(position, 20)) for position in range(1, 4)]
    for thread in threads:
        thread.start()
    listens = "select 1 from pg_locks where locktype = 'advisory' and granted and ((classid::bigint << 32) | objid::bigint) = %s"
    with psycopg.connect(server().url, autocommit=True) as connection:
        while connection.execute(listens, (writing._listeners,)).fetchone() is None:
            time.sleep(0.01)
    for thread in threads:
        scribe.append(Fact())
        thread.join()
    assert [thread.name for thread in writing._threads] == ["happened-notify"]
    waiting.close()
    writing.close()


def append_through(store: PostgresStore, scribe: Scribe, what: str, number: int) -> str:
    """Append a row, a note or both; return what the caller hears."""
    notes = {"note": str(number)} if what != "row" else {}
    facts = [Fact((f"n={number}",), 16, 1 + number % 3, id=f"id-{number}")] if what != "note" else []
    try:
        scribe.append(*facts, notes=notes)
    except h.StoreFailed as error:
        return "failed" if "nothing was recorded" in str(error) else str(error)
    return "recorded"


@pytest.mark.parametrize("what", ["row", "note", "both"])
@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_whichever_message_is_the_last_one_that_comes_through_the_answer_is_true(url: str, proxy: Proxy, side: str, what: str) -> None:
    """A connection is broken off before each message of an append in turn, of the client or of the server: whoever hears "recorded" finds it, else nobody."""
    store, other = opened(proxy.url(url)), opened(url)
    scribe = Scribe(store)
    heard = {"recorded": 0, "failed": 0}
    number = 0
    append_through(store, scribe, what, 0)
    for number in range(1, 60):
        broken = len(proxy.broken)
        proxy.cut = (side, number)
        answer = append_through(store, scribe, what, number)
        proxy.cut = None
        heard[answer] += 1
        rows, notes = flat(other.read()), other.notes("note")
        there = bool(other.find_id(f"id-{number}")) if what != "note" else notes["note"] == str(number)
        assert there == (answer == "recorded"), number
        assert what != "both" or (notes["note"] == str(number)) == there, number
        check_whole(rows)
        if len(proxy.broken) == broken:
            break
    assert len(proxy.broken) > 5, "each message was the last one once"
    assert number < 59, "all of them were"
    print(side, what, len(proxy.broken), heard)
    store.close()
    other.close()


def test_a_note_that_others_have_written_since_is_not_said_to_have_failed(url: str, proxy: Proxy) -> None:
    """The commit took place, its answer was lost, and before anybody could look another process wrote the same note: that is unknown, not failed."""
    store, other = opened(proxy.url(url)), opened(url)
    proxy.trouble = LOSE_ANSWER
    proxy.then = lambda: other.append(lambda _: Commit(notes={"a": "others"}), 1 << 62)
    with pytest.raises(h.OutcomeUnknown):
        store.append(lambda _: Commit(notes={"a": "mine"}), 1 << 62)
    assert store.notes("") == {"a": "others"}
    store.close()
    other.close()


def test_a_row_that_others_have_erased_since_is_recorded(url: str, proxy: Proxy) -> None:
    store, other = opened(proxy.url(url)), opened(url)
    scribe = Scribe(store)

    def erase() -> None:
        [row] = flat(other.read())
        other.append(lambda _: Commit(notes={"erased": "1"}, instead=[without(row)]), 1 << 62)

    proxy.trouble, proxy.then = LOSE_ANSWER, erase
    [row] = scribe.append(Fact(id="first"))
    assert flat(store.read()) == [without(row)]
    store.close()
    other.close()


def test_what_decide_raises_is_passed_on_also_where_it_is_an_error_of_the_driver(url: str) -> None:
    """Code that decides may use the same driver for a database of its own."""
    store = opened(url)
    error = psycopg.OperationalError("of another database")

    def decide(_: Unseen) -> Commit:
        raise error

    with pytest.raises(psycopg.OperationalError) as raised:
        store.append(decide, 0)
    assert raised.value is error
    Scribe(store).append(Fact())
    store.close()


@pytest.mark.parametrize(
    "setting", ["default_transaction_isolation = 'serializable'", "default_transaction_read_only = on", "lock_timeout = 1"]
)
def test_what_a_role_has_set_for_its_transactions_does_not_matter(url: str, setting: str) -> None:
    """Many threads on two stores: each transaction says itself what it is."""
    opened(url).close()
    theirs = as_role_with(url, setting)
    stores = [opened(theirs) for _ in range(2)]

    def work(worker: int) -> None:
        scribe = Scribe(stores[worker % 2], actor=str(worker))
        for n in range(20):
            scribe.append(Fact((f"w={worker}",), id=f"{worker}-{n}"))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = flat(stores[0].read())
    check_whole(rows)
    assert len(rows) == 80
    for store in stores:
        store.close()


def test_a_session_that_the_server_ends_for_idling_is_not_noticed(url: str) -> None:
    """Both who writes and who reads connect again."""
    store = opened(f"{url}&options=-c%20idle_session_timeout%3D30")
    scribe = Scribe(store)
    for _ in range(3):
        scribe.append(Fact())
        time.sleep(0.1)
        assert flat(store.read())
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the driver, where connecting is interrupted
def test_an_interrupt_at_any_moment_leaves_no_lock_and_no_half_commit(url: str) -> None:
    """It comes a little later each time: others write on at once, and what was recorded is whole and found."""
    store, other = opened(url), opened(url)
    scribe, beside = Scribe(store), Scribe(other)
    scribe.append(Fact(("a=1",), 16))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    interrupted = number = 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(1, 200):
            scribe.append(Fact())  # on a connection that is there
            try:
                signal.setitimer(signal.ITIMER_REAL, number * 40e-6)
                scribe.append(Fact((f"n={number}",), 16 + number % 3, id=f"id-{number}"), wait_seconds_max=5)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert beside.append(Fact((f"o={number}",), 16), wait_seconds_max=5)
            scribe.seen = beside.seen
            there = [row for row in flat(other.read()) if decode_header(row.head).id == f"id-{number}"]
            assert [row.position for row in there] == list(other.find_id(f"id-{number}")), number
            for wanted in ([Wanted((f"n={number}",))], [Wanted((), (16 + number % 3,))]):
                assert {row.position for row in there} <= {row.position for row in flat(other.read(wanted=wanted))}, number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    print(f"interrupted {interrupted} times")
    assert 0 < interrupted < number
    scribe.append(Fact())
    check_whole(flat(store.read()))
    store.close()
    other.close()


def test_a_connection_on_which_something_was_left_open_is_not_used(url: str) -> None:
    """As where an interrupt came in the midst of taking something back: whoever commits next does so on another one."""
    store = opened(url)
    scribe = Scribe(store)
    rows = scribe.append(Fact())
    store._writer.execute("begin")
    with pytest.raises(psycopg.errors.DivisionByZero):
        store._writer.execute("select 1 / 0")

    rows += scribe.append(Fact())

    assert flat(store.read()) == rows
    store.close()


def test_who_waits_takes_no_notice_of_what_says_nothing(url: str) -> None:
    """A notice of somebody else, or of a history that is gone, wakes nobody for ever, and those that come after are heard."""
    waiting, writing = opened(url), opened(url)
    asked = 0
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(waiting.wait(0, 20)))
    real = waiting._asked

    def counted(*values: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        return real(*values, **named)

    waiting._asked = counted  # type: ignore[method-assign]  # to count the questions
    thread.start()
    with psycopg.connect(server().url, autocommit=True) as connection:
        for text in ("nonsense", "", "-1", "99999999999999999999", "9" * 5_000, "7"):
            connection.execute("select pg_notify(%s, %s)", (f"happened_{waiting.where.schema}", text))
        time.sleep(0.3)
    assert asked < 10
    assert [thread.is_alive() for thread in waiting._threads if thread.name == "happened-listen"] == [True]
    Scribe(writing).append(Fact())
    thread.join(10)
    assert found == [1]
    waiting.close()
    writing.close()


@pytest.mark.parametrize("seconds", [0, -1, 1e12, float("inf")])
def test_any_time_may_be_waited_for(url: str, seconds: float) -> None:
    store = opened(url)
    assert Scribe(store).append(Fact(), wait_seconds_max=seconds)
    assert store.wait(0, seconds) == 1
    store.close()
