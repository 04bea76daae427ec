"""A connection may be lost at any moment: nobody hears "failed" for what was recorded, and nothing is recorded twice."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

import happened as h
from happened.core.store import Commit, Unseen
from happened.stores.postgres import PostgresStore
from happened.testing.rows import Fact, Scribe, check_whole, flat, read_by, terms_of
from tests.postgres_log.proxy import HOLD_COMMIT, LOSE_ANSWER, LOSE_COMMIT, Proxy
from tests.servers import Server, fresh, server


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
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'happened' and pid <> pg_backend_pid()"
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
        assert len(heard) == proxy.done.count(LOSE_COMMIT) == 10
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
