"""The commands of an audit, as they are run: what they print, and their exit codes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit.people import SECRET, customers, filled
from tests.audit.test_erase import files_with
from tests.commands import run


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is filled."""
    url = f"sqlite:///{tmp_path}/log.db"
    with customers.open(url) as running:
        filled(running)
        running.view(customers.views[0]).rows(since=running.log.head, wait_seconds_max=20)
    return url


def told(url: str, *arguments: str, code: int = 0, given: str | None = None) -> str:
    """Run a command, check its exit code, and return what it said."""
    done, output, errors = run(Path(), *arguments, "--log", url, given=given or "")
    assert done == code, output + errors
    return output + errors


def test_verify_until_a_receipt_a_digest_or_the_end(url: str) -> None:
    """Zero where it is proven, one where it is not, two for what is no digest."""
    whole = json.loads(told(url, "verify", "--json"))
    with customers.open(url, run=False) as running:
        receipt = running.log.receipt_of(running.log.find("call-1")[0], repeated=False)

    assert "led to the digest" in told(url, "verify", "--until", whole["digest"])
    assert json.loads(told(url, "verify", "--json", "--until", str(receipt)))["position"] == receipt.position
    assert "no row" in told(url, "verify", "--until", "0" * 64, code=1)
    assert "no digest" in told(url, "verify", "--until", "abc", code=2)


def test_adopt_a_restored_log(url: str, tmp_path: Path) -> None:
    """It says what begins where; without a reason it does nothing."""
    assert "why?" in told(url, "adopt", code=2)
    assert "epoch 2 begins" in told(url, "adopt", "--reason", "restored", "--actor", "ann")
    assert json.loads(told(url, "stats", "--json"))["log"]["epoch"] == 2
    assert re.search(r"^ended     epoch 1 at position \d+$", told(url, "stats"), re.MULTILINE)
    shutil.copy(tmp_path / "log.db", tmp_path / "again.db")
    with customers.open(url, run=False):
        assert "is open" in told(url, "adopt", "--reason", "again", code=2)
    assert json.loads(told(f"sqlite:///{tmp_path}/again.db", "adopt", "--reason", "x", "--epoch", "9", "--json"))["epoch"] == 9


def test_erase_looks_first_asks_and_erases(url: str) -> None:
    """A dry run shows counts; nobody is asked without a terminal; `--yes` does it; resuming afterwards has nothing to do."""
    dry = json.loads(told(url, "erase", "customer=c-1", "--dry-run", "--json"))
    assert dry["records"] == 12
    assert "Called: 3" in told(url, "erase", "customer=c-1", "--dry-run")
    assert "say --yes" in told(url, "erase", "customer=c-1", "--reason", "asked", code=2)
    assert "why?" in told(url, "erase", "customer=c-1", "--yes", code=2)
    assert files_with(url, SECRET) == ["log.db", "log.views.db"]

    assert "erased: 12 records" in told(url, "erase", "customer=c-1", "--yes", "--reason", "asked")

    assert files_with(url, SECRET) == []
    assert "erased: 12, of which nobody has said who and why: 0" in told(url, "verify")
    told(url, "erase", "--resume")
    assert "no record with the id" in told(url, "erase", "--id", "nobody", "--yes", "--reason", "asked", code=1)
    assert "erased: 3 records" in told(url, "erase", "call-max", "--yes", "--reason", "asked")


def test_an_export_to_standard_output_is_the_lines_and_nothing_else(url: str, tmp_path: Path) -> None:
    """The same as in a file, so that they can be handed on; what is told of it stands beside."""
    told(url, "export", str(tmp_path / "whole.jsonl"))
    done = subprocess.run([sys.executable, "-m", "happened", "export", "-", "--log", url], capture_output=True, check=True)

    assert done.stdout == (tmp_path / "whole.jsonl").read_bytes()
    assert done.stdout.endswith(b"\n")
    assert done.stderr.startswith(b"exported to -: ")
    with subprocess.Popen([sys.executable, "-m", "happened", "export", "-", "--jsonl", "--log", url], stdout=subprocess.PIPE) as cut:
        assert cut.stdout is not None
        assert cut.stdout.readline().startswith(b"{")
        cut.stdout.close()  # as `head` does
    assert cut.returncode == 0
