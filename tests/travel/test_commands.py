"""The commands about the past, as they are run: text, JSON, exit codes; and `step` by keys on a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any  # Any: what a command printed as JSON

import pytest

from tests.commands import run
from tests.travel.made import Cancel, Line, Ordered, Received, shop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a log with four events, and settings that name it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text('[tool.happened]\napp = "tests.travel.made:shop"\nlog = "sqlite:///shop.db"\n', encoding="utf-8")
    price = Decimal(2)
    with shop.open(f"sqlite:///{folder}/shop.db", run=False, views="memory:") as running:
        running.record(Received("a", 5, price), id="one", actor="anna")
        running.record(Received("b", 7, price), id="two")
        running.record(Ordered("o", "CH", (Line("a", 6),)), id="three", actor="ben")
        running.dispatch(Cancel("o"), id="four", actor="carl")
    return folder


def answer(folder: Path, *arguments: str) -> tuple[int, Any]:  # Any: see above
    """Run the command with `--json`."""
    code, output, _ = run(folder, *arguments, "--json")
    return code, json.loads(output)


def positions(folder: Path) -> dict[str, int]:
    """Return where each message stands."""
    _, steps = answer(folder, "step", "sku=a")
    return {one["id"]: one["position"] for one in steps}


def test_a_state_and_a_view_as_they_were(folder: Path) -> None:
    at = str(positions(folder)["one"])
    assert answer(folder, "at", at, "state", "Stock", "a") == (0, {"sku": "a", "units": 5, "price": "2"})
    assert answer(folder, "at", "2999-01-01T00:00:00Z", "state", "Stock", "a")[1]["units"] == -1
    code, told = answer(folder, "at", "2999-01-01T00:00:00Z", "view", "Stock", "--where", "units > 0")
    assert (code, [row["sku"] for row in told["rows"]]) == (0, ["b"])
    assert answer(folder, "at", at, "state", "Stock")[1]["rows"] == [{"sku": "a", "units": 5, "price": "2"}]
    code, said, _ = run(folder, "at", "2999-01-01T00:00:00Z", "state", "Stock", "--limit", "1")
    assert (code, "and 1 more" in said) == (0, True)
    code, said, _ = run(folder, "at", "2999-01-01T00:00:00Z", "view", "Stock", "--limit", "1")
    assert (code, "and 1 more" in said) == (0, True)
    assert told["hidden"] == 0
    assert run(folder, "at", at, "state", "Stock", "b")[0] == 1
    assert run(folder, "at", "99999", "state", "Stock", "b")[0] == 2
    assert run(folder, "at", "1", "state", "Never")[0] == 2
    assert not (folder / "shop.views.db").exists()


def test_what_differs(folder: Path) -> None:
    one, three = (str(positions(folder)[name]) for name in ("one", "three"))
    code, told = answer(folder, "diff", one, three, "Stock")
    assert code == 1
    assert told["differences"][0] == {"state": "Stock", "key": ["a"], "fields": {"units": [5, -1]}}
    code, told = answer(folder, "diff", one, three, "--limit", "1")
    assert (len(told["differences"]), told["hidden"]) == (1, told["differ"] - 1)
    code, said, _ = run(folder, "diff", one, three, "--limit", "1")
    assert f"and {told['hidden']} more" in said
    assert run(folder, "diff", one, one)[0] == 0


def test_who_set_it(folder: Path) -> None:
    code, told = answer(folder, "blame", "Stock", "a", "units")
    assert (code, [(one["id"], one["actor"]) for one in told["steps"]]) == (0, [("three", "ben"), ("one", "anna")])
    _, said, _ = run(folder, "blame", "Returned", "CH")
    assert "decided on Cancel four" in said
    assert "by carl" in said
    assert run(folder, "blame", "Stock", "never")[0] == 1
    assert run(folder, "blame", "Stock")[0] == 2


def test_since_when(folder: Path) -> None:
    three = positions(folder)["three"]
    for more, how in (([], "bisection"), (["--linear"], "linear")):
        code, told = answer(folder, "bisect", "units >= 0", "Stock", *more)
        assert (code, told["position"], told["how"]) == (1, three, how)
        assert [one["id"] for one in told["records"]] == ["three"]
    assert run(folder, "bisect", "units >= -1", "Stock")[0] == 0
    assert run(folder, "bisect", "colour", "Stock")[0] == 2
    assert f"from position {three} on" in run(folder, "bisect", "units >= 0", "Stock", "a")[1]
    assert "(found by bisection, 1 look)" in run(folder, "bisect", "units >= -1", "Stock")[1]
    assert "(searched in order, " in run(folder, "bisect", "units >= -1", "Stock", "--linear")[1]
    nobody = "There is no Stock never at that position"
    assert nobody in run(folder, "bisect", "units >= 0", "Stock", "never")[1]
    assert nobody not in run(folder, "bisect", "units >= -1", "Stock", "a")[1]
    assert not answer(folder, "bisect", "units >= 0", "Stock", "never")[1]["there"]
    code, _, wrong = run(folder, "bisect", "cancelled < 9", "Returned")
    assert (code, "folded by themselves" in wrong) == (2, True)


def test_snapshots_are_taken_listed_and_dropped(folder: Path) -> None:
    code, told = answer(folder, "snapshots", "--take", "--depths", "4", "Stock", "Returned")
    assert (code, {(one["state"], one["wrong"]) for one in told}) == (0, {("Stock", ""), ("Returned", "")})
    assert len(told) > 2
    shown = run(folder, "snapshots")[1].splitlines()
    assert shown[0].split() == ["state", "position", "states", "bytes", "seconds", "used"]
    assert all(line.endswith("  yes") for line in shown[1:])
    assert answer(folder, "at", str(positions(folder)["three"]), "state", "Stock", "a")[1]["units"] == -1
    assert {one["state"] for one in answer(folder, "snapshots", "--drop", "Returned")[1]} == {"Stock"}
    assert answer(folder, "snapshots", "--drop") == (0, [])


def test_steps_are_listed_where_nobody_presses_keys(folder: Path) -> None:
    code, said, _ = run(folder, "step", "sku=a")
    assert code == 0
    assert "1 of 2" in said
    assert "units: 5 -> -1" in said
    assert said.splitlines()[-1].startswith("left out, since their keys are computed or they join others: ByCountry, Returned; ")
    assert run(folder, "step", "sku=never")[0] == 1


def test_steps_by_keys_on_a_terminal(folder: Path) -> None:
    main, door = pty.openpty()
    going = subprocess.Popen(
        [sys.executable, "-m", "happened", "step", "sku=a"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdin=door,
        stdout=door,
        stderr=door,
    )
    os.close(door)
    try:
        _expect(main, "1 of 2")
        os.write(main, b"n")
        _expect(main, "2 of 2")
        os.write(main, b"p")
        _expect(main, "1 of 2")
        os.write(main, b"q")
        assert going.wait(30) == 0
    finally:
        going.kill()
        os.close(main)


def _expect(main: int, text: str) -> None:
    """Read what the terminal shows until a prompt that follows this text."""
    seen, deadline = "", time.monotonic() + 30
    while not (text in seen and seen.rstrip().endswith("q quit")):
        ready, _, _ = select.select([main], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(main, 4096).decode()
