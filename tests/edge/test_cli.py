"""The command line, as it is run: its text, its JSON and its exit codes, on a small log."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any  # Any: what a command printed as JSON

import pytest

MODEL = """
import happened as h
from typing import Annotated

Sku = Annotated[str, h.Tag("sku")]

class Received(h.Event):
    sku: Sku
    units: int

class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received) -> "Stock":
        return self.but(units=self.units + event.units)

class Order(h.Command):
    sku: Sku
    units: int

class Ordered(h.Event):
    sku: Sku
    units: int

def order(command: Order, stock: Stock) -> list[Ordered]:
    return [Ordered(command.sku, command.units)]

app = h.App("store", records=[Received], deciders=[order], views=[Stock])

def fill() -> None:
    with app.open("sqlite:///shop.db", run=False) as running:
        running.record(Received("A", 3), id="delivery-1")
        running.record(Received("B", 5), id="delivery-2")
        running.dispatch(Order("A", 1), id="order-1")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project: an app, a log of it, and the settings that name both."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[tool.happened]\napp = "model:app"\nlog = "sqlite:///shop.db"\n', encoding="utf-8")
    subprocess.run([sys.executable, "-c", "import model; model.fill()"], cwd=folder, check=True)
    return folder


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command; return exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "happened", *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def named(value: object) -> str:
    """Name a case by its words."""
    return str(value).strip("[]").replace("'", "").replace(",", "")


def answer(folder: Path, *arguments: str) -> tuple[int, Any]:  # Any: see above
    """Run the command with `--json`; return exit code and what it said."""
    code, output, _ = run(folder, *arguments, "--json")
    return code, json.loads(output)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["tail"], "delivery-2"),
        (["show", "delivery-1"], "Received"),
        (["state", "Stock", "A"], "3"),
        (["views"], "Stock"),
        (["view", "Stock", "B"], "5"),
        (["rebuild", "Stock"], "rebuilt Stock"),
        (["verify"], "verified"),
        (["stats"], "store"),
    ],
    ids=named,
)
def test_each_command_answers_in_text_and_in_json(folder: Path, command: list[str], said: str) -> None:
    """What it prints is for people, or with `--json` for programs; both are exit code 0."""
    code, output, errors = run(folder, *command)
    json_code, json_output, _ = run(folder, *command, "--json")

    assert (code, errors) == (0, "")
    assert said in output
    assert json_code == 0
    assert all(json.loads(line) for line in json_output.splitlines())


def test_tail_shows_the_last_records_in_order(folder: Path) -> None:
    """`-n` counts from the end, and the last one stands last."""
    code, output, _ = run(folder, "tail", "-n", "2", "--json")

    records = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [record["name"] for record in records] == ["Order", "Ordered"]


def test_show_finds_a_record_by_its_position(folder: Path) -> None:
    """What an id shows can be shown by its position too."""
    _, [by_id] = answer(folder, "show", "delivery-1")

    when = answer(folder, "show", str(by_id["position"]))

    assert when == (0, [by_id])


def test_rows_of_a_view_come_with_their_position(folder: Path) -> None:
    """Without a key many rows come, as of the head."""
    code, told = answer(folder, "view", "Stock", "--order=-units", "--where", "units > 2")

    assert code == 0
    assert told["rows"] == [{"sku": "B", "units": 5}, {"sku": "A", "units": 3}]
    assert told["position"] > 0


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        (["show", "nobody"], 1, "NotThere"),
        (["state", "Stock", "Z"], 1, "NotThere"),
        (["view", "Stock", "Z"], 1, "NotThere"),
        (["view", "Nothing"], 2, "Invalid"),
        (["state", "Stock", "A", "B"], 2, "Invalid"),
        (["views", "--app", "model:nothing"], 2, "Invalid"),
        (["verify", "--log", "sqlite:///pyproject.toml"], 2, "Invalid"),
    ],
    ids=named,
)
def test_an_error_has_its_code_and_its_class(folder: Path, command: list[str], code: int, error: str) -> None:
    """1 for what is not there, 2 for what can't be asked; as JSON with class, text and facts."""
    when = answer(folder, *command)

    assert (when[0], when[1]["error"]) == (code, error)
    assert set(when[1]) == {"error", "text", "facts"}


def test_a_log_that_is_not_there_is_not_made(folder: Path) -> None:
    """To look at a log never makes one."""
    code, output, errors = run(folder, "tail", "--log", "sqlite:///missing.db")

    assert (code, output) == (2, "")
    assert "there is no log at missing.db" in errors
    assert not (folder / "missing.db").exists()


def test_help_names_the_commands_and_the_exit_codes(folder: Path) -> None:
    """Whoever asks for help learns what there is."""
    code, output, _ = run(folder, "--help")

    assert code == 0
    assert all(word in output for word in ("demo", "tail", "rebuild", "exit codes"))


def test_a_command_that_is_not_there_is_bad_usage(folder: Path) -> None:
    """It is said, with the commands there are."""
    code, _, errors = run(folder, "tial")

    assert code == 2
    assert "tail" in errors


def test_the_demo_tells_what_happened(tmp_path: Path) -> None:
    """Without a log it makes one and throws it away."""
    code, told = answer(tmp_path, "demo")

    assert code == 0
    assert told["lines"] > 0
    assert list(tmp_path.iterdir()) == []
