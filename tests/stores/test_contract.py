"""The contract of stores, run for those that come with the library."""

from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from happened.core.store import Commit, Engine, Row, Terms, Wanted
from happened.log.row import encode
from happened.stores.memory import MemoryStore
from happened.stores.over import PIN_NOTE, Over, Pin
from happened.stores.postgres import PostgresStore
from happened.stores.sqlite import SqliteStore
from happened.testing.rows import INTRUDER, Fact, Scribe, matches, read_by, terms_of
from happened.testing.store_contract import Place, StoreContract, no_progress
from tests.servers import fresh


class TestMemoryStore(StoreContract):
    """One store in one process: every handle is the same."""

    @pytest.fixture
    def place(self) -> Place:
        """Keep one store for the test."""
        store = MemoryStore()
        return Place(lambda: store)


class TestSqliteStore(StoreContract):
    """One file, opened by any number of handles and processes."""

    shared: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """Keep the file in the test's own folder."""
        return Place.named("happened.stores.sqlite:SqliteStore", str(tmp_path / "log.db"))


class TestPostgresStore(StoreContract):
    """One schema, opened by any number of handles and processes."""

    shared: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @pytest.fixture
    def place(self) -> Place:
        """Give each test a schema of its own."""
        return Place.named("happened.stores.postgres:PostgresStore", fresh())


def origin(store: Engine) -> Pin:
    """Write a log that another one is to lie over, and what comes after the place where it does; say where that is."""
    store.index(read_by("today"), terms_of, no_progress)
    scribe = Scribe(store, actor=INTRUDER)
    for n in range(40):
        scribe.append(Fact((f"n={n}", "all=1", "a=1"), 16 + n % 3, 1 + n * 7 % 250, id=f"id-{n}"))
    last = [row for page in store.read() for row in page][-1]
    scribe.append(*[Fact(("two=1", "t=late"), records=3, id="early"), Fact(("all=1",), id="late")] * 3, notes={"a": "of the other log"})
    return Pin("origin", 1, last.last, last.at, last.digest.hex(), 18, "origin.db")


class TestOverMemory(StoreContract):
    """A log in memory over another one, which has gone on since."""

    @pytest.fixture
    def place(self) -> Place:
        """Keep both for the test."""
        store = MemoryStore()
        over = Over(store, MemoryStore(), origin(store), owns=False)
        return Place(lambda: over)


@pytest.mark.parametrize("where", ["memory", "postgres"])
def test_an_id_that_the_other_log_has_used_since_is_not_found(where: str) -> None:
    """What lies in it after that position is not seen, by no way: not by an id either."""
    with closing(MemoryStore() if where == "memory" else PostgresStore(fresh())) as store:
        over = Over(store, MemoryStore(), origin(store), owns=False)
        over.index(read_by("today"), terms_of, no_progress)

        assert [len(store.find_id(one)) for one in ("id-7", "early", "late")] == [1, 3, 3]
        assert [len(over.find_id(one)) for one in ("id-7", "early", "late")] == [1, 0, 0]


def test_what_lies_below_is_found_by_who_reads_tags_otherwise() -> None:
    """The other log's index was made by its own reading: where that is another one, all of it is handed out."""

    def read_otherwise(row: Row) -> Terms:
        found = terms_of(row)
        return Terms([f"was-{tag}" for tag in found.tags], found.id, found.names, found.counts)

    store = MemoryStore()
    over = Over(store, MemoryStore(), origin(store), owns=False)
    over.index(read_by("tomorrow"), read_otherwise, no_progress)

    wanted = [Wanted(("was-n=7",))]
    found = [terms_of(row).id for rows in over.read(wanted=wanted) for row in rows if matches(row, wanted, read_otherwise)]
    assert found == ["id-7"]


class TestOverSqlite(StoreContract):
    """A file over another one, opened by any number of handles and processes."""

    shared: ClassVar[bool] = True

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """Keep both files in the test's own folder."""
        store = SqliteStore(str(tmp_path / "origin.db"))
        pin = origin(store)
        store.close()
        own = SqliteStore(str(tmp_path / "over.db"))
        own.append(lambda _: Commit(notes={PIN_NOTE: encode(pin).decode()}), 0)
        own.close()
        return Place.named("happened.opening:open_engine", f"sqlite:///{tmp_path / 'over.db'}")
