"""Turns: all threads of several processes, of which one goes on at a time, chosen by a seed, in a time that only goes on when nobody else does.

The product's own threads run, unchanged. While `Turns.installed()`, its modules have locks, events, conditions and clocks of ours in the place of the
machine's, so that each wait, and each call of `pause`, gives the turn to whoever is chosen. What happens is a function of the seed alone.

A process can be killed, or stopped for a while, wherever one of its threads has given away its turn: never inside `whole`, where it holds a lock of what
all processes share.
"""

import contextlib
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any  # Any: what an attribute of a module is

TICK = 1e-6
"""Seconds that pass at each look at the clock."""
TURNS_MAX = 400_000
"""More is no end."""
REAL_SECONDS_MAX = 60.0
"""How long one turn may take of real time: what takes longer waits for something that never comes."""


class Killed(BaseException):
    """The process ends here."""


class Process:
    """Some threads that are killed or stopped together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.stopped_until = 0.0


class Turn:
    """One thread."""

    def __init__(self, turns: "Turns", process: Process, run: Callable[[], object], name: str) -> None:
        self.process = process
        self.name = name
        self.ready: Callable[[], bool] | None = None
        """What it waits for; `None`: nothing."""
        self.until: float | None = None
        """How long."""
        self.whole = 0
        self.done = False
        self.go = threading.Lock()
        self.go.acquire()
        self._turns = turns
        self._run = run
        self._thread = threading.Thread(target=self._go_on, name=f"{process.name} {name}", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        self.go.acquire()
        try:
            if not self.process.killed:
                self._run()
        except Killed:
            pass
        except BaseException:  # noqa: BLE001 - the test is told what it is
            if not self.process.killed:  # who is dead by then, of a disk without power, may end as it likes
                self._turns.failed.append(f"{self.process.name} {self.name}: {traceback.format_exc()}")
        finally:
            self.done = True
            self._turns.back.release()


class Turns:
    """Says whose turn it is, and what time it is."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now = 1000.0
        self.taken = 0
        """Turns so far."""
        self.failed: list[str] = []
        """What threads ended with that was not meant to come."""
        self.back = threading.Lock()
        self.back.acquire()
        self.pauses = 0.3
        """How often a pause gives the turn to others."""
        self._threads: list[Turn] = []
        self._me: Turn | None = None
        self._alone: Process | None = None
        """One of its threads is inside `whole`, and waits for another."""

    # --- for those who have the turn

    @property
    def process(self) -> Process:
        """The process whose turn it is."""
        return self.me.process

    @property
    def me(self) -> Turn:
        """The thread whose turn it is."""
        assert self._me is not None, "only a thread of a process may wait"
        return self._me

    def clock(self) -> float:
        """Return the time in seconds: nobody else's turn comes for it."""
        self.now += TICK
        return self.now

    def wait(self, ready: Callable[[], bool] | None, seconds: float | None) -> bool:
        """Give away the turn until something is ready, or for some seconds; say whether it is ready."""
        me = self.me
        me.ready, me.until = ready, None if seconds is None else self.now + max(0.0, seconds)
        if me.whole:
            self._alone = me.process
        self.back.release()
        me.go.acquire()
        if me.process.killed:
            raise Killed
        return ready is None or ready()

    def pause(self) -> None:
        """Let others go first, perhaps."""
        if self._me is not None and not self._me.whole and self.chance.random() < self.pauses:
            self.wait(None, None)

    @contextlib.contextmanager
    def whole(self) -> Generator[None]:
        """Do something that no other process sees a part of: where the machine has a lock for it."""
        me = self._me
        if me is None:
            yield
            return
        me.whole += 1
        try:
            yield
        finally:
            me.whole -= 1

    def begin(self, process: Process, run: Callable[[], object], name: str) -> Turn:
        """Begin a thread of a process."""
        thread = Turn(self, process, run, name)
        self._threads.append(thread)
        return thread

    # --- for the one who gives the turns

    def step(self) -> None:
        """Give one turn; where there is nobody, or now and then, let time pass."""
        ready = self._ready()
        if not self._threads:
            self.taken += 1
            self.now += 0.1
            return
        while not ready or (self._alone is None and self.chance.random() < 0.01):
            self._let_time_pass(needed=not ready)
            ready = self._ready()
        self._give(self.chance.choice(ready))

    def kill(self, process: Process) -> None:
        """End all threads of a process where they are."""
        process.killed = True
        for thread in list(self._threads):
            for _ in range(100):
                if thread.process is not process or thread.done:
                    break
                self._give(thread)
            else:
                raise AssertionError(f"{thread.process.name} {thread.name} does not end")

    def alive(self, process: Process) -> bool:
        """Say whether any thread of a process has not ended."""
        return any(thread.process is process and not thread.done for thread in self._threads)

    def where(self) -> str:
        """Tell what each thread waits for."""
        frames = sys._current_frames()
        lines: list[str] = []
        for thread in self._threads:
            frame = frames.get(thread._thread.ident or 0)
            if not thread.done and frame is not None:
                lines.append(f"--- {thread.process.name} {thread.name} until {thread.until}")
                lines += traceback.format_stack(frame)[-6:-1]
        return "\n".join(lines)

    def _ready(self) -> list[Turn]:
        self._threads = [thread for thread in self._threads if not thread.done]
        now, alone = self.now, self._alone
        return [
            thread
            for thread in self._threads
            if (thread.process is alone if alone is not None else thread.process.stopped_until <= now)
            and (thread.ready is None or thread.ready() or (thread.until is not None and thread.until <= now))
            and (thread.ready is not None or thread.until is None or thread.until <= now)
        ]

    def _let_time_pass(self, *, needed: bool) -> None:
        times = [thread.until for thread in self._threads if thread.until is not None and thread.until > self.now]
        times += [thread.process.stopped_until for thread in self._threads if thread.process.stopped_until > self.now]
        if not times:
            assert not needed, f"nobody can go on\n{self.where()}"
            return
        self.now = min(times) + self.chance.choice((0.0, 0.0, 0.05, 0.3, 1.5))

    def _give(self, thread: Turn) -> None:
        self.taken += 1
        assert self.taken < TURNS_MAX, f"it does not come to an end\n{self.where()}"
        self._me, self._alone = thread, None
        thread.go.release()
        assert self.back.acquire(timeout=REAL_SECONDS_MAX), (
            f"{thread.process.name} {thread.name} does not give its turn back\n{self.where()}"
        )
        self._me = None

    # --- in the place of the machine's

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Put it in the place of the machine's threads and clocks, in all modules of the product."""
        shims = {threading: Threads(self), time: Times(self)}
        changed: list[tuple[Any, str, Any]] = []
        for name, module in sorted(sys.modules.items()):
            if name.partition(".")[0] == "happened":
                for real, ours in shims.items():
                    if vars(module).get(real.__name__) is real:
                        changed.append((module, real.__name__, real))
                        setattr(module, real.__name__, ours)
        try:
            yield
        finally:
            for module, attribute, real in changed:
                setattr(module, attribute, real)


class Threads:
    """What `threading` is to the product."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)

    def Lock(self) -> "Lock":  # noqa: N802 - as `threading` has it
        return Lock(self._turns)

    def RLock(self) -> "RLock":  # noqa: N802 - as `threading` has it
        return RLock(self._turns)

    def Event(self) -> "Event":  # noqa: N802 - as `threading` has it
        return Event(self._turns)

    def Condition(self) -> "Condition":  # noqa: N802 - as `threading` has it
        return Condition(self._turns)

    def Semaphore(self, value: int = 1) -> "Semaphore":  # noqa: N802 - as `threading` has it
        return Semaphore(self._turns, value)

    def Thread(self, *, target: Callable[..., object], name: str = "", args: tuple[Any, ...] = (), daemon: bool = False) -> "Thread":  # noqa: N802 - as `threading` has it
        return Thread(self._turns, lambda: target(*args), name)


class Times:
    """What `time` is to the product."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return self._turns.clock()

    perf_counter = monotonic

    def monotonic_ns(self) -> int:
        return int(self._turns.clock() * 1e9)

    def sleep(self, seconds: float) -> None:
        self._turns.wait(None, seconds)


class Thread:
    """A thread of the process that makes it."""

    def __init__(self, turns: Turns, run: Callable[[], object], name: str) -> None:
        self._turns = turns
        self._process = turns.process
        self._run = run
        self._name = name
        self._turn: Turn | None = None

    def start(self) -> None:
        self._turn = self._turns.begin(self._process, self._run, self._name)

    def is_alive(self) -> bool:
        return self._turn is not None and not self._turn.done

    def join(self, timeout: float | None = None) -> None:
        turn = self._turn
        assert turn is not None, "it was started"
        if not turn.done:
            self._turns.wait(lambda: turn.done, timeout)


class Lock:
    """A lock that anybody may release."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._held and (not blocking or not self._turns.wait(lambda: not self._held, None if timeout < 0 else timeout)):
            return False
        self._held = True
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("it is not held")
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock:
    """A lock that its holder may take again."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._holder: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = threading.get_ident()
        if self._holder not in (None, me) and (
            not blocking or not self._turns.wait(lambda: self._holder is None, None if timeout < 0 else timeout)
        ):
            return False
        self._holder = me
        self._count += 1
        return True

    def release(self) -> None:
        if self._holder != threading.get_ident():
            raise RuntimeError("it is another's, or nobody's")
        self._count -= 1
        if not self._count:
            self._holder = None

    def locked(self) -> bool:
        return self._holder is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """Something that has come, or not."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            self._turns.wait(lambda: self._is_set, timeout)
        return self._is_set


class Condition(RLock):
    """A lock whose holder may wait to be told something."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns)
        self._told = 0

    def wait(self, timeout: float | None = None) -> bool:
        before, count = self._told, self._count
        self._holder, self._count = None, 0
        try:
            return self._turns.wait(lambda: self._told != before, timeout)
        finally:
            if self.locked():
                self._turns.wait(lambda: not self.locked(), None)
            self._holder, self._count = threading.get_ident(), count

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = None if timeout is None else self._turns.now + timeout
        while not predicate():
            left = None if deadline is None else deadline - self._turns.now
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify_all(self) -> None:
        self._told += 1

    notify = notify_all


class Semaphore:
    """A count that those who take wait for."""

    def __init__(self, turns: Turns, value: int) -> None:
        self._turns = turns
        self._value = value

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if not self._value and (not blocking or not self._turns.wait(lambda: self._value > 0, timeout)):
            return False
        self._value -= 1
        return True

    def release(self) -> None:
        self._value += 1
