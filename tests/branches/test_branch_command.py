"""`happened branch`, as it is run: branches kept in files beside the log."""

import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.commands import run
from tests.servers import fresh

BANK = """
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

import happened as h

Account = Annotated[str, h.Tag("account")]

class Paid(h.Event):
    account: Account
    amount: Decimal

class Drawn(h.Event):
    account: Account
    amount: Decimal

class Draw(h.Command):
    account: Account
    amount: Decimal

class Balance(h.State):
    account: Account
    amount: Decimal = Decimal(0)

    def evolve(self, event: Paid | Drawn) -> "Balance":
        return self.but(amount=self.amount + (event.amount if isinstance(event, Paid) else -event.amount))

def draw(command: Draw) -> Iterator[Drawn]:
    yield Drawn(command.account, command.amount)

def strict(command: Draw, balance: Balance) -> Iterator[Drawn]:
    if command.amount > balance.amount:
        raise h.Refused("overdrawn")
    yield Drawn(command.account, command.amount)

app = h.App("bank", records=[Paid], deciders=[draw], views=[Balance])
stricter = h.App("bank", records=[Paid], deciders=[strict], views=[Balance])
"""

FILL = """
import sys
from decimal import Decimal
from bank import *
with app.open(sys.argv[1]) as running:
    running.record(Paid("ann", Decimal(100)), id="salary")
    running.dispatch(Draw("ann", Decimal(130)), id="car")
"""

ASKING = """
from bank import *

def fee(account: str) -> Decimal:
    return Decimal(1)

def draw(command: Draw, world: h.World) -> Iterator[Drawn]:
    yield Drawn(command.account, command.amount + world.ask(fee, command.account))

app = h.App("bank", records=[Paid], deciders=[draw], gateways=[fee], views=[Balance])
"""

FILE, DATABASE = "a file", "PostgreSQL"
BOTH = pytest.mark.parametrize("folder", [FILE, DATABASE], indirect=True)


def emptied() -> str:
    """Return the URL of a log in the schema `bank`, without the one that an earlier test has left there."""
    url = re.sub("schema=.*", "schema=bank", fresh())
    with psycopg.connect(url.partition("&")[0]) as connection:
        connection.execute("drop schema if exists bank cascade")
    return url


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    url = emptied() if getattr(request, "param", FILE) == DATABASE else "sqlite:///bank.db"
    (tmp_path / "bank.py").write_text(BANK)
    (tmp_path / "pyproject.toml").write_text(f'[tool.happened]\napp = "bank:app"\nlog = "{url}"\n')
    subprocess.run([sys.executable, "-c", FILL, url], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


def told(folder: Path, *arguments: str) -> Any:
    code, output, errors = run(folder, *arguments, "--json")
    assert code in (0, 1), errors
    return json.loads(output)


def position_of(folder: Path, id: str, *log: str) -> str:
    return str(told(folder, "show", "--id", id, *log)[0]["position"])


@BOTH
def test_a_branch_from_its_making_to_its_end(folder: Path) -> None:
    """Made, edited, run, compared, looked at by other commands, listed, dropped."""
    salary = position_of(folder, "salary")
    code, output, errors = run(folder, "branch", "new", "rich", "--change", salary, '{"account": "ann", "amount": "200"}')
    assert (code, errors) == (0, ""), errors
    assert "branch `rich`" in output
    assert run(folder, "branch", "diff", "rich")[0] == 1
    assert "was not run" in run(folder, "branch", "diff", "rich")[2]

    assert run(folder, "branch", "run", "rich")[0] == 0
    code, output, _ = run(folder, "branch", "diff", "rich")
    assert code == 1
    assert "amount 100 -> 200" in output
    url = "sqlite:///bank.branch-rich.db"
    assert told(folder, "view", "Balance", "ann", "--log", url)["amount"] == "70"
    assert told(folder, "view", "Balance", "ann")["amount"] == "-30"
    assert run(folder, "verify", "--log", url)[0] == 0
    assert run(folder, "trace", "car", "--log", url)[0] == 0

    assert run(folder, "branch", "edit", "rich", "--drop", position_of(folder, "car"))[0] == 0
    assert not (folder / "bank.branch-rich.db").exists()
    assert run(folder, "branch", "run", "rich")[0] == 0
    found = told(folder, "branch", "diff", "rich")
    assert [record["id"] for record in found["missing"]] == ["car", "car#1"]
    assert [row["after"]["amount"] for row in found["rows"]] == ["200"]
    assert "rich: 2 edits, run up to" in run(folder, "branch", "list")[1]
    assert [one["name"] for one in told(folder, "branch", "list")] == ["rich"]

    assert run(folder, "branch", "drop", "rich")[0] == 0
    assert run(folder, "branch", "list")[1] == ""
    assert {path.name for path in folder.iterdir() if "branch" in path.name} == set()


@BOTH
def test_a_branch_of_a_branch(folder: Path) -> None:
    """It is made, listed, run, looked at and compared by the first one's URL, and goes with it only by hand."""
    rich = ("--log", "sqlite:///bank.branch-rich.db")
    salary = position_of(folder, "salary")
    assert run(folder, "branch", "new", "rich", "--change", salary, '{"account": "ann", "amount": "200"}')[0] == 0
    assert run(folder, "branch", "run", "rich")[0] == 0
    assert run(folder, "branch", "new", "fine", "--drop", str(position_of(folder, "car", *rich)), *rich)[0] == 0
    assert run(folder, "branch", "run", "fine", *rich)[0] == 0

    assert [plan["name"] for plan in told(folder, "branch", "list")] == ["rich"]
    assert [plan["name"] for plan in told(folder, "branch", "list", *rich)] == ["fine"]
    fine = "sqlite:///bank.branch-rich.branch-fine.db"
    assert told(folder, "view", "Balance", "ann", "--log", fine)["amount"] == "200"
    assert told(folder, "view", "Balance", "ann", *rich)["amount"] == "70"
    assert [record["id"] for record in told(folder, "branch", "diff", "fine", *rich)["missing"]] == ["car", "car#1"]
    assert run(folder, "verify", "--log", fine)[0] == 0
    code, _, errors = run(folder, "branch", "drop", "rich")
    assert code != 0
    assert "has a branch of its own, bank.branch-rich.branch-fine.json: drop that first" in errors

    assert run(folder, "branch", "run", "rich")[0] == 0  # it is another one now
    code, _, errors = run(folder, "branch", "run", "fine", *rich)
    assert code != 0
    assert "make it anew" in errors
    assert run(folder, "branch", "drop", "fine", *rich)[0] == 0
    assert run(folder, "branch", "drop", "rich")[0] == 0
    assert not list(folder.glob("bank.branch-*"))


def test_a_branch_by_other_code(folder: Path) -> None:
    """What if overdrafts had been refused; and a branch of which nothing is otherwise, in a folder of its own."""
    assert run(folder, "branch", "new", "strict", "--at", "0", "--code", "bank:stricter")[0] == 0
    assert run(folder, "branch", "run", "strict")[0] == 0
    found = told(folder, "branch", "diff", "strict")
    assert [record["name"] for record in found["added"]] == ["refusal"]
    assert Decimal(found["rows"][0]["after"]["amount"]) == 100

    there = ("--folder", "kept")
    assert run(folder, "branch", "new", "same", "--at", "0", *there)[0] == 0
    assert run(folder, "branch", "run", "same", *there)[0] == 0
    code, output, _ = run(folder, "branch", "diff", "same", *there)
    assert (code, output) == (0, "nothing differs\n")
    assert {path.name for path in (folder / "kept").iterdir()} == {"bank.branch-same.json", "bank.branch-same.db"}


def test_a_new_question_is_said_to_be_answered_by_a_program(folder: Path) -> None:
    """The command line takes no functions: what it says can be done is done in Python."""
    (folder / "asking.py").write_text(ASKING)
    run(folder, "branch", "new", "dear", "--at", "0", "--code", "asking:app")

    code, _, errors = run(folder, "branch", "run", "dear")

    assert code == 1
    assert "`car` asks `fee('ann')`, and no answer to that was recorded" in errors
    assert errors.endswith(
        "`answers={fee: a function}` to `running.branch(...)`, in a program; what it keeps by `save` is opened by its URL\n"
    )


def test_inserts_and_clocks_and_clearing(folder: Path) -> None:
    """Each option of edits; `--clear` forgets those that were there."""
    insert = ("--insert", position_of(folder, "salary"), "Paid", '{"account": "ann", "amount": "50"}')
    clock = ("--clock", position_of(folder, "car"), "2030-01-01T00:00:00Z")
    assert run(folder, "branch", "new", "more", *insert, *clock)[0] == 0
    assert run(folder, "branch", "run", "more")[0] == 0
    assert [record["name"] for record in told(folder, "branch", "diff", "more")["added"]] == ["Paid"]
    assert run(folder, "branch", "edit", "more", "--clear")[0] == 0
    assert told(folder, "branch", "list")[0]["edits"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("new", "../x"), 2, "no name of a branch"),
        (("new",), 2, "no name of a branch"),
        (("run", "none"), 1, "there is no branch `none`"),
        (("new", "x", "--drop", "99999"), 2, "there is nothing at position 99999"),
        (("new", "x", "--drop", "first"), 2, "`first` is no position"),
        (("new", "x", "--answer", "1", "{"), 2, "is no JSON"),
        (("new", "x", "--clock", "5", "2030"), 2, "`2030` is no time with a zone"),
        (("new", "x", "--clock", "5", "2030-01-01T00:00:00"), 2, "is no time with a zone"),
        (("new", "x", "--insert", "0", "Nothing", "{}"), 2, "no event and no command `Nothing`"),
        (("new", "x", "--insert", "0", "Paid", '{"account": "a"}'), 2, "missing required field"),
        (("new", "x", "--code", "bank:nothing"), 2, "has no app called"),
        (("split", "x"), 2, "invalid choice"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    """And nothing is left behind."""
    found, _, errors = run(folder, "branch", *arguments)

    assert found == code, errors
    assert text in errors
    assert not list(folder.glob("*.json"))


def test_another_log_in_the_place_of_the_origin_is_diverged(folder: Path) -> None:
    """The branch is not of that one."""
    assert run(folder, "branch", "new", "x")[0] == 0
    for path in folder.glob("bank*.db*"):
        path.unlink()
    subprocess.run([sys.executable, "-c", FILL, "sqlite:///bank.db"], cwd=folder, check=True, timeout=60)

    code, _, errors = run(folder, "branch", "run", "x")

    assert code == 2
    assert "is not the one that `x` is a branch of" in errors


@pytest.mark.parametrize("folder", [DATABASE], indirect=True)
def test_branches_of_a_log_in_postgresql_lie_where_it_is_said(folder: Path) -> None:
    """In a folder that is named, called after the schema; else by `--log` in the current folder. What is gone is said, and its branches can be dropped."""
    url = (folder / "pyproject.toml").read_text().partition('log = "')[2].partition('"')[0]
    (folder / "pyproject.toml").write_text('[tool.happened]\napp = "bank:app"\n')
    own = ("--log", url)
    salary = position_of(folder, "salary", *own)
    for there in ("", "kept/here"):
        more = ("--folder", there) if there else ()
        assert run(folder, "branch", "new", "x", "--drop", salary, *own, *more)[0] == 0
        code, output, errors = run(folder, "branch", "run", "x", *own, *more)
        assert code == 0, errors
        path = Path(there) / "bank.branch-x"
        assert f"--log sqlite:///{path}.db" in output
        assert (folder / f"{path}.json").is_file()
        assert told(folder, "branch", "diff", "x", *own, *more)["missing"][0]["id"] == "salary"
        assert told(folder, "view", "Balance", "ann", "--log", f"sqlite:///{path}.db")["amount"] == "-130"
        assert run(folder, "check", "--decide", "--log", f"sqlite:///{path}.db")[0] == 0
        assert run(folder, "at", "2", "state", "Balance", "--log", f"sqlite:///{path}.db")[0] == 0
        assert run(folder, "snapshots", "--take", "--log", f"sqlite:///{path}.db")[0] == 0

    emptied()
    code, _, errors = run(folder, "view", "Balance", "ann", "--log", "sqlite:///bank.branch-x.db")
    assert code == 2
    assert "bank.branch-x.db is a branch of a log that can't be opened: there is no log at postgresql://" in errors
    assert "there is no log at" in run(folder, "branch", "run", "x", *own)[2]
    assert "there is no log at" in run(folder, "branch", "run", "y", *own)[2]
    assert run(folder, "branch", "drop", "x", *own)[0] == 0
    assert "there is no log at" in run(folder, "branch", "list", *own)[2]
    assert not list(folder.glob("bank.branch*"))


SHARING = """
import time
from bank import *
from bank import app as plain
app = h.App("bank", records=[Paid], deciders=[draw], views=[Balance], shares=[Balance])
if __name__ == "__main__":
    with app.open("sqlite:///bank.db") as running:
        running.record(Paid("bob", Decimal(7)), id="gift")
        while not running.statistics()["shares"][0]["generation"] or running.statistics()["shares"][0]["lag"]:
            time.sleep(0.01)
        running.dispatch(Draw("bob", Decimal(2)), id="bread")
        while running.statistics()["shares"][0]["lag"]:
            time.sleep(0.01)
"""


def test_what_shares_would_have_published_is_told(folder: Path) -> None:
    """By a branch in its file: nothing where nothing is otherwise, else what is said of which key."""
    (folder / "sharing.py").write_text(SHARING)
    subprocess.run([sys.executable, "sharing.py"], cwd=folder, check=True, timeout=60)
    own = ["--app", "sharing:app"]
    for begins in ("0", position_of(folder, "car"), position_of(folder, "bread")):
        assert run(folder, "branch", "new", "same", "--at", begins, *own)[0] == 0
        assert run(folder, "branch", "run", "same", *own)[0] == 0
        assert run(folder, "branch", "diff", "same", *own) == (0, "nothing differs\n", "")
        assert run(folder, "branch", "drop", "same", *own)[0] == 0

    assert run(folder, "branch", "new", "x", "--drop", position_of(folder, "bread"), *own)[0] == 0
    assert run(folder, "branch", "run", "x", *own)[0] == 0
    found = told(folder, "branch", "diff", "x", *own)
    assert [record["name"] for record in found["missing"]] == ["Draw", "Drawn", "Balance"]
    assert found["missing"][2]["body"]["fields"] == {"account": "bob", "amount": "5"}
    assert (found["added"], found["changed"], found["not_compared"]) == ([], [], [])
    code, output, _ = run(folder, "branch", "diff", "x", *own)
    assert code == 1
    assert "Balance share/Balance/1/" in output
