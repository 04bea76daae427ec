"""Every single call of a run fails once: the Nth write, sync, truncation, read, opening, lock, size or deletion, with an error of the device or a full disk.

`HAPPENED_CALLS` says of how many calls one is made to fail; 1 is all of them.
"""

import contextlib
import functools
import os
import random
import shutil
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest

import happened as h
from happened.core.state import fold_of
from happened.log.compacting import compact, unpack
from happened.log.row import decode_header
from happened.shelf.snapshots import SnapshotsFile
from happened.stores import runs, segments, sqlite
from tests.faults.disk import Disk
from tests.semantics.model import Balance, Deposit, bank

EACH = int(os.environ.get("HAPPENED_CALLS", "80"))
SEED = int(os.environ.get("HAPPENED_SEED", str(random.SystemRandom().randrange(1_000_000))))

Told = dict[str, bool | None]
"""By id: recorded, not recorded, unknown."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what happens rarely happen within a short run, and no long wait for what a commit came to."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 30)
    monkeypatch.setattr(sqlite, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 32)
    monkeypatch.setattr(segments, "ROWS_MAX", 8)


def dispatched(running: h.Running, ids: list[str], told: Told) -> None:
    """Dispatch together, and note what was said of it."""
    try:
        running.dispatch_together([h.Message(Deposit("a", 1), id=one) for one in ids])
        told.update(dict.fromkeys(ids, True))
    except h.Error as error:
        told.update(dict.fromkeys(ids, error.recorded))


def story(url: str, told: Told) -> list[str]:
    """Do what is done, in three sessions, and go on whatever fails, as callers do. Returns what was said of failures."""
    said: list[str] = []
    for session in range(3):
        try:
            with bank.open(url, run=False) as running:
                for n in range(6):
                    dispatched(running, [f"{session}-{n}"], told)
                dispatched(running, [f"{session}-t{n}" for n in range(15)], told)
                try:
                    running.snapshots.take(fold_of(Balance), running.log.head)
                    if session:
                        compact(running.log, keep=4)
                except h.Error as error:
                    said.append(str(error))
                for n in range(3):
                    dispatched(running, [f"{session}-z{n}"], told)
        except h.Error as error:
            said.append(str(error))
    return said


def check(path: Path, told: Told, *, of: str) -> None:
    """Open it with nothing failing, and hold what was told against what is there."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        there = [decode_header(row.head).id for page in running.log.engine.read() for row in page]
        deposits = [one for one in there if one in told]
        assert len(deposits) == len(set(deposits)), of
        for one, recorded in told.items():
            assert recorded is None or recorded == (one in deposits), f"{of}: of {one} was told {recorded}"
        running.log.verify()
        assert sum(state.amount for state in running.states(Balance).values()) == len(deposits), of
        running.dispatch(Deposit("b", 1), id="after")
        running.log.verify()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL], ids=["device", "full"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a call whose failure SQLite takes no notice of
def test_whichever_call_fails_nobody_is_told_what_is_not_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    count = run_failing(tmp_path / "whole", monkeypatch, -1, code)
    assert count > 300
    start = random.Random(SEED).randrange(EACH)
    for number in range(start, count, EACH):
        run_failing(tmp_path / f"{number}", monkeypatch, number, code)
    print(f"{len(range(start, count, EACH))} of {count} calls made to fail, HAPPENED_SEED={SEED} HAPPENED_CALLS={EACH}")


def run_failing(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> int:
    """Run the story with one call failing, check what is left, and say how many calls there were."""
    folder.mkdir()
    disk, calls, told = Disk(), 0, Told()
    what = ""

    def fails(call: str, file: str) -> int:
        nonlocal calls, what
        if call == "create" or (code == sqlite3.SQLITE_FULL and call != "write"):
            return 0
        calls += 1
        if calls - 1 != number:
            return 0
        what = f"{call} of {Path(file).name}"
        return code

    disk.fails = fails
    with monkeypatch.context() as patch:
        patch.setattr("sqlite3.connect", disk.connect)
        said = story(f"sqlite:///{folder}/log.db", told)
    if number < 0:
        assert set(told.values()) == {True}
        assert not said
    check(folder / "log.db", told, of=f"call {number}, {what}, HAPPENED_SEED={SEED}, said {said}")
    return calls


@pytest.mark.parametrize(
    ("code", "text"), [(sqlite3.SQLITE_IOERR, "disk I/O error"), (sqlite3.SQLITE_FULL, "is full")], ids=["device", "full"]
)
def test_whichever_call_of_packing_fails_it_is_said_why(tmp_path: Path, code: int, text: str) -> None:
    """Also where SQLite has left the transaction by itself; the rows lie where they lay, and what is done again works."""
    with bank.open(f"sqlite:///{tmp_path}/log.db", run=False) as running:
        for n in range(40):
            running.dispatch(Deposit("a", n))
        head, whole = running.log.head, running.log.verify()
    calls: list[str] = []
    number = -1

    def fails(call: str, file: str) -> int:
        if code == sqlite3.SQLITE_FULL and call != "write":
            return 0
        calls.append(f"{call} of {Path(file).name}")
        return code if len(calls) == number else 0

    def moved(place: str) -> list[str]:
        said: list[str] = []
        disk = Disk()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sqlite3.connect", disk.connect)
            with h.open_log(f"sqlite:///{place}") as log:
                disk.fails = fails
                for work in (functools.partial(compact, log, keep=4), functools.partial(unpack, log)):
                    try:
                        work()
                    except h.StoreFailed as error:
                        said.append(str(error))
                disk.fails = lambda _call, _file: 0
                assert log.verify() == whole
                assert compact(log, keep=4).cold == head - 4
        return said

    def copied(name: str) -> str:
        return str(shutil.copy(tmp_path / "log.db", tmp_path / name))

    assert moved(copied("whole.db")) == []
    count = len(calls)
    for number in range(random.Random(SEED).randrange(1, 6), count + 1, 5):
        calls.clear()
        for said in moved(copied(f"{number}.db")):
            assert text in said, f"call {number}, {calls[number - 1]}, HAPPENED_SEED={SEED}"


def test_snapshots_work_again_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the snapshots alone: said clearly, the log goes on, and they work once there is room."""
    disk = Disk()
    monkeypatch.setattr("sqlite3.connect", disk.connect)
    with bank.open(f"sqlite:///{tmp_path}/log.db", run=False) as running:
        running.dispatch(Deposit("a", 1))
        disk.fails = lambda call, file: sqlite3.SQLITE_FULL if call == "write" and ".snapshots." in file else 0
        with pytest.raises(h.StoreFailed, match="full"):
            running.snapshots.take(fold_of(Balance), running.log.head)
        running.dispatch(Deposit("a", 1))
        disk.fails = lambda _call, _file: 0
        running.snapshots.take(fold_of(Balance), running.log.head)
    file = SnapshotsFile(f"{tmp_path}/log.snapshots.db")
    assert [one.position for one in file.listed()] == [14]
    file.close()


@contextlib.contextmanager
def many(engine: sqlite.SqliteStore) -> Generator[None]:
    """Have three readers at once."""
    with engine._rows.reader(), engine._rows.reader(), engine._rows.reader():
        yield


def test_a_file_that_can_not_be_opened_once_more_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no file descriptor left for one more reader hears it as an error of the store, and goes on once it has."""
    disk = Disk()
    monkeypatch.setattr("sqlite3.connect", disk.connect)
    with bank.open(f"sqlite:///{tmp_path}/log.db", run=False) as running:
        engine = running.log.engine
        assert isinstance(engine, sqlite.SqliteStore)
        pages = engine.read()
        for n in range(10):
            running.dispatch(Deposit("a", n))
        disk.fails = lambda call, _file: sqlite3.SQLITE_CANTOPEN if call == "open" else 0
        with contextlib.ExitStack() as readers, pytest.raises(h.StoreFailed, match="unable to open"):
            readers.enter_context(many(engine))
        # A checkpoint may have the only reader that is there.
        with pytest.raises(h.StoreFailed, match=r"can't be written|could not be read"):
            compact(running.log, keep=1)
        disk.fails = lambda _call, _file: 0
        assert sum(row.count for page in pages for row in page) == running.log.head
        running.log.verify()
