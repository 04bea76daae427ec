"""The commands look at a log that an older release has written through the app's upcasts, as the app itself does."""

from pathlib import Path

import pytest

import happened as h
from happened.edge.main import main
from tests.branches.test_of_an_old_log import Balance, Draw, Paid, once, today
from tests.versions import deep_once


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("step", "account=a"), 0, "Balance a  pence: 500 -> 200"),
        (("blame", "Balance", "a", "pence"), 0, "by ann, decided on Draw three"),
        (("bisect", "pence > 200", "Balance", "a"), 1, "holds no more from position"),
        (("diff", "0", "2999-01-01T00:00:00Z"), 1, "+ Balance a"),
        (("at", "2999-01-01T00:00:00Z", "view", "Balance"), 0, "200"),
        (("view", "Balance", "a"), 0, "200"),
        (("views",), 0, "Balance"),
        (("rebuild", "Balance"), 0, "rebuilt Balance"),
        (("why", "Balance", "a"), 0, "because of the input Draw"),
        (("snapshots", "Balance", "--take"), 0, "yes"),
    ],
    ids=["step", "blame", "bisect", "diff", "at", "view", "views", "rebuild", "why", "snapshots"],
)
def test_commands_read_by_the_upcasts_of_the_app(
    arguments: tuple[str, ...], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that lead to commands, though the commands have no deciders here."""
    url = f"sqlite:///{tmp_path}/bank.db"
    with once.open(url) as running:
        running.record(Paid("a", 5), id="paid")
        running.dispatch(Draw("a", 3), id="three", actor="ann")
    with today.open(url) as running:
        assert running.view(Balance).get("a", since=running.log.head) == Balance("a", 200, 2)

    assert main([*arguments, "--app", "tests.branches.test_of_an_old_log:today", "--log", url]) == code

    assert says in capsys.readouterr().out
    with today.open(url, run=False) as running:
        assert running.view(Balance).get("a") == Balance("a", 200, 2)


def test_a_value_of_an_older_version_is_read_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where only what lies nested has an upcast, the log could be opened without, and would be misread."""
    url = f"sqlite:///{tmp_path}/log.db"
    with h.App("deep", records=[deep_once.Packed]).open(url) as running:
        running.record(deep_once.packed())

    assert main(["at", "2999-01-01T00:00:00Z", "state", "Packs", "--app", "tests.versions.deep_today:app", "--log", url]) == 0
    assert "3000" in capsys.readouterr().out
