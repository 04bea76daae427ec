"""Who decides before he has the lock: what he decided stands only where the log stands as it did, else it is decided once more under the lock."""

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import psycopg
import pytest

import happened as h
from happened.core.store import Commit, Row, Unseen, Wanted
from happened.log.log import EVERYTHING_SEEN
from happened.log.writer import Batch, Draft
from happened.stores import postgres_wire as wire
from happened.stores.postgres import CROWDED_COMMITS, PostgresStore, Standing
from happened.stores.postgres_tables import where_in
from happened.testing.rows import Fact, Scribe, check_whole, flat, read_by, terms_of, without
from tests.postgres_log.proxy import HOLD_COMMIT, LOSE_ANSWER, LOSE_COMMIT, Proxy
from tests.semantics.model import Balance, Deposit, Transfer, bank
from tests.servers import fresh, server


@pytest.fixture
def url() -> str:
    return fresh()


def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    return store


def facts(scribe: Scribe, *facts: Fact, then: Callable[[], object] = lambda: None) -> Callable[[Unseen], Commit]:
    """Decide on facts, after which something else happens."""

    def decide(unseen: Unseen) -> Commit:
        rows = [scribe.row_after(unseen.head, fact) for fact in facts]
        then()
        return Commit(rows, [terms_of(row) for row in rows])

    return decide


def test_where_nobody_comes_between_it_stands(url: str) -> None:
    """Rows, index and ids are those of an append under the lock; also where nothing is written."""
    store, other = opened(url), opened(url)
    scribe = Scribe(store)
    rows = scribe.append(Fact(("x=1",), 16, id="first"))
    for n in range(5):
        head = store.append_ahead(facts(scribe, Fact((f"n={n}",), 17, 2, id=f"id-{n}")), scribe.seen)
        assert head is not None
        scribe.seen = head.position
        assert store.append_ahead(lambda _: Commit(), scribe.seen) == head
    rows = flat(other.read())
    check_whole(rows)
    assert len(rows) == 6
    for n in range(5):
        assert list(other.find_id(f"id-{n}")) == [rows[n + 1].position]
    assert Scribe(other).append(Fact())[0].position == 12
    store.close()
    other.close()


@pytest.mark.parametrize("what", ["row", "nothing"])
@pytest.mark.parametrize("how", ["recorded", "erased"])
def test_where_others_come_between_nothing_is_stored(url: str, how: str, what: str) -> None:
    """And for some time nobody tries again: they are likely to do so once more."""
    store, other = opened(url), opened(url)
    scribe, beside = Scribe(store), Scribe(other)
    [first] = scribe.append(Fact(("x=1",), 16))

    def between() -> None:
        if how == "recorded":
            beside.append(Fact(("x=2",), 16))
        else:
            other.append(lambda _: Commit(notes={"erased": "1"}, instead=[without(first)]), 1 << 62)

    added = [Fact(("x=3",), 16)] if what == "row" else []
    assert store.append_ahead(facts(scribe, *added, then=between), scribe.seen) is None
    assert len(flat(other.read())) == (2 if how == "recorded" else 1)
    rows = scribe.append(Fact(("x=3",), 16))
    assert flat(other.read())[-1] == rows[-1]
    check_whole(flat(other.read()) if how == "recorded" else [without(first), rows[-1]])

    tries = [store.append_ahead(facts(scribe), scribe.seen) for _ in range(CROWDED_COMMITS)]
    assert tries[0] is None or what == "nothing"
    assert tries[-1] is not None
    store.close()
    other.close()


def test_in_another_history_of_the_same_length_nothing_is_stored(url: str) -> None:
    """An older copy is in place of the log, and another process has gone on from there just as far: position and index are the same, what stands there is not."""
    store = opened(url)
    scribe = Scribe(store)
    first, second = scribe.append(Fact(("x=1",), 16), Fact(("x=2",), 16))
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(store.where.sql("delete from @log where position > 1"))
        connection.execute(
            store.where.sql("update @head set position = 1, at = %s, row = 1, filed = 1, tagged = 1, digest = %s"), (first.at, first.digest)
        )
    other = opened(url)
    [instead] = Scribe(other, seen=1).append(Fact(("x=3",), 16))
    assert (instead.position, other._standing.reading) == (second.position, store._standing.reading)

    assert store.append_ahead(facts(scribe, Fact()), scribe.seen) is None
    assert store.append_ahead(lambda _: Commit(), scribe.seen) is None
    with pytest.raises(h.Diverged):
        scribe.append(Fact())
    assert flat(other.read()) == [first, instead]
    store.close()
    other.close()


def test_the_lock_is_not_waited_for(url: str) -> None:
    store = opened(url)
    scribe = Scribe(store)
    scribe.append(Fact())
    with psycopg.connect(server().url) as holder:
        holder.execute(store.where.sql("select 1 from @head for update"))
        assert store.append_ahead(facts(scribe, Fact()), scribe.seen) is None
    scribe.append(Fact())
    assert len(flat(store.read())) == 2
    store.close()


def test_who_meets_a_commit_that_is_under_way_hears_of_no_error(url: str) -> None:
    """Its rows are where his would be, and nobody sees them yet: he looks at the lock first, and decides again behind them."""
    store = opened(url)
    scribe = Scribe(store)
    [first] = scribe.append(Fact())
    found: list[object] = []

    def ahead() -> None:
        try:
            found.append(store.append_ahead(facts(scribe, Fact()), scribe.seen))
        except h.Error as error:
            found.append(error)

    with psycopg.connect(server().url, autocommit=True) as look, psycopg.connect(server().url) as under_way:
        under_way.execute(store.where.sql("select 1 from @head for update"))
        under_way.execute(
            store.where.sql("insert into @log select %s, count, at, head, input, records, salts, digest from @log"), (first.last + 1,)
        )
        one = threading.Thread(target=ahead)
        one.start()
        waiting = ("select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'", (store._writer.info.backend_pid,))
        while one.is_alive() and not look.execute(*waiting).fetchall():
            one.join(0.001)
        if one.is_alive():  # who waits for those rows finds them
            under_way.commit()
        one.join()
        under_way.rollback()

    assert found == [None]
    store.close()


@pytest.mark.parametrize("why", ["the lock is taken", "another one came between"])
def test_of_a_commit_that_came_to_nothing_the_index_is_not_thought_to_know_anything(url: str, why: str) -> None:
    """It was the first with a name: the next one is, and is found by it."""
    store, other = opened(url), opened(url)
    scribe = Scribe(store)
    scribe.append(Fact())
    first = facts(scribe, Fact((), 17))
    if why == "the lock is taken":
        with psycopg.connect(server().url) as holder:
            holder.execute(store.where.sql("select 1 from @head for update"))
            assert store.append_ahead(first, scribe.seen) is None
    else:
        Scribe(other).append(Fact())
        assert store.append_ahead(first, scribe.seen) is None

    [row] = scribe.append(Fact((), 17))

    assert row in flat(other.read(wanted=[Wanted((), [17])]))  # blocks of them
    store.close()
    other.close()


@pytest.mark.parametrize("mode", ["share", "access exclusive"])
@pytest.mark.parametrize("table", ["log", "tag"])
def test_a_table_that_somebody_holds_is_waited_for_no_longer_than_the_caller_waits(url: str, table: str, mode: str) -> None:
    """As whoever makes an index does, or writes the table anew: nothing was recorded then, and what comes after finds no lock that was left."""
    heard: queue.Queue[object] = queue.Queue()
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        running.dispatch(Deposit("a", 1))

        def dispatches() -> None:
            try:
                heard.put(running.dispatch(Deposit("a", 1), wait_seconds_max=1))
            except h.Overloaded as error:
                heard.put(error.recorded)

        with psycopg.connect(server().url) as holder:
            holder.execute(where_in(url).sql(f"lock table @{table} in {mode} mode"))
            caller = threading.Thread(target=dispatches)
            caller.start()
            caller.join(5)
            waits = caller.is_alive()
        caller.join(10)

        assert not waits
        assert heard.get_nowait() is False
        running.dispatch(Deposit("a", 1))
        assert running.state(Balance, "a") == Balance("a", 3, 3)


def test_notes_are_for_the_lock(url: str) -> None:
    """They change where the log does not: who looks at them, or writes some, is not ahead."""
    store = opened(url)
    scribe = Scribe(store)
    scribe.append(Fact(), notes={"a": "1"})

    def asks(unseen: Unseen) -> Commit:
        assert unseen.notes("") == {"a": "1"}
        return facts(scribe, Fact())(unseen)

    assert store.append_ahead(asks, scribe.seen) is None
    assert store.append_ahead(lambda unseen: facts(scribe, Fact())(unseen)._replace(notes={"a": "2"}), scribe.seen) is None
    assert len(flat(store.read())) == 1
    store.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(server()) as proxy:
        yield proxy


@pytest.mark.parametrize("trouble", [LOSE_ANSWER, HOLD_COMMIT, LOSE_COMMIT])
def test_an_answer_that_is_lost_is_looked_for_and_what_comes_late_comes_to_nothing(url: str, proxy: Proxy, trouble: str) -> None:
    """The server has not taken the lock for what it was not given yet: when that arrives it finds the log changed, though nothing was recorded meanwhile."""
    store = opened(proxy.url(url))
    scribe = Scribe(store)
    scribe.append(Fact())
    proxy.trouble = trouble

    head = store.append_ahead(facts(scribe, Fact(id="second")), scribe.seen)

    assert proxy.idle.wait(5)
    assert proxy.done == [trouble]
    assert (head is not None) == (trouble == LOSE_ANSWER)
    assert len(store.find_id("second")) == (trouble == LOSE_ANSWER)
    scribe.seen = 1 + (trouble == LOSE_ANSWER)
    scribe.append(Fact(id="third"))
    check_whole(flat(store.read()))
    assert store.append_ahead(facts(scribe, Fact(id="fourth")), scribe.seen) is not None
    store.close()


def test_what_others_have_recorded_in_its_place_is_not_taken_for_what_was_lost(url: str, proxy: Proxy) -> None:
    """The commit never came to the server, and before anybody could look another process has recorded something at that position."""
    store, other = opened(proxy.url(url)), opened(url)
    scribe = Scribe(store)
    scribe.append(Fact())
    proxy.trouble, proxy.then = LOSE_COMMIT, lambda: Scribe(other, seen=1).append(Fact(id="others"))

    assert store.append_ahead(facts(scribe, Fact(id="mine")), scribe.seen) is None

    assert proxy.done == [LOSE_COMMIT]
    assert list(other.find_id("mine")) == []
    assert list(other.find_id("others")) == [2]
    scribe.append(Fact(id="mine"))
    check_whole(flat(other.read()))
    assert list(other.find_id("mine")) == [3]
    store.close()
    other.close()


Name = Annotated[str, h.Tag("purse")]


class Filled(h.Event):
    purse: Name
    amount: int


class Draw(h.Command):
    purse: Name
    amount: int


class Drawn(h.Event):
    purse: Name
    amount: int


class Purse(h.State):
    purse: Name
    left: int = 0

    def evolve(self, event: Filled | Drawn) -> "Purse":
        return self.but(left=self.left + (event.amount if isinstance(event, Filled) else -event.amount))


def test_a_name_that_is_only_decided_on_is_not_taken_for_one_that_others_have_recorded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of a commit with a new name another process gives its number to a name of its own: who reads that hears what it is."""
    add = Batch.add
    seen: list[list[str]] = []

    def names() -> list[str]:
        return [record.name for record in one.read() if record.kind == "input"]

    def late(batch: Batch, draft: Draft) -> Row:
        if batch.engine is one.engine and not seen:
            thread = threading.Thread(target=lambda: other.append(h.Loose("Theirs", {})))
            thread.start()
            thread.join()
            seen.append(names())
        return add(batch, draft)

    with h.open_log(url, create=True) as one, h.open_log(url) as other:
        for _ in range(2):
            one.append(h.Loose("Known", {}))
        monkeypatch.setattr(Batch, "add", late)
        one.append(h.Loose("Ours", {}))

        assert seen == [["Known", "Known", "Theirs"]]
        assert names() == ["Known", "Known", "Theirs", "Ours"]
        one.verify()


@pytest.mark.parametrize("more", [0, 10])
def test_a_command_is_decided_once_more_on_what_came_between(url: str, more: int) -> None:
    """In the midst of its decision another process draws the same money: only one has it, unless there is enough for both."""
    between: list[Callable[[], object]] = []
    seen: list[int] = []

    def draw(command: Draw, purse: Purse) -> Iterator[Drawn]:
        seen.append(purse.left)
        if between:
            thread = threading.Thread(target=between.pop())
            thread.start()
            thread.join()
        if command.amount > purse.left:
            raise h.Refused("not enough")
        yield Drawn(command.purse, command.amount)

    app = h.App("purses", records=[Filled], deciders=[draw])
    with app.open(url, run=False) as one, app.open(url, run=False) as other:
        one.record(Filled("p", 30 + more))
        one.dispatch(Draw("p", 10))
        one.dispatch(Draw("p", 10))
        seen.clear()
        between.append(lambda: other.dispatch(Draw("p", 10)))
        if more:
            assert one.dispatch(Draw("p", 10)).events == (Drawn("p", 10),)
        else:
            with pytest.raises(h.Refused):
                one.dispatch(Draw("p", 10))
        # `one`, and in the midst of it `other`, who has seen nothing yet: each decides once more, and no more than that
        assert seen == [10 + more, 0, 10 + more, more]
        assert one.state(Purse, "p") == Purse("p", 0)
        assert one.log.verify().position == one.log.head


def test_a_command_is_decided_at_most_twice_however_many_draw_at_once(url: str) -> None:
    """Once before the lock, and once under it: then it stands. So nobody is passed by for ever."""
    runs = Counter[int]()

    def draw(command: Draw, purse: Purse) -> Iterator[Drawn]:
        runs[command.amount] += 1
        yield Drawn(command.purse, command.amount)

    app = h.App("purses", records=[Filled], deciders=[draw])
    with contextlib.ExitStack() as opened_here:
        handles = [opened_here.enter_context(app.open(url, run=False)) for _ in range(4)]

        def client(place: int) -> None:
            for n in range(50):
                handles[place].dispatch(Draw("p", 1 + place + n * len(handles)))

        clients = [threading.Thread(target=client, args=(place,)) for place in range(len(handles))]
        for one in clients:
            one.start()
        for one in clients:
            one.join()

    assert sorted(runs) == list(range(1, 201))
    assert set(runs.values()) <= {1, 2}


def test_an_id_that_another_process_uses_in_the_midst_of_a_commit_is_answered_by_its_row(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided first came to nothing, and what comes of it the second time is that the id is known: the row that is in no log is no answer."""
    committed = PostgresStore._committed
    recorded: list[h.Receipt] = []

    def late(store: PostgresStore, commit: Commit, standing: Standing, *, ahead: bool = False) -> Any:  # Any: whatever it returns
        if ahead and commit.rows and store is one.engine and not recorded:
            recorded.append(other.append(fact, id="x"))
        return committed(store, commit, standing, ahead=ahead)

    fact = h.Loose("Seen", {"by": "whoever"})
    with h.open_log(url, create=True) as one, h.open_log(url) as other:
        for _ in range(2):
            one.append(fact)
        monkeypatch.setattr(PostgresStore, "_committed", late)

        receipt = one.append(fact, id="x")

        assert (receipt.repeated, str(receipt)) == (True, str(recorded[0]))
        assert len(one.find("x")) == 1
        assert one.verify().position == receipt.position


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("what", ["deallocate all", "prepare by another client"])
def test_where_a_session_does_not_keep_statements_they_are_sent_as_texts(url: str, what: str, *, ahead: bool) -> None:
    """As behind a pooler that hands out sessions: no caller hears of it, and nothing is written twice."""
    store = opened(url)
    scribe = Scribe(store)
    if what == "deallocate all":
        scribe.append(Fact(("x=1",), id="first"))
        assert store._writer.execute("select from pg_prepared_statements").rowcount == 3
        store._writer.execute("deallocate all")
    else:
        store._writer.close()
        store._writer = store.where.connect()
        [name, *_] = store._prepared._names.values()
        store._writer.execute(f"prepare {name.decode()} as select 1".encode())
    for n in range(3):
        head = store.append_ahead(facts(scribe, Fact((f"n={n}",), id=f"id-{n}")), scribe.seen) if ahead else None
        if ahead:
            assert (head is None) == (n == 0 and what == "deallocate all"), n
        if head is None:
            head = store.append(facts(scribe, Fact((f"n={n}",), id=f"id-{n}")), scribe.seen)
        scribe.seen = head.position

    rows = flat(store.read())
    check_whole(rows)
    assert [len(list(store.find_id(f"id-{n}"))) for n in range(3)] == [1, 1, 1]
    assert len(rows) == 3 + (what == "deallocate all")
    assert store._writer.execute("select from pg_prepared_statements").rowcount == (what != "deallocate all")
    store.close()


def test_a_session_that_has_some_statements_of_another_release_is_taken_for_one_that_has_none(url: str) -> None:
    """As behind a pooler that hands out sessions: what is missing is noticed before anything is decided."""
    store = opened(url)
    scribe = Scribe(store)
    scribe.append(Fact(id="first"))
    store._writer.close()
    store._writer = store._prepared._on = store.where.connect()
    assert wire.Prepared((store._look, (wire.INT8, wire.INT4))).names(store._writer)

    scribe.append(Fact(id="second"))

    assert store.find_ids(["first", "second", "third"]) == {"first", "second"}
    store.close()


def test_what_was_recorded_before_a_note_of_this_process_is_taken_in(url: str) -> None:
    """A commit of notes alone, as of leases, learns where the log stands and takes nothing in: what comes next is not decided without it."""
    with bank.open(url, run=False) as running, bank.open(url, run=False) as other:
        running.dispatch(Deposit("a", 1))
        running.dispatch(Deposit("b", 1))
        other.dispatch(Transfer("a", "b", 1))
        running.log.engine.append(lambda _: Commit(notes={"noted": "1"}), EVERYTHING_SEEN)

        with pytest.raises(h.Refused):
            running.dispatch(Transfer("a", "c", 1))

        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 0, 2)
