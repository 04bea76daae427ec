"""How results are shown: a table per row, `RESULTS.md`, and JSON.

`RESULTS.md` has a section per row. A run replaces the sections of the rows that it ran, each with its machine, date and
commit, and makes the summary at the top anew from all sections.
"""

import json
import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Result
from benchmarks.plan import Options, Results, Row

HEAD = """\
# Results

What `make bench` measured last, row by row: `python -m benchmarks ROW` replaces the section of its row. Ratios are taken within
a round, each variant once per round, and the median over the rounds is shown; absolute figures move by a third with the
machine's other work. The probe, 200 bytes written and synced, tells what the disk gave at that moment. All commits are durable: WAL and
`synchronous=FULL` on both sides.
"""
_COLUMNS = ("variant", "{figure}", "least .. most", "ratio", "CPU each", "p50", "p99", "")
_SECTION = re.compile(r"^## (?P<name>\S+)$(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_REACHED = re.compile(
    r"^- \*\*(?P<what>.*?)\*\*: target (?P<target>.*?); stretch (?P<stretch>.*?); reached \*\*(?P<reached>.*?)\*\*$", re.MULTILINE
)


def machine() -> str:
    """Say in one line what the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown"
    )
    peers = ", ".join(f"{name} {version(name)}" for name in ("msgspec", "eventsourcing", "umadb"))
    return f"{os.cpu_count()} × {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {peers}"


def commit() -> str:
    """Return the commit that is measured, with `+` where the tree differs from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty=+", "--abbrev=10"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "no commit"


def table(row: Row, results: Results) -> str:
    """Return the results of a row as a table of Markdown."""
    head = [column.format(figure=row.figure.name) for column in _COLUMNS]
    cells = [head, *(_cells(result) for result in results.values())]
    used = [index for index in range(len(head)) if index == 0 or any(line[index] for line in cells[1:])]
    widths = {index: max(len(line[index]) for line in cells) for index in used}
    lines = ["| " + " | ".join(_aligned(line[index], widths[index], index) for index in used) + " |" for line in cells]
    rule = "|" + "|".join("-" * (widths[index] + 1) + ("-" if index == 0 else ":") for index in used) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def goals(row: Row, results: Results) -> str:
    """Return the goals of a row and how far it came, as a list of Markdown."""
    lines: list[str] = []
    for goal in row.goals:
        try:
            reached = goal.reached(results)
        except KeyError:  # a side was left out
            reached = "not run"
        lines.append(f"- **{goal.what}**: target {goal.target or '–'}; stretch {goal.stretch or '–'}; reached **{reached}**")
    return "\n".join(lines)


def section(row: Row, results: Results, options: Options) -> str:
    """Return the section of a row."""
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, {options.rounds} rounds"
    return f"{row.title}\n\n{goals(row, results)}\n\n{table(row, results)}\n\n{when}, on {machine()}\n"


def write(path: Path, sections: Mapping[str, str], order: Sequence[str]) -> None:
    """Put the sections into the file in the place of those that it had."""
    old = path.read_text() if path.exists() else ""
    kept = {match["name"]: match["body"].strip() + "\n" for match in _SECTION.finditer(old)} | dict(sections)
    summary = ["| row | goal | target | stretch | reached |", "|---|---|---|---|---|"]
    summary += [
        f"| [{name}](#{name}) | {found['what']} | {found['target']} | {found['stretch']} | {found['reached']} |"
        for name in order
        for found in _REACHED.finditer(kept.get(name, ""))
    ]
    parts = [f"## {name}\n\n{kept[name]}" for name in order if name in kept]
    path.write_text("\n".join([HEAD, *summary, "", *parts]))


def as_json(rows: Mapping[str, Results], options: Options) -> str:
    """Return everything that was measured, each run of it."""
    data = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "rounds": options.rounds,
        "quick": options.quick,
        "rows": {name: [_plain(result) for result in results.values()] for name, results in rows.items()},
    }
    return json.dumps(data, indent=1)


def _plain(result: Result) -> dict[str, object]:
    return {
        "variant": result.name,
        "side": result.side,
        "figure": result.figure.name,
        "value": result.value,
        "values": result.values,
        "base": result.base,
        "ratio": result.ratio,
        "cpu_us": result.cpu_seconds * 1e6,
        "p50_us": _micro(result.latency_seconds(50)),
        "p99_us": _micro(result.latency_seconds(99)),
        "facts": result.facts,
    }


def _cells(result: Result) -> list[str]:
    p50, p99 = result.latency_seconds(50), result.latency_seconds(99)
    cpu = result.cpu_seconds
    return [
        result.name,
        _number(result.value),
        f"{_number(min(result.values))} .. {_number(max(result.values))}" if len(result.values) > 1 else "",
        "" if result.ratio is None else f"×{result.ratio:.3g}",
        _time(cpu) if cpu else "",
        "" if p50 is None else _time(p50),
        "" if p99 is None else _time(p99),
        ", ".join(f"{name} {_number(value)}" for name, value in result.facts.items() if name != result.figure.name),
    ]


def _aligned(text: str, width: int, index: int) -> str:
    return text.ljust(width) if index == 0 else text.rjust(width)


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6
