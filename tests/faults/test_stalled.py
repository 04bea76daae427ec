"""A writer is stalled before each of its statements in turn, while others write and read: nothing waits that need not, and nothing is missed."""

import sqlite3
import threading
from collections.abc import Callable
from typing import Any  # Any: what a driver's method takes and returns

import psycopg
import pytest

import happened as h
from happened.stores import postgres_wire
from happened.testing.history import History, Session, check
from tests.faults.model import Balance, Deposited, Transfer, app
from tests.semantics.faults import Faulty, install

STATEMENTS_MAX = 40


class Stall:
    """Stops one thread before its statement number `at`, until it is let go."""

    def __init__(self) -> None:
        self.thread = 0
        self.at = 0
        self.seen = 0
        self.stalled = threading.Event()
        self.go_on = threading.Event()

    def set(self, at: int) -> None:
        """Stall the next one there."""
        self.at, self.seen = at, 0
        self.stalled.clear()
        self.go_on.clear()

    def __call__(self) -> None:
        """Hear of a statement."""
        if threading.get_ident() == self.thread:
            self.seen += 1
            if self.seen == self.at:
                self.stalled.set()
                assert self.go_on.wait(30)


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> Stall:
    """Have all statements of both stores go by it."""
    stall = Stall()

    def hook(_connection: Faulty, _sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        stall()
        return run()

    install(monkeypatch).hook = hook
    for owner, name in [
        (psycopg.Connection, "execute"),
        (postgres_wire, "asked"),
        (postgres_wire, "committed"),
        (psycopg.Connection, "wait"),  # it was sent, and its answer is not looked at yet
    ]:
        monkeypatch.setattr(owner, name, stalling(stall, getattr(owner, name)))
    return stall


def stalling(stall: Stall, run: Callable[..., Any]) -> Callable[..., Any]:
    def stalled(*args: Any, **kwargs: Any) -> Any:
        stall()
        return run(*args, **kwargs)

    return stalled


def write_slowly(stall: Stall, running: h.Running, session: Session) -> None:
    """Write, stalled where it is set."""
    stall.thread = threading.get_ident()
    session.dispatch(running, Transfer("a", "b", 1))
    stall.thread = 0
    stall.stalled.set()


def test_whatever_a_writer_is_stalled_at_others_read_on_and_nothing_is_missed(url: str, history: History, stall: Stall) -> None:
    """At each statement another one reads the log and its states; a third one writes, at once or when the first one goes on."""
    with app.open(url, run=False) as slow, app.open(url, run=False) as other, app.open(url) as reading:
        begins = history.session("begin")
        begins.record(slow, Deposited("a", 1000))
        begins.record(other, Deposited("b", 1000))
        followed: list[Any] = []
        at, ended = 0, False
        while not ended:
            at += 1
            assert at < STATEMENTS_MAX
            stall.set(at)
            sessions = [history.session(f"{who}-{at}") for who in ("slow", "other", "reader")]

            threads = [
                threading.Thread(target=write_slowly, args=(stall, slow, sessions[0])),
                threading.Thread(target=sessions[1].dispatch, args=(other, Transfer("b", "a", 1))),
            ]
            threads[0].start()
            assert stall.stalled.wait(30)
            ended = stall.thread == 0  # it has no more statements
            threads[1].start()
            threads[1].join(0.05)  # it may have to wait for the lock
            followed += sessions[2].read(reading.log, after=followed[-1].position if followed else 0)
            sessions[2].state(reading, Balance, "a")
            stall.go_on.set()
            for thread in threads:
                thread.join()
            followed += sessions[2].read(reading.log, after=followed[-1].position)
            sessions[2].rows(reading.view(Balance), since=reading.log.head)
        print("statements", at - 1)
        assert at > 5
        assert [one.position for one in followed] == list(range(1, reading.log.head + 1))
        assert [str(finding) for finding in check(history, reading)] == []
        reading.log.verify()
