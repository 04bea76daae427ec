"""Counts of executions that committed nothing: once, also for other processes, and without what was said of bodies that are erased."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from happened.core.store import Commit, Engine
from happened.log.log import EVERYTHING_SEEN
from happened.stores.postgres import PostgresStore
from happened.stores.sqlite import SqliteStore
from happened.testing.rows import Fact, Scribe, read_by, terms_of, without
from happened.testing.store_contract import no_progress
from tests.servers import fresh


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Return what opens a log once more, as another process does."""
    url = fresh() if request.param == "postgres" else f"{tmp_path}/log.db"
    stores: list[Engine] = []

    def open_() -> Engine:
        store = PostgresStore(url) if request.param == "postgres" else SqliteStore(url)
        store.index(read_by("today"), terms_of, no_progress)
        stores.append(store)
        return store

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each count written with the next commit."""
    monkeypatch.setattr("happened.stores.samples.WRITTEN_AFTER_SECONDS", -1.0)


def counted(store: Engine) -> dict[tuple[str, str], tuple[int, int, str]]:
    return {(handler, outcome): (count, ran, what) for handler, outcome, count, ran, what in store.samples()}


def test_others_see_a_count_with_the_first_commit_that_comes_some_moments_later(opened: Callable[[], Engine]) -> None:
    """A process that has nothing to record writes none of them by itself, and one that is busy not with each commit."""
    store, other = opened(), opened()
    scribe = Scribe(store)
    store.sample("order", "nothing", 5, "1")
    scribe.append(Fact())
    assert counted(other) == {}
    time.sleep(1.1)
    scribe.append(Fact())
    assert counted(other) == counted(store) == {("order", "nothing"): (1, 5, "1")}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("who", ["who erases", "who records a fact", "who changes a note", "who closes"])
def test_what_was_said_of_an_execution_goes_with_what_is_erased(opened: Callable[[], Engine], who: str) -> None:
    """An error may repeat what it was about. A process that has not heard of the erasure writes none of it when it writes its counts."""
    store, other = opened(), opened()
    [row] = Scribe(store).append(Fact(("t=secret",)))
    saying = store if who == "who erases" else other
    seen = Scribe(saying, seen=row.position)
    for _ in range(2):
        saying.sample("order", "failed", 5, "no such secret")

    store.append(lambda _: Commit(instead=[without(row)]), EVERYTHING_SEEN)
    match who:
        case "who records a fact":
            seen.append(Fact())
        case "who changes a note":
            other.append(lambda _: Commit(notes={"lease": "mine"}), EVERYTHING_SEEN)
        case "who closes":
            other.close()
        case _:
            pass

    assert counted(opened()) == {("order", "failed"): (2, 10, "")}


@pytest.mark.usefixtures("at_once")
def test_counts_that_are_written_while_the_index_is_made_anew_are_written_once(opened: Callable[[], Engine]) -> None:
    """The next commit, and one that is taken back, have nothing to do with them any more."""
    store = opened()
    scribe = Scribe(store)
    scribe.append(Fact())
    store.sample("order", "failed", 5, "1")
    store.scrub(no_progress)

    def refused(_unseen: object) -> Commit:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        store.append(refused, scribe.seen)
    store.sample("order", "nothing", 5, "2")
    scribe.append(Fact())

    with closing(opened()) as other:
        assert counted(other) == counted(store) == {("order", "failed"): (1, 5, "1"), ("order", "nothing"): (1, 5, "2")}
