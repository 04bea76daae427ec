"""What other stores have got wrong, by the recipes that were published: conditions that many pass at once, and readers that miss what was committed late."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any  # Any: what a thread comes to

import psycopg
import pytest

import happened as h
from happened.core.errors import Error
from happened.stores.postgres_tables import where_in
from tests.faults.model import Balance, Deposited, Received, app, others_go_on
from tests.semantics.faults import Faulty, install

HANDLES, RACERS, ROUNDS = 4, 16, 5


@pytest.fixture
def handles(url: str) -> Generator[Sequence[h.Running]]:
    """Return the log as several processes would have it open."""
    with ExitStack() as at_end:
        yield [at_end.enter_context(app.open(url, run=False)) for _ in range(HANDLES)]


def raced(racers: int, race: Callable[[int], Any]) -> list[Any]:
    """Have each racer do it in a thread of its own; return what came of each, in order, errors of ours too."""
    found: list[Any] = [None] * racers

    def run(racer: int) -> None:
        try:
            found[racer] = race(racer)
        except Error as error:
            found[racer] = error

    threads = [threading.Thread(target=run, args=(racer,)) for racer in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# --- conditions


def test_of_many_who_have_read_the_same_exactly_one_appends(handles: Sequence[h.Running]) -> None:
    """All have read before anybody appends: each saw that nothing was in its way."""
    for place in range(ROUNDS):
        query = h.query(names=["Received"], sku=f"place-{place}")
        have_read = threading.Barrier(RACERS)

        def race(racer: int, place: int = place, query: h.Query = query, have_read: threading.Barrier = have_read) -> h.Receipt:
            log = handles[racer % HANDLES].log
            head = log.head
            assert list(log.read(query, until=head)) == []
            have_read.wait()
            return log.append(Received(f"place-{place}", racer), unless=h.Boundary(query, head))

        found = raced(RACERS, race)

        [winner] = [one for one in found if isinstance(one, h.Receipt)]
        losers = [one for one in found if isinstance(one, h.Conflict)]
        assert len(losers) == RACERS - 1
        assert {one.facts["found"] for one in losers} == {winner.position}
        assert [record.position for record in handles[0].log.read(query)] == [winner.position]
    handles[0].log.verify()


def test_what_is_recorded_between_a_look_at_the_head_and_the_reading_is_not_passed_over(handles: Sequence[h.Running]) -> None:
    """The reading ends where the head was; what others have recorded since is in the way, though the reader could have seen it."""
    mine, other = handles[0].log, handles[1].log
    query = h.query(sku="nut")
    head = mine.head

    other.append(Received("nut", 1))

    assert list(mine.read(query, until=head)) == []
    assert len(list(mine.read(query, after=head))) == 1
    with pytest.raises(h.Conflict):
        mine.append(Received("nut", 2), unless=h.Boundary(query, head))


@pytest.mark.parametrize("what", ["another tag", "another name", "another value beside"])
def test_of_many_whose_conditions_do_not_meet_all_append(handles: Sequence[h.Running], what: str) -> None:
    """They share a name, or a tag, or a value of a tag: none is refused for it."""

    def condition(racer: int) -> tuple[h.Loose, h.Query]:
        if what == "another tag":
            return h.Loose("Seen", {}, (("racer", str(racer)),)), h.query(names=["Seen"], racer=racer)
        if what == "another name":
            return h.Loose(f"Seen{racer}", {}, (("place", "one"),)), h.query(names=[f"Seen{racer}"], place="one")
        tags = (("place", "one"), ("place", f"own-{racer}"))
        return h.Loose("Seen", {}, tags), h.Query((h.Item(frozenset(["Seen"]), frozenset(tags)),))

    start = threading.Barrier(RACERS)

    def race(racer: int) -> h.Receipt:
        log = handles[racer % HANDLES].log
        fact, query = condition(racer)
        start.wait()
        return log.append(fact, unless=h.Boundary(query))

    found = raced(RACERS, race)

    assert [type(one) for one in found] == [h.Receipt] * RACERS
    for racer in range(RACERS):
        fact, query = condition(racer)
        with pytest.raises(h.Conflict):
            handles[racer % HANDLES].log.append(fact, unless=h.Boundary(query))
    handles[0].log.verify()


# --- readers


@contextmanager
def pauses_before_commits(url: str, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Have every fifth commit come up to ten milliseconds after its rows were written: in a file before `commit` is said, in PostgreSQL by a trigger that waits until then."""
    if url.startswith("sqlite"):
        chance = random.Random(1)

        def hook(_connection: Faulty, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
            if sql.lower().startswith("commit") and chance.random() < 0.2:
                time.sleep(chance.random() * 0.01)
            return run()

        install(monkeypatch).hook = hook
        yield
        return
    app.open(url, run=False).close()
    where = where_in(url)
    with psycopg.connect(url.partition("&schema")[0], autocommit=True) as connection:
        connection.execute(
            where.sql(
                """create function @pause() returns trigger language plpgsql as $$
                begin
                    if random() < 0.2 then perform pg_sleep(random() * 0.01); end if;
                    return null;
                end $$"""
            )
        )
        connection.execute(
            where.sql(
                "create constraint trigger pause after insert on @log deferrable initially deferred for each row execute function @pause()"
            )
        )
    yield


def test_a_reader_misses_nothing_though_commits_come_late(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many write, and some pause between their rows and the commit: whoever follows sees each position once, in order, and so does a view."""
    writers, each = 8, 40
    with pauses_before_commits(url, monkeypatch), ExitStack() as at_end:
        written = [at_end.enter_context(app.open(url, run=False)) for _ in range(HANDLES)]
        reading = at_end.enter_context(app.open(url))
        followed: list[h.Record] = []
        ended = threading.Event()

        def follow() -> None:
            while not ended.is_set() or followed[-1].position < reading.log.head:
                last = followed[-1].position if followed else 0
                reading.log.wait(last, 0.05)
                followed.extend(reading.log.read(after=last))

        def write(writer: int) -> None:
            for _ in range(each):
                written[writer % HANDLES].record(Deposited(f"a-{writer % 3}", 1))

        following = threading.Thread(target=follow)
        following.start()
        raced(writers, write)
        ended.set()
        following.join()

        assert [one.position for one in followed] == list(range(1, reading.log.head + 1))
        assert sum(isinstance(one.body, Deposited) for one in followed) == writers * each
        rows = reading.view(Balance).rows(since=reading.log.head)
        assert sum(row.changes for row in rows) == writers * each
        reading.log.verify()


def test_an_old_reader_of_the_file_holds_up_nobody(tmp_path: Path) -> None:
    """Somebody else's transaction goes on reading what was there when it began; all others write, wait, read and fold on."""
    url = f"sqlite:///{tmp_path}/log.db"
    with app.open(url) as running, app.open(url, run=False) as other:
        other.record(Deposited("a", 1))
        with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as old:
            old.execute("begin")
            before = old.execute("select count(*) from log").fetchone()

            others_go_on(running, other)

            assert old.execute("select count(*) from log").fetchone() == before
        running.log.verify()
