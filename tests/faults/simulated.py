"""Two systems of several processes each, in one thread's time: which of them goes on, who is killed or stopped, what fails on the way, and every clock, follow from one seed.

At the end all is left in peace until nothing is to be done any more. Then all that was heard is held against the logs, and what follows from what happened
is there once: in order where that is promised.
"""

import contextlib
import hashlib
import itertools
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: what a store's methods take

import pytest

import happened as h
from happened.core.store import Commit, Engine, Head, Row, Unseen
from happened.shelf.rows import ViewsFile
from happened.stores import runs, sqlite
from happened.stores.memory import MemoryStore
from happened.stores.sqlite import SqliteStore, connect_to_read
from happened.testing.history import History, Session, check
from happened.transfer.channel import Channel, LogChannel
from tests.faults.disk import Disk, Platter
from tests.faults.turns import Process, Turns
from tests.faults.two import (
    ACCOUNTS,
    LARGE,
    REMINDED_EACH,
    Answered,
    Answers,
    Balance,
    Copied,
    Deposited,
    Empty,
    Heard,
    Move,
    Reminded,
    Thanked,
    Thanks,
    bank,
    office,
    ways,
)
from tests.transfer.model import Rough

BEGIN_US = 1_767_225_600_000_000
SECOND_US = 1_000_000
DAY_US = 24 * 60 * 60 * SECOND_US
JUMPS_US = (-DAY_US, -3600 * SECOND_US, -11 * SECOND_US, -SECOND_US, SECOND_US, 11 * SECOND_US, 3600 * SECOND_US, DAY_US)
ACTS = 60
"""What clients of the bank do in one run; those of the office look on."""
PROCESSES_MAX = 3
DISKS_EACH = 4
"""Of how many seeds one has its logs on disks."""
SMALL = ((sqlite, "GROW_FROM_PAGES", 20), (sqlite, "GROW_BYTES", 64 * 1024), (sqlite, "CHECKPOINT_PAGES", 60), (runs, "FLUSH_RECORDS", 64))
"""What happens rarely happens within a short run: growth of the WAL, checkpoints, flushes of the index."""
CONNECT = sqlite3.connect
TURNS_OF_FAULTS_MAX = 12_000
PEACE_SECONDS = 400.0
"""So long, in the time of the simulation, it may take until nothing is left to be done: what fails is tried again after half a minute at most."""
PASSING = (h.Refused, h.Late, h.Overloaded, h.StoreFailed, h.OutcomeUnknown, h.Stuck)
"""What a client must be ready to hear."""


class Result(NamedTuple):
    """What one run has come to: the same for the same seed, to the last byte."""

    digests: tuple[str, ...]
    """Of both logs, which bind every byte of every row."""
    turns: int
    counts: "Counter[str]"


class Hands:
    """The clock and the ids of one process."""

    def __init__(self, simulation: "Simulation", name: str, host: str) -> None:
        self.off_us = 0
        self._simulation = simulation
        self._name = name
        self._host = host
        self._next = itertools.count(1)

    def now_us(self) -> int:
        """Return the time that this process believes in."""
        return BEGIN_US + int(self._simulation.turns.now * SECOND_US) + self.off_us

    def new_id(self) -> str:
        """Return an id that nobody else returns."""
        return f"{self._name}-{next(self._next)}"

    def salt(self, count: int) -> bytes:
        """Return other bytes at each call, and the same in each run."""
        return hashlib.shake_128(f"{self._name}:{next(self._next)}".encode()).digest(count)

    def owner(self) -> str:
        """Return a name for this process."""
        return f"{self._host}:0:{self._name}"

    def gone(self, owner: str) -> bool:
        """Say whether a process of the same host has ended; of others nothing is known."""
        host, _, name = owner.rsplit(":", 2)
        return host == self._host and name in self._simulation.ended


class Reached:
    """A store as one process reaches it: others may go first at every call, it may be killed there, and the disk says no now and then."""

    def __init__(self, simulation: "Simulation", system: "System", *, reads: bool = False) -> None:
        self._simulation = simulation
        self._turns = simulation.turns
        self._system = system
        with self._turns.whole():
            self._engine: Engine = system.opened(reads=reads)
        self._folder = system.folder
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def is_there(self) -> bool:
        """Say whether this is still where the log is: a disk that lost its power is read anew."""
        return self._folder == self._system.folder

    def index(self, *given: Any, **named: Any) -> bool:
        """Find the terms of all rows."""
        with self._turns.whole():
            return self._engine.index(*given, **named)

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Append, or fail before it, or after it."""
        self._turns.pause()
        self._check()
        trouble = self._simulation.trouble()
        if trouble < 0.5:
            raise h.StoreFailed("the disk says no")
        with self._turns.whole():
            head = self._engine.append(decide, seen, wait_seconds_max=wait_seconds_max)
        self._system.head = max(self._system.head, head.position)
        if trouble < 1:
            raise h.OutcomeUnknown("the disk does not answer")
        self._turns.pause()
        return head

    def read(self, *given: Any, **named: Any) -> Iterator[Sequence[Row]]:
        """Read, after others perhaps."""
        self._turns.pause()
        self._check()
        return self._engine.read(*given, **named)

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Return notes, after others perhaps."""
        self._turns.pause()
        self._check()
        return self._engine.notes(start, before)

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait in the time of the simulation."""
        if self._system.head <= after and not self._closed and wait_seconds_max > 0:
            self._turns.wait(lambda: self._system.head > after or self._closed, wait_seconds_max)
        self._check()
        return self._engine.wait(after, 0)

    def close(self) -> None:
        """Close it for this process."""
        self._closed = True
        if isinstance(self._engine, SqliteStore):
            self._engine.close()

    def _check(self) -> None:
        if self._closed:
            raise h.Closed("the log is closed")


class System:
    """One log, and who works on it."""

    def __init__(self, simulation: "Simulation", app: h.App, ask: "Callable[[Asking], None]") -> None:
        self.app = app
        self.ask = ask
        self.simulation = simulation
        self.head = 0
        self.made = 0
        """Processes so far."""
        self.folder = simulation.folder
        """Where the files are: another one, each time that the power was lost."""
        self.store = MemoryStore() if not simulation.on_disks else None
        self.disk: Disk | None = None
        self.dies_at: int | None = None
        """After how many operations the disk loses its power."""
        self.died = False
        self._platter = Platter()
        if self.store is None:
            self._put_in_place(self.folder / app.name)

    @property
    def url(self) -> str:
        """The URL of the log."""
        return "memory:" if self.store is not None else f"sqlite:///{self.folder}/{self.app.name}.db"

    def opened(self, *, reads: bool) -> Engine:
        """Open the store."""
        if self.store is not None:
            return self.store
        path = f"{self.folder}/{self.app.name}.db"
        found = SqliteStore(path, connect=connect_to_read) if reads else SqliteStore(path)
        self.head = max(self.head, found.wait(0, 0))
        return found

    def lose_power(self) -> None:
        """Go on with what the disk may hold now. All that had it open is killed by then."""
        assert self.disk is not None, "it is on a disk"
        until = len(self.disk.ops) if self.dies_at is None else self.dies_at
        for op in self.disk.ops[:until]:
            self._platter.apply(op)
        folder = Path(f"{self.folder}-then")
        folder.mkdir()
        self._platter.image(self.simulation.chance, folder, strict=self.simulation.chance.random() < 0.5)
        shutil.rmtree(self.folder)
        self._put_in_place(folder)

    def _put_in_place(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.head = folder, 0
        self.dies_at, self.died = None, False
        self._platter = Platter()
        self._platter.begin(folder)
        self.disk = disk = Disk()
        disk.fails = lambda _call, _file: self._fails(disk)

    def _fails(self, disk: Disk) -> int:
        """Say whether the power is gone; who had it is dead at that very moment, and nobody hears what comes of it."""
        if disk is self.disk and self.dies_at is not None and len(disk.ops) >= self.dies_at and not self.died:
            self.died = True
            self.simulation.die(self)
        return sqlite3.SQLITE_IOERR if disk is not self.disk or self.died or self.simulation.closing else 0


class Working(Process):
    """A process of one system, with two clients."""

    def __init__(self, simulation: "Simulation", system: System, *, last: bool = False) -> None:
        system.made += 1
        super().__init__(f"{system.app.name}-{system.made}")
        self.simulation = simulation
        self.system = system
        self.chance = simulation.chance
        self.hands = Hands(simulation, self.name, f"host-{simulation.chance.randrange(2)}")
        self.running: h.Running | None = None
        self.leaving = False
        self.line: Rough | None = None
        self.connections: list[Any] = []
        """What it has open of a disk, or has had."""
        simulation.turns.begin(self, self._last if last else self._live, "main")

    def open(self) -> h.Running:
        """Open the log."""
        channels: dict[str, Channel] = {}
        if self.system.app is office:
            of = self.simulation
            channel = LogChannel(
                lambda: Reached(of, of.bank, reads=True), lambda store: isinstance(store, Reached) and store.is_there(), own=True
            )
            self.line = Rough(channel, self.chance, honest=True)
            channels["bank"] = self.line
        return self.system.app.open(self.system.url, channels=channels, views=self.simulation.views(self.system), source=self.hands)

    def _live(self) -> None:
        try:
            self.running = self.open()
        except PASSING:
            return
        for number in range(2):
            self.simulation.turns.begin(self, lambda number=number: self._client(number), f"client-{number}")  # type: ignore[misc]  # it takes none
        self.simulation.turns.wait(lambda: self.leaving, None)
        self.running.close()

    def _client(self, number: int) -> None:
        asking = Asking(self, f"{self.name}.{number}")
        while not self.leaving and self.simulation.rough:
            try:
                self.system.ask(asking)
            except h.Closed:
                return
            except PASSING:
                self.simulation.counts["heard of trouble"] += 1
            self.simulation.turns.wait(None, self.chance.random())

    def _last(self) -> None:
        self.running = self.open()
        self.simulation.turns.wait(lambda: self.leaving, None)
        self.running.close()


class Heedful(History):
    """A history in which the dead write nothing."""

    def __init__(self, simulation: "Simulation") -> None:
        super().__init__(clock=lambda: int(simulation.turns.clock() * 1e9))
        self._turns = simulation.turns

    def write(self, line: Any) -> None:
        """Write a line down, unless its process was killed in the midst of what it did."""
        if not self._turns.process.killed:
            super().write(line)


class Asking(NamedTuple):
    """One client."""

    working: Working
    name: str


class Simulation:
    """One run."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(f"simulation {seed}")
        self.turns = Turns(self.chance)
        self.folder = folder
        self.on_disks = seed % DISKS_EACH == 0
        """Logs, views and copies are in files of disks that may lose their power; else logs are in memory, which outlasts processes here."""
        self.bank = System(self, bank, self._bank_client)
        self.office = System(self, office, self._office_client)
        self.rough = True
        self.closing = False
        """What a killed process had open is closed, and must do nothing more."""
        self.ended: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.history = {bank: Heedful(self), office: Heedful(self)}
        self._sessions: dict[tuple[str, str], Session] = {}
        self._in_files = self.chance.random() < 0.7
        """Where views and copies are; else in the memory of each process."""
        self._troubles = self.chance.choice((0.0, 0.003, 0.01))
        self._failures = self.chance.choice((0.0, 0.1, 0.3))
        self._faults = self.chance.choice((0.002, 0.005, 0.02))
        self._acts = ACTS
        self._number = 0
        self._working: list[Working] = []
        self._digests: tuple[str, ...] = ()

    def die(self, system: System) -> None:
        """Have the power of a system's machine gone: from here on none of its processes says or hears anything."""
        for one in self._working:
            if one.system is system:
                one.killed = True

    def trouble(self) -> float:
        """Return less than 0.5 where the disk is to say no, less than 1 where it is not to answer."""
        return self.chance.random() / self._troubles if self.rough and self._troubles else 2.0

    def views(self, system: System) -> str:
        """Return where views are."""
        return f"sqlite:///{system.folder}/{system.app.name}.views.db" if self._in_files else "memory:"

    def run(self) -> Result:
        """Let it all happen, leave it in peace, and check it."""
        with self._installed():
            try:
                while self._acts and self.turns.taken < TURNS_OF_FAULTS_MAX:
                    self.turns.step()
                    self._perhaps_a_fault()
                self._make_peace()
                self._check()
                assert not self.turns.failed, "\n".join(self.turns.failed)
                for one in list(self._working):
                    self._leave(one)
            finally:
                for one in self._working:
                    self._kill(one)
        return Result(self._digests, self.turns.taken, self.counts)

    @contextlib.contextmanager
    def _installed(self) -> Generator[None]:
        real, turns = ViewsFile.transaction, self.turns

        @contextlib.contextmanager
        def transaction(file: ViewsFile) -> Generator[Any]:
            turns.pause()
            with turns.whole(), real(file) as connection:
                yield connection
            turns.pause()

        with pytest.MonkeyPatch.context() as patch, turns.installed():
            patch.setattr("sqlite3.connect", self._connect)
            for module, constant, small in SMALL:
                patch.setattr(module, constant, small)
            patch.setattr("happened.running.open_engine", lambda _url: Reached(self, turns.process.system))  # type: ignore[attr-defined]  # all are `Working`
            patch.setattr(ViewsFile, "transaction", transaction)
            patch.setattr(ways, "fails", lambda: self.rough and self.chance.random() < self._failures)
            yield

    def _connect(self, path: str, **how: Any) -> Any:
        """Open a file on its system's disk, or where it has none as ever."""
        process = self.turns.process
        assert isinstance(process, Working)
        disks = [system.disk for system in (self.bank, self.office) if system.disk is not None and f"{system.folder}/" in path]
        connection = disks[0].connect(path, **how) if disks else CONNECT(path, **how)
        process.connections.append(connection)
        return connection

    # --- faults

    def _perhaps_a_fault(self) -> None:
        self._working = [one for one in self._working if not self._has_ended(one)]
        for system in (self.bank, self.office):
            if system.died:
                self._end_of_power(system)
            mine = sum(one.system is system for one in self._working)
            if mine < PROCESSES_MAX and self.chance.random() < (0.1 if not mine else 0.002):
                self._working.append(Working(self, system))
        if self._working and self.chance.random() < self._faults:
            one = self.chance.choice(self._working)
            match self.chance.choice(("kill", "stop", "stop", "jump", "cut", "leave", *["power"] * (2 * self.on_disks))):
                case "kill":
                    self._working.remove(one)
                    self._kill(one)
                    self.counts["killed"] += 1
                case "power":
                    disk = one.system.disk
                    assert disk is not None
                    one.system.dies_at = one.system.dies_at or len(disk.ops) + self.chance.randrange(60)
                case "stop":
                    one.stopped_until = self.turns.now + self.chance.choice((0.5, 5.0, 15.0, 40.0))
                    self.counts["stopped"] += 1
                case "jump":
                    one.hands.off_us += self.chance.choice(JUMPS_US)
                    self.counts["jumped"] += 1
                case "cut" if one.line is not None:
                    one.line.down = not one.line.down
                    self.counts["cut"] += 1
                case _:
                    one.leaving = True
                    self.counts["left"] += 1

    def _end_of_power(self, system: System) -> None:
        for one in self._working:
            if one.system is system:
                self._kill(one)
        self._working = [one for one in self._working if one.system is not system]
        system.lose_power()
        self.counts["lost power"] += 1

    def _kill(self, one: Working) -> None:
        """End a process where it is. The machine closes what it had open, and writes nothing for it."""
        self.turns.kill(one)
        self.ended.add(one.name)
        self.closing = True
        for connection in one.connections:
            connection.close()
        self.closing = False

    def _has_ended(self, one: Working) -> bool:
        if self.turns.alive(one) or one.killed:
            return False
        self.ended.add(one.name)
        return True

    def _leave(self, one: Working) -> None:
        one.leaving = True
        one.stopped_until = 0.0
        while self.turns.alive(one):
            self.turns.step()
        self._has_ended(one)

    def _make_peace(self) -> None:
        """End all processes, one way or the other, and begin one of each system, whose clocks are behind nobody's."""
        self.rough = False
        late = max((one.hands.off_us for one in self._working), default=0)
        for one in self._working:
            if one.line is not None:
                one.line.down = False
        for system in (self.bank, self.office):
            system.dies_at = None
            if system.died:
                self._end_of_power(system)
        for one in list(self._working):
            if self.chance.random() < 0.5:
                self._kill(one)
            else:
                self._leave(one)
        self._working = [Working(self, system, last=True) for system in (self.bank, self.office)]
        for one in self._working:
            one.hands.off_us = max(late, 0) + 3 * DAY_US
        while any(one.running is None for one in self._working):
            self.turns.step()
            assert not self.turns.failed, self.turns.failed[0]
        asked = self._begin_check(self._settled)
        while not asked():
            self.turns.step()

    def _begin_check(self, ask: Callable[[h.Running, h.Running], None]) -> Callable[[], bool]:
        """Have something asked in a thread of the bank's process; return whether that has come to its end."""
        told, copying = self._working
        assert told.running is not None
        assert copying.running is not None
        upstream, running = told.running, copying.running
        thread = self.turns.begin(told, lambda: ask(upstream, running), "check")
        return lambda: thread.done

    def _settled(self, upstream: h.Running, running: h.Running) -> None:
        deadline = self.turns.now + PEACE_SECONDS
        while (left := self._left(upstream, running)) and self.turns.now < deadline:
            self.turns.wait(None, 0.3)
        assert not left, f"it does not come to rest: {left}"

    def _left(self, upstream: h.Running, running: h.Running) -> list[str]:
        """Return what is left to be done."""
        left: list[str] = []
        for one in (upstream, running):
            found = one.statistics()
            left += [f"{one.app.name} has {found['pending']} pending"] * bool(found["pending"])
            left += [f"held: {held.handler} at {held.position}: {held.error}" for held in one.stuck()]
            for kind in ("reactions", "publications", "shares", "subscriptions", "views"):
                left += [f"{kind}: {each}" for each in found[kind] if each["lag"] != 0]
            left += [f"replica: {each}" for each in found["replicas"] if each["lag"] != 0 or each["state"] != "fresh"]
            left += [f"{one.app.name} has timers"] * bool(one.log.engine.notes("timer/"))
        return left

    # --- clients

    def session(self, asking: Asking, app: h.App) -> Session:
        """Return a client's session in the history of a system."""
        key = asking.name, app.name
        if key not in self._sessions:
            self._sessions[key] = self.history[app].session(asking.name)
        return self._sessions[key]

    def _bank_client(self, asking: Asking) -> None:
        running, session, chance = asking.working.running, self.session(asking, bank), self.chance
        assert running is not None
        self._acts -= bool(self._acts)
        self.counts["acts"] += 1
        match chance.randrange(10):
            case 0 | 1 | 2 | 3:
                self._number += 1
                number = self._number if chance.random() < 0.8 else chance.randint(1, self._number)  # somebody asks again
                amount = number * 37 % 100
                session.record(running, Deposited(ACCOUNTS[number % len(ACCOUNTS)], number, amount), id=f"deposit-{number}")
            case 4 | 5:
                source, target = chance.sample(ACCOUNTS, 2)
                session.dispatch(running, Move(source, target, chance.randrange(60)))
            case 6:
                source, target = chance.sample(ACCOUNTS, 2)
                session.dispatch_together(running, [Move(source, target, 5), Move(target, source, 2)])
            case 7:
                if chance.random() < 0.5:
                    session.dispatch(running, Empty(chance.choice(ACCOUNTS)))
                else:
                    running.outcome(running.enqueue(Move("a", "b", 1)))
            case 8:
                session.state(running, Balance, chance.choice(ACCOUNTS), since=chance.choice((None, running.log.head)))
            case _:
                session.rows(running.view(chance.choice((Balance, Thanks))), since=chance.choice((None, running.log.head)))

    def _office_client(self, asking: Asking) -> None:
        running = asking.working.running
        assert running is not None
        if self.chance.random() < 0.5:
            self.session(asking, office).rows(running.view(Answers), since=self.chance.choice((None, running.log.head)))
        else:
            self.session(asking, bank).replica_rows(running, Copied)

    # --- at the end

    def _check(self) -> None:
        asked = self._begin_check(self._hold_against)
        while not asked():
            self.turns.step()

    def _hold_against(self, upstream: h.Running, running: h.Running) -> None:
        """Hold all that was heard against the logs, and see that what follows from what happened is there once."""
        for one in (upstream, running):
            findings = check(self.history[one.app], one)  # type: ignore[index]  # it is one of the two apps
            assert not findings, "\n".join(map(str, findings[:5]))
            one.log.verify()
        said = list(upstream.log.read())
        deposited = [one.body for one in said if isinstance(one.body, Deposited)]
        numbers = [one.number for one in deposited]
        assert len(numbers) == len(set(numbers)), "a deposit is there twice"
        thanked = [one.body for one in said if isinstance(one.body, Thanked)]
        for account in ACCOUNTS:
            came = [one.number for one in deposited if one.account == account]
            assert [one.number for one in thanked if one.account == account] == came, f"thanks of {account}"
            assert [one.place for one in thanked if one.account == account] == [*range(len(came))]
        reminded = sorted(one.body.number for one in said if isinstance(one.body, Reminded))
        assert reminded == sorted(number for number in numbers if number % REMINDED_EACH == 0), "reminders"
        large = [one.number for one in deposited if one.amount >= LARGE]
        told = [one.body["number"] for one in said if one.kind == "output" and one.name == "Large"]
        assert told == large, "what was told"
        heard = [one.body.number for one in running.log.read() if isinstance(one.body, Heard)]
        assert heard == large, "what was heard"
        answered = [one.body for one in running.log.read() if isinstance(one.body, Answered)]
        for account in ACCOUNTS:
            asked = [one.number for one in deposited if one.amount >= LARGE and one.account == account]
            assert [one.number for one in answered if one.account == account] == asked, f"answers to {account}"
        upstream.catch_up()
        balances = {key[0]: Copied(one.account, one.amount) for key, one in upstream.states(Balance).items()}
        assert {one.account: one for one in running.replica_rows(Copied)} == balances, "the copy"
        self._digests = tuple(one.log.row_at(one.log.head).digest.hex() for one in (upstream, running))  # type: ignore[union-attr]  # there is one
        self.counts["rows"] += upstream.log.head + running.log.head
        self.counts["deposits"] += len(numbers)
        self.counts["told"] += len(told)


def simulated(seed: int) -> Result:
    """Run a seed."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        return Simulation(seed, folder).run()
    finally:
        shutil.rmtree(folder)
