"""Those who wait for more of a log: one looks for all, and nobody sleeps through what comes."""

import threading
import time

import pytest

from happened.stores import looking
from happened.stores.looking import Looking
from tests.semantics.test_interleavings_interrupts import interrupted

WAIT_SECONDS = 20.0


class Log:
    """A log of which nothing is there but its end, and how often that was looked at."""

    def __init__(self, seconds: float) -> None:
        self.position = 0
        self.told = 0
        self.looks = 0
        self.closed = False
        self.grown = threading.Condition()
        self.looking = Looking(self._look, lambda: self.told, self.grown, seconds)

    def _look(self) -> int:
        self.looks += 1
        return self.position

    def tell(self) -> None:
        """Have those who wait hear of something."""
        with self.grown:
            self.told += 1
            self.grown.notify_all()

    def wait(self, after: int, seconds: float = WAIT_SECONDS) -> int:
        """Wait until something lies after a position."""
        return self.looking.wait(after, seconds, lambda: self.closed)


def waiting(log: Log, count: int, after: int = 0, seconds: float = WAIT_SECONDS) -> tuple[list[threading.Thread], list[int]]:
    """Have so many threads wait; return them, and the list that their answers come into."""
    heard: list[int] = []
    threads = [threading.Thread(target=lambda: heard.append(log.wait(after, seconds)), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while log.looking.waiting < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return threads, heard


def test_one_looks_for_all_and_wakes_them() -> None:
    """What others have recorded is found by a look now and then, not by as many as there are who wait."""
    log = Log(0.05)
    threads, heard = waiting(log, 12)
    began, before = time.monotonic(), log.looks
    time.sleep(0.5)
    looks, seconds = log.looks - before, time.monotonic() - began
    log.position = 7
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert heard == [7] * 12
    assert looks <= seconds / 0.05 + 1


def test_where_others_have_recorded_something_it_is_looked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ever later where they have recorded nothing more."""
    monkeypatch.setattr(looking, "SOONER", 1_000_000)
    log = Log(3600)
    log.position = 4
    assert log.wait(0) == 4
    log.position = 6

    assert log.wait(4) == 6
    before = log.looks
    assert log.wait(6, 0.5) == 6
    assert 2 <= log.looks - before <= 9


def test_who_waits_for_less_is_woken_whoever_looks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who looked has what he waited for, and the next one who looks waits for more: the others hear of what there is all the same."""
    monkeypatch.setattr(looking, "OVERDUE_SECONDS", 3600.0)
    log = Log(0.02)
    heard: list[int] = []
    threads: list[threading.Thread] = []

    def wait(after: int) -> None:
        heard.append(log.wait(after))

    for after in (0, 10, 0, 0):
        threads.append(threading.Thread(target=wait, args=(after,), daemon=True))
        threads[-1].start()
        deadline = time.monotonic() + WAIT_SECONDS
        while log.looking.waiting < len(threads):
            assert time.monotonic() < deadline
            time.sleep(0.001)
    log.position = 7
    for thread in (threads[0], *threads[2:]):
        thread.join(WAIT_SECONDS / 4)

    assert heard == [7] * 3
    log.position = 11
    threads[1].join(WAIT_SECONDS)
    assert heard == [7, 7, 7, 11]


def test_what_is_told_is_looked_at_once() -> None:
    """By whichever is awake first: long before the next look is due."""
    log = Log(3600)
    threads, heard = waiting(log, 8)
    before = log.looks
    log.position = 3
    log.tell()
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert heard == [3] * 8
    assert log.looks == before + 1


def test_what_a_commit_of_this_process_has_seen_is_not_looked_at() -> None:
    """Who waits is woken, and who comes within the time between two looks has his answer."""
    log = Log(3600)
    threads, heard = waiting(log, 4)
    before, log.position, log.told = log.looks, 3, 1
    log.looking.found(3, 1)
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert heard == [3] * 4
    assert log.wait(2) == 3
    assert log.wait(3, 0.01) == 3
    assert log.looks == before


def test_an_older_look_does_not_hide_what_was_committed_meanwhile() -> None:
    """It was begun before the commit, and comes back after it."""
    log = Log(3600)
    began, goes_on = threading.Event(), threading.Event()

    def slow() -> int:
        began.set()
        goes_on.wait(WAIT_SECONDS)
        return 0

    log.looking._look = slow
    threads, heard = waiting(log, 0)
    threads = [threading.Thread(target=lambda: heard.append(log.wait(0)), daemon=True)]
    threads[0].start()
    assert began.wait(WAIT_SECONDS)
    log.looking._look = log._look
    log.position = log.told = 5
    log.looking.found(5, 5)
    goes_on.set()
    threads[0].join(WAIT_SECONDS)

    assert heard == [5]
    assert log.looks == 0
    assert log.wait(0, 0.01) == 5


def test_an_older_log_in_its_place_is_seen_at_the_next_look() -> None:
    """What was found does not stand for ever."""
    log = Log(0.02)
    log.position = log.told = 5
    log.wait(0)
    log.looking.found(5, 5)
    log.position = 2
    time.sleep(0.03)

    assert log.wait(2, 0.1) == 2


def test_what_is_told_and_is_not_there_wakes_nobody_for_ever() -> None:
    """As where an older log was put in place: each telling is looked at once, and no more."""
    log = Log(3600)
    threads, heard = waiting(log, 4, after=5)
    before = log.looks
    for _ in range(3):
        log.tell()
        time.sleep(0.05)
    assert before + 1 <= log.looks <= before + 3
    log.closed = True
    log.tell()
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert heard == [0] * 4


def test_where_the_one_who_looks_has_waited_enough_another_takes_over() -> None:
    """Nobody is left to wait for a look that nobody takes."""
    log = Log(0.02)
    [first], _ = waiting(log, 1, seconds=0.2)  # it looks for all
    threads, heard = waiting(log, 6)
    first.join(WAIT_SECONDS)
    began = time.monotonic()
    log.position = 1
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert heard.count(1) == 6
    assert time.monotonic() - began < WAIT_SECONDS / 2


def test_a_look_that_fails_is_heard_by_who_takes_it_and_another_looks_then() -> None:
    """The others go on waiting."""
    log = Log(0.02)
    real, failed = log.looking._look, threading.Event()

    def failing() -> int:
        if not failed.is_set() and log.looks > 3:
            failed.set()
            raise OSError("away")
        return real()

    log.looking._look = failing
    errors: list[str] = []
    heard: list[int] = []

    def wait() -> None:
        try:
            heard.append(log.wait(0))
        except OSError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert failed.wait(WAIT_SECONDS)
    log.position = 2
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert (errors, heard) == (["away"], [2] * 4)


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_who_does_not_wait_is_answered_by_the_last_look(seconds: float) -> None:
    """Which is not old, and of before nothing that was told."""
    log = Log(3600)
    log.position = 4
    assert log.wait(0) == 4
    log.position = 6
    assert (log.wait(5, seconds), log.looks) == (4, 1)
    log.tell()
    assert (log.wait(5, seconds), log.looks) == (6, 2)


def test_the_first_look_is_waited_for_by_all() -> None:
    """Who has less time than it takes hears where the log ends, and not that there is nothing."""
    log = Log(3600)
    log.position = 9
    real, looking, go_on = log.looking._look, threading.Event(), threading.Event()

    def slow() -> int:
        looking.set()
        assert go_on.wait(WAIT_SECONDS)
        return real()

    log.looking._look = slow
    heard: list[int] = []
    first = threading.Thread(target=lambda: heard.append(log.wait(0)), daemon=True)
    first.start()
    assert looking.wait(WAIT_SECONDS)
    second = threading.Thread(target=lambda: heard.append(log.wait(0, 0.001)), daemon=True)
    second.start()
    time.sleep(0.05)
    go_on.set()
    for thread in (first, second):
        thread.join(WAIT_SECONDS)

    assert (heard, log.looks) == ([9, 9], 1)


@pytest.mark.parametrize("seconds", [1e-9, 0.02])
def test_nobody_is_answered_by_a_look_from_before_what_he_has_heard(seconds: float) -> None:
    """Not even while somebody looks at the moment who began before that: that look is waited for, and there is another one then."""
    log = Log(3600)
    log.position = 4
    assert log.wait(0) == 4
    real, looking, go_on = log.looking._look, threading.Event(), threading.Event()

    def slow() -> int:
        found = real()
        looking.set()
        assert go_on.wait(WAIT_SECONDS)
        return found

    log.looking._look = slow
    log.tell()
    first = threading.Thread(target=lambda: log.wait(4, 0.001), daemon=True)
    first.start()
    assert looking.wait(WAIT_SECONDS)
    log.position = 6
    log.tell()
    heard: list[int] = []
    second = threading.Thread(target=lambda: heard.append(log.wait(9, seconds)), daemon=True)
    second.start()
    time.sleep(0.1)
    assert heard == []
    go_on.set()
    for thread in (first, second):
        thread.join(WAIT_SECONDS)

    assert heard == [6]


def test_where_the_one_who_looks_for_all_is_gone_without_a_word_others_look() -> None:
    """An interrupt may come before it can hand over. It takes a second."""
    log = Log(0.02)
    log.looking._led = True
    [thread], heard = waiting(log, 1)
    log.position = 2
    began = time.monotonic()
    thread.join(WAIT_SECONDS)

    assert heard == [2]
    assert time.monotonic() - began < WAIT_SECONDS / 2


def test_an_interrupt_anywhere_leaves_nobody_waiting_for_a_look_that_nobody_takes() -> None:
    """Whoever waits is interrupted at one moment after the other: afterwards another thread hears of what comes, and no place of theirs is held."""
    nth, wrong = 1, list[str]()
    while True:
        log = Log(0.005)
        where = interrupted(lambda: log.wait(0, 0.02), nth)  # noqa: B023 - called in this turn only
        log.position = 1
        heard: list[int] = []
        thread = threading.Thread(target=lambda: heard.append(log.wait(0, WAIT_SECONDS / 4)), daemon=True)  # noqa: B023 - as above
        thread.start()
        thread.join(WAIT_SECONDS / 4)
        if heard != [1] or log.looking.waiting:
            wrong.append(where)
        if not where:
            break
        nth += 1

    assert nth > 20
    assert wrong == []
