"""A log in memory shows of a commit all or nothing, also of one that erases."""

import threading

import pytest

from happened.core.store import Commit, Row, Terms, Wanted
from happened.stores.memory import MemoryStore
from happened.testing.rows import Fact, Scribe, flat, read_by, terms_of, without


def filled() -> tuple[MemoryStore, list[Row]]:
    """Return a log of two rows."""
    store = MemoryStore()
    return store, Scribe(store).append(Fact(("x=1",)), Fact(("x=2",)))


def erases(store: MemoryStore, row: Row) -> None:
    """Take the body out of a row."""
    store.append(lambda _: Commit(notes={"erased": "3"}, instead=[without(row)]), 1 << 62)


def test_an_erasure_of_which_the_index_can_not_be_made_has_not_taken_place() -> None:
    """How rows are read is told by others' code, upcasts among it: what that raises leaves the log as it was."""
    store, rows = filled()

    def reads(row: Row) -> Terms:
        if row.records.startswith("[[16,null"):
            raise ValueError("an upcast that takes no erased body")
        return terms_of(row)

    store.index(read_by("today"), reads, lambda _done, _all: None)
    with pytest.raises(ValueError, match="an upcast"):
        erases(store, rows[0])

    assert flat(store.read()) == rows
    assert flat(store.read(wanted=[Wanted(["x=1"])])) == rows[:1]
    assert store.notes("") == {}


def test_who_says_how_rows_are_read_may_look_at_the_log() -> None:
    """It is asked while nothing is held that a look waits for."""
    store, rows = filled()
    looks: list[int] = []

    def reads(row: Row) -> Terms:
        looks.append(len(store.notes("")) + len(flat(store.read())))
        return terms_of(row)

    store.index(read_by("today"), reads, lambda _done, _all: None)
    eraser = threading.Thread(target=erases, args=(store, rows[0]), daemon=True)
    eraser.start()
    eraser.join(5)

    assert not eraser.is_alive()
    assert looks == [2, 2, 2, 2]
    assert flat(store.read()) == [without(rows[0]), rows[1]]
    assert flat(store.read(wanted=[Wanted(["x=1"])])) == []
