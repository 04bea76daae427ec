"""`happened run`, and what people decide about what it could not get past: `stuck`, `retry`, `skip`, `park`, as they are run."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any  # Any: what a command printed as JSON

import pytest

import happened as h
from happened.stores import runs

MODEL = """
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import happened as h

Sku = Annotated[str, h.Tag("sku")]

class Sold(h.Event):
    sku: Sku
    number: int

class Order(h.Command):
    sku: Sku
    number: int

class Ordered(h.Event):
    sku: Sku
    number: int

def restock(event: Sold) -> Iterator[Order]:
    if event.number == 13 and not Path("mended").exists():
        raise ValueError("thirteen")
    yield Order(event.sku, event.number)

def order(command: Order) -> Iterator[Ordered]:
    yield Ordered(command.sku, command.number)

app = h.App("store", records=[Sold], deciders=[order], reactions=[h.Reaction(restock, by="sku")])

def sell(*sold):
    with app.open("sqlite:///shop.db", run=False) as running:
        for sku, number in sold:
            running.record(Sold(sku, number), id=f"{sku}-{number}")
"""


BLOCKED = """
import happened as h
from model import Sku, Sold, order, restock

class Countries(h.State):
    country: str
    sold: int = 0

    @staticmethod
    def key_of(event: Sold) -> str:
        raise ValueError("no country")

    def evolve(self, event: Sold) -> "Countries":
        return self.but(sold=self.sold + 1)

app = h.App("store", records=[Sold], deciders=[order], reactions=[h.Reaction(restock, by="sku")], views=[Countries])
"""

TWICE = """
from model import Order, Sold, h, order, restock

def ship(event: Sold) -> list[Order]:
    raise ValueError("no lorry")

app = h.App("store", records=[Sold], deciders=[order], reactions=[restock, ship])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a project: an app, and the settings that name it and its log, which is not there yet."""
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.happened]\napp = "model:app"\nlog = "sqlite:///shop.db"\n', encoding="utf-8")
    return tmp_path


def told(folder: Path, *arguments: str) -> tuple[int, Any]:
    """Run a command with `--json`; return exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "happened", *arguments, "--json"], cwd=folder, check=False, capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout)


def sell(folder: Path, *sold: tuple[str, int]) -> None:
    """Record sales, in a process of their own."""
    subprocess.run([sys.executable, "-c", f"import model; model.sell(*{sold!r})"], cwd=folder, check=True, timeout=60)


def test_whatever_is_said_leaves_in_any_encoding(folder: Path) -> None:
    """A terminal or a pipe may not have all characters: what it lacks is escaped. JSON is UTF-8 all the same."""
    sell(folder, ("w\u00efdget\u2603", 1))

    def said(*arguments: str) -> bytes:
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        return subprocess.run(
            [sys.executable, "-m", "happened", *arguments], cwd=folder, check=True, capture_output=True, timeout=60, env=environment
        ).stdout

    assert b"w\\xefdget\\u2603" in said("tail")
    assert json.loads(said("tail", "-n", "1", "--json").decode("utf-8"))["body"]["sku"] == "w\u00efdget\u2603"


def test_it_shows_how_far_it_has_come_while_it_opens(folder: Path) -> None:
    """Where the index must be made anew that may take long: a bar on the terminal says so, if it takes longer than a second (here: at all)."""
    sell(folder, *((f"sku-{n}", n) for n in range(20)))
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        for table in runs.TABLES:
            connection.execute(f"delete from {table}")
        connection.commit()
    code = "import happened.edge.progress as p; p.LINE_SECONDS = 0; from happened.edge.main import main; main(['run'])"
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        assert process.stdout is not None
        assert b"store runs on" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # a terminal that nobody has open any more ends with an error
        while found := os.read(screen, 4096):
            shown += found
    os.close(screen)
    assert b"opening" in shown
    assert b"100%" in shown


@contextmanager
def at_work(folder: Path, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """Run the app in a process of its own, until it is told to stop."""
    with subprocess.Popen(
        [sys.executable, "-m", "happened", "run", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert "store runs on" in process.stdout.readline()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def ordered(folder: Path) -> list[tuple[str, int]]:
    """Return what was ordered, in order."""
    with h.open_log(f"sqlite:///{folder / 'shop.db'}") as log:
        return [(record.body["sku"], record.body["number"]) for record in log.read(h.query(names=["Ordered"]))]


def until(folder: Path, done: Callable[[], bool]) -> None:
    """Look again whenever something is recorded, until it is done or a minute has passed."""
    with h.open_log(f"sqlite:///{folder / 'shop.db'}") as log:
        for _ in range(600):
            if done():
                return
            log.wait(log.head, 0.1)
    raise AssertionError("it was not done within a minute")


def test_what_was_recorded_before_it_runs_is_heard_and_a_signal_ends_it(folder: Path) -> None:
    """The app is new when the first sale is recorded, by a process that runs nothing; `run` hears that sale, and ends with exit code 0."""
    sell(folder, ("a", 1))
    with at_work(folder) as process:
        until(folder, lambda: ordered(folder) == [("a", 1)])
        sell(folder, ("b", 2))
        until(folder, lambda: ordered(folder) == [("a", 1), ("b", 2)])
    assert process.returncode == 0
    assert told(folder, "stuck") == (0, {"stuck": [], "views": [], "workers": [], "unread": []})


def test_a_signal_that_comes_while_it_is_paused_ends_it_when_it_goes_on(folder: Path) -> None:
    """Any thread may be given it then, and Python hears of it in the first one only."""
    with at_work(folder) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)

        assert process.wait(30) == 0


def test_who_holds_what_is_listed(folder: Path) -> None:
    """One process holds each handler with all its slices; a killed one holds nothing, and the next has a higher epoch."""
    sell(folder, ("a", 1))
    with at_work(folder) as process:
        until(folder, lambda: ordered(folder) == [("a", 1)])
        code, held = told(folder, "workers")
        assert code == 0
        assert {one["owner"].split(":")[1] for one in held} == {str(process.pid)}
        assert all(one["slices"] == [0, 63] and 0 < one["seconds_left"] <= 10 for one in held)
        first = {one["handler"]: one["epoch"] for one in held}
        assert "timers" in first
        process.kill()
        process.wait()
        code, held = told(folder, "workers")
        assert code == 1
        assert all(one["owner"] is None and one["seconds_left"] == 0 for one in held)
    with at_work(folder):
        code, held = told(folder, "workers")
        assert code == 0
        assert all(one["epoch"] == first[one["handler"]] + 1 for one in held)


SIGNALLED = """
import os, signal, sys
from happened.edge import commands
from happened.edge.main import main

def run(step):
    steps = 0
    def trace(frame, event, arg):
        nonlocal steps
        if steps or (frame.f_code is commands.run.__code__ and "tell_at" in frame.f_locals):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGTERM)
        return trace
    sys.settrace(trace)
    try:
        return main(["run"])
    finally:
        sys.settrace(None)

commands.WAKES_SECONDS = 0.01
for step in range(1, 40):
    assert run(step) == 0
    print("ended at", step, flush=True)
"""


def test_a_signal_ends_it_whenever_it_comes(folder: Path) -> None:
    """At each step of the code that waits for it: what that holds must not be what the signal needs."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    assert "ended at 39" in done.stdout


def test_it_makes_the_log_where_there_is_none(folder: Path) -> None:
    """A first start needs nothing but the app and a URL."""
    with at_work(folder, "model:app", "--log", "sqlite:///other.db", "--every", "0.1") as process:
        assert process.stdout is not None
        assert "pending" in process.stdout.readline()
    assert (folder / "other.db").exists()
    assert process.returncode == 0


def test_it_starts_while_another_process_makes_the_log(folder: Path) -> None:
    """Between the making of the file and that of its tables it is a SQLite file without any: who starts then waits for them, and is no error."""
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        connection.execute("pragma journal_mode=wal")
    with at_work(folder) as process:
        pass
    assert process.returncode == 0


def test_what_keeps_its_work_from_going_on_is_said_with_how_it_stands(folder: Path) -> None:
    """Nothing is stuck, since no event is in the way, and yet it does not go on: the output of the process is where somebody looks first."""
    (folder / "blocked.py").write_text(BLOCKED, encoding="utf-8")
    sell(folder, ("a", 1))
    with at_work(folder, "blocked:app", "--every", "0.1") as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(4)]
    assert any(line.startswith("  1 can't go on: ") and "no country" in line for line in said), said


def test_each_handler_that_is_stuck_counts(folder: Path) -> None:
    """Also where several can't get past the same event."""
    (folder / "twice.py").write_text(TWICE, encoding="utf-8")
    with at_work(folder, "twice:app", "--every", "0.1") as process:
        sell(folder, ("a", 13))
        until(folder, lambda: len(told(folder, "stuck")[1]["stuck"]) == 2)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(50)]
    assert any(line.endswith(" 2 stuck\n") for line in said), said


def test_how_many_commands_wait_for_their_decision_is_told_while_nothing_runs(folder: Path) -> None:
    """Whoever has to do with a stuck one wants to know what piles up behind it."""
    with_three = (
        "import model; r = model.app.open('sqlite:///shop.db', run=False); [r.enqueue(model.Order('a', n)) for n in range(3)]; r.close()"
    )
    subprocess.run([sys.executable, "-c", with_three], cwd=folder, check=True, timeout=60)
    assert told(folder, "stats")[1]["pending"] == 3


def test_two_at_once_do_each_thing_once(folder: Path) -> None:
    """Whoever holds the lease works; when it ends, the other goes on."""
    with at_work(folder):
        with at_work(folder):
            sell(folder, *(("a", number) for number in range(10)))
            until(folder, lambda: len(ordered(folder)) == 10)
        sell(folder, *(("a", number) for number in range(20, 30)))
        until(folder, lambda: len(ordered(folder)) == 20)
    assert ordered(folder) == [("a", number) for number in [*range(10), *range(20, 30)]]


def test_what_is_stuck_is_listed_and_retried(folder: Path) -> None:
    """Only the key of what fails stands still; it is listed with its trace, a retry is recorded, and it goes on once the cause is mended."""
    sell(folder, ("a", 13), ("a", 14), ("b", 1))
    with at_work(folder):
        until(folder, lambda: ordered(folder) == [("b", 1)] and told(folder, "stuck")[0] == 1)
        code, listed = told(folder, "stuck")
        [held] = listed["stuck"]
        assert (code, held["handler"], held["event"], held["error"]) == (1, "restock", "Sold", "ValueError: thirteen")
        assert 'raise ValueError("thirteen")' in held["trace"]
        assert told(folder, "stats")[1]["pending"] == 0
        code, recorded = told(folder, "retry", "restock", str(held["position"]), "--actor", "ann", "--reason", "mended")
        (folder / "mended").touch()
        assert code == 0
        until(folder, lambda: ordered(folder) == [("b", 1), ("a", 13), ("a", 14)])
    _, shown = told(folder, "show", recorded["receipt"].split(":")[2])
    assert (shown[0]["kind"], shown[0]["name"], shown[0]["actor"], shown[0]["body"]["reason"]) == ("input", "retry", "ann", "mended")
    assert told(folder, "stuck") == (0, {"stuck": [], "views": [], "workers": [], "unread": []})
    assert told(folder, "verify")[0] == 0


@pytest.mark.parametrize("act", ["skip", "park"])
def test_others_go_on_without_what_was_skipped_or_parked(folder: Path, act: str) -> None:
    """What waited comes in order; what was parked stays listed, and is run when it is retried; what was skipped is gone."""
    sell(folder, ("a", 13), ("a", 14), ("a", 15))
    with at_work(folder):
        until(folder, lambda: told(folder, "stuck")[0] == 1)
        [held] = told(folder, "stuck")[1]["stuck"]
        told(folder, act, "restock", str(held["position"]))
        until(folder, lambda: ordered(folder) == [("a", 14), ("a", 15)])
        code, listed = told(folder, "stuck")
        assert (code, [(one["position"], one["parked"]) for one in listed["stuck"]]) == (
            0,
            [(held["position"], True)] if act == "park" else [],
        )
        (folder / "mended").touch()
        code, answer = told(folder, "retry", "restock", str(held["position"]))
        if act == "park":
            until(folder, lambda: ordered(folder) == [("a", 14), ("a", 15), ("a", 13)])
        else:
            assert (code, answer["error"]) == (1, "NotThere")


def test_what_is_not_stuck_can_not_be_decided_about(folder: Path) -> None:
    """The error says what is."""
    sell(folder, ("a", 1))
    code, answer = told(folder, "skip", "restock", "1")
    assert (code, answer["error"]) == (1, "NotThere")
    assert "held are: none" in answer["text"]


def test_a_worker_that_can_not_go_on_is_listed_until_it_can(folder: Path) -> None:
    """An event that today's code can't read stops the whole reaction: that is listed, by every process, and goes when the code is mended."""
    sell(folder, ("a", 1))
    (folder / "model.py").write_text(MODEL.replace("    number: int\n\nclass Order(", "    number: int\n    colour: str\n\nclass Order("))
    with at_work(folder):
        until(folder, lambda: told(folder, "stuck")[0] == 1)
        [worker] = told(folder, "stuck")[1]["workers"]
        assert (worker["worker"], "colour" in worker["error"]) == ("reaction/restock", True)
    assert ordered(folder) == []
    (folder / "model.py").write_text(MODEL)
    with at_work(folder):
        until(folder, lambda: ordered(folder) == [("a", 1)] and told(folder, "stuck")[0] == 0)
