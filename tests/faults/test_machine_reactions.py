"""Reactions against a model: whatever fails, is retried, skipped, parked, killed and taken over, each event causes what it is to cause, once, in the order of its keys.

The reaction, the timers and the pending commands, some of which ask the outside first, are driven by hand, step by step. `HAPPENED_STEPS` says how many steps are taken by all machines together.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any  # Any: what a step takes, and what a record says

import pytest
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import happened as h
from happened.core.world import microseconds
from happened.log.held import Held
from happened.log.lease import Leases
from happened.notification import hearing
from happened.notification.timer import Timers, due_before
from happened.sourcing import pending
from happened.sourcing.pending import KEY, PendingWorker
from happened.testing import Clock
from tests.faults.machine import Counting, portions, run
from tests.notification.model import Do, Done, Noted, Undo, Undone, ordered, undo, ways, whole
from tests.notification.model import do as decide_do
from tests.notification.rig import Killed, Rig

ROUNDS = 60
"""After so many rounds all is tried that can be."""
QUIET_ROUNDS = 4
"""So many in which nothing comes are enough: in one of them no more may be done than to find that something still fails."""
later: dict[int, int] = {}
"""How many seconds after a number it is to be undone."""
asking: set[int] = set()
"""Numbers whose decider asks the outside first."""


def on_noted(event: Noted) -> Iterator[Do | h.Later[Undo]]:
    """Have it done, and undone later, unless it fails."""
    yield Do(event.number, event.keys)
    if event.number in later:
        yield h.Later(Undo(event.number), after=timedelta(seconds=later[event.number]))
    if event.number in ways.failing:
        raise RuntimeError(f"{event.number} fails")


def outside(number: int) -> int:
    """Answer, or fail."""
    if number in ways.undecided:
        raise ConnectionError(f"{number} has no answer")
    return number


@h.named("do")
def ask_and_do(command: Do, world: h.World) -> Iterator[Done]:
    """Do it, unless it fails; ask first, where that is said."""
    if command.number in asking:
        world.ask(outside, command.number)
    yield from decide_do(command)


app = h.App(
    "noting",
    records=[Noted],
    deciders=[ask_and_do, undo],
    reactions=[h.Reaction(on_noted, by="key", since=0)],
    gateways=[outside],
)

keys = some.sampled_from([(), ("a",), ("a",), ("b",), ("b",), ("c",), ("c", "d"), ("a", "d"), ("d",)])
at_once = some.sampled_from([1, 2, 3, 200])
kills = some.sampled_from([None, None, None, 1, 2, 3, 4])
parts = some.floats(0, 1)


class Reactions(RuleBasedStateMachine):
    """One log, a process that reacts after the other, and what they are to do."""

    def __init__(self, url_in: Callable[[Path], str], counting: Counting) -> None:
        super().__init__()
        self.counting = counting
        self.folder = Path(tempfile.mkdtemp(prefix="happened-machine-"))
        self.url = url_in(self.folder)
        self.keys: dict[int, tuple[str, ...]] = {}
        self.at: dict[int, int] = {}
        """When a number was recorded, in microseconds: not before what stands before it, whatever the clock shows."""
        self.places: dict[int, int] = {}
        """Where it was recorded."""
        self.aside: set[int] = set()
        """Skipped or parked once, as an event or as a command: out of order, or never."""
        self.aside_as: dict[type, set[int]] = {Noted: set(), Do: set()}
        """As which of both."""
        self.skipped: set[int] = set()
        """Events that are never reacted to."""
        self.undone: set[int] = set()
        """Commands that are never done, though they were sent."""
        self.clock = Clock()
        self.patched = pytest.MonkeyPatch()

    @initialize(runs_max=at_once, decided_max=at_once)
    def begin(self, runs_max: int, decided_max: int) -> None:
        """Open the log, and say how much of what has waited comes in one commit."""
        self.patched.setattr(hearing, "RUNS_MAX", runs_max)
        self.patched.setattr(pending, "DECIDED_MAX", decided_max)
        ways.clear()
        later.clear()
        asking.clear()
        self.rig = Rig(app, self.url, source=self.clock)
        self._begin_beside()

    def _begin_beside(self) -> None:
        running = self.rig.running
        leases = Leases(running.log.engine, self.clock, [])
        self.timers = Timers(running.log, leases, running._sending)
        self.pending = PendingWorker(running.log, leases, running._handling, running._decide_pending)

    def teardown(self) -> None:
        """Let all succeed, and hold what was done against the model."""
        try:
            if hasattr(self, "rig"):
                self._end()
        finally:
            self.patched.undo()
            ways.clear()
            later.clear()
            asking.clear()
            if hasattr(self, "rig"):
                self.rig.running.close()
            shutil.rmtree(self.folder)

    def _end(self) -> None:
        ways.failing.clear()
        ways.undecided.clear()
        for held in self.rig.held():
            if held.parked:
                self.rig.running.decide_about("retry", held.handler, held.position)
        self.clock.move(timedelta(days=1))
        self.settle(1000, 0)
        assert self.rig.held() == []
        assert Counter(done(self.rig, Do)) == Counter(set(self.keys) - self.skipped), "each is sent once"
        assert Counter(done(self.rig, Done)) == Counter(set(self.keys) - self.skipped - self.undone), "each is done once"
        assert ordered([number for number in done(self.rig, Done) if number not in self.aside], self.keys)
        assert Counter(done(self.rig, Undone)) == Counter(later.keys() - self.skipped), "each timer has rung once"
        assert not self.rig.running.log.engine.notes("timer/")
        whole(self.rig.running)

    def doing(self, kill: int | None, what: Callable[..., Any], *given: Any) -> None:
        """Do something, and kill the process in its midst, so many commits further."""
        self.rig.kill_in = kill
        try:
            what(*given)
        except Killed:
            self.take_over()
        self.rig.kill_in = None

    # --- what comes

    @rule(key=keys, fails=some.booleans(), undecided=some.booleans(), asks=some.booleans(), after=some.none() | some.integers(0, 20))
    def note(self, key: tuple[str, ...], fails: bool, undecided: bool, asks: bool, after: int | None) -> None:
        """Have something happen, whose reaction or whose command may fail."""
        self.counting.steps += 1
        number = len(self.keys)
        self.keys[number] = key
        if fails:
            ways.failing.add(number)
        elif undecided:
            ways.undecided.add(number)
        if asks:
            asking.add(number)
        if after is not None:
            later[number] = after
        position = self.rig.running.record(Noted(number, key)).position
        [record] = self.rig.running.log.read(after=position - 1)
        self.at[number] = microseconds(record.time)
        self.places[number] = position

    @rule(which=parts)
    def mend(self, which: float) -> None:
        """Let something succeed from now on."""
        self.counting.steps += 1
        for wrong in (ways.failing, ways.undecided):
            if wrong:
                wrong.discard(sorted(wrong)[int(which * (len(wrong) - 1))])

    @rule(seconds=some.integers(-3, 12))
    def move(self, seconds: int) -> None:
        """Let time pass, or have the clock set back."""
        self.counting.steps += 1
        self.clock.move(timedelta(seconds=seconds))

    # --- who works

    @rule(rows_max=some.sampled_from([1, 2, 3, 100]), kill=kills)
    def take(self, rows_max: int, kill: int | None) -> None:
        """Take a page of what has happened."""
        self.counting.steps += 1
        self.doing(kill, self.rig.take, rows_max)

    @rule(kill=kills)
    def look_after(self, kill: int | None) -> None:
        """Try again what is held, and do what was decided about it."""
        self.counting.steps += 1
        self.doing(kill, self.rig.look_after)

    @rule(kill=kills)
    def ring(self, kill: int | None) -> None:
        """Send what is due."""
        self.counting.steps += 1
        self.doing(kill, self._ring)

    def _ring(self) -> None:
        log = self.rig.running.log
        if due_before(log.engine, self.clock.now_us()):
            self.timers._step()

    @rule(kill=kills)
    def decide_pending(self, kill: int | None) -> None:
        """Decide what is pending, and do what was decided about it."""
        self.counting.steps += 1
        self.doing(kill, self._decide_pending)

    def _decide_pending(self) -> None:
        self.pending._due = dict.fromkeys(self.pending._due, 0.0)
        while not self.pending.decide_some():
            pass

    @rule()
    def take_over(self) -> None:
        """Let another process have all the work."""
        self.counting.steps += 1
        self.rig.reacting = self.rig.owned()
        self._begin_beside()
        self.pending._begin(0)

    @precondition(lambda self: self.url != "memory:")
    @rule()
    def restart(self) -> None:
        """Close the log, and open it again."""
        self.counting.steps += 1
        self.rig.restart()
        self._begin_beside()

    # --- what people decide

    @precondition(lambda self: self.acts())
    @rule(which=parts, act=some.sampled_from(["retry", "retry", "skip", "park"]))
    def act(self, which: float, act: str) -> None:
        """Retry, skip or park something that is stuck."""
        self.counting.steps += 1
        found = self.acts()
        held = found[int(which * (len(found) - 1))]
        if act == "park" and held.parked:
            return
        number = self._number(held)
        self.rig.running.decide_about(act, held.handler, held.position, actor="ann")
        if act != "retry":
            self.aside.add(number)
            self.aside_as[Do if held.key == KEY else Noted].add(number)
        if act == "skip":
            (self.undone if held.key == KEY else self.skipped).add(number)
        if held.key == KEY:
            self._decide_pending()
        else:
            self.rig.look_after()

    def acts(self) -> list[Held]:
        """Return what people may decide about: what has failed itself."""
        return [held for held in self.rig.held() if held.attempts and not held.act]

    # --- what is to be so

    @invariant()
    def nothing_is_there_twice(self) -> None:
        """Whatever was killed, nothing was done twice, and nothing that was not sent."""
        if hasattr(self, "rig"):
            sent, made, undone = (Counter(done(self.rig, kind)) for kind in (Do, Done, Undone))
            assert not [number for counted in (sent, made, undone) for number, count in counted.items() if count > 1]
            assert made.keys() <= sent.keys()
            assert undone.keys() <= later.keys()

    @rule(rows_max=some.sampled_from([1, 7, 100]), which=parts)
    def settle(self, rows_max: int, which: float) -> None:
        """Let all be tried: what is not done then fails itself, or stands behind what does."""
        self.counting.steps += 1
        quiet = 0
        for _ in range(ROUNDS):
            before = self.rig.running.log.head
            while self.rig.take(rows_max):
                pass
            self.rig.look_after()
            self._ring()
            self._decide_pending()
            quiet = quiet + 1 if before == self.rig.running.log.head and not self._can_go_on() else 0
            if quiet == QUIET_ROUNDS:
                break
        sent, made, undone = (set(done(self.rig, kind)) for kind in (Do, Done, Undone))
        assert ordered([number for number in done(self.rig, Done) if number not in self.aside], self.keys)
        aside = self.aside_as
        self._stand_behind(
            [(number, self.keys[number], number in ways.failing) for number in self.keys if number not in sent | aside[Noted]]
        )
        self._stand_behind(
            [
                (number, self.keys[number] if kind is Do else (), kind is Do and number in ways.undecided)
                for kind, number in self.commands()
                if number not in (made | aside[Do] if kind is Do else undone)
            ]
        )
        now = self.clock.now_us()
        due = {number for number in sent & later.keys() if self.at[number] + later[number] * 1_000_000 <= now}
        if not ways.undecided:
            assert due <= undone, f"timers of {sorted(due - undone)} have not rung"
        assert self.rig.running.settled(wait_seconds_max=0).done == (not self.rig.held())
        if self.keys:
            number = int(which * (len(self.keys) - 1))
            left = number not in made | self.skipped | self.undone or ((Undo, number) in self.commands() and number not in undone)
            assert self.rig.running.settled(self.places[number], wait_seconds_max=0).done == (not left)

    def _can_go_on(self) -> bool:
        """Say whether something is stuck that does not fail any more."""
        return any(
            not held.parked and self._number(held) not in (ways.undecided if held.key == KEY else ways.failing) for held in self.rig.held()
        )

    def _number(self, held: Held) -> int:
        body: Any = next(one for one in self.rig.running.log.read(after=held.position - 1) if one.position >= held.position).body
        number: int = body.number
        return number

    def commands(self) -> list[tuple[type, int]]:
        """Return what was sent, in its order: a command without keys, as each that undoes, comes after all before it, and before all after it."""
        return [(type(body), body.number) for body in (one.body for one in self.rig.running.log.read()) if isinstance(body, Do | Undo)]

    def _stand_behind(self, left: Sequence[tuple[int, tuple[str, ...], bool]]) -> None:
        """See that each that is left fails itself, or stands behind one that does."""
        blocked: set[str] = set()
        for number, own, fails in left:
            behind = bool(blocked & {*own, ""}) if own else bool(blocked)
            assert fails or behind, f"{number} of {own} fails not, and stands behind none of {blocked}"
            blocked |= set(own) or {""}


def done(rig: Rig, kind: type[Do | Done | Undone]) -> list[int]:
    """Return the numbers of all records of a kind, in the order of the log."""
    return [record.body.number for record in rig.running.log.read() if isinstance(record.body, kind)]


def in_memory(_folder: Path) -> str:
    """Return the URL of a log in memory."""
    return "memory:"


def in_a_file(folder: Path) -> str:
    """Return the URL of a file."""
    return f"sqlite:///{folder}/log.db"


@pytest.mark.parametrize(
    ("url_in", "share", "portion"),
    [
        pytest.param(url_in, share, portion, id=f"{url_in.__name__}-{portion}")
        for url_in, share in [(in_memory, 0.28), (in_a_file, 0.05)]
        for portion in portions(share)
    ],
)
def test_reactions_do_what_a_model_does(url_in: Callable[[Path], str], share: float, portion: int) -> None:
    """Any order of events, failures, kills between two commits, take-overs, timers, clocks that are set, and of what people decide."""

    def made(counting: Counting) -> type[RuleBasedStateMachine]:
        class Machine(Reactions):
            def __init__(self) -> None:
                super().__init__(url_in, counting)

        Machine.__name__ = Machine.__qualname__ = f"Reactions {url_in.__name__}"
        return Machine

    run(made, share, portion)
