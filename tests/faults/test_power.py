"""The power goes at any moment: what was acknowledged is there, nothing is torn, nothing is there twice, and views come to equal the fold.

A history is recorded on a disk that logs what is done to it; what that disk may hold afterwards is opened by the ordinary store, image by image.
`HAPPENED_IMAGES` says how many (all tests together), `HAPPENED_SEED` from which seed. The seed chooses where the power goes and what is kept; the history
itself has threads, clocks and ids of its own, so that the same seed tries much the same images again, and not always the very same.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import happened as h
from happened.core.state import fold_of
from happened.log.compacting import compact
from happened.log.row import decode_header
from happened.stores import runs, segments, sqlite
from tests.faults.disk import Disk, Op, Platter
from tests.semantics.model import Balance, Deposit, Seat, Take, Transfer, bank

IMAGES = int(os.environ.get("HAPPENED_IMAGES", "120"))
SEED = int(os.environ.get("HAPPENED_SEED", str(random.SystemRandom().randrange(1_000_000))))
CLOSELY_EVERY = 8
"""Of how many images one is also run, written to, and its views compared."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder in memory where there is one: an image needs no real sync."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


class Told:
    """What a caller did and heard."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.amounts: dict[str, int] = {}
        """By the id of each deposit that was ever sent."""
        self.together: list[list[str]] = []
        """Ids that are recorded all or none."""

    def deposit(self, running: h.Running, id: str, amount: int) -> None:
        """Dispatch one, and note that it was acknowledged."""
        self.amounts[id] = amount
        running.dispatch(Deposit(f"a{amount % 7}", amount), id=id)
        self.disk.mark(id)

    def deposit_together(self, running: h.Running, ids: list[str], amount: int) -> None:
        """Dispatch many in one commit."""
        self.amounts.update(dict.fromkeys(ids, amount))
        self.together.append(ids)
        running.dispatch_together([h.Message(Deposit(f"a{amount % 7}", amount), id=one) for one in ids])
        for one in ids:
            self.disk.mark(one)


def appends(url: str, told: Told) -> None:
    """Commands one by one, refusals, facts, many in one commit, many opened and closed; the WAL grows ahead and is taken into the file meanwhile."""
    for session in range(3):
        with bank.open(url, run=False) as running:
            for n in range(12):
                told.deposit(running, f"{session}-{n}", 1 + n)
            told.deposit_together(running, [f"{session}-t{n}" for n in range(20)], 3)
            running.dispatch(Take(f"s{session}", "me"), id=f"{session}-seat")
            with pytest.raises(h.Refused):
                running.dispatch(Take(f"s{session}", "you"), id=f"{session}-late")
            running.dispatch(Transfer("a3", "b", 1), id=f"{session}-move")
            list(running.dispatch_all([h.Message(Deposit("c", 1), id=f"{session}-c{n}") for n in range(30)]))
            for n in range(12):
                told.deposit(running, f"{session}-z{n}", 5)


def views(url: str, told: Told) -> None:
    """Have views follow and be built anew, and snapshots taken, between commands."""
    for session in range(3):
        with bank.open(url) as running:
            for n in range(15):
                told.deposit(running, f"{session}-{n}", 1 + n)
                if n % 5 == 4:
                    running.view(Balance).rows(since=running.log.head)
            running.snapshots.take(fold_of(Balance), running.log.head)
            running.rebuild(Balance)
            told.deposit_together(running, [f"{session}-t{n}" for n in range(20)], 3)
            running.view(Balance).rows(since=running.log.head)


def compactions(url: str, told: Told) -> None:
    """Rows are packed between commands, and put back."""
    for session in range(4):
        with bank.open(url, run=False) as running:
            for n in range(10):
                told.deposit(running, f"{session}-{n}", 1 + n)
            told.deposit_together(running, [f"{session}-t{n}" for n in range(30)], 3)
            compact(running.log, keep=5, rewrite=session == 3)
            for n in range(5):
                told.deposit(running, f"{session}-z{n}", 2)


HISTORIES = [appends, views, compactions]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what happens rarely happen within a short history: growth of the WAL, checkpoints, flushes of the index, segments."""
    monkeypatch.setattr(sqlite, "GROW_FROM_PAGES", 20)
    monkeypatch.setattr(sqlite, "GROW_BYTES", 64 * 1024)
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 60)
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 64)
    monkeypatch.setattr(segments, "ROWS_MAX", 16)


def recorded(place: Path, history: Callable[[str, Told], None], *, synchronous: str | None = None) -> Told:
    """Let a history happen on a disk that logs it."""
    folder = place / "real"
    folder.mkdir()
    disk = Disk(synchronous=synchronous)
    told = Told(disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sqlite3.connect", disk.connect)
        history(f"sqlite:///{folder}/log.db", told)
    return told


def wrong(folder: Path, told: Told, acknowledged: set[str], *, closely: bool) -> str:
    """Open what was left, and say what is wrong with it; nothing is an empty text."""
    path = folder / "log.db"
    if not path.exists() and not acknowledged:
        return ""
    try:
        with bank.open(f"sqlite:///{path}", run=closely) as running:
            rows = [one for page in running.log.engine.read() for row in page if (one := decode_header(row.head).id) in told.amounts]
            there = set(rows)
            if lost := acknowledged - there:
                return f"lost {sorted(lost)}"
            if len(rows) != len(there):
                return "twice"
            if closely and any(len(running.log.find(one)) != (one in there) for one in told.amounts):
                return "the index does not find what is there"
            for ids in told.together:
                if 0 < len(there.intersection(ids)) < len(ids):
                    return f"a part of {ids}"
            running.log.verify()
            total = sum(balance.amount for key, balance in running.states(Balance).items() if key[0].startswith("a") or key[0] == "b")
            if total != sum(told.amounts[one] for one in there):
                return f"{total} in all accounts"
            if closely:
                running.dispatch(Deposit("d", 1), id="after")
                running.log.verify()
                for view, fold in ((Balance, running.states(Balance)), (Seat, running.states(Seat))):
                    if sorted(running.view(view).rows(since=running.log.head), key=str) != sorted(fold.values(), key=str):
                        return f"the view {view.__name__} differs from the fold"
    except Exception as error:  # noqa: BLE001 - whatever it says, this is no log as it was
        return f"{type(error).__name__}: {error}"
    return ""


def images(place: Path, told: Told, count: int, *, strict: bool) -> Iterator[tuple[str, str]]:
    """Yield the name of each image and what is wrong with it."""
    ops = told.disk.ops
    chance = random.Random(f"{SEED} points")
    steps = [n for n, op in enumerate(ops) if op.what != "mark"]
    points = sorted(chance.choices(steps, k=count))
    platter, acknowledged, done = Platter(), set[str](), 0
    for number, point in enumerate(points):
        for op in ops[done : point + 1]:
            take_in(op, platter, acknowledged)
        done = max(done, point + 1)
        folder = place / "image"
        folder.mkdir()
        platter.image(random.Random(f"{SEED} {number}"), folder, strict=strict)
        yield (
            f"HAPPENED_SEED={SEED} image {number} after operation {point}",
            wrong(folder, told, acknowledged, closely=number % CLOSELY_EVERY == 0),
        )
        shutil.rmtree(folder)


def take_in(op: Op, platter: Platter, acknowledged: set[str]) -> None:
    """Take in one operation, or that a caller has been told something."""
    if op.what == "mark":
        acknowledged.add(op.file)
    platter.apply(op)


@pytest.mark.parametrize("strict", [False, True], ids=["names are kept", "names are lost"])
@pytest.mark.parametrize("history", HISTORIES)
def test_power_loss_at_any_moment_loses_nothing_that_was_acknowledged(
    place: Path, history: Callable[[str, Told], None], strict: bool
) -> None:
    told = recorded(place, history)
    assert {op.what for op in told.disk.ops} >= {"create", "write", "sync", "truncate", "delete", "mark"}
    if history is appends:
        assert "grow" in {op.what for op in told.disk.ops}
    count = 0
    for name, found in images(place, told, -(-IMAGES // (2 * len(HISTORIES))), strict=strict):
        assert not found, f"{name} of {history.__name__}, strict={strict}: {found}"
        count += 1
    print(f"{count} images of {history.__name__}, {len(told.disk.ops)} operations, HAPPENED_SEED={SEED}: nothing lost")


@pytest.mark.parametrize("synchronous", ["normal", "off"])
def test_the_disk_finds_what_is_not_synced(place: Path, synchronous: str) -> None:
    """The same on a log whose commits do not sync: acknowledged commands are lost, and that is seen."""
    told = recorded(place, appends, synchronous=synchronous)
    found = [what for _, what in images(place, told, 40, strict=False)]
    assert any(what.startswith("lost") for what in found), f"HAPPENED_SEED={SEED}: {found}"
