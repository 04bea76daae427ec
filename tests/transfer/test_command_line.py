"""The command line shows copies of other systems' states."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from happened.edge.main import main
from tests.transfer.model import Bill, Debtor, Moved, billing, crm, until

APP = ["--app", "tests.transfer.model:billing"]


@pytest.fixture
def logs(tmp_path: Path) -> tuple[str, str]:
    """Give the logs of two systems, one of which has copied from the other."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(log) as upstream, billing.open(own, channels={"crm": log}) as running:
        upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "Spain")])
        running.replica(Debtor, "c-1", since=upstream.log.head)
        upstream.settled()  # what is published is recorded by the origin, and so is what is shared: its head goes on
        until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
        until(lambda: running.statistics()["replicas"][0]["lag"] == 0)
    return log, own


def test_replicas_lists_where_each_copy_is_and_what_is_proven(logs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the origin's log at hand it says how far behind the copy is; without, as of when it is."""
    log, own = logs

    assert main(["replicas", "--log", own, *APP, "--channel", f"crm={log}", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert main(["replicas", "--log", own, *APP]) == 0
    shown = capsys.readouterr().out

    assert (told["replica"], told["origin"], told["state"], told["count"], told["lag"]) == ("Card", "crm", "fresh", 2, 0)
    assert told["equal_as_of"] > 0
    assert "disconnected" in shown
    assert "Card" in shown


def test_what_counts_in_positions_of_another_log_has_no_lag_in_this_one(logs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A subscription reads the origin's log: how far that has come is not to be seen in its own. Of what works on its own log it is said."""
    log, own = logs

    main(["workers", "--log", own, "--json"])
    subscribed = {one["handler"]: one["lag"] for one in json.loads(capsys.readouterr().out)}
    main(["workers", "--log", log, "--json"])
    shared = {one["handler"]: one["lag"] for one in json.loads(capsys.readouterr().out)}

    assert subscribed["subscription/crm"] is None
    assert shared["share/Card"] == 0


def test_who_does_not_work_knows_how_far_those_are_who_do(logs: tuple[str, str]) -> None:
    """Statistics of a process that only reads tell the position of a share and of a subscription, as that of a reaction."""
    log, own = logs
    with crm.open(log, run=False) as upstream, billing.open(own, run=False, channels={"crm": log}) as running:
        [share], [subscription] = upstream.statistics()["shares"], running.statistics()["subscriptions"]

        assert (share["position"], share["lag"]) == (upstream.log.head, 0)
        assert subscription["position"] > 0


def test_replica_shows_rows(logs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """One by its key, or all; one that is not there is said."""
    _, own = logs

    assert main(["replica", "Card", "c-2", "--log", own, *APP, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["replica", "crm/Card", "--log", own, *APP, "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert main(["replica", "Card", "--limit", "1", "--log", own, *APP]) == 0
    first = capsys.readouterr().out
    assert main(["replica", "Card", "c-9", "--log", own, *APP]) == 1
    said = capsys.readouterr().err

    assert one == {"customer": "c-2", "country": "Spain", "paid": "0"}
    assert ([row["country"] for row in every["rows"]], every["hidden"]) == (["France", "Spain"], 0)
    assert first.endswith("\nand 1 more: --limit shows more of them\n")
    assert "has nothing under this key" in said


def test_a_run_that_is_not_told_where_a_system_is_says_by_which_option(logs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line has no `open(channels=...)`."""
    assert main(["run", "--log", logs[1], *APP]) == 2
    assert "--channel crm=URL" in capsys.readouterr().err


def test_a_channel_that_is_none_is_said(logs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A text that names no system, or no log, is bad input."""
    _, own = logs

    assert main(["replicas", "--log", own, *APP, "--channel", "crm"]) == 2
    assert "is no channel" in capsys.readouterr().err


def test_latency_lists_a_decider_once(logs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Also one that reads copies: how often those were read is no time that it took."""
    log, own = logs
    with crm.open(log, run=False), billing.open(own, channels={"crm": log}) as running:
        running.dispatch(Bill("c-1", Decimal(1)))

    assert main(["latency", "--log", own, *APP, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert [(one["source"], one["target"], one["count"]) for one in told["deciders"]] == [("command:Bill", "decider:bill", 1)]
