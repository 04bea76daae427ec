"""The cold part of a SQLite log: killed at any moment, beside others, its place given back, what plain SQL shows, and what an older release says."""

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import happened as h
from happened.core.store import Commit, Row, Wanted
from happened.log import compacting
from happened.log import log as log_module
from happened.log.compacting import ROW_BYTES, InBackground, compact, unpack
from happened.log.log import EVERYTHING_SEEN
from happened.stores import cold, packing, runs, segments
from happened.stores.packing import Packing
from happened.stores.sqlite import SqliteStore, connect, connect_to_read
from happened.testing.rows import Fact, Scribe, check_whole, flat, matches, read_by, terms_of
from tests.cold.rows import filled, nothing
from tests.log.erase import erase
from tests.semantics.model import Balance, Deposited, bank

KILLS = int(os.environ.get("HAPPENED_KILLS", "15"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Say where the log is."""
    return str(tmp_path / "log.db")


def indexed(path: str) -> SqliteStore:
    """Open a store as a log does."""
    store = SqliteStore(path)
    store.index(read_by("today"), terms_of, nothing)
    return store


def test_the_index_of_what_is_cold_is_packed_and_merged_with_what_comes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes fewer bytes, is found by who had it open and who opens anew, and goes on growing."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 16)  # so that each part has some of what is cold
    store = indexed(path)
    rows = filled(store, 4_000, at_once=20)
    store.close()
    with closing(connect(path)) as file:
        [(before,)] = file.execute("select sum(length(entries)) from run")
    with closing(indexed(path)) as other, closing(indexed(path)) as store:
        kinds = f"select last <= ?, length(entries) % {runs.ENTRY_BYTES} in {runs.PLAIN}, count(distinct part) from run group by 1, 2"
        for until in (rows[2_000].last, rows[-1].last):
            store.compact(until, nothing)
            with closing(connect(path)) as file:
                found = {(is_cold, is_plain): parts for is_cold, is_plain, parts in file.execute(kinds, (store.parts().cold,))}
            assert found.keys() == {(0, 1), (1, 0)}, "what is cold is packed, and nothing else"
        assert found[1, 0] > runs.PARTS // 2, "of the others all was merged with what is hot"
        with closing(connect(path)) as file:
            assert file.execute("select sum(length(entries)) from run").fetchone()[0] < before
        for one in (store, other):
            scribe = Scribe(one, seen=one.wait(1 << 40, 0))
            for n in range(30):
                scribe.append(*(Fact(("n=7",), 16, 2, f"{id(one)}-{n}-{part}") for part in range(20)))
        expected = [row for row in flat(store.read()) if "n=7" in terms_of(row).tags]
        assert len(expected) == 80 + 1_200
        for one in (store, other):
            assert [row for row in flat(one.read(wanted=[Wanted(("n=7",))])) if "n=7" in terms_of(row).tags] == expected
            assert all(row.position in one.find_id(terms_of(row).id or "") for row in expected)


@pytest.mark.parametrize("table", ["log", "segment"], ids=["packing", "unpacking"])
def test_a_step_that_fails_leaves_all_as_it_was_and_lets_go_of_the_lock(path: str, table: str) -> None:
    """Rows lie in the other place already, and can't be taken out of the one before: they are where they were, and others write."""
    with closing(indexed(path)) as store, closing(indexed(path)) as other:
        rows = filled(store, 200)
        store.compact(rows[99].last, nothing)
        before = store.parts()
        with closing(connect(path)) as file:
            file.execute(f"create trigger full before delete on {table} begin select raise(abort, 'the disk is full'); end")

        with pytest.raises((h.StoreFailed, sqlite3.DatabaseError), match="the disk is full"):
            store.compact(rows[-1].last, nothing) if table == "log" else store.unpack(0, nothing)

        other.append(lambda _: Commit(notes={"a": "1"}), EVERYTHING_SEEN, wait_seconds_max=0.1)
        for one in (store, other):
            assert (one.parts().cold, flat(one.read())) == (before.cold, rows)
        with closing(connect(path)) as file:
            file.execute("drop trigger full")
        store.compact(rows[-1].last, nothing)
        assert store.parts().hot_rows == 1
        store.unpack(0, nothing)
        assert (store.parts().cold, flat(store.read())) == (0, rows)


def test_a_part_of_the_index_that_others_change_while_it_is_packed_is_left(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of it beside the lock is of what was there before."""
    packed: Callable[..., bytes] = Packing._packed
    written: dict[tuple[int, int, int, int], bytes] = {}

    def others(packing: Packing, part: int, kind: int, last: int, level: int, entries: bytes) -> bytes:
        which = part, kind, last, level
        written[which] = entries[: -runs.SUM_BYTES]  # as an earlier release writes it
        with closing(connect(path)) as file:
            file.execute("update run set entries = ? where part = ? and kind = ? and last = ? and level = ?", (written[which], *which))
        return packed(packing, part, kind, last, level, entries)

    with closing(indexed(path)) as store:
        rows = filled(store, 2_000)
        with monkeypatch.context() as patched:
            patched.setattr(Packing, "_packed", others)
            store.compact(rows[-1].last, nothing)
        with closing(connect(path)) as file:
            found = {tuple(which): entries for *which, entries in file.execute("select part, kind, last, level, entries from run")}
        assert written
        assert {which: found[which] for which in written} == written
        expected = [row for row in rows if "n=7" in terms_of(row).tags]
        assert [row for row in flat(store.read(wanted=[Wanted(("n=7",))])) if "n=7" in terms_of(row).tags] == expected


@pytest.mark.parametrize("damage", ["another bit", "no end", "no bytes"])
def test_a_damaged_part_of_the_index_is_named_and_not_packed(path: str, damage: str) -> None:
    """What helps is said with it, and the rows are packed."""
    with closing(indexed(path)) as store:
        rows = filled(store, 2_000)
    with closing(indexed(path)) as store:
        with closing(connect(path)) as file:
            which = file.execute("select part, kind, last, entries from run where last < ? limit 1", (rows[-1].position,)).fetchone()
            assert which is not None
            *which, body = which
            entries: dict[str, bytes | str] = {
                "another bit": bytes([body[0] ^ 1]) + body[1:],
                "no end": zlib.compress(bytes(99))[:4],
                "no bytes": "text",
            }
            file.execute("update run set entries = ? where part = ? and kind = ? and last = ?", (entries[damage], *which))

        with pytest.raises(h.Broken, match=r"the index is damaged, and is not packed.*happened rebuild --index"):
            store.compact(rows[-1].last, nothing)

        assert (store.cold_until(), flat(store.read())) == (rows[-2].last, rows)


def test_an_index_is_made_anew_of_packed_rows(path: str) -> None:
    """The shelf can be dropped also where rows are packed."""
    with closing(indexed(path)) as store:
        rows = filled(store, 1_500)
        store.compact(rows[-1].last, nothing)
    with closing(connect(path)) as file:
        for table in ("run", "covered", "recent", "block", "checked", "counted", "shelf", "sample"):
            file.execute(f"delete from {table}")

    with closing(indexed(path)) as store:
        assert store.parts().hot_rows == 1
        assert [row for row in flat(store.read(wanted=[Wanted(("n=7",))])) if matches(row, [Wanted(("n=7",))])] == [
            row for row in rows if "n=7" in terms_of(row).tags
        ]


def test_what_rows_took_is_given_back(path: str) -> None:
    """The file is as short as what is in it; what was packed grows no file when it is packed again with what came after."""
    with closing(indexed(path)) as store:
        rows = filled(store, 20_000, at_once=1_000)
    before = Path(path).stat().st_size
    with closing(indexed(path)) as store:
        store.compact(rows[-1].last, nothing)
        parts = store.parts()
    after = Path(path).stat().st_size

    assert parts.free_bytes == 0
    assert parts.gives_back
    assert after < before / 2
    with closing(indexed(path)) as store:
        store.unpack(0, nothing)
        unpacked = msgspec.structs.replace(parts, cold=0, cold_rows=0, cold_bytes=0, segments=0, hot_rows=20_000)
        assert msgspec.structs.replace(store.parts(), bytes=0) == msgspec.structs.replace(unpacked, bytes=0)
        check_whole(flat(store.read()))


def keep_what_is_free(file: sqlite3.Connection) -> None:
    """Have a file be as those that were made before there were cold parts: it gives nothing back."""
    file.execute("pragma journal_mode=delete")
    file.execute("pragma auto_vacuum=none")
    file.execute("vacuum")


def test_a_file_that_can_not_give_back_is_written_anew_once(path: str) -> None:
    """Logs that were made before there were cold parts: what is free in them is used again, or given back after one rewriting."""
    with closing(indexed(path)) as store:
        rows = filled(store, 5_000, at_once=1_000)
    with closing(connect(path)) as file:
        file.execute("drop table segment")
        keep_what_is_free(file)
    before = Path(path).stat().st_size
    with closing(indexed(path)) as store:
        store.compact(rows[4_000].last, nothing)
        assert not store.parts().gives_back
        assert store.parts().free_bytes > before / 3
        store.compact(rows[-1].last, nothing, rewrite=True)
        assert store.parts().gives_back
        assert store.parts().free_bytes == 0
        assert flat(store.read()) == rows
    assert Path(path).stat().st_size < before / 2


def test_the_wal_stays_small_while_rows_are_moved(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken into the file again and again, though nobody records anything, and not at each step: that would cost more than the step."""
    monkeypatch.setattr(segments, "ROWS_MAX", 16)
    monkeypatch.setattr(packing, "PAGES_A_STEP", 4)
    with closing(indexed(path)) as store:
        rows = filled(store, 4_000, at_once=1_000)
    wal = Path(f"{path}-wal")
    sizes: list[int] = []

    def heard(_done: int, _all: int) -> None:
        sizes.append(wal.stat().st_size)

    moves: list[tuple[int, Callable[[SqliteStore], None]]] = [
        (packing.STEPS_A_CHECKPOINT, lambda store: store.compact(rows[-1].last, heard)),
        (packing.STEPS_A_CHECKPOINT // 8, lambda store: store.unpack(0, heard)),
    ]
    for steps, move in moves:
        sizes.clear()
        with closing(indexed(path)) as store:
            move(store)
            first, grown, most = sizes[0], sizes[steps - 1], max(sizes)
            assert len(sizes) > 3 * packing.STEPS_A_CHECKPOINT
            assert first * steps / 8 < grown
            assert most < 1.5 * grown
            assert wal.stat().st_size < 1.1 * most


def test_each_step_waits_for_who_holds_the_lock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has it right before each: nothing fails for that, whether rows, parts of the index or free pages are moved."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 16)
    with closing(indexed(path)) as store:
        rows = filled(store, 2_000, at_once=20)
    with closing(connect(path)) as file:
        keep_what_is_free(file)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    held: list[str] = []

    def hold(sql: str) -> None:
        if sql.startswith(("begin", "vacuum", "pragma incremental_vacuum")):
            if other.in_transaction:  # it was tried once
                other.execute("rollback")
            else:
                other.execute("begin immediate")
                held.append(sql)

    class Beside(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # Any: as the method that it stands for
            hold(sql)
            return super().execute(sql, *parameters)

        def executescript(self, sql: str) -> sqlite3.Cursor:
            hold(sql)
            return super().executescript(sql)

    def opened(file: str) -> sqlite3.Connection:
        return sqlite3.connect(
            file, timeout=0, isolation_level=None, check_same_thread=False, factory=Beside if moving else sqlite3.Connection
        )

    moving = False
    with closing(other), closing(SqliteStore(path, connect=opened)) as store:
        store.index(read_by("today"), terms_of, nothing)
        store.parts()
        moving = True
        store.compact(rows[-1].last, nothing, rewrite=True)
        store.unpack(0, nothing)
        giving_back = f"pragma incremental_vacuum({packing.PAGES_A_STEP})"
        assert {*held} == {"begin", "begin immediate", "vacuum", giving_back}
        assert held.count(giving_back) < 10, "many pages are given back at once"
        assert flat(store.read()) == rows


def test_damage_of_a_segment_is_named(path: str) -> None:
    """One bit of the packed bytes."""
    with closing(indexed(path)) as store:
        rows = filled(store, 700)
        store.compact(rows[-1].last, nothing)
    with closing(connect(path)) as file:
        [body] = file.execute("select body from segment where first = 1").fetchone()
        file.execute("update segment set body = ? where first = 1", (body[:900] + bytes([body[900] ^ 1]) + body[901:],))

    with closing(SqliteStore(path)) as store, pytest.raises(h.Broken, match="cold part from position 1 on"):
        flat(store.read())


def test_a_forged_segment_does_not_verify(path: str) -> None:
    """Whoever packs other records anew, with a check sum that fits, can't have the digests that were noted."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        for n in range(100):
            running.record(Deposited("a", n + 1), id=f"fact-{n}")
        whole = running.log.verify()
        compact(running.log, keep=0)
        assert running.log.verify() == whole
        engine = running.log.engine
        assert isinstance(engine, SqliteStore)
    with closing(connect(path)) as file:
        part = cold.Cold(path)
        segment = part.segment(file, 1)
        rows = segment.rows(0, segment.count)
        forged = [
            msgspec.structs.replace(row, records=row.records.replace('"amount":51', '"amount":99'), digest=row.digest) for row in rows
        ]
        assert forged != rows
        body = _packed_unseen(forged, segment.before)
        file.execute("update segment set body = ?, checked = ? where first = 1", (body, zlib.crc32(body)))

    with h.open_log(f"sqlite:///{path}") as log, pytest.raises(h.Broken, match="was changed after it was recorded"):
        log.verify()


def _packed_unseen(rows: list[Row], before: bytes) -> bytes:
    """Pack rows without looking whether they follow by the chain."""
    packed: list[bytes] = []

    class Blind(segments.Segment):
        def __init__(self, body: bytes) -> None:
            packed.append(body)
            super().__init__(body)

        def rows(self, start: int, end: int) -> list[Row]:
            return rows[start:end]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "Segment", Blind)
        return segments.pack(rows, before)


def test_a_body_in_a_cold_part_can_be_erased(path: str, tmp_path: Path) -> None:
    """A store puts a row without the body in the place of the other: readers that have it unfolded see it, the chain holds, the file has it no more."""
    with closing(SqliteStore(path)) as store, closing(SqliteStore(path)) as other:
        Scribe(store).append(Fact(text="s3cr3t-word"))
        rows = filled(store, 600)
        store.compact(rows[-1].last, nothing)
        copy = str(tmp_path / "copy.db")
        with closing(connect(copy)) as file:
            file.execute("attach ? as whole", (path,))
            file.execute("create table log as select * from whole.log")
            file.executemany("insert into log values(?, ?, ?, ?, ?, ?, ?, ?)", [msgspec.structs.astuple(row) for row in rows])
        erase(copy, 1)
        with closing(connect(copy)) as file:
            erased = Row(*file.execute("select * from log where position = 1").fetchone())
        assert flat(other.read()) == rows

        store.append(lambda _: Commit(instead=[erased]), EVERYTHING_SEEN)
        assert store.scrub(nothing)

        for one in (store, other):
            found = flat(one.read())
            assert found == [erased, *rows[1:]] != rows
            check_whole(found)
    assert b"s3cr3t" not in Path(path).read_bytes()


def test_an_older_release_says_which_reads_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log with a cold part is marked; the mark goes with the last of it."""
    url = f"sqlite:///{path}"
    with bank.open(url, run=False) as running:
        running.record_all([Deposited("a", 1)] * 20)
        compact(running.log, keep=5)
    with monkeypatch.context() as older:
        older.setattr(log_module, "KINDS", {"0", "1", "2", "3", "4", "5"})
        with pytest.raises(h.Incompatible, match=r"cold.*release 0\.1\.0"):
            bank.open(url, run=False)
    with h.open_log(url) as log:
        unpack(log)
        assert log.engine.notes("kind/") == {}
    with monkeypatch.context() as older:
        older.setattr(log_module, "KINDS", {"0", "1", "2", "3", "4", "5"})
        bank.open(url, run=False).close()


def test_a_log_of_the_first_format_is_packed(tmp_path: Path) -> None:
    """It has no table for it, and is opened read-only by others meanwhile."""
    path = tmp_path / "old.db"
    path.write_bytes((Path(__file__).parent.parent / "log" / "first_format.db").read_bytes())
    with h.open_log(f"sqlite:///{path}") as log:
        whole = log.verify()
        before = list(log.read())
        with closing(SqliteStore(str(path), connect=connect_to_read)) as reader:
            rows = flat(reader.read())
            compact(log, keep=0)
            assert flat(reader.read()) == rows
        assert list(log.read()) == before
        assert log.verify() == whole


def test_states_views_and_the_record_view(path: str) -> None:
    """States and views come of packed rows; plain SQL says in one line what it does not show, and shows all again after unpacking."""
    url = f"sqlite:///{path}"
    with bank.open(url) as running:
        for n in range(300):
            running.record(Deposited(f"a{n % 7}", 1), id=f"fact-{n}")
        with closing(sqlite3.connect(path)) as file, file:
            shown = file.execute("select * from record order by position").fetchall()
        file.close()
        compact(running.log, keep=10)
        running.record(Deposited("a0", 1), id="later")
        assert running.state(Balance, "a0") is not None

    with bank.open(url, run=False) as running:
        assert running.state(Balance, "a0") == Balance("a0", 44, 44)
        cold = running.log.head - 10 - 1
        with closing(sqlite3.connect(path)) as file, file:
            [first, *others] = file.execute(
                "select position, row, kind, body ->> 'last', body ->> 'see' from record order by position"
            ).fetchall()
            assert first[:4] == (1, 1, "cold", cold)
            assert "happened unpack" in first[4]
            assert [position for position, *_ in others] == list(range(cold + 1, running.log.head + 1))
        unpack(running.log)
        with closing(sqlite3.connect(path)) as file, file:
            assert file.execute("select * from record order by position").fetchall()[:-1] == shown
        file.close()


def hot_bytes(path: str) -> int:
    """Return what the rows take that are not packed, each with what it takes beside its texts."""
    with closing(connect(path)) as file:
        columns = " + ".join(f"length(cast({column} as blob))" for column in ("head", "coalesce(input, '')", "records", "salts", "digest"))
        [(found,)] = file.execute(f"select sum({columns} + {ROW_BYTES}) from log")
        return int(found)


def test_what_is_oldest_is_packed_by_size(path: str) -> None:
    """`above` keeps what takes no more than so many bytes, from the end on, however large the rows before are; with `older` both keep theirs."""
    with h.open_log(f"sqlite:///{path}", create=True) as log:
        for size in (4_000, 40, 400):
            for n in range(500):
                log.append(h.Loose("Seen", {"n": n, "text": "x" * size}))
        whole = hot_bytes(path)
        assert compact(log, above=whole * 2).cold == 0
        assert compact(log, above=whole // 2, older=timedelta(days=1)).cold == 0
        for above in (whole // 2, 300_000, 100_000, 10_000):
            before = log.head - compact(log, above=above).cold
            assert 0.9 * above <= hot_bytes(path) <= 1.1 * above
            assert before == log.head - compact(log, above=above).cold  # nothing more is to be packed
        assert compact(log, above=0).hot_rows == 1
        log.verify()


@pytest.mark.parametrize(
    ("older", "above", "hot"),
    [
        (timedelta(0), None, 1),
        (None, 100_000, 100_000),
        (timedelta(days=1), 100_000, 100_000),
        (timedelta(0), 100_000_000, 1),
    ],
)
def test_it_packs_by_itself(path: str, older: timedelta | None, above: int | None, hot: int) -> None:
    """While it is told to, in the background, as soon as enough has come together: what is old, and what is oldest of too much."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        running.record_all([Deposited("a", 1)] * 6_000)
        with InBackground(running.log, older=older, above=above):
            deadline = time.monotonic() + 30
            engine = running.log.engine
            assert isinstance(engine, SqliteStore)
            while hot_bytes(path) > 1.1 * max(hot, 1_000) and time.monotonic() < deadline:
                running.log.wait(running.log.head, 0.05)
        running.log.verify()
    assert 0.9 * hot <= hot_bytes(path) <= 1.1 * max(hot, 1_000)


def test_a_few_are_not_worth_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each look would pack what came since the last one."""
    looked = threading.Event()

    def look(*_asked: object) -> int:
        looked.set()
        return 4_000

    monkeypatch.setattr(compacting, "_until", look)
    with bank.open(f"sqlite:///{path}", run=False) as running:
        running.record_all([Deposited("a", 1)] * 4_100)
        with InBackground(running.log, above=0):
            assert looked.wait(30)
        assert isinstance(running.log.engine, SqliteStore)
        assert running.log.engine.cold_until() == 0


def test_a_log_in_memory_has_no_cold_part() -> None:
    """It says so; so do numbers that can't be meant."""
    with bank.open(run=False) as running, pytest.raises(h.Invalid, match="in memory"):
        compact(running.log)


def test_numbers_that_can_not_be_meant(path: str) -> None:
    """They say what they are."""
    with h.open_log(f"sqlite:///{path}", create=True) as log:
        with pytest.raises(h.Invalid, match="number of records"):
            compact(log, keep=-1)
        with pytest.raises(h.Invalid, match="time that has passed"):
            compact(log, older=timedelta(days=-1))
        with pytest.raises(h.Invalid, match="number of bytes"):
            compact(log, above=-1)
        with pytest.raises(h.Invalid, match="number of bytes"):
            InBackground(log, above=-1)
        with pytest.raises(h.Invalid, match="nothing says what"):
            InBackground(log)
