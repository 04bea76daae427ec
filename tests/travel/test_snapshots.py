"""Snapshots: any of them plus the rest is the fold of all; one of other code, another history, or with other states is not used; all can be deleted."""

import gc
import shutil
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import happened as h
from happened.core.state import fold_of
from happened.cqrs.past import Joining
from happened.shelf.snapshots import DDL, Kept, SnapshotsFile, forget_snapshots
from happened.sourcing import snapshot as taking
from happened.sourcing.memory_image import Entry
from happened.sourcing.snapshot import Snapshots, Taker
from tests.servers import fresh
from tests.travel.made import ALONE, ByCountry, Home, Order, Ordered, Received, Stock, Total, history, shop


class Filled(h.Event):
    page: Annotated[str, h.Tag("page")]
    text: str


class Page(h.State):
    page: Annotated[str, h.Tag("page")]
    text: str = ""

    def evolve(self, event: Filled) -> Self:
        return self.but(text=event.text)


class Laboured(h.State):
    page: Annotated[str, h.Tag("page")]
    sum: int = 0

    def evolve(self, _event: Filled) -> Self:
        return self.but(sum=sum(range(20_000)))


pages = h.App("pages", records=[Filled], views=[Page, Laboured])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 30), data=st.data())
def test_any_snapshot_plus_the_rest_is_the_fold_of_all(seed: int, length: int, data: st.DataObject) -> None:
    with shop.open("memory:", run=False) as running:
        history(running, seed, length)
        of = running.snapshots
        whole = {state: running.states(state) for state in ALONE}
        ends = [row.last for rows in running.log.engine.read() for row in rows]
        for state in ALONE:
            fold = fold_of(state)
            position = data.draw(st.sampled_from(ends))
            taken = of.take(fold, position)
            assert (taken.position, of.position(fold, running.log.head)) == (position, position)
            after, [start] = running.travel.start(fold, running.log.head)
            assert after == position
            kept = {key: one for key, (one, _) in start.items()}
            assert running._image.states(fold, start=kept, after=after) == whole[state]
            assert running.at(running.log.head).states(state) == whole[state]


def test_deleting_all_snapshots_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    file = tmp_path / "shop.snapshots.db"
    with shop.open(url, run=False) as running:
        history(running, 11, 40)
        middle = running.at(running.log.head // 2).position
        before = {state: running.at(middle).states(state) for state in ALONE}
        assert not file.exists()
        for state in ALONE:
            running.snapshots.take(fold_of(state), middle)
        assert {state: running.at(middle).states(state) for state in ALONE} == before
    assert file.exists()
    with shop.open(url, run=False) as running:
        assert [one.wrong for one in running.snapshots.listed(shop.snapped())] == [""] * len(ALONE)
        assert running.snapshots.drop() == len(ALONE)
        assert {state: running.at(middle).states(state) for state in ALONE} == before
    for path in tmp_path.glob("shop.snapshots.db*"):
        path.unlink()
    with shop.open(url, run=False) as running:
        assert {state: running.at(middle).states(state) for state in ALONE} == before
        assert running.snapshots.listed(shop.snapped()) == []


def test_a_snapshot_is_really_used(tmp_path: Path) -> None:
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        history(running, 12, 40)
        fold = fold_of(Total)  # it has no key to prove it by: what is in the file is believed
        running.snapshots.take(fold, running.log.head)
        _rewrite(tmp_path / "shop.snapshots.db", orders=1000)
        found = running.at(running.log.head).state(Total)
        assert found is not None
        assert found.orders == 1000
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        loaded = running.state(Total)
        assert loaded is not None
        assert loaded.orders == 1000


def test_the_first_load_begins_with_a_snapshot_and_proves_it_from_the_one_before(tmp_path: Path) -> None:
    """It reads what lies between the two and after, not what lies before: so a wrong state in the older one is carried on, and one in the newer one is found."""
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        for n in range(9):
            running.record(Received("a", 5, Decimal(n)))
            if n in (2, 5):
                running.snapshots.take(fold_of(Stock), running.log.head)
    _rewrite(tmp_path / "shop.snapshots.db", units=1010, of=1)
    with shop.open(url, run=False) as running:
        assert running.state(Stock, "a") == Stock("a", 45, Decimal(8))  # what the newer one says is not what follows from the older one
        told = [one.wrong for one in running.snapshots.listed(shop.snapped())]
        assert [one.startswith("it does not hold what the log says") for one in told] == [True, True]
    _rewrite(tmp_path / "shop.snapshots.db", units=1025, of=2)
    with shop.open(url, run=False) as running:
        assert running.state(Stock, "a") == Stock("a", 1040, Decimal(8))


def test_a_first_load_does_not_begin_with_a_snapshot_that_holds_something_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        running.snapshots.take(fold_of(Stock), running.log.head)
        running.record(Received("a", 1, Decimal("1.5")))
    _rewrite(tmp_path / "shop.snapshots.db", units=6)
    with shop.open(url, run=False) as running:
        assert running.state(Stock, "a") == Stock("a", 6, Decimal("1.5"))
        [one] = running.snapshots.listed(shop.snapped())
        assert one.wrong.startswith("it does not hold what the log says")


def test_many_keys_are_loaded_from_a_snapshot_where_that_is_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to read chunks is held against what the keys have in the mean."""
    url = f"sqlite:///{tmp_path}/shop.db"
    keys = [(f"o-{n}",) for n in range(6)]
    fold = fold_of(Order)
    with shop.open(url, run=False) as running:
        history(running, 15, 30)
        expected = running._image.load(running._image.follow(fold), keys)
        running.snapshots.take(fold, running.log.head)
    asked: list[int] = []
    chunk = SnapshotsFile.chunk

    def counted(self: SnapshotsFile, id: int, n: int) -> bytes | None:
        asked.append(n)
        return chunk(self, id, n)

    monkeypatch.setattr(SnapshotsFile, "chunk", counted)
    for events, chunks in ((0, 2), (1_000_000, 1)):  # the first load of a class looks for two of its keys, to prove the snapshot
        monkeypatch.setattr(taking, "CHUNK_EVENTS", events)
        with shop.open(url, run=False) as running:
            asked.clear()
            assert running._image.load(running._image.follow(fold), keys) == expected
            assert len(asked) == chunks


def test_a_snapshot_that_was_looked_up_before_all_was_let_go_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold what was erased meanwhile."""
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        fold, of = fold_of(Stock), running.snapshots
        of.take(fold, running.log.head)
        listed = SnapshotsFile.listed

        def let_go_meanwhile(self: SnapshotsFile) -> list[Kept]:
            found = listed(self)
            of.let_go()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(SnapshotsFile, "listed", let_go_meanwhile)
            assert of.latest(fold, [("a",)], running.log.head) == (0, {})
            of.renew(fold)
            assert of.latest(fold, [("a",)], running.log.head) == (0, {})
        position, found = of.latest(fold, [("a",)], running.log.head)
        assert (position, found["a",].state) == (running.log.head, Stock("a", 5, Decimal("1.5")))


@pytest.mark.parametrize("moment", ["folded", "written in part", "written"])
@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_what_is_erased_while_a_snapshot_is_taken_is_in_none(
    where: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is folded anew: what was folded before may hold what was in the bodies, and nothing of that is kept."""
    url = fresh() if where == "postgres" else f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running, shop.open(url, run=False) as other:
        running.record_all([Ordered("o-1", "FR", ()), Ordered("o-2", "FR", ()), Ordered("o-3", "ES", ())])
        fold, until, put, chunked = fold_of(ByCountry), running.log.head, SnapshotsFile.put, Snapshots._chunks
        written: list[int] = []

        def erased_meanwhile(self: SnapshotsFile, about: Kept, chunks: Iterable[bytes]) -> int:
            def others() -> Iterator[bytes]:
                for chunk in chunks:
                    yield chunk
                    erase("written in part")

            made = put(self, about, others())
            erase("written")
            written.append(made)
            return made

        def erase(now: str) -> None:
            if now == moment and not written:
                other.erase(("order", "o-1"), actor="ann", reason="they asked")

        def erased_before(self: Snapshots, *args: Any) -> Any:
            erase("folded")
            return chunked(self, *args)

        monkeypatch.setattr(Snapshots, "_chunks", erased_before)
        monkeypatch.setattr(SnapshotsFile, "put", erased_meanwhile)
        taken = running.snapshots.take(fold, until)

        assert len(written) == 2
        assert (taken.position, running.snapshots.position(fold, until)) == (until, until)
        assert running.at(until).states(ByCountry) == {("fr",): ByCountry("fr", 1), ("es",): ByCountry("es", 1)}
        assert [kept.id for kept in running.snapshots.file.listed()] == written[1:]
        assert running.snapshots.file.chunk(written[0], 0) is None


def test_what_is_erased_before_a_snapshot_is_proven_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was folded is not what the log says then, and that is as it should be."""
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        running.record_all([Received("a", 5, Decimal("1.5")), Received("b", 1, Decimal(1))])
        until, chunks = running.log.head, Snapshots._chunks
        folded: list[object] = []

        def erased_meanwhile(self: Snapshots, *args: Any) -> Any:
            if not folded:
                for sku in ("a", "b"):
                    running.erase(("sku", sku), actor="ann", reason="they asked")
            folded.append(args)
            return chunks(self, *args)

        monkeypatch.setattr(Snapshots, "_chunks", erased_meanwhile)

        assert running.snapshots.take(fold_of(Stock), until).states == 0
        assert len(folded) == 2


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_a_snapshot_of_what_was_not_taken_in_yet_is_not_begun_with(where: str, tmp_path: Path) -> None:
    """Another process has recorded more, and a snapshot is of that: what comes with the next commit would be in a state twice."""
    url = fresh() if where == "postgres" else f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running, shop.open(url, run=False) as other:
        running.record(Received("b", 1, Decimal(1)))
        other.record(Received("a", 5, Decimal("1.5")))
        running._image.forget()
        running.snapshots.take(fold_of(Stock), running.log.head)
        running.snapshots.renew(fold_of(Stock))

        assert running.state(Stock, "a") is None  # as of what this process has taken in
        running.record(Received("b", 1, Decimal(1)))

        assert running.state(Stock, "a") == running.states(Stock)["a",] == Stock("a", 5, Decimal("1.5"))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_what_is_loaded_into_memory_is_the_same_with_and_without(seed: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/shop.db"
        with shop.open(url, run=False, views="memory:") as running:
            history(running, seed, 12)
            ends = [row.last for rows in running.log.engine.read() for row in rows]
            both: tuple[type[h.State], ...] = (Stock, Order)
        taken = {state: data.draw(st.sampled_from(ends)) for state in both}
        found: list[dict[object, object]] = []
        for snapped in (False, True):
            with shop.open(url, run=False, views="memory:") as running:
                for state, position in taken.items() if snapped else ():
                    running.snapshots.take(fold_of(state), position)
                keys: list[tuple[type[h.State], str]] = [*((Stock, f"sku-{n}") for n in range(5)), *((Order, f"o-{n}") for n in range(6))]
                found.append({(state, key): running._image.get(fold_of(state), (key,)) for state, key in keys})
                running._image.forget()
                orders = running._image.load(running._image.follow(fold_of(Order)), [(f"o-{n}",) for n in range(6)])
                assert orders == {(f"o-{n}",): found[0][Order, f"o-{n}"] for n in range(6)}
        assert found[0] == found[1]  # states, and versions, also of what is gone


def test_a_file_that_is_damaged_stops_no_command(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
    (tmp_path / "shop.snapshots.db").write_bytes(b"no database" * 1000)
    with shop.open(url, run=False) as running:
        assert running.state(Stock, "a") == Stock("a", 5, Decimal("1.5"))
        with pytest.raises(h.Broken, match="Delete it: nothing is lost"):
            running.snapshots.listed(shop.snapped())


def _rewrite(path: Path, *, of: int = 1, **changes: object) -> None:
    """Change fields of the only state of the only chunk of a snapshot."""
    with closing(sqlite3.connect(path)) as connection, connection:
        [(body,)] = connection.execute("select body from _chunk where snapshot = ?", (of,)).fetchall()
        states, versions = msgspec.msgpack.decode(zlib.decompress(body))
        states[0].update(changes)
        connection.execute("update _chunk set body = ? where snapshot = ?", (zlib.compress(msgspec.msgpack.encode((states, versions))), of))


@pytest.mark.parametrize("earlier", [False, True])
def test_no_id_is_given_twice(tmp_path: Path, earlier: bool) -> None:
    """Neither in a new file, nor in one that was made by code that did so; what that holds is still there."""
    path = tmp_path / "snapshots.db"
    about = Kept(0, "Stock", "code", "log", 1, 7, b"", 1, 0, 0, 0.0)
    file = SnapshotsFile(str(path))
    before = file.put(about, [b"chunk"])
    if earlier:
        file.close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table _as_it_was as select * from _snapshot")
            connection.execute("drop table _snapshot")
            connection.execute(DDL[0].replace(" autoincrement", ""))
            connection.execute("insert into _snapshot select * from _as_it_was")
            connection.execute("create table _chunks_as_they_were as select * from _chunk")
            connection.execute("drop table _chunk")
            connection.execute(f"{DDL[1]} without rowid")
            connection.execute("insert into _chunk select * from _chunks_as_they_were")
            connection.commit()
        file = SnapshotsFile(str(path))

    assert [(kept.id, list(file.chunks(kept))) for kept in file.listed()] == [(before, [b"chunk"])]
    file.drop([before])
    assert file.put(about, [b"another"]) != before
    assert forget_snapshots(str(path))
    assert file.put(about, [b"a third"]) not in (before, before + 1)
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        [(made,)] = connection.execute("select sql from sqlite_master where name = '_chunk'")
        assert "without rowid" not in made, "SQLite would read each chunk that it passes on its way to one"


def test_large_states_are_kept_in_chunks_of_a_size(tmp_path: Path) -> None:
    """To find one of them, no more is read than where they are small; also where there are few."""
    with pages.open(f"sqlite:///{tmp_path}/pages.db", run=False) as running:
        for number in range(40):
            running.record(Filled(f"page {number}", f"{number}" * 10_000))
        taken = running.snapshots.take(fold_of(Page), running.log.head)
        assert taken.states == 40
        with closing(sqlite3.connect(tmp_path / "pages.snapshots.db")) as connection:
            sizes = [len(zlib.decompress(body)) for (body,) in connection.execute("select body from _chunk")]
        assert len(sizes) == sum(len(f"{number}" * 10_000) for number in range(40)) // taking.CHUNK_BYTES
        assert max(sizes) < 4 * taking.CHUNK_BYTES
        found = running.at(running.log.head).state(Page, "page 7")
        assert found is not None
        assert (found.page, set(found.text), len(found.text)) == ("page 7", {"7"}, 10_000)


def test_one_that_does_not_hold_what_the_log_says_is_not_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        running.snapshots.take(fold_of(Stock), running.log.head)
    _rewrite(tmp_path / "shop.snapshots.db", units=6)
    with shop.open(url, run=False) as running:
        [one] = running.snapshots.listed(shop.snapped())
        assert one.wrong.startswith("it does not hold what the log says")
        assert running.at(running.log.head).state(Stock, "a") == Stock("a", 5, Decimal("1.5"))
        assert running.snapshots.drop(wrong=shop.snapped()) == 1
        assert running.snapshots.listed(shop.snapped()) == []


def test_one_of_another_history_is_not_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        running.snapshots.take(fold_of(Stock), running.log.head)
    (tmp_path / "shop.snapshots.db").rename(tmp_path / "other.snapshots.db")
    with shop.open(f"sqlite:///{tmp_path}/other.db", run=False) as running:
        running.record(Received("a", 7, Decimal("1.5")))
        [one] = running.snapshots.listed(shop.snapped())
        assert one.wrong.startswith("it is of the log ")
        assert running.at(running.log.head).state(Stock, "a") == Stock("a", 7, Decimal("1.5"))


def test_one_of_what_a_restored_log_has_lost_is_not_used(tmp_path: Path) -> None:
    """The same log, as long as it was, and its rows are others: the link of the chain tells."""
    log, url = tmp_path / "shop.db", f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
    shutil.copy(log, tmp_path / "backup.db")
    with shop.open(url, run=False) as running:
        running.record(Received("a", 1, Decimal("1.5")))
        taken = running.snapshots.take(fold_of(Stock), running.log.head)
    shutil.copy(tmp_path / "backup.db", log)

    with shop.open(url, run=False) as running:
        assert running.record(Received("a", 2, Decimal("1.5"))).position == taken.position
        [one] = running.snapshots.listed(shop.snapped())
        assert one.wrong == "it is of another history of this log"
        assert running.at(running.log.head).state(Stock, "a") == Stock("a", 7, Decimal("1.5"))


@pytest.mark.parametrize("gone", [0, 1], ids=["the first chunk", "the last chunk"])
def test_one_that_is_dropped_while_it_is_read_is_none(gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process drops it between two chunks: what was read of it is not taken for all, and what was not is folded from the beginning."""
    monkeypatch.setattr(taking, "CHUNK_STATES", 2)
    with shop.open("memory:", run=False) as running:
        running.record_all([Received(sku, 5, Decimal("1.5")) for sku in "abcd"])
        fold, of, position, chunk = fold_of(Stock), running.snapshots, running.log.head, SnapshotsFile.chunk
        of.take(fold, position)
        running.record(Received("a", 1, Decimal("1.5")))
        expected = {(sku,): Stock(sku, 6 if sku == "a" else 5, Decimal("1.5")) for sku in "abcd"}
        [kept] = of.file.listed()
        assert kept.chunks == 2

        def dropped(self: SnapshotsFile, id: int, n: int) -> bytes | None:
            return None if (id, n) == (kept.id, gone) else chunk(self, id, n)

        monkeypatch.setattr(SnapshotsFile, "chunk", dropped)
        of._known[kept.id] = ""  # it was proven before

        assert of.since(fold, running.log.head) == taking.ZERO
        for key, state in expected.items():
            before, entry = of.one(fold, key, running.log.head)
            assert (before, entry) == (0, None) or (before, entry and entry.state) == (position, Stock(*key, 5, Decimal("1.5")))
            assert running.at(running.log.head).state(Stock, *key) == state
        assert of.take(fold, running.log.head).states == 4
        assert {key: entry.state for key, entry in of.since(fold, running.log.head).entries.items()} == expected


def test_a_first_load_looks_whether_a_snapshot_is_of_this_history(tmp_path: Path) -> None:
    """What it asks for may be the same there, and what the next one asks for another."""
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record_all([Received("a", 5, Decimal("1.5")), Received("b", 5, Decimal("1.5"))])
        running.snapshots.take(fold_of(Stock), running.log.head)
    with closing(sqlite3.connect(tmp_path / "shop.snapshots.db")) as file, file:
        file.execute("update _snapshot set digest = zeroblob(32)")
    with shop.open(url, run=False) as running:
        assert running.snapshots.latest(fold_of(Stock), [("a",)], running.log.head) == (0, {})


def test_what_loads_began_with_is_looked_up_again_after_all_was_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not what was there before, though nobody has come to drop that yet."""

    def none(_: SnapshotsFile) -> list[Kept]:
        return []

    with shop.open("memory:", run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        fold, of = fold_of(Stock), running.snapshots
        of.take(fold, running.log.head)
        assert of.latest(fold, [("a",)], running.log.head)[0] == running.log.head

        of.let_go()
        monkeypatch.setattr(SnapshotsFile, "listed", none)

        assert of.latest(fold, [("a",)], running.log.head) == (0, {})


def test_one_that_was_found_wrong_by_one_key_is_not_used_for_another(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record_all([Received("a", 5, Decimal("1.5")), Received("b", 7, Decimal("1.5"))])
        running.snapshots.take(fold_of(Stock), running.log.head)
    with closing(sqlite3.connect(tmp_path / "shop.snapshots.db")) as file:
        [(body,)] = file.execute("select body from _chunk").fetchall()
    states, _ = msgspec.msgpack.decode(zlib.decompress(body))
    first, other = (state["sku"] for state in states)
    _rewrite(tmp_path / "shop.snapshots.db", units=1000)
    with shop.open(url, run=False) as running:
        assert running.snapshots.latest(fold_of(Stock), [(first,)], running.log.head) == (0, {})
        assert running.snapshots.latest(fold_of(Stock), [(other,)], running.log.head) == (0, {})


def test_none_is_taken_on_from_one_that_was_changed_since_it_was_proven(tmp_path: Path) -> None:
    """What is to be kept is folded again by some keys, from the beginning of the log."""
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        first = running.snapshots.take(fold_of(Stock), running.log.head)
        _rewrite(tmp_path / "shop.snapshots.db", units=1000)
        running.record(Received("a", 1, Decimal("1.5")))

        with pytest.raises(h.Broken, match="in the snapshot"):
            running.snapshots.take(fold_of(Stock), running.log.head)
        assert [one.position for one in running.snapshots.listed(shop.snapped())] == [first.position]


def test_a_state_is_never_of_a_later_position_than_is_asked_for() -> None:
    """The next position is that of a snapshot."""
    with shop.open("memory:", run=False) as running:
        before = running.record(Received("a", 5, Decimal("1.5"))).position
        after = running.record(Received("a", 1, Decimal("1.5"))).position
        assert running.snapshots.take(fold_of(Stock), after).position == before + 1
        assert running.at(before).state(Stock, "a") == running.at(before).states(Stock)["a",] == Stock("a", 5, Decimal("1.5"))


Rates = tuple[Decimal, int]


class Rated(h.Event):
    rates: Rates


class ByRates(h.State):
    """Its keys may be written in several ways."""

    rates: Rates
    count: int = 0

    def evolve(self, _event: Rated) -> Self:
        return self.but(count=self.count + 1)


def test_a_state_is_found_by_whichever_of_its_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which chunk it lies is told by the text of a key, and a number within one has several; what came since is folded on to it once."""
    monkeypatch.setattr(taking, "CHUNK_STATES", 1)
    app = h.App("rates", records=[Rated], views=[ByRates])
    with app.open("memory:", run=False) as running:
        running.record_all([Rated((Decimal(f"{number}.50"), 1)) for number in range(8)])
        running.snapshots.take(fold_of(ByRates), running.log.head)
        running.record(Rated((Decimal("3.5"), 1)))
        for number in range(8):
            for written in (f"{number}.5", f"{number}.500"):
                found = running.at(running.log.head).state(ByRates, (Decimal(written), 1))
                assert found is not None
                assert found.count == (2 if number == 3 else 1)


def test_one_of_other_code_is_not_used(tmp_path: Path) -> None:
    class Stock(h.State):  # the same name, and another meaning
        sku: str
        units: int = 0

        def evolve(self, event: Received) -> Self:
            return self.but(units=self.units + 10 * event.units)

    other = h.App("shop", records=shop.records, views=[Stock], ignores=["Cancel", "Cancelled"])
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        running.snapshots.take(fold_of(ALONE[0]), running.log.head)
    with other.open(url, run=False) as running:
        assert [one.wrong for one in running.snapshots.listed(other.snapped())] == ["it was made by other code"]
        assert running.at(running.log.head).state(Stock, "a") == Stock("a", 50)
        running.snapshots.take(fold_of(Stock), running.log.head)
        assert [one.wrong for one in running.snapshots.listed(other.snapped())] == [""]  # nobody needs the other one any more


def test_what_can_not_be_kept_is_said() -> None:
    class Odd(h.State):
        sku: str
        values: tuple[float, ...] = ()

        def evolve(self, event: Received) -> "Odd":
            return self.but(values=(*self.values, float("nan")))

    class Whole(h.State):
        sku: str
        value: float = 0.0

        def evolve(self, event: Received) -> "Whole":
            return self.but(value=event.units)  # it is equal to what is read back, and shows as another number

    class Failing(h.State):
        sku: str

        def evolve(self, event: Received) -> "Failing":
            raise ValueError("no")

    odd = h.App("odd", records=[Received])
    with odd.open("memory:", run=False) as running:
        running.record(Received("a", 5, Decimal("1.5")))
        for state in (Odd, Whole):
            with pytest.raises(h.Invalid, match="read back as something else"):
                running.snapshots.take(fold_of(state), running.log.head)
        with pytest.raises(h.Invalid, match="stands still at position"):
            running.snapshots.take(fold_of(Failing), running.log.head)
        assert running.snapshots.listed([fold_of(Odd), fold_of(Whole), fold_of(Failing)]) == []


def test_they_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "KEPT_MAX", 4)
    with shop.open("memory:", run=False) as running:
        for n in range(40):
            running.record(Received("a", n, Decimal(1)))
            running.snapshots.take(fold_of(Stock), running.log.head)
        listed = [one.position for one in running.snapshots.listed(shop.snapped())]
        assert len(listed) == 4
        assert listed[-1] == running.log.head
        gaps = [after - before for before, after in zip([0, *listed], listed, strict=False)]
        assert max(gaps) <= running.log.head * 2 // 3


def test_they_are_taken_by_cost_and_only_where_it_is_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        history(running, 13, 60)
        taker = Taker(running.log, running.snapshots, [fold_of(Order)])
        taker.consider(fold_of(Order))
        assert running.snapshots.listed(shop.snapped()) == []
        monkeypatch.setattr(taking, "LEAST_SECONDS", 1e-5)
        monkeypatch.setattr(taking, "GUESSED_SECONDS", 1e-6)
        taker.consider(fold_of(Order))
        listed = running.snapshots.listed(shop.snapped())
        assert listed
        assert all(one.wrong == "" and one.state == "Order" for one in listed)
        head = running.log.head
        assert running.log.verify().position == head
        assert running.at(head).states(Order) == running.states(Order)


def test_others_get_on_while_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pauses a few rows are folded, or one chunk is read or written: however many states there are."""
    steps = [0]

    class Counted(h.State):
        sku: str
        units: int = 0

        def evolve(self, event: Received) -> "Counted":
            steps[-1] += 1
            return self.but(units=self.units + event.units)

    def paused(_self: taking.Pauses) -> None:
        steps.append(0)

    monkeypatch.setattr(taking, "CHUNK_STATES", 32)
    monkeypatch.setattr(taking.Pauses, "__call__", paused)
    fold = fold_of(Counted)
    with h.App("counted", records=[Received]).open("memory:", run=False) as running:
        running.record_all(Received(f"sku-{n}", 1, Decimal(1)) for n in range(1_000))
        of = running.snapshots
        of.take(fold, running.log.head)
        assert sum(steps) == 1_000
        assert 0 < max(steps) <= 100
        assert steps.count(0) >= 32 + taking.PARTS  # each part that was sorted into chunks, each chunk that was written
        running.record(Received("sku-1", 1, Decimal(1)))
        steps[:] = [0]
        assert of.take(fold, running.log.head).states == 1_000
        assert steps.count(0) >= 2 * 32 + taking.PARTS  # and each chunk of the one before that was read
        assert of.since(fold, running.log.head).entries["sku-1",].state == Counted("sku-1", 2)


def test_a_pause_is_longer_beside_commands_and_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved by a snapshot is compared with the work that it takes, however long others are let on."""
    monkeypatch.setattr(taking, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(taking, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(taking, "BUSY_PAUSE_SECONDS", 0.5)
    reached = 0
    pauses = taking.Pauses(lambda: reached)
    began = time.perf_counter()
    pauses()
    alone = time.perf_counter() - began
    reached = 1
    pauses()
    beside = time.perf_counter() - began - alone
    assert alone >= 0.01
    assert beside >= 0.5
    assert pauses.worked() <= time.perf_counter() - began - 0.5 - 0.01


def test_states_that_are_snapped_are_not_looked_through_for_garbage() -> None:
    """A collection that goes through a million of them stops all threads."""
    entries = taking.Parted()
    for n in range(1_000):
        entries[f"o-{n}",] = Entry(Home(f"o-{n}", "no"), n)
    assert len(entries) == 1_000
    assert entries.get(("o-7",)) == Entry(Home("o-7", "no"), 7)
    assert entries.get(("o-x",)) is None
    assert not any(map(gc.is_tracked, entries.parts))


def test_the_first_is_taken_as_soon_as_it_is_worth_it_however_few_records_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a record takes to fold is measured before anything is taken: these take far longer than most."""
    monkeypatch.setattr(taking, "REST", 0)
    with pages.open(f"sqlite:///{tmp_path}/pages.db", run=False) as running:
        running.record_all(Filled(f"page {number % 7}", "text") for number in range(1_500))
        taker = Taker(running.log, running.snapshots, [fold_of(Laboured)])

        taker.consider(fold_of(Laboured))

        [first, *_] = running.snapshots.listed([fold_of(Laboured)])
        assert 0 < first.position < running.log.head


def test_two_processes_may_take_the_same(tmp_path: Path) -> None:
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        history(running, 14, 20)
        fold = fold_of(Order)
        other = Snapshots(running.log, running._image, Joining(running.log), SnapshotsFile(str(tmp_path / "shop.snapshots.db")))
        first = running.snapshots.take(fold, running.log.head)
        assert other.take(fold, running.log.head) == first
        other.drop()
        assert running.at(running.log.head).states(Order) == running.states(Order)
        other.close()
