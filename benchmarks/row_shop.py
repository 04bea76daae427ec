"""The shop of the examples on a real year of invoice lines, against a plain script without a log that computes the same.

Both are whole processes, timed from outside. What they print must agree.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from benchmarks.measure import SECONDS, Run, Side, Timer, Variant
from benchmarks.plan import Context, Goal, Row, Skipped, ratio

PLAIN = "a plain script, no log"
SHOP = "examples/shop, everything on"
COMPARED = ("lines", "revenue", "cancellations_accepted", "cancellations_refused")
QUICK_LINES = 5_000


def _data(context: Context) -> Path:
    data = context.options.data
    if not data.exists():
        raise Skipped(f"there is no {data}; name the lines of Online Retail: --data online_retail.csv.gz")
    return context.shared.path("lines.csv", lambda path: _head(data, path)) if context.options.quick else data


def _head(data: Path, path: Path) -> None:
    with gzip.open(data, "rt", newline="") as file, path.open("w", newline="") as head:
        head.writelines(islice(file, QUICK_LINES + 1))


def _variant(name: str, side: Side, base: str | None, command: Callable[[], list[str]], expected: dict[str, object]) -> Variant:
    def run() -> Run:
        with Timer() as timer:
            done = subprocess.run(command(), check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        for key in COMPARED:
            assert expected.setdefault(key, found[key]) == found[key], f"{name} comes to another {key}"
        return timer.run(1)

    return Variant(name, side, run, base)


def _plain(context: Context) -> list[Variant]:
    data = _data(context)
    return [_variant(PLAIN, "limit", None, lambda: [sys.executable, "-m", "benchmarks.plain_shop", str(data)], _expected(data))]


def _shop(context: Context) -> list[Variant]:
    data = _data(context)

    def command() -> list[str]:
        return [sys.executable, "-m", "examples.shop", "--data", str(data), "--log", f"sqlite:///{context.fresh('shop.db')}", "--json"]

    return [_variant(SHOP, "happened", PLAIN, command, _expected(data))]


_EXPECTED: dict[Path, dict[str, object]] = {}


def _expected(data: Path) -> dict[str, object]:
    """Return what the first of the programs found, for the others to agree with."""
    return _EXPECTED.setdefault(data, {})


ROWS = (
    Row(
        "shop",
        "examples/shop on the full file against a plain script",
        (Goal("time of the plain script", "×8 at most", "×4", ratio(SHOP)),),
        {"limit": _plain, "happened": _shop},
        figure=SECONDS,
    ),
)
