"""The system that these tests run: events with any keys, a reaction to each, and what it sends; handlers fail where they are told to."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import happened as h

Key = Annotated[str, h.Tag("key")]


class Ways:
    """Which numbers fail, and where; and what was run."""

    def __init__(self) -> None:
        self.failing: set[int] = set()
        """Numbers whose reaction fails."""
        self.undecided: set[int] = set()
        """Numbers whose decider fails."""
        self.runs: list[int] = []
        """Numbers whose reaction was run, in order."""

    def clear(self) -> None:
        """Let all succeed."""
        self.failing.clear()
        self.undecided.clear()
        self.runs.clear()


ways = Ways()


class Noted(h.Event):
    number: int
    keys: tuple[Key, ...] = ()


class Do(h.Command):
    number: int
    keys: tuple[Key, ...] = ()


class Done(h.Event):
    number: int
    keys: tuple[Key, ...] = ()


class Undo(h.Command):
    number: int


class Undone(h.Event):
    number: int


def on_noted(event: Noted) -> Iterator[Do]:
    """Have it done, unless it fails."""
    ways.runs.append(event.number)
    yield Do(event.number, event.keys)
    if event.number in ways.failing:
        raise RuntimeError(f"{event.number} fails")


def do(command: Do) -> Iterator[Done]:
    """Do it, unless it fails."""
    if command.number in ways.undecided:
        raise RuntimeError(f"{command.number} can't be decided")
    yield Done(command.number, command.keys)


def undo(command: Undo) -> Iterator[Undone]:
    """Undo it."""
    yield Undone(command.number)


by_key = h.Reaction(on_noted, by="key")
app = h.App("noting", records=[Noted], deciders=[do, undo], reactions=[by_key])


def done(running: h.Running) -> list[int]:
    """Return the numbers that are done, in the order of the log."""
    return [record.body.number for record in running.log.read() if isinstance(record.body, Done)]


def whole(running: h.Running) -> None:
    """See that the log holds together, no id is used twice, and every cause stands before its effect."""
    running.log.verify()
    seen: set[str] = set()
    for record in running.log.read():
        assert record.id not in seen, record
        if record.causation is not None and record.causation.rpartition("#")[0] in seen:
            assert record.causation in seen, record
        seen.add(record.id)


def ordered(numbers: Sequence[int], keys: dict[int, tuple[str, ...]]) -> bool:
    """Say whether of two that share a key the smaller comes first; one without keys comes after all smaller ones and before all larger ones."""
    last: dict[str, int] = {}
    most = wall = -1
    for number in numbers:
        if number < wall or any(last.get(key, -1) > number for key in keys[number]) or (not keys[number] and number < most):
            return False
        last.update(dict.fromkeys(keys[number], number))
        most = max(most, number)
        wall = max(wall, number if not keys[number] else -1)
    return True


def until(holds: Callable[[], object], wait_seconds_max: float = 20) -> None:
    """Wait until something holds; fail where it does not in time."""
    deadline = time.monotonic() + wait_seconds_max
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.005)
