"""The git history of the examples: the tree as of commits at random depths, through `at()` with snapshots, beside a fold of all that happened.

The tree of each commit that was drawn is proved by git's own id, outside the time that counts. A tree of today has more files than one of the first year, so the
last tenth is set beside the first by the file, too.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.measure import SECONDS, Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, Skipped
from examples.history.__main__ import record, recorded
from examples.history.model import Committed, Line, history
from examples.history.read import Commit, read_file
from examples.history.travel import tree_at

DEPTHS = 32
"""Snapshots that lie in the log, as many as are kept."""
QUICK_COMMITS = 300

REPLAY = "happened, full replay"
TREE, NEAR, FAR = "happened, a tree at any depth", "happened, a tree in the first tenth", "happened, a tree in the last tenth"
LINES = "happened, all lines at any depth"


def _commits(data: Path, context: Context) -> Iterator[Commit]:
    return islice(read_file(data), context.size(1_000_000, QUICK_COMMITS))


def _ours(context: Context) -> list[Variant]:
    data = context.options.history
    if not data.exists():
        raise Skipped(f"there is no {data}; name a git history as lines of JSON: --history git_pip.jsonl.gz")
    url = f"sqlite:///{context.fresh('history.db')}"
    record(url, list(_commits(data, context)))
    running = context.exits.enter_context(history.open(url, run=False))
    head = running.log.head
    for fold in history.snapped():
        for depth in range(1, DEPTHS + 1):
            running.snapshots.take(fold, running.at(head * depth // DEPTHS).position)
    commits = [event.commit for event in recorded(running) if isinstance(event, Committed)]
    chance = random.Random(1)

    def drawn(low: float, high: float) -> list[str]:
        return [commits[int(len(commits) * chance.uniform(low, high))] for _ in range(context.size(101, 5))]

    def trees(low: float, high: float) -> Run:
        latencies: list[float] = []
        files: list[int] = []
        asked = drawn(low, high)
        with Timer() as timer:
            for commit in asked:
                start = perf_counter()
                tree = tree_at(running, commit)
                latencies.append(perf_counter() - start)
                files.append(len(tree.files))
        for commit in asked:
            tree = tree_at(running, commit)
            assert tree.digest() == tree.git, f"the tree as of {commit} is another than git's"
        return Run(1, median(latencies), timer.cpu_seconds / len(asked), latencies, {"files": median(files)})

    def lines() -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for _ in range(context.size(21, 3)):
                position = int(head * chance.random())
                start = perf_counter()
                running.at(position).states(Line)
                latencies.append(perf_counter() - start)
        return Run(1, median(latencies), timer.cpu_seconds / len(latencies), latencies)

    def replay() -> Run:
        with Timer() as timer:
            running.states(Line)
        return timer.run(1)

    return [
        Variant(REPLAY, "happened", replay),
        Variant(TREE, "happened", lambda: trees(0, 1)),
        Variant(NEAR, "happened", lambda: trees(0, 0.1)),
        Variant(FAR, "happened", lambda: trees(0.9, 1)),
        Variant(LINES, "happened", lines),
    ]


def _part(name: str, of: str) -> Callable[[Results], str]:
    return lambda results: f"{results[name].value / results[of].value:.2g} of it, {results[name].value * 1000:.3g} ms"


def _by_file(results: Results) -> str:
    far, near = (results[name].value / results[name].facts["files"] for name in (FAR, NEAR))
    return f"{far / near:.2g} of it"


ROWS = (
    Row(
        "history",
        "The tree as of any of 16,238 commits, through time travel",
        (
            Goal("a tree at a random depth, against a full replay", "a tenth", "", _part(TREE, REPLAY)),
            Goal("all lines at a random depth, against a full replay", "a tenth", "", _part(LINES, REPLAY)),
            Goal("a tree in the last tenth, against the first", "no more", "", _part(FAR, NEAR)),
            Goal("the same, by the file in the tree", "no more", "", _by_file),
        ),
        {"happened": _ours},
        figure=SECONDS,
        probe=False,
    ),
)
