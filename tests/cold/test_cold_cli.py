"""`happened compact` and `happened unpack`, as they are run: text, JSON, exit codes."""

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import happened as h
from happened.core.store import Packs
from tests.commands import run
from tests.servers import fresh


class Done(NamedTuple):
    """What a command has come to."""

    returncode: int
    stdout: str
    stderr: str


def happened(folder: Path, *arguments: str) -> Done:
    """Run the command."""
    return Done(*run(folder, *arguments))


def fill(url: str) -> None:
    """Make a log of 200 facts."""
    with h.open_log(url, create=True) as log:
        for n in range(200):
            log.append(h.Loose("Seen", {"n": n}, tags=(("who", "ann"),)), id=f"seen-{n}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with such a log."""
    fill(f"sqlite:///{tmp_path}/log.db")
    return tmp_path


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_compact_and_unpack(folder: Path, kind: str) -> None:
    """What is packed is said, in words and as JSON; stats say it too; all is read as before."""
    url = "sqlite:///log.db" if kind == "sqlite" else fresh()
    if kind == "postgres":
        fill(url)
    of = ("--log", url)
    before = happened(folder, "tail", "-n", "300", *of).stdout
    verified = happened(folder, "verify", *of).stdout

    nothing = happened(folder, "compact", *of)
    packed = happened(folder, "compact", "--keep", "50", *of)
    stats = happened(folder, "stats", *of)
    assert json.loads(happened(folder, "stats", "--json", *of).stdout)["bytes"] > 50_000
    as_json = json.loads(happened(folder, "compact", "--keep", "50", "--json", *of).stdout)

    assert (nothing.returncode, nothing.stdout) == (0, "cold      nothing; hot 201 rows\n")
    assert (packed.returncode, packed.stderr) == (0, "")
    assert "up to position 151: 151 rows in 1 segments" in packed.stdout
    assert "hot       from position 152 on: 50 rows" in packed.stdout
    assert "up to position 151" in stats.stdout
    assert {key: as_json[key] for key in ("cold", "cold_rows", "hot_rows", "segments", "gives_back")} == {
        "cold": 151,
        "cold_rows": 151,
        "hot_rows": 50,
        "segments": 1,
        "gives_back": kind == "sqlite",
    }
    assert happened(folder, "tail", "-n", "300", *of).stdout == before
    assert happened(folder, "verify", *of).stdout == verified
    assert json.loads(happened(folder, "show", "seen-3", "--json", *of).stdout)[0]["body"] == {"n": 3}

    rewritten = happened(folder, "compact", "--keep", "50", "--rewrite", *of)

    assert (rewritten.returncode, rewritten.stderr, "bytes are free" in rewritten.stdout) == (0, "", False)
    assert ("bytes are free where rows lay" in packed.stdout) == (kind == "postgres")
    assert happened(folder, "verify", *of).stdout == verified

    unpacked = happened(folder, "unpack", *of)

    assert (unpacked.returncode, unpacked.stdout) == (0, "cold      nothing; hot 201 rows\n")
    assert happened(folder, "verify", *of).stdout == verified


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("compact", "--keep", "-1"), 2, "a count lies between"),
        (("compact", "--older", "-1"), 2, "no number of days"),
        (("compact", "--older", "nan"), 2, "no number of days"),
        (("compact", "--above", "1 GB"), 2, "such as 500MB"),
        (("compact", "--above", "-1"), 2, "such as 500MB"),
        (("unpack", "--after", "x"), 2, "`x` is no whole number"),
        (("unpack", "--after", "9" * 5000), 2, "a count lies between"),
        (("compact", "--older", "x"), 2, "`x` is no number of days"),
        (("compact", "--log", "sqlite:///none.db"), 2, "there is no log"),
    ],
)
def test_bad_arguments(folder: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    """They are said, and nothing is done."""
    found = happened(folder, *arguments, *(() if "--log" in arguments else ("--log", "sqlite:///log.db")))

    assert (found.returncode, text in found.stderr) == (code, True), found.stderr


def test_compact_by_size(folder: Path) -> None:
    """What is oldest is packed until the rest takes no more than was said."""
    of = ("--log", "sqlite:///log.db")

    nothing = happened(folder, "compact", "--above", "1MB", *of)
    some = json.loads(happened(folder, "compact", "--above", "20kB", "--json", *of).stdout)

    assert nothing.stdout == "cold      nothing; hot 201 rows\n"
    assert 20 < some["hot_rows"] < 150


def test_a_damaged_row_is_named_and_what_lies_before_it_stays(folder: Path) -> None:
    """Rows that were changed are not packed: exit code 1 and the position."""
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("""update log set records = replace(records, '"n":77', '"n":78') where position = 79""")
    connection.close()

    found = happened(folder, "compact", "--keep", "0", "--log", "sqlite:///log.db")

    assert found.returncode == 1
    assert "happened verify" in found.stderr


MODEL = """
import happened as h

class Seen(h.Event):
    n: int

app = h.App("seen", records=[Seen])
"""


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (("--cold-after", "0"), "sqlite"),
        (("--cold-above", "10kB"), "sqlite"),
        (("--cold-after", "9", "--cold-above", "10000"), "sqlite"),
        (("--cold-above", "10kB"), "postgres"),
    ],
)
def test_run_packs_by_itself(tmp_path: Path, told: tuple[str, ...], kind: str) -> None:
    """`happened run` packs what is that old, and what is too much, while it runs, and ends in time."""
    (tmp_path / "seen.py").write_text(MODEL)
    url = f"sqlite:///{tmp_path}/log.db" if kind == "sqlite" else fresh()
    with h.open_log(url, create=True) as log:
        for _ in range(5):
            log.append([h.Loose("Seen", {"n": n}) for n in range(1_000)])
        command = [sys.executable, "-m", "happened", "run", "seen:app", "--log", url, *told]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as running:
            assert isinstance(log.engine, Packs)
            deadline = time.monotonic() + 60
            while not log.engine.parts().cold and time.monotonic() < deadline:
                log.wait(log.head, 0.1)
            running.terminate()
            running.communicate()
        assert running.returncode == 0
        assert log.engine.parts().cold >= 4_000
        log.verify()
