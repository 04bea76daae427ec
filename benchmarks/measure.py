"""How a figure comes about: interleaved rounds, medians, and ratios taken within a round.

A machine that is shared slows down for seconds at a time. So in every round each variant runs once, right after the
others; a ratio is taken within the round, and the median over the rounds is what counts. Absolute figures move by a
third from day to day, ratios far less.
"""

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

Side = Literal["happened", "eventsourcing", "umadb", "limit"]


@dataclass(frozen=True, slots=True)
class Run:
    """What one variant did in one round."""

    operations: int
    wall_seconds: float
    cpu_seconds: float
    latencies_seconds: Sequence[float] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """The one number of a run that ratios are taken of."""

    name: str
    of: Callable[[Run], float]


def _rate(run: Run) -> float:
    return run.operations / run.wall_seconds


def _seconds(run: Run) -> float:
    return run.wall_seconds / run.operations


PER_SECOND = Figure("per second", _rate)
SECONDS = Figure("seconds", _seconds)


def fact(name: str) -> Figure:
    """Take the fact `name` of a run as its figure."""
    return Figure(name, lambda run: run.facts[name])


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to do the work of a row: `run` does it once and says what it took."""

    name: str
    side: Side
    run: Callable[[], Run]
    base: str | None = None
    """The name of the variant that the ratio refers to; none: no ratio is shown."""


@dataclass(frozen=True, slots=True)
class Result:
    """What all rounds of one variant came to."""

    name: str
    side: Side
    base: str | None
    figure: Figure
    runs: tuple[Run, ...]
    ratio: float | None
    """The median of the ratios to the base, each within its round."""

    @property
    def values(self) -> list[float]:
        """The figure of each round."""
        return [self.figure.of(run) for run in self.runs]

    @property
    def value(self) -> float:
        """The median of the figure."""
        return statistics.median(self.values)

    @property
    def each_seconds(self) -> float:
        """Wall time of one operation."""
        return statistics.median(run.wall_seconds / run.operations for run in self.runs)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of one operation: tells cost from the noise of a shared machine."""
        return statistics.median(run.cpu_seconds / run.operations for run in self.runs)

    def latency_seconds(self, percent: float) -> float | None:
        """Return the median over the rounds of a percentile, or None where single operations were not timed."""
        if not all(run.latencies_seconds for run in self.runs):
            return None
        return statistics.median(percentile(run.latencies_seconds, percent) for run in self.runs)

    @property
    def facts(self) -> dict[str, float]:
        """The median of every fact."""
        return {name: statistics.median(run.facts[name] for run in self.runs) for name in self.runs[0].facts}


class Timer:
    """Measures wall and CPU time of its `with` block, and makes the `Run` of it. Child processes count once they have ended."""

    def __init__(self) -> None:
        self.wall_seconds = 0.0
        self.cpu_seconds = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._cpu = _cpu_seconds()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall_seconds = time.perf_counter() - self._wall
        self.cpu_seconds = _cpu_seconds() - self._cpu

    def run(self, operations: int, latencies_seconds: Sequence[float] = (), **facts: float) -> Run:
        """Return what the block took for so many operations."""
        return Run(operations, self.wall_seconds, self.cpu_seconds, latencies_seconds, facts)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the values don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def interleave(variants: Sequence[Variant], rounds: int, figure: Figure, say: Callable[[str], None]) -> list[Result]:
    """Run every variant once per round, for so many rounds."""
    runs: dict[str, list[Run]] = {variant.name: [] for variant in variants}
    assert len(runs) == len(variants), "two variants of a row have one name"
    for number in range(1, rounds + 1):
        for variant in variants:
            say(f"  round {number}/{rounds}: {variant.name}")
            run = variant.run()
            runs[variant.name].append(run)
            say(f"    {figure.name} {figure.of(run):,.4g}")
    return [
        Result(
            variant.name,
            variant.side,
            variant.base,
            figure,
            tuple(runs[variant.name]),
            _ratio(runs[variant.name], runs.get(variant.base or ""), figure),
        )
        for variant in variants
    ]


def _ratio(runs: Sequence[Run], base: Sequence[Run] | None, figure: Figure) -> float | None:
    if not base or base is runs:
        return None
    return statistics.median(figure.of(run) / figure.of(other) for run, other in zip(runs, base, strict=True))
