"""What a start costs: importing the package, and the help of its command. Each is a new process, timed from outside."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import happened
from benchmarks.measure import SECONDS, Run, Side, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, say

BARE = "python, importing nothing"
IMPORT = "import happened"
HELP = "happened --help"
PROGRAM = Path(happened.__file__).parent / "edge" / "main.py"
"""What is behind the command."""


def _variant(context: Context, name: str, side: Side, *command: str | Path) -> Variant:
    def run() -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for _ in range(context.size(5, 1)):
                start = perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                latencies.append(perf_counter() - start)
        return timer.run(len(latencies), latencies)

    return Variant(name, side, run)


def _limits(context: Context) -> list[Variant]:
    return [_variant(context, BARE, "limit", sys.executable, "-c", "pass")]


def _peer(context: Context) -> list[Variant]:
    code = "import eventsourcing.application, eventsourcing.sqlite"
    return [_variant(context, code, "eventsourcing", sys.executable, "-c", code)]


def _ours(context: Context) -> list[Variant]:
    variants = [_variant(context, IMPORT, "happened", sys.executable, "-c", IMPORT)]
    if PROGRAM.exists():
        variants.append(_variant(context, HELP, "happened", Path(sys.executable).with_name("happened"), "--help"))
    else:
        say(f"  there is no {PROGRAM}: without `{HELP}`")
    return variants


def _seconds(name: str, less: str | None = None) -> Callable[[Results], str]:
    def reached(results: Results) -> str:
        return f"{results[name].value - (results[less].value if less and less in results else 0.0):.2g} s"

    return reached


ROWS = (
    Row(
        "start",
        "Start: import, help",
        (
            Goal("import happened, beyond bare Python", "under 0.1 s", "", _seconds(IMPORT, BARE)),
            Goal("happened --help, the whole process", "under 0.2 s", "", _seconds(HELP)),
        ),
        {"limit": _limits, "eventsourcing": _peer, "happened": _ours},
        figure=SECONDS,
        probe=False,
    ),
)
