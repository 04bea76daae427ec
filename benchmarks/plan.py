"""What a row is made of: its goals, its sides, and the place where it may work."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import PER_SECOND, Figure, Result, Side, Variant

Results = Mapping[str, Result]


class Skipped(Exception):
    """A row can't run here, and says why. Give what it asks for, or leave the row out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    directory: Path
    rounds: int
    quick: bool
    data: Path
    history: Path
    """Lines of JSON, as `examples.history --data` reads them."""
    present: tuple[int, ...]
    """How many records there are before the row `growth` appends."""
    without: frozenset[str]


class Shared:
    """Stores that several rows read and none changes: each is prepared once in a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Path] = {}

    def path(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the store `name`, made by `make` at its first use."""
        if name not in self._made:
            say(f"  preparing {name}")
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / name
            make(path)
            self._made[name] = path
        return self._made[name]


@dataclass(frozen=True, slots=True)
class Context:
    """Where a row works, and what it has to close when it is done."""

    options: Options
    directory: Path
    shared: Shared
    exits: ExitStack
    _numbers: list[int] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """Return how much work to do: all of it, or just enough to see that it runs."""
        return quick if self.options.quick else full

    def fresh(self, name: str) -> Path:
        """Return a path in the scratch directory that nobody has used."""
        self._numbers.append(1)
        return self.directory / f"{len(self._numbers)}-{name}"


Build = Callable[[Context], Sequence[Variant]]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row must reach, what it is really after, and how to read it from the results."""

    what: str
    target: str
    stretch: str
    reached: Callable[[Results], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the same work on all sides."""

    name: str
    title: str
    goals: tuple[Goal, ...]
    sides: Mapping[Side, Build]
    figure: Figure = PER_SECOND
    probe: bool = True
    """Whether the disk matters, so that the probe runs beside it."""


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """Make `directory`, invisible to git, and remove it with all that is in it."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def say(text: str) -> None:
    """Write a line of progress."""
    print(text, file=sys.stderr, flush=True)


def ratio(name: str) -> Callable[[Results], str]:
    """Read the ratio of a variant to its base."""

    def reached(results: Results) -> str:
        value = results[name].ratio
        return "not run" if value is None else f"×{value:.3g}"

    return reached


def p99_ms(name: str) -> Callable[[Results], str]:
    """Read the time that 99 % of the operations of a variant stay under."""

    def reached(results: Results) -> str:
        seconds = results[name].latency_seconds(99)
        return "not timed" if seconds is None else f"p99 {seconds * 1000:.2g} ms"

    return reached


def every(*parts: Callable[[Results], str]) -> Callable[[Results], str]:
    """Read several figures for one goal."""
    return lambda results: ", ".join(part(results) for part in parts)
