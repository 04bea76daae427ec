"""The index of a log that several processes write: whatever they leave to each other, take back or erase, it finds what a scan finds."""

import contextlib
import threading
import time
from collections.abc import Sequence

import psycopg
import pytest

import happened as h
from happened.core.store import Commit, Row, Terms, Unseen, Wanted
from happened.edge.main import main
from happened.stores.postgres import PostgresStore
from happened.stores.postgres_tables import INDEX, where_in
from happened.testing.rows import Fact, Scribe, added_up, counts_of, flat, matches, other_terms_of, read_by, terms_of, without
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import fresh, server


def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    return store


def by_name(store: PostgresStore, name: int) -> list[Row]:
    wanted = [Wanted((), (name,))]
    return [row for row in flat(store.read(wanted=wanted)) if matches(row, wanted)]


def erase(store: PostgresStore, row: Row, *more: Fact) -> None:
    scribe = Scribe(store)

    def decide(unseen: Unseen) -> Commit:
        added = [scribe.row_after(unseen.head, fact) for fact in more]
        return Commit(added, [terms_of(one) for one in added], {"erased": str(row.position)}, [without(row)])

    store.append(decide, scribe.seen)


def leave_unfiled(url: str, *facts: Fact) -> list[Row]:
    """Append as somebody does who files no tags."""
    store = PostgresStore(url)
    rows = Scribe(store).append(*facts)
    store.close()
    return rows


@pytest.mark.parametrize("filing", [True, False])
def test_names_are_filed_again_after_another_process_has_erased(filing: bool) -> None:
    """Who knows that a name is in a block no longer knows it then, also where the other has filed all anew."""
    url = fresh()
    one, other = opened(url), opened(url)
    scribe = Scribe(one)
    [first] = scribe.append(Fact(("x=1",), 16))

    erase(other, first, Fact((), 18))
    if filing:
        assert len(by_name(other, 18)) == 1
        with psycopg.connect(server().url, autocommit=True) as connection:  # as where what was erased was all of a name
            connection.execute(one.where.sql("delete from @block where name = 16"))
    [last] = scribe.append(Fact((), 16))

    assert by_name(one, 16)[-1] == last
    assert by_name(other, 16)[-1] == last
    assert filing or by_name(one, 16)[0].position == first.position
    one.close()
    other.close()


@pytest.mark.parametrize("how", ["raises", "adds nothing", "is interrupted"])
def test_what_was_filed_for_a_decision_that_came_to_nothing_is_filed_again(how: str) -> None:
    url = fresh()
    one, other = opened(url), opened(url)
    [row] = Scribe(other).append(Fact(("x=1",), 16, id="first"))
    erase(other, row)
    known = Scribe(one)

    def decide(unseen: Unseen) -> Commit:
        assert list(one.find_id("first")) == [row.position]
        if how == "adds nothing":
            return Commit()
        raise ValueError if how == "raises" else KeyboardInterrupt

    if how == "adds nothing":
        one.append(decide, 0)
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            one.append(decide, 0)
    known.append(Fact((), 17))
    assert [found.position for found in by_name(one, 16)] == [row.position]
    one.close()
    other.close()


@pytest.mark.parametrize("how", ["raises", "adds nothing"])
@pytest.mark.parametrize("left", ["tags of a row", "all that was erased"])
def test_what_was_filed_for_a_decision_that_came_to_nothing_is_filed_before_anybody_is_ahead(how: str, left: str) -> None:
    """Who decides before he has the lock says that all is filed: it has to be, not only to have been in a transaction that was taken back."""
    url = fresh()
    one, other = opened(url), opened(url)
    scribe, beside = Scribe(one), Scribe(other)
    [first] = scribe.append(Fact(("x=1",), id="first"))

    def unread(unseen: Unseen) -> Commit:
        row = beside.row_after(unseen.head, Fact(("x=1",)))
        return Commit([row], [terms_of(row)], unread=True)

    if left == "tags of a row":
        scribe.seen = other.append(unread, 1).position
    else:
        erase(other, first)

    def nothing(_: Unseen) -> Commit:
        if how == "raises":
            raise ValueError
        return Commit()

    with contextlib.suppress(ValueError):
        one.append(nothing, 0)

    def ahead(unseen: Unseen) -> Commit:
        row = scribe.row_after(unseen.head, Fact(("x=2",)))
        return Commit([row], [terms_of(row)])

    assert one.append_ahead(ahead, scribe.seen) is None
    scribe.append(Fact(("x=2",)))
    wanted = [Wanted(("x=1",))]
    assert flat(other.read(wanted=wanted)) == [row for row in flat(other.read()) if matches(row, wanted)]
    assert list(other.find_id("first")) == [first.position]
    one.close()
    other.close()


def test_who_files_nothing_leaves_what_is_not_filed_to_others() -> None:
    """An id that was used stays used."""
    url = fresh()
    one = opened(url)
    [row, _] = Scribe(one).append(Fact(("x=1",), id="first"), Fact(("y=1",), id="second"))
    erase(one, row)
    leave_unfiled(url, Fact(id="third"))

    assert list(one.find_id("first")) == [row.position]
    assert one.find_ids(["first", "second", "third", "fourth"]) == {"first", "second", "third"}
    assert dict(one.counted(0, None, counts_of)) == added_up(flat(one.read()))
    one.close()


def test_who_reads_does_not_wait_for_the_lock_to_have_something_filed() -> None:
    """While another decides, in this process or another, he looks at the rows that are not filed yet."""
    url = fresh()
    one, other = opened(url), opened(url)
    rows = Scribe(one).append(*(Fact((f"n={n % 3}",), 16 + n % 3, 1 + n % 4, id=f"id-{n}") for n in range(50)))
    [erased, *rest] = rows
    erase(one, erased)
    found: list[object] = []

    def look(store: PostgresStore) -> None:
        found.append(list(store.find_id("id-7")) == [rows[7].position])
        found.append(store.find_ids(["id-1", "never"]) == frozenset(["id-1"]))
        found.append([row for row in flat(store.read(wanted=[Wanted(("n=1",))])) if matches(row, [Wanted(("n=1",))])] == rest[::3])
        found.append([row.position for row in by_name(store, 16)] == [row.position for row in rows[::3]])
        stretches: list[tuple[int, int | None]] = [(0, None), (3, 70), (rows[20].position, rows[30].last - 1)]
        found.extend(dict(store.counted(after, until, counts_of)) == added_up(flat(store.read(after, until))) for after, until in stretches)

    def decide(_: Unseen) -> Commit:
        for store in (one, other):
            reading = threading.Thread(target=look, args=(store,))
            reading.start()
            reading.join(20)
        return Commit()

    one.append(decide, 1 << 62)
    assert found == [True] * 14
    one.close()
    other.close()


def test_tags_are_filed_by_nobody_who_does_not_know_their_names() -> None:
    """A process that has not said yet how it reads a name leaves them to one that has: until then their rows are looked at."""
    url = fresh()
    one, late = PostgresStore(url), PostgresStore(url)
    known: set[int] = {17}

    def late_terms(row: Row) -> Terms:  # as a log reads a number that it has not learned yet
        found = terms_of(row)
        return Terms(
            found.tags if set(found.names) <= known else [], found.id, [name for name in found.names if name in known], found.counts
        )

    late.index({17: "today"}, late_terms, lambda _done, _all: None)
    one.index(read_by("today"), terms_of, lambda _done, _all: None)
    scribe = Scribe(one)

    def unread(unseen: Unseen) -> Commit:
        row = scribe.row_after(unseen.head, Fact(("x=1",), 16))
        return Commit([row], [terms_of(row)], unread=True)

    one.append(unread, 0)
    Scribe(late).append(Fact(("y=1",), 17))
    wanted: Sequence[Wanted] = [Wanted(("x=1",))]
    for store in (late, one):
        assert [row.position for row in flat(store.read(wanted=wanted)) if matches(row, wanted)] == [1]
    known |= {16, 18}
    late.index(read_by("today"), late_terms, lambda _done, _all: None)
    assert [row.position for row in flat(late.read(wanted=wanted)) if matches(row, wanted)] == [1]
    one.close()
    late.close()


def test_another_reading_in_another_process_is_seen_before_anything_is_decided() -> None:
    url = fresh()
    one = opened(url)
    [row] = Scribe(one).append(Fact(("a=1",)))
    other = PostgresStore(url)
    other.index(read_by("otherwise"), other_terms_of, lambda _done, _all: None)
    with pytest.raises(h.Incompatible, match="reads the tags of this log otherwise"):
        flat(one.read(wanted=[Wanted(("a=1",))]))
    with pytest.raises(h.Incompatible, match="reads the tags of this log otherwise"):
        one.append(lambda _: Commit(notes={"a": "1"}), 0)
    assert flat(other.read(wanted=[Wanted(("A=1",))])) == [row]
    one.close()
    other.close()


@pytest.mark.parametrize("backwards", [False, True])
def test_a_page_costs_what_it_has_also_where_the_server_has_no_statistics(backwards: bool) -> None:
    """It did sort all that is left of the log for each page: what the server has looked at says so."""
    url = fresh()
    store = opened(url)
    scribe = Scribe(store)
    rows = [row for n in range(0, 1200, 300) for row in scribe.append(*[Fact((), 16, 1 + k % 3) for k in range(n, n + 300)])]

    pages = list(store.read(backwards=backwards, rows_max=20))
    store.close()

    assert flat(pages) == (rows[::-1] if backwards else rows)
    assert max(map(len, pages)) == 20
    with psycopg.connect(server().url, autocommit=True) as connection:
        sessions = "select 1 from pg_stat_activity where application_name like 'happened:%%' and query like %s"
        while connection.execute(sessions, (f"%{store.where.schema}%",)).fetchone():
            time.sleep(0.01)  # they say what they have done when they end
        looked_at = "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where schemaname = %s and relname = 'log'"
        number, deadline = 0, time.monotonic() + 10
        while number < len(rows):  # PostgreSQL 14 counts a little later what it was told
            assert time.monotonic() < deadline, "all of them were read"
            found = connection.execute(looked_at, (store.where.schema,)).fetchone()
            number = found[0] if found is not None else 0
            time.sleep(0.01)
    assert number < 5 * len(rows)


@pytest.mark.parametrize("how", ["delete from @{}", "drop table @{}"])
def test_an_index_that_was_lost_is_made_anew(capsys: pytest.CaptureFixture[str], how: str) -> None:
    """As after a restore without its tables: by the command line, while nobody has the log open; what is known by tag and id is known again."""
    url = fresh()
    with bank.open(url, run=False) as running:
        for number in range(30):
            running.dispatch(Deposit(f"a-{number % 3}", number), id=f"deposit-{number}")
        before = running.state(Balance, "a-1")
        where = where_in(url)
        command = ["rebuild", "--index", "--app", "tests.semantics.model:bank", "--log", url]
        assert main(command) == 2
        assert "is open" in capsys.readouterr().err
    with psycopg.connect(server().url, autocommit=True) as connection:
        for table in INDEX:
            connection.execute(where.sql(how.format(table)))

    assert main(command) == 0

    with bank.open(url, run=False) as running:
        assert running.state(Balance, "a-1") == before
        assert running.dispatch(Deposit("a-2", 5), id="deposit-5").repeated
        assert len(list(running.log.read(h.query(names=["Deposited"])))) == 30
