"""The command line, as it is run: its text, its JSON and its exit codes, on a small log."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any  # Any: what a command printed as JSON

import pytest

import happened as h
from happened.edge.main import main
from happened.edge.progress import lines
from happened.edge.settings import log_url
from happened.log.log import Log
from tests.commands import run
from tests.servers import fresh

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

class Fragile(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received) -> "Fragile":
        if event.units == 5:
            raise ValueError("five are too many")
        return self

class Order(h.Command):
    sku: Sku
    units: int

class Ordered(h.Event):
    sku: Sku
    units: int

def order(command: Order, stock: Stock) -> list[Ordered]:
    return [Ordered(command.sku, command.units)]

app = h.App("store", records=[Received], deciders=[order], views=[Stock, Fragile])

def fill() -> None:
    with app.open("sqlite:///shop.db", run=False) as running:
        running.record(Received("A", 3), id="delivery-1")
        running.record(Received("B", 5), id="delivery-2")
        running.dispatch(Order("A", 1), id="order-1")
        running.record(Received("C", 1), id="3")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project: an app, a log of it, and the settings that name both."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[tool.happened]\napp = "model:app"\nlog = "sqlite:///shop.db"\n', encoding="utf-8")
    subprocess.run([sys.executable, "-c", "import model; model.fill()"], cwd=folder, check=True)
    return folder


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
    assert [record["name"] for record in records] == ["Ordered", "Received"]


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


def test_rows_of_a_view_come_in_the_order_of_their_keys(folder: Path) -> None:
    """Where no other order is asked for, so that with a limit they are the same ones each time."""
    url = fresh()  # a file has them in this order anyway
    fill = f"from model import *\nwith app.open({url!r}, run=False) as running: running.record_all(Received(sku, 1) for sku in 'DBCAB')"
    subprocess.run([sys.executable, "-c", fill], cwd=folder, check=True)

    code, told = answer(folder, "view", "Stock", "--limit", "3", "--log", url)

    assert (code, [row["sku"] for row in told["rows"]], told["hidden"]) == (0, ["A", "B", "C"], 1)


def test_rows_beyond_the_limit_are_counted(folder: Path) -> None:
    """Of those that were asked for; where none is hidden, nothing is said."""
    _, some, _ = run(folder, "view", "Stock", "--limit", "1", "--where", "units > 2")
    _, every, _ = run(folder, "view", "Stock")

    assert some.endswith("\nand 1 more: --limit shows more of them\n")
    assert "more" not in every
    assert answer(folder, "view", "Stock")[1]["hidden"] == 0


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
        (["tial"], 2, "Invalid"),
        (["show"], 2, "Invalid"),
        (["show", "1", "--id", "1"], 2, "Invalid"),
        (["show", "9" * 30], 1, "NotThere"),
        (["view", "Stock", "--limit", "9" * 30], 2, "Invalid"),
        (["tail", "-n", "-1"], 2, "Invalid"),
        (["view", "Stock", "--wait", "nan"], 2, "Invalid"),
        (["tail", "--tag", "sku"], 2, "Invalid"),
        (["views", "--app", "./model:app"], 2, "Invalid"),
        (["show", os.fsdecode(b"a\xff")], 2, "Invalid"),
    ],
    ids=named,
)
def test_an_error_has_its_code_and_its_class(folder: Path, command: list[str], code: int, error: str) -> None:
    """1 for what is not there, 2 for what can't be asked; as JSON with class, text and facts."""
    when = answer(folder, *command)

    assert (when[0], when[1]["error"]) == (code, error)
    assert set(when[1]) == {"error", "text", "facts"}


@pytest.mark.parametrize(("asked", "text"), [(["--id", ""], "the log has no id ``"), ([""], "the log has no position and no id ``")])
def test_an_id_that_is_empty_is_said_to_be_so(folder: Path, asked: list[str], text: str) -> None:
    """As a variable of a script that was never set."""
    code, told = answer(folder, "show", *asked)

    assert (code, told["text"], told["facts"]) == (1, text, {"what": ""})


def test_a_file_in_the_place_of_a_module_is_said_to_be_one(folder: Path) -> None:
    """An app is named as it is imported."""
    for wrong in ("./model:app", "model.py:app"):
        code, told = answer(folder, "views", "--app", wrong)

        assert code == 2
        assert told["text"].startswith(f"`{wrong}` names a file")


def test_options_for_all_commands_may_stand_before_the_command(folder: Path) -> None:
    """`happened --json tail` is `happened tail --json`; so are the log and the app."""
    after = run(folder, "tail", "--json", "--log", "sqlite:///shop.db")

    assert after[0] == 0
    assert run(folder, "--json", "--log", "sqlite:///shop.db", "tail") == after
    assert run(folder, "--app", "model:app", "views") == run(folder, "views")


def test_an_id_that_looks_like_a_position_is_shown(folder: Path) -> None:
    """A position is meant first; `--id` says that it is not."""
    code, output, _ = run(folder, "show", "--id", "3", "--json")

    assert (code, json.loads(output)[0]["body"]) == (0, {"sku": "C", "units": 1})
    assert answer(folder, "show", "3")[1][0]["position"] == 3


def test_tail_shows_what_was_asked_for(folder: Path) -> None:
    """What the log records about itself only with `--all` or by its kind; records of a kind, a name, a tag."""

    def shown(*arguments: str) -> list[tuple[str, str]]:
        _, output, _ = run(folder, "tail", "--json", *arguments)
        return [(record["kind"], record["name"]) for record in map(json.loads, output.splitlines())]

    assert {kind for kind, _ in shown("-n", "100")} == {"input", "internal"}
    assert {kind for kind, _ in shown("-n", "100", "--all")} == {"input", "internal", "system"}
    assert {kind for kind, _ in shown("--kind", "system")} == {"system"}
    assert shown("-n", "1", "--name", "Received") == [("input", "Received")]
    assert shown("--tag", "sku=A") == [("input", "Received"), ("input", "Order"), ("internal", "Ordered")]
    assert shown("--name", "Nothing") == []


@pytest.mark.parametrize(
    "asked", [["--name", "A"], ["--tag", "t=x"], ["--tag", "t=x", "--tag", "u=5"], ["--name", "B", "--tag", "t=y"]], ids=" ".join
)
def test_tail_asks_the_index_for_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    """Of a long log only what is asked for is read: what it shows is what a look at all of it shows, also of what was erased."""
    url, queries = f"sqlite:///{tmp_path}/log.db", list[object]()
    with h.open_log(url, create=True) as log:
        for n in range(60):
            log.append(h.Loose("ABC"[n % 3], {}, tags=(("t", "xy"[n % 2]), ("u", str(n % 7)))))
    h.erase(url, ("u", "3"), actor="ann", reason="they asked", keep=["t"])
    whole = Log.read

    def noted(log: Log, query: h.Query | None = None, **more: Any) -> Any:
        queries.append(query)
        return whole(log, query, **more)

    def scanned(log: Log, _query: h.Query | None = None, **more: Any) -> Any:
        return whole(log, **more)

    monkeypatch.setattr(Log, "read", noted)
    main(["tail", *asked, "-n", "1000", "--json", "--log", url])
    found = capsys.readouterr().out
    monkeypatch.setattr(Log, "read", scanned)
    main(["tail", *asked, "-n", "1000", "--json", "--log", url])

    assert found == capsys.readouterr().out != ""
    assert None not in queries


def test_stats_count_what_is_in_the_log(folder: Path) -> None:
    """Records by kind and name, and for each decider how often and how long it ran: the slow one is seen."""
    _, told = answer(folder, "stats", "--count")

    assert {"kind": "input", "name": "Received", "count": 3} in told["counts"]
    [order] = told["deciders"]
    assert (order["decider"], order["decided"]) == ("order", 1)
    assert 0 < order["longest_us"] <= order["ran_us"]


def test_nothing_to_show_is_said(folder: Path) -> None:
    """A person must not wonder whether the command ran; a program gets an empty list."""
    asked = ["view", "Stock", "--where", "units > 100"]

    assert run(folder, *asked) == (0, "no rows\n", "")
    assert answer(folder, *asked)[1]["rows"] == []


def test_a_path_of_a_log_is_told_its_url(folder: Path) -> None:
    """The commonest slip gets the words to write."""
    code, _, errors = run(folder, "tail", "--log", "shop.db")

    assert code == 2
    assert "write sqlite:///shop.db" in errors


def test_bad_usage_shows_the_usage_of_the_command(folder: Path) -> None:
    """One line says how, the next one what was wrong."""
    code, output, errors = run(folder, "show")

    assert (code, output) == (2, "")
    assert errors.startswith("usage: happened show")
    assert "error: one of the arguments" in errors


def test_a_state_that_is_stuck_is_said(folder: Path) -> None:
    """Of one key or of all: which, where and why."""
    for command in (["state", "Fragile", "B"], ["state", "Fragile"]):
        code, told = answer(folder, *command)

        assert (code, told["error"], told["facts"]["key"]) == (1, "Stuck", ["B"])
        assert "five are too many" in told["text"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("tool = 5", "holds texts"),
        ("[tool]\nhappened = 5", "holds texts"),
        ("[tool.happened]\nlog = 5", "holds texts"),
        ('[tool.happened]\nlgo = "sqlite:///shop.db"', "has no key `lgo`"),
        ("[tool", "can't be read"),
    ],
    ids=named,
)
def test_wrong_settings_are_named(tmp_path: Path, written: str, said: str) -> None:
    """The file and what is wrong in it."""
    (tmp_path / "pyproject.toml").write_text(written, encoding="utf-8")

    code, _, errors = run(tmp_path, "tail")

    assert code == 2
    assert said in errors
    assert "pyproject.toml" in errors


def test_without_settings_the_error_says_what_to_give(tmp_path: Path) -> None:
    """In a project that says nothing, and where there is no project."""
    for command, option in (("tail", "--log"), ("views", "--app")):
        assert run(tmp_path, command)[0] == 2
        (tmp_path / "pyproject.toml").write_text("[tool.other]\n", encoding="utf-8")
        code, _, errors = run(tmp_path, command)
        assert code == 2
        assert f"give {option}" in errors


def test_a_damaged_file_is_called_damaged(folder: Path, tmp_path: Path) -> None:
    """It is not the disk that is full."""
    shutil.copy(folder / "shop.db", tmp_path / "shop.db")
    with (tmp_path / "shop.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"garbage" * 3000)

    code, output = answer(tmp_path, "verify", "--log", "sqlite:///shop.db")

    assert (code, output["error"]) == (1, "Broken")
    assert "damaged" in output["text"]


def test_a_sqlite_that_is_too_old_is_no_damage_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be changed is said: the program."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))

    code, output = answer(folder, "tail", "--log", "sqlite:///shop.db")

    assert (code, output["error"]) == (2, "Invalid")
    assert output["facts"]["needed"] == "3.38"


@contextmanager
def following(folder: Path, log: str) -> Generator["subprocess.Popen[str]"]:
    """Run `tail -f`, and stop it in the end."""
    command = [sys.executable, "-m", "happened", "tail", "-f", "-n", "1", "--name", "Received", "--log", log]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: "subprocess.Popen[str]") -> str:
    """Return the next line."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_tail_follows_until_it_is_interrupted(folder: Path, tmp_path: Path) -> None:
    """What another process records comes as it is recorded; an interrupt is exit code 130, without a traceback."""
    for name in ("shop.db", "model.py"):
        shutil.copy(folder / name, tmp_path / name)
    more = "import model\nwith model.app.open('sqlite:///shop.db', run=False) as running: running.record(model.Received('D', 9), id='late')"

    with following(tmp_path, "sqlite:///shop.db") as process:
        assert '"sku": "C"' in heard(process)
        subprocess.run([sys.executable, "-c", more], cwd=tmp_path, check=True)
        assert '"sku": "D"' in heard(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (130, "")


def test_tail_notices_that_the_file_was_replaced(folder: Path, tmp_path: Path) -> None:
    """What it would go on to follow is a file that nobody sees any more."""
    shutil.copy(folder / "shop.db", tmp_path / "shop.db")

    with following(tmp_path, "sqlite:///shop.db") as process:
        heard(process)
        shutil.copy(tmp_path / "shop.db", tmp_path / "restored.db")
        (tmp_path / "restored.db").replace(tmp_path / "shop.db")
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 2
    assert "was moved, deleted, or replaced" in errors


def test_work_is_told_by_lines_where_there_is_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, and not at all where it is done at once."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    show: Callable[[int, int | None], None] = lines("folding")

    for done in range(10):
        show(done * 1000, 10_000)
        now += 0.3

    assert capsys.readouterr().err.splitlines() == ["folding: 4,000 of 10,000", "folding: 8,000 of 10,000"]


def test_help_imports_nothing_that_it_does_not_need(folder: Path) -> None:
    """It is read more often than any command is run: the app, the stores and what they need are not imported."""
    code = "import sys; from happened.edge.main import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)

    heavy = {"msgspec", "sqlite3", "asyncio", "importlib.metadata", "rich", "happened.app", "happened.core.messages"}
    assert "usage: happened" in done.stdout
    assert heavy & set(done.stderr.split()) == set()


def test_a_log_that_is_not_there_is_not_made(folder: Path) -> None:
    """To look at a log never makes one."""
    code, output, errors = run(folder, "tail", "--log", "sqlite:///missing.db")

    assert (code, output) == (2, "")
    assert "there is no log at missing.db" in errors
    assert not (folder / "missing.db").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="who may write where is told in another way there")
def test_a_log_whose_folder_the_user_can_not_write_is_an_error_that_says_so() -> None:
    """SQLite needs files beside a log also to read it; its own words for that speak of writing."""
    with tempfile.TemporaryDirectory() as name:
        folder, me = Path(name), os.geteuid()
        with h.App("empty").open(f"sqlite:///{folder}/log.db"):
            pass
        folder.chmod(0o555)
        try:
            if me == 0:  # who may do everything is somebody else for once
                os.seteuid(65534)
            with pytest.raises(h.Invalid, match="SQLite writes beside it: this user must be allowed to"):
                log_url(f"sqlite:///{folder}/log.db")
        finally:
            os.seteuid(me)
            folder.chmod(0o755)


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


def test_an_index_is_made_anew_where_nobody_has_the_log_open(folder: Path) -> None:
    """A damaged one keeps the log from being opened by who asks for it; the rows are whole."""
    with closing(sqlite3.connect(folder / "shop.db")) as file, file:
        file.execute("insert or replace into block(block, names) values(0, 'none')")
    code, _, error = run(folder, "view", "Stock")
    assert (code, "happened rebuild --index" in error) == (1, True)
    with closing(sqlite3.connect(folder / "shop.db")) as file:
        file.execute("select count(*) from log").fetchall()
        code, _, error = run(folder, "rebuild", "--index")
        assert (code, "is open" in error) == (2, True)

    code, output, _ = run(folder, "rebuild", "--index", "--json")

    assert code == 0
    assert json.loads(output)["index"] > 0
    assert run(folder, "rebuild", "--index")[1].startswith("rebuilt the index up to position")
    assert run(folder, "view", "Stock")[0] == 0
    assert run(folder, "verify")[0] == 0
    assert run(folder, "rebuild")[0] == 2
    assert run(folder, "rebuild", "Stock", "--index")[0] == 2


def test_beside_a_running_owner_the_views_name_it_and_a_rebuild_says_whose_they_are(folder: Path) -> None:
    """Another process follows: `views` tells which, and `rebuild` ends with its name instead of waiting."""
    serve = "import sys, model\nwith model.app.open('sqlite:///shop.db'):\n    print('open', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", serve], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"

        _, told = answer(folder, "views")
        code, _, error = run(folder, "rebuild", "Stock")

        assert told
        assert all(f":{owner.pid}:" in one["owner"] for one in told)
        assert code != 0
        assert f":{owner.pid}:" in error
        assert owner.stdin is not None
        owner.stdin.close()


def test_a_url_that_is_no_log_is_told_with_what_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds of logs that another process can look at."""
    assert main(["stats", "--log", "mysql://shop"]) == 2

    assert "write sqlite:///path or postgresql://user@host/database?schema=name" in capsys.readouterr().err
