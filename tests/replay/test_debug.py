"""`happened debug` and `happened lint`, as people run them: in a process, with a keyboard."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import happened as h
from tests.replay import bank
from tests.replay.made import recorded

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Record the history that all tests look at; return the URL of its log."""
    return recorded(tmp_path_factory.mktemp("bank"))


def position_of(url: str, id: str) -> int:
    """Return where the row begins that decides a command."""
    with h.open_log(url) as log:
        return log.find(id)[-1].position


def run(typed: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command with this on its keyboard; return its exit code and what it prints."""
    child = subprocess.run(
        [sys.executable, "-m", "happened", *arguments], input=typed, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    return child.returncode, child.stdout, child.stderr


def test_a_decider_stands_where_it_stood_then(url: str) -> None:
    """In its first line, with the command, the states as of before it, the clock and the answers."""
    position = position_of(url, "pay-3")
    typed = "p command.cents, spent.cents\nn\nn\nn\np asked, world.now.year > 2000\nc\n"

    code, said, errors = run(typed, "debug", "--at", str(position), "--log", url, "tests.replay.bank:app")

    assert (code, errors) == (0, "")
    lines = said.splitlines()
    assert lines[0] == f"position {position}: pay on Pay(account='a', cents=40), id pay-3"
    assert lines[1].endswith("pay()")
    assert lines[2].startswith("-> if spent.cents + command.cents > spent.limit")
    assert "(40, 30)" in lines[3]
    assert "(1, True)" in said
    assert lines[-2].removeprefix("(happened) ").startswith("now: Paid(account='a', cents=40, rate=2,")
    assert lines[-1].startswith('recorded: Paid {"account":"a","cents":40,"rate":2,')


def test_a_refusal_and_an_input_that_was_enqueued_are_debugged_too(url: str) -> None:
    """By the position of the input, or of its decision."""
    _, refused, _ = run("c\n", "debug", "--at", str(position_of(url, "pay-4")), "--log", url, "tests.replay.bank:app")
    with h.open_log(url) as log:
        kept, decided = (row.position for row in log.find("pay-6"))
    _, by_input, _ = run("c\n", "debug", "--at", str(kept), "--log", url, "tests.replay.bank:app")
    _, by_decision, _ = run("c\n", "debug", "--at", str(decided), "--log", url, "tests.replay.bank:app")

    assert "now refused: too much" in refused
    assert "now: Paid(account='down', cents=7," in by_input
    assert by_input.splitlines()[-1] == by_decision.splitlines()[-1]


def test_an_evolve_stands_where_it_stood_then(url: str) -> None:
    """With the state before the event."""
    with h.open_log(url) as log:
        [position] = [record.position for record in log.read() if record.id.startswith("pay-3#") and record.name == "Paid"]

    code, said, _ = run(
        "p self.cents\nc\n", "debug", "--at", str(position), "--log", url, "tests.replay.bank:app", "--evolve", "Spent", "a"
    )

    assert code == 0
    assert "before: Spent(account='a', limit=100, cents=30)" in said
    assert "-> match event:" in said
    assert said.splitlines()[-1].removeprefix("(happened) ") == "after: Spent(account='a', limit=100, cents=70)"


@pytest.mark.parametrize("typed", ["q\n", "n\nq\n", ""], ids=["at once", "later", "the keyboard is gone"])
@pytest.mark.parametrize("evolve", [(), ("--evolve", "Spent", "a")], ids=["decider", "evolve"])
def test_who_quits_is_told_that_it_came_to_no_end(url: str, typed: str, evolve: tuple[str, ...]) -> None:
    """Not what it came to, which nobody knows."""
    with h.open_log(url) as log:
        [position] = [record.position for record in log.read() if record.id.startswith("pay-3#") and record.name == "Paid"]

    code, said, errors = run(typed, "debug", "--at", str(position), "--log", url, "tests.replay.bank:app", *evolve)

    assert (code, errors) == (0, "")
    assert "now: left before its end" in said
    assert ("recorded: Paid " in said) == (not evolve)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "1"], "decides no input"),
        (["--at", "99999"], "has no position 99999"),
        (["--at", "1", "--evolve", "Spent", "a"], "is no event that changes `Spent` of a"),
        (["--at", "1", "--evolve", "Nothing", "a"], "has no such state"),
    ],
)
def test_what_can_not_be_debugged_says_why(url: str, arguments: list[str], said: str) -> None:
    """One line, and no traceback."""
    code, _, errors = run("", "debug", *arguments, "--log", url, "tests.replay.bank:app")

    assert code in (1, 2)
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_a_session_has_no_json(url: str) -> None:
    """A program that asks for it hears so, and not the prompt."""
    code, said, _ = run("", "debug", "--json", "--at", "1", "--log", url, "tests.replay.bank:app")

    assert (code, json.loads(said)["error"]) == (2, "Invalid")


def test_lint_names_file_and_line(tmp_path: Path) -> None:
    """The exit code is 1 where anything is found."""
    text = Path(bank.__file__).read_text(encoding="utf-8")
    (tmp_path / "wrong.py").write_text(text.replace("world.now)", "datetime.now())"), encoding="utf-8")
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "world.now)" in one)
    command = [sys.executable, "-m", "happened"]

    found = subprocess.run([*command, "lint", "wrong:app"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    as_json = subprocess.run(
        [*command, "lint", "wrong:app", "--json"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    fine = run("", "lint", "tests.replay.bank:app")

    assert (found.returncode, as_json.returncode, fine[0]) == (1, 1, 0)
    assert found.stdout.startswith(f"wrong.py:{line}: datetime.now (clock) in wrong.pay, by decider pay: ask the `World`: `world.now`")
    assert [one["rule"] for one in json.loads(as_json.stdout)["findings"]] == ["clock"]
