"""Ctrl-C, wherever it comes: the log goes on, no lock is left held, and the memory image equals the log."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import happened as h
from happened.sourcing.memory_image import ImageOverlay, MemoryImage
from tests.semantics.faults import Faults
from tests.semantics.model import Balance, Deposit, Deposited, Take, Transfer, bank
from tests.semantics.test_waiting import in_thread

SOURCES = str(Path(h.__file__).parent)


def interrupted(call: Callable[[], object], nth: int) -> str:
    """Interrupt a call at the nth moment at which the interpreter looks for signals in our code; return where that was, or nothing if it ended before.

    It looks when a function begins, and when one written in C has returned. (What ends a generator is left out: Python shows nobody what it raises.)
    """
    moments = 0
    where = ""

    def look(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal moments, where
        code = frame.f_code
        if event not in ("call", "c_return") or not code.co_filename.startswith(SOURCES) or code.co_name == "<genexpr>":
            return
        moments += 1
        if moments == nth:
            sys.setprofile(None)
            where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return where


def checked(url: str, nth: int, *, others: bool) -> tuple[str, list[object]]:
    """Interrupt the leader of a commit; return where, and what another thread and this one find wrong afterwards."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 10))
        running.dispatch(Take("s", "x"))
        if others:
            with bank.open(url, run=False) as other:
                other.dispatch(Deposit("a", 7))

        where = interrupted(lambda: running.dispatch(Transfer("a", "b", 1), id="it"), nth)

        def look() -> str:
            running.dispatch(Deposit("a", 1), wait_seconds_max=0.5)
            running.dispatch(Transfer("a", "b", 1), id="it", wait_seconds_max=0.5)
            wrong = [key for key in "ab" if running.state(Balance, key) != running.states(Balance)[key,]]
            if wrong or len(running.log.find("it")) != 1:
                return f"image and log differ in {wrong}, or it was recorded {len(running.log.find('it'))} times"
            running.log.verify()
            return ""

        thread, found = in_thread(look)
        thread.join(3)
        if not found:
            return where, ["it hangs"]
        if found == [""]:
            found.append(look())
        return where, [wrong for wrong in found if wrong]


def places(url: Callable[[int], str], *, step: int, others: bool = False) -> Iterator[str]:
    """Sweep over all moments of a leader, each in a log of its own; say where something is wrong afterwards."""
    nth = 1
    while True:
        where, wrong = checked(url(nth), nth, others=others)
        if not where:
            assert nth > 50, "the sweep met nothing"
            return
        if wrong:
            yield f"{where}: {wrong}"
        nth += step


def test_an_interrupt_anywhere_in_a_commit_in_memory_leaves_a_log_that_works() -> None:
    """Whoever leads is interrupted at one moment after the other: afterwards all threads commit, and image and log agree."""
    assert list(places(lambda _: "memory:", step=5)) == []


@pytest.mark.parametrize(("step", "others"), [(13, False), (17, True)])
def test_an_interrupt_anywhere_in_a_commit_on_disk_leaves_a_log_that_works(tmp_path: Path, step: int, others: bool) -> None:
    """The same on disk, with and without rows of another process to take in."""

    def url(nth: int) -> str:
        return f"sqlite:///{tmp_path}/{nth}.db"

    assert list(places(url, step=step, others=others)) == []


def test_what_an_interrupted_commit_has_declared_is_declared_by_the_next_one(any_url: str) -> None:
    """Ctrl-C comes in the first decision on a log: no name has a number then that the log does not know."""
    pressed: list[str] = []

    def once(command: Deposit) -> Iterator[Deposited]:
        if not pressed:
            pressed.append("Ctrl-C")
            raise KeyboardInterrupt
        yield Deposited(command.account, command.amount)

    with h.App("bank", deciders=[once]).open(any_url, run=False) as running:
        with pytest.raises(KeyboardInterrupt):
            running.dispatch(Deposit("a", 1))
        running.dispatch(Deposit("a", 1))

        running.log.verify()
    with h.App("bank", deciders=[once]).open(any_url, run=False) as running:
        assert [record.body for record in running.log.read() if record.name == "Deposited"] == [Deposited("a", 1)]


@pytest.mark.parametrize("after", [True, False])
def test_an_interrupt_around_the_commit_of_sqlite_leaves_no_lock_held(url: str, faults: Faults, after: bool) -> None:
    """Ctrl-C comes while SQLite commits: other processes get the lock, later commands are recorded, and the id tells what became of this one."""

    def hook(_connection: object, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql != "commit":
            return run()
        faults.hook = None
        if after:
            run()
        raise KeyboardInterrupt

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        faults.hook = hook

        with pytest.raises(KeyboardInterrupt):
            running.dispatch(Deposit("a", 10), id="x")

        other = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0, isolation_level=None)
        other.execute("begin immediate")
        other.close()
        assert running.dispatch(Deposit("a", 10), id="x").repeated is after
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 11, 2)
        running.log.verify()


@pytest.mark.parametrize("who", ["dispatch", "catch_up"])
@pytest.mark.parametrize("after", [True, False])
def test_an_interrupt_around_the_merge_applies_nothing_twice(url: str, monkeypatch: pytest.MonkeyPatch, who: str, after: bool) -> None:
    """Ctrl-C comes as the image takes a batch in, before or after it has: each row is in it once."""
    merge = ImageOverlay._merge

    def once(overlay: ImageOverlay, image: MemoryImage, position: int) -> None:
        monkeypatch.setattr(ImageOverlay, "_merge", merge)
        if after:
            merge(overlay, image, position)
        raise KeyboardInterrupt

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 10))
        running.state(Balance, "a")
        if who == "catch_up":
            with bank.open(url, run=False) as other:
                other.dispatch(Deposit("a", 5))
        monkeypatch.setattr(ImageOverlay, "_merge", once)

        with pytest.raises(KeyboardInterrupt):
            running.catch_up() if who == "catch_up" else running.dispatch(Deposit("a", 5))
        running.state(Balance, "a")
        running.dispatch(Deposit("z", 1))

        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 15, 2)
