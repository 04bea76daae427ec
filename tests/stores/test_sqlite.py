"""What is SQLite's own: its file, its pragmas, forks, crashes, and the view that anyone can read with plain SQL."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any  # Any: parameters of a statement

import pytest

import happened as h
from happened.core.store import Commit, Engine, Row, Terms, Unseen, Wanted
from happened.log.log import EVERYTHING_SEEN
from happened.stores import runs, sqlite
from happened.stores.sqlite import SqliteStore, connect, connect_to_read, drop_index_of
from happened.testing import Clock
from happened.testing.rows import Fact, Scribe, added_up, check_whole, counts_of, flat, matches, read_by, terms_of, without

Sku = Annotated[str, h.Tag("sku")]

WRITER = """
import sys
from happened.stores.sqlite import SqliteStore
from happened.testing.rows import Fact, Scribe, read_by, terms_of

store = SqliteStore(sys.argv[1])
store.index(read_by("today"), terms_of, lambda _done, _all: None)
scribe = Scribe(store)
n = 0
while True:
    rows = scribe.append(*(Fact((f"n={n}", f"m={n % 5}"), 16 + n % 3, 1 + n % 2, f"id-{n}-{part}") for part in range(20)))
    n += 1
    print(rows[-1].last, flush=True)
"""
"""A program that appends until it is killed, and says how far it came."""


class Received(h.Event):
    sku: Sku
    count: int


class Sold(h.Event):
    sku: Sku
    count: int


class Low(h.Event):
    sku: Sku


class Sell(h.Command):
    sku: Sku
    count: int


class Stock(h.State):
    sku: Sku
    left: int = 0

    def evolve(self, event: Received | Sold) -> "Stock":
        match event:
            case Received():
                return self.but(left=self.left + event.count)
            case Sold():
                return self.but(left=self.left - event.count)


def sell(command: Sell, stock: Stock) -> Iterator[Sold | Low]:
    if command.count > stock.left:
        raise h.Refused("too few", left=stock.left)
    yield Sold(command.sku, command.count)
    yield Low(command.sku)


shop = h.App("shop", records=[Received], deciders=[sell])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Say where the log is."""
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """Open a store, and close it."""
    store = indexed(SqliteStore(str(path)))
    yield store
    store.close()


def indexed(store: SqliteStore) -> SqliteStore:
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    return store


def test_a_sqlite_that_is_too_old_is_said_to_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the program that is wrong, not the file: nothing is made, and a log that is there is not called damaged."""
    there, new = f"sqlite:///{path}", f"sqlite:///{path}.new"
    SqliteStore(str(path)).close()
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.37.2")

    attempts: list[Callable[[], object]] = [
        lambda: h.open_log(there),
        lambda: h.open_log(new, create=True),
        lambda: h.adopt(there, actor="ann", reason="restored"),
        lambda: SqliteStore(str(path), connect=connect_to_read),
        lambda: h.App("shop").open("memory:"),
    ]
    for attempt in attempts:
        with pytest.raises(h.Invalid, match=r"is 3\.37\.2, and 3\.38 or newer is needed"):
            attempt()

    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_every_commit_is_synced(path: Path) -> None:
    """The log is written ahead, and each connection that writes it syncs fully: what was acknowledged is there after the power failed."""
    opened: list[sqlite3.Connection] = []

    def watched(file: str) -> sqlite3.Connection:
        opened.append(connect(file))
        return opened[-1]

    store = SqliteStore(str(path), connect=watched)

    [(journal,)], [(synchronous,)] = opened[0].execute("pragma journal_mode").fetchall(), opened[0].execute("pragma synchronous").fetchall()
    store.close()
    assert (journal, synchronous) == ("wal", 2)


def test_who_packs_syncs_and_takes_nothing_into_the_file_by_itself(path: Path) -> None:
    """SQLite would do so from some 1,000 pages on, and without what guards a checkpoint: see the next test."""
    opened: list[sqlite3.Connection] = []
    asked: list[tuple[int, int]] = []

    def watched(file: str) -> sqlite3.Connection:
        opened.append(connect(file))
        return opened[-1]

    with closing(indexed(SqliteStore(str(path), connect=watched))) as store:
        Scribe(store).append(Fact(), Fact(), Fact())
        before = len(opened)

        def ask(_done: int, _all: int) -> None:
            [(pages,)], [(synchronous,)] = (opened[before].execute(f"pragma {name}") for name in ("wal_autocheckpoint", "synchronous"))
            asked.append((pages, synchronous))

        store.compact(2, ask)

    assert asked == [(0, 1)]


def test_nobody_begins_the_wal_anew_while_a_checkpoint_begins(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite before 3.51.3 may then take for written into the file what is not. Here another one does so at the last moment before SQLite is called."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 1)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    lock = threading.Lock()
    checkpoints: list[tuple[bool, int]] = []

    def salt() -> bytes:
        return Path(f"{path}-wal").read_bytes()[16:24]

    class Beside(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # Any: as the method that it stands for
            if sql != "pragma wal_checkpoint(passive)":
                return super().execute(sql, *parameters)
            with lock:
                before = salt()
                other.execute(sql).fetchall()  # all of it is taken in, so a commit may begin it anew
                other.execute("insert or replace into note values('other', '{}')")
                after = salt()
                busy, pages, done = super().execute(sql).fetchone()
                checkpoints.append((before != after, done))
                return super().execute("select ?, ?, ?", (busy, pages, done))

    def opened(file: str) -> sqlite3.Connection:
        return sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False, factory=Beside)

    with closing(other), closing(indexed(SqliteStore(str(path), connect=opened))) as store:
        scribe = Scribe(store)
        for _ in range(30):
            scribe.append(Fact(), Fact())
        store.compact(40, lambda _done, _all: None)
        scribe.append(Fact())

    assert len(checkpoints) >= 2, "one beside the writer, one at the end of packing"
    assert [done for anew, done in checkpoints if anew and done] == []


def test_readers_can_not_write(path: Path) -> None:
    """A connection that only reads says no to everything else."""
    opened: list[sqlite3.Connection] = []

    def watched(file: str) -> sqlite3.Connection:
        opened.append(connect(file))
        return opened[-1]

    store = indexed(SqliteStore(str(path), connect=watched))
    Scribe(store).append(Fact())
    flat(store.read())

    assert len(opened) > 1
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        opened[-1].execute("delete from log")
    store.close()


def test_a_read_by_the_index_looks_only_at_rows_that_are_asked_for(path: Path) -> None:
    """However many rows have the tag: those before a position and behind another are not read from the disk. A row that reaches behind the first is."""
    opened: list[sqlite3.Connection] = []

    def watched(file: str) -> sqlite3.Connection:
        opened.append(connect(file))
        return opened[-1]

    store = indexed(SqliteStore(str(path), connect=watched))
    rows = [row for _ in range(30) for row in Scribe(store).append(Fact(("n=1",), records=3), Fact(("n=2",), records=2))]
    flat(store.read())  # opens a connection to read by
    asked: list[str] = []
    for connection in opened:
        connection.set_trace_callback(asked.append)

    found = flat(store.read(rows[40].position, rows[44].last, wanted=[Wanted(["n=1"], [])]))

    looked_at = [statement.partition("position in (")[2].partition(")")[0] for statement in asked if "position in (" in statement]
    assert [row.position for row in found] == [rows[number].position for number in (40, 42, 44)]
    assert looked_at == [",".join(str(row.position) for row in found)]
    store.close()


def test_a_file_of_another_kind_is_named(path: Path) -> None:
    """What is no database is left as it is, and the error names the file."""
    path.write_text("Dear diary, today nothing happened. " * 100)
    before = path.read_bytes()

    with pytest.raises(h.Broken, match=r"log\.db is no SQLite file"):
        SqliteStore(str(path))

    assert path.read_bytes() == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """No folder is made by the way: a typing mistake would make a new, empty log."""
    with pytest.raises(h.Invalid, match=r"there is no folder .*nowhere"):
        SqliteStore(str(tmp_path / "nowhere" / "log.db"))

    assert not (tmp_path / "nowhere").exists()


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    """The path of a folder can't be opened, and the error says so; an empty path neither."""
    with pytest.raises(h.Invalid, match="can't be opened as a log"):
        SqliteStore(str(tmp_path))
    with pytest.raises(h.Invalid, match="needs a path"):
        SqliteStore("")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_can_not_use_its_parents_handle(store: SqliteStore) -> None:
    """In a child process everything raises `Forked`, closing does no harm, and the parent goes on."""
    scribe = Scribe(store)
    scribe.append(Fact())
    read_end, write_end = os.pipe()

    child = os.fork()
    if child == 0:
        said = [raised(lambda: scribe.append(Fact())), raised(lambda: flat(store.read())), raised(lambda: store.wait(0, 0))]
        store.close()
        os.write(write_end, " ".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)

    with os.fdopen(read_end) as pipe:
        os.close(write_end)
        assert pipe.read() == "Forked Forked Forked"
    scribe.append(Fact())
    rows = flat(store.read())
    check_whole(rows)
    assert len(rows) == 2


def raised(act: object) -> str:
    """Return the name of what a call raises."""
    assert callable(act), "a call"
    try:
        act()
    except h.Error as error:
        return type(error).__name__
    return "nothing"


def test_a_file_put_in_the_place_of_an_open_log_is_noticed(tmp_path: Path) -> None:
    """A log that no longer has what it had takes nothing: a restored backup must not be written on by who knows more."""
    path, old = tmp_path / "log.db", tmp_path / "old.db"
    writer = indexed(SqliteStore(str(path)))
    scribe = Scribe(writer)
    scribe.append(Fact())
    with closing(connect(str(path))) as source, closing(connect(str(old))) as copy:
        source.backup(copy)
    scribe.append(Fact(), Fact())

    with closing(connect(str(old))) as source, closing(connect(str(path))) as target:
        source.backup(target)

    with pytest.raises(h.Diverged, match="no longer has what it had at position 3"):
        scribe.append(Fact())
    writer.close()
    with closing(SqliteStore(str(path))) as store:
        assert len(flat(store.read())) == 1


def test_another_history_of_the_same_length_is_noticed(tmp_path: Path) -> None:
    """Positions are not enough: the digest of the last row tells the histories apart."""
    path, other = tmp_path / "log.db", tmp_path / "other.db"
    store = indexed(SqliteStore(str(path)))
    scribe = Scribe(store)
    scribe.append(Fact(), Fact())
    with closing(indexed(SqliteStore(str(other)))) as stranger:
        Scribe(stranger, actor="stranger").append(Fact(), Fact())

    with closing(connect(str(other))) as source, closing(connect(str(path))) as target:
        source.backup(target)

    with pytest.raises(h.Diverged):
        scribe.append(Fact())
    store.close()


def test_a_file_moved_over_an_open_log_is_noticed(tmp_path: Path) -> None:
    """A new file under the old name is not what this process has open: nothing may be acknowledged into a file that has no name any more."""
    path, old = tmp_path / "log.db", tmp_path / "old.db"
    store = indexed(SqliteStore(str(path)))
    scribe = Scribe(store)
    scribe.append(Fact())
    with closing(connect(str(path))) as source, closing(connect(str(old))) as copy:
        source.backup(copy)
    scribe.append(Fact())

    shutil.move(old, path)

    with pytest.raises(h.Diverged):
        scribe.append(Fact())
    store.close()


def test_a_position_is_taken_once(store: SqliteStore) -> None:
    """A row on a place that is taken fails, with all notes of its commit."""
    scribe = Scribe(store)
    [row] = scribe.append(Fact(), notes={"a": "1"})

    with pytest.raises(h.StoreFailed, match="nothing was recorded"):
        store.append(lambda _: Commit([row], [terms_of(row)], {"a": "2"}), scribe.seen)

    assert flat(store.read()) == [row]
    assert scribe.notes() == {"a": "1"}


def test_the_index_after_a_kill_equals_a_scan(path: Path) -> None:
    """A process that was killed leaves a log that is whole, has all that was acknowledged, and is found by index as by scan."""
    for commits in (3, 40):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(commits)][-1]
            writer.kill()

        with closing(indexed(SqliteStore(str(path)))) as store:
            rows = flat(store.read())
            check_whole(rows)
            assert rows[-1].last >= acknowledged
            for wanted in ([Wanted((f"m={n}",))] for n in range(5)):
                assert found(store, wanted) == [row for row in rows if matches(row, wanted)]
            for wanted in ([Wanted(("n=2",), (18,))], [Wanted((), (17,))], [Wanted(("n=0",))]):
                assert found(store, wanted) == [row for row in rows if matches(row, wanted)]
            last = rows[-1]
            assert last.position in store.find_id(terms_of(last).id or "")


def found(store: Engine, wanted: list[Wanted]) -> list[object]:
    """Return what is wanted, by the index."""
    return [row for row in flat(store.read(wanted=wanted)) if matches(row, wanted)]


def test_the_index_without_its_shelf_is_made_anew(path: Path) -> None:
    """What lies on the shelf can be deleted without loss."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        rows = Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{n}") for n in range(600)))
    with closing(connect(str(path))) as file:
        for table in ("run", "covered", "recent", "block", "checked", "counted", "shelf", "sample"):
            file.execute(f"delete from {table}")

    with closing(indexed(SqliteStore(str(path)))) as store:
        assert found(store, [Wanted(("n=77",))]) == [rows[77]]
        assert rows[599].position in store.find_id("id-599")


def test_after_a_crash_only_what_came_since_the_last_part_was_written_is_found_again(path: Path) -> None:
    """What a process had in its index and not in runs yet lies in the file, whatever part's turn it was: the next one looks at few rows, and finds all."""
    crashed = indexed(SqliteStore(str(path)))  # nobody closes it before the other one has opened the file
    scribe = Scribe(crashed)
    for n in range(60):
        scribe.append(*(Fact((f"n={n}", f"m={part}"), 16 + part % 3, id=f"id-{n}-{part}") for part in range(50)))
    seen: list[Row] = []

    def looked_at(row: Row) -> Terms:
        seen.append(row)
        return terms_of(row)

    with closing(SqliteStore(str(path))) as store:
        store.index(read_by("today"), looked_at, lambda _done, _all: None)
        assert 0 < len(seen) <= runs.FLUSH_RECORDS + 50
        rows = flat(store.read())
        for wanted in ([Wanted(("n=3",))], [Wanted(("m=7", "n=59"))], [Wanted(("m=49",), (17,))]):
            assert found(store, wanted) == [row for row in rows if matches(row, wanted)]
        assert len(store.find_ids([f"id-{n}-{part}" for n in range(60) for part in range(50)])) == 3000
        assert dict(store.counted(0, None, counts_of)) == added_up(rows)
    crashed.close()


def test_entries_of_many_flushes_are_dropped_once_every_part_has_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the file of parts that were not written yet does not grow with the log."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 1)
    with closing(indexed(SqliteStore(str(path)))) as store:
        scribe = Scribe(store)
        for n in range(3 * runs.PARTS):
            scribe.append(Fact((f"n={n}",), id=f"id-{n}"))
        with closing(connect(str(path))) as file:
            assert file.execute("select count(*) from recent").fetchone()[0] <= runs.PARTS
    with closing(connect(str(path))) as file:
        assert file.execute("select count(*) from recent").fetchone() == (0,)


@pytest.mark.parametrize("how", ["closed", "renewed"])
def test_the_index_that_another_process_has_made_anew_is_not_written_over_with_a_part_of_it(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erasing makes the index anew. Who has not heard of it, and writes what it has not written yet, when it is closed or with a note, writes it behind what is there now."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 64)
    with closing(SqliteStore(str(path))) as first, closing(SqliteStore(str(path))) as other:
        for store in (first, other):
            store.index(read_by("today"), terms_of, lambda _done, _all: None)
        scribe = Scribe(first)
        scribe.append(Fact(("t=erased",), id="erased"))
        for n in range(200):
            scribe.append(Fact((f"n={n}",), id=f"id-{n}"))
            if n > 150 and first._runs.due():
                break
        assert first._runs.due()
        bare = without(next(iter(other.read(rows_max=1)))[0])
        other.append(lambda _unseen: Commit(instead=[bare]), EVERYTHING_SEEN)

        if how == "closed":
            first.close()
        else:
            first.append(lambda _unseen: Commit(notes={"lease": "renewed"}), EVERYTHING_SEEN)

        with closing(SqliteStore(str(path))) as again:
            again.index(read_by("today"), terms_of, lambda _done, _all: None)
            rows = flat(again.read())
            assert [own for row in rows if not again.find_id(own := terms_of(row).id or "")] == []
            assert all(flat(again.read(wanted=[Wanted(terms_of(row).tags)])) for row in rows if row.position > 1)


def test_an_index_that_an_erasure_of_another_process_has_dropped_is_read_anew(path: Path) -> None:
    """What this process knows of it leads to parts that are no more: it finds what a scan finds all the same."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        Scribe(store).append(*(Fact((f"n={n}", f"m={n % 5}"), id=f"id-{n}") for n in range(100)))
    with closing(indexed(SqliteStore(str(path)))) as one, closing(indexed(SqliteStore(str(path)))) as other:
        rows = flat(one.read())
        assert list(one.find_id("id-7")) == [rows[7].position]

        other.append(lambda _: Commit(instead=[without(rows[3])]), EVERYTHING_SEEN)

        wanted = [Wanted(("m=4",))]
        assert [row for row in flat(one.read(wanted=wanted)) if matches(row, wanted)] == [row for row in rows if matches(row, wanted)]
        assert list(one.find_id("id-8")) == [rows[8].position]


@pytest.mark.parametrize("asked", ["an id", "some ids", "rows", "counts"])
def test_an_index_that_is_dropped_while_a_reader_looks_something_up_hides_nothing(
    path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process erases after the reader has looked whether the index is still the same, and before he has read the part that he needs."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{n}") for n in range(9_000)))
    with closing(indexed(SqliteStore(str(path)))) as one, closing(indexed(SqliteStore(str(path)))) as other:
        rows = flat(one.read())
        catch_up = one._catch_up_index

        def caught_up(connection: sqlite3.Connection) -> None:
            catch_up(connection)
            monkeypatch.setattr(one, "_catch_up_index", catch_up)
            other.append(lambda _: Commit(instead=[without(rows[3])]), EVERYTHING_SEEN)

        monkeypatch.setattr(one, "_catch_up_index", caught_up)
        if asked == "an id":
            assert list(one.find_id("id-8")) == [rows[8].position]
        elif asked == "some ids":
            assert one.find_ids(["id-8", "none"]) == {"id-8"}
        elif asked == "counts":
            assert one.counted(0, None, counts_of) == added_up(rows)
        else:
            assert flat(one.read(wanted=[Wanted(("n=8",))])) == [rows[8]]
        assert list(one.find_id("id-9")) == [rows[9].position]


@pytest.mark.parametrize("beside", ["nothing", "a note"])
def test_an_index_that_was_dropped_hides_nothing_from_who_decides(path: Path, beside: str) -> None:
    """Nothing was recorded since, so there are no rows to take in; a note that was changed in between is no look at the index."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{n}") for n in range(100)))
    with closing(indexed(SqliteStore(str(path)))) as one:
        drop_index_of(str(path))
        if beside == "a note":
            one.append(lambda _: Commit(notes={"lease": "mine"}), EVERYTHING_SEEN)
        found: list[int] = []

        def decide(_unseen: Unseen) -> Commit:
            found.extend(one.find_id("id-8"))
            return Commit()

        one.append(decide, 100)
        assert found == [9]


def test_an_index_of_an_earlier_release_is_used_and_is_made_anew_as_today(path: Path) -> None:
    """That had no rowids: SQLite reads each run that it passes on its way to one."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{n}") for n in range(100)))
    today = _made(path)
    with closing(connect(str(path))) as file:
        for table in ("run", "counted"):
            file.execute(f"create table _as_it_was as select * from {table}")
            file.execute(f"drop table {table}")
            file.execute(f"{today[table]} without rowid")
            file.execute(f"insert into {table} select * from _as_it_was")
            file.execute("drop table _as_it_was")
    for anew in (False, True):
        if anew:
            drop_index_of(str(path))
            assert _made(path) == today
        with closing(indexed(SqliteStore(str(path)))) as store:
            Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{anew}-{n}") for n in range(100)))
            store.inspect()
            assert all(store.find_id(f"id-{n}") and store.find_id(f"id-{anew}-{n}") for n in range(100))


def _made(path: Path) -> dict[str, str]:
    """Return how the tables of a file were made."""
    with closing(connect(str(path))) as file:
        return dict(file.execute("select name, sql from sqlite_master where type = 'table'"))


def test_an_index_is_inspected_on_the_disk_also_where_it_is_in_memory(path: Path) -> None:
    """Who has the log open has read parts of it before they were damaged."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{n}") for n in range(100)))
    with closing(indexed(SqliteStore(str(path)))) as store, closing(connect(str(path))) as file:
        assert all(store.find_id(f"id-{n}") for n in range(100))
        store.inspect()
        file.execute(
            "update run set entries = zeroblob(length(entries)) where (part, kind, last) = (select min(part), kind, last from run)"
        )
        with pytest.raises(h.Broken, match=r"the index in .* is damaged"):
            store.inspect()


def test_others_use_the_index_while_it_is_inspected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index may be large, and who decides needs it."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        Scribe(store).append(Fact((), id="id-1"))
        found = threading.Event()

        def find() -> None:
            store.find_id("id-1")
            found.set()

        other = threading.Thread(target=find)
        parts: list[int] = []

        def inspect(_self: runs.Runs, _connection: sqlite3.Connection, part: int) -> None:
            if part == 0:
                other.start()
                assert not found.wait(0.1)
            elif not found.is_set():
                parts.append(part)

        monkeypatch.setattr(runs.Runs, "inspect", inspect)
        store.inspect()
        other.join()
    assert len(parts) < 10


def test_a_large_index_that_is_missing_is_written_as_it_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory all of it at once would be as large as the log, and would be made once more after a crash."""
    monkeypatch.setattr(runs, "RECENT_RECORDS_MAX", 500)
    monkeypatch.setattr("happened.stores.sqlite.MISSING_SECONDS", 0.1)
    with closing(indexed(SqliteStore(str(path)))) as store:
        rows = Scribe(store).append(*(Fact((f"n={n}",), id=f"id-{n}") for n in range(900)))
    drop_index_of(str(path))
    with closing(connect(str(path))) as writer:
        writer.execute("begin immediate")
        with closing(indexed(SqliteStore(str(path)))) as beside:
            assert list(beside.find_id("id-8")) == [rows[8].position]
            writer.execute("rollback")
            with closing(indexed(SqliteStore(str(path)))) as store, closing(indexed(SqliteStore(str(path)))) as after:
                assert writer.execute("select count(*), min(last) from covered").fetchone() == (runs.PARTS, 900)
                assert after._generation == store._generation
                assert sum(len(tail.entries) for tails in after._runs._tail for tail in tails) == 0
                for one in (store, after, beside):
                    assert list(one.find_id("id-9")) == [rows[9].position]
                    assert flat(one.read(wanted=[Wanted(("n=7",))])) == [rows[7]]


@pytest.mark.parametrize("reading", ["today", "another"])
def test_it_is_told_how_far_an_index_has_come(path: Path, reading: str) -> None:
    """Where it is made by another reading, and where it is only behind: whoever opens a log that was without it waits for all of it."""
    with closing(indexed(SqliteStore(str(path)))) as store:
        scribe = Scribe(store)
        for n in range(3):
            scribe.append(*(Fact((f"n={n}", f"m={part}"), id=f"id-{n}-{part}") for part in range(700)))
    if reading == "today":
        with closing(connect(str(path))) as file:
            for table in runs.TABLES:
                file.execute(f"delete from {table}")
    heard: list[tuple[int, int]] = []

    with closing(SqliteStore(str(path))) as store:
        store.index(read_by(reading), terms_of, lambda done, whole: heard.append((done, whole)))

    assert heard == [(1_000, 2_100), (2_000, 2_100), (2_100, 2_100)]


def test_an_open_waits_for_one_that_makes_the_file(path: Path) -> None:
    """Several that open a new log at once all succeed, and make one."""
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            store = indexed(SqliteStore(str(path)))
            Scribe(store).append(Fact())
            store.close()
        except h.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    with closing(SqliteStore(str(path))) as store:
        assert len(flat(store.read())) == 6


def test_anyone_can_look_with_plain_sql(path: Path) -> None:
    """The view `record` has each record with its kind, name, id, cause and body, without any code of ours."""
    clock = Clock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    with shop.open(f"sqlite:///{path}", source=clock) as running:
        running.record(Received("w", 5), id="delivery-1", actor="dock")
        running.dispatch(Sell("w", 3), id="sale-1", actor="anna")
        with pytest.raises(h.Refused):
            running.dispatch(Sell("w", 3), id="sale-2")
        waiting = running.enqueue(Sell("w", 1), id="sale-3")
        running.outcome(waiting)
        records = {record.position: record for record in running.log.read()}

    with closing(sqlite3.connect(path)) as plain:
        shown = plain.execute(
            "select kind, name, id, actor, body, recorded from record where kind <> 'system' order by position"
        ).fetchall()
        everything = plain.execute("select position, kind, name, id from record order by position").fetchall()

    noon = "2026-03-01T12:00:00.000"
    assert shown == [
        ("input", "Received", "delivery-1", "dock", '{"sku":"w","count":5}', noon),
        ("input", "Sell", "sale-1", "anna", '{"sku":"w","count":3}', noon),
        ("internal", "Sold", "sale-1#1", "anna", '{"sku":"w","count":3}', noon),
        ("internal", "Low", "sale-1#2", "anna", '{"sku":"w"}', noon),
        ("input", "Sell", "sale-2", "", '{"sku":"w","count":3}', noon),
        ("output", "refusal", "sale-2#1", "", '{"text":"too few","facts":{"left":2}}', noon),
        ("input", "Sell", "sale-3", "", '{"sku":"w","count":1}', noon),
        ("internal", "Sold", "sale-3#1", "", '{"sku":"w","count":1}', noon),
        ("internal", "Low", "sale-3#2", "", '{"sku":"w"}', noon),
    ]
    assert everything == [(position, record.kind, record.name, record.id) for position, record in records.items()]


def test_who_changes_a_note_beside_a_busy_writer_does_not_index_its_rows_under_the_lock(tmp_path: Path) -> None:
    """A lease is renewed so. What was written meanwhile is found before the lock by who needs it, and its own rows are found after them."""
    with closing(SqliteStore(f"{tmp_path}/log.db")) as busy, closing(SqliteStore(f"{tmp_path}/log.db")) as store:
        indexed: list[int] = []

        def counted(row: Row) -> Terms:
            indexed.append(row.position)
            return terms_of(row)

        busy.index(read_by("today"), terms_of, lambda _done, _all: None)
        store.index(read_by("today"), counted, lambda _done, _all: None)
        Scribe(busy).append(*(Fact((f"n={number}",), id=f"id-{number}") for number in range(500)))
        changed = store.append(lambda _: Commit(notes={"lease": "mine"}), EVERYTHING_SEEN)
        assert (changed.position, indexed) == (500, [])
        assert [row.position for row in flat(store.read(wanted=[Wanted(("n=7",))]))] == [8]

        mine = Scribe(store, seen=EVERYTHING_SEEN)
        [row] = mine.append(Fact(("n=7",), id="mine"))
        assert row.position == 501
        assert [row.position for row in flat(store.read(wanted=[Wanted(("n=7",))]))] == [8, 501]
        assert sorted(indexed) == list(range(1, 501))
        assert (list(store.find_id("id-3")), list(store.find_id("mine"))) == ([4], [501])


def test_a_file_of_a_release_that_wrote_no_recent_entries_is_read_by_who_only_reads(tmp_path: Path) -> None:
    """Who may not write can't make the table; all is found all the same."""
    path = str(tmp_path / "log.db")
    store = SqliteStore(path)
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    rows = Scribe(store).append(*(Fact((f"a={n}",), id=f"id-{n}") for n in range(900)))
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("drop table recent")
        connection.commit()

    store = SqliteStore(path, connect=connect_to_read)
    try:
        store.index(read_by("today"), terms_of, lambda _done, _all: None)
        assert [row for page in store.read(wanted=[Wanted(("a=899",))]) for row in page] == [rows[899]]
        assert list(store.find_id("id-7")) == [rows[7].position]
    finally:
        store.close()
