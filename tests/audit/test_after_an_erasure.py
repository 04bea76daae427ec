"""Whatever was erased or packed away, every command that looks at a log answers, with 0 or 1, and its JSON can be read."""

import json
import random
from datetime import timedelta
from pathlib import Path

import pytest

import happened as h
from happened.edge.main import main
from happened.log.compacting import compact
from happened.testing import Clock
from tests.branches.conftest import Made
from tests.branches.desk import telling

APP = ["--app", "tests.branches.desk:telling"]
LINES = {"tail", "show"}
"""Commands that print a line of JSON for each record."""


def history(url: str, seed: int) -> list[h.Record]:
    """Make a history in which something is erased now and then: all of an account, or one input with all that it caused."""
    chance, clock = random.Random(seed), Clock()
    with telling.open(url, source=clock) as running:
        made = Made(running, clock, random.Random(seed))
        for number in range(40):
            made.step()
            if number % 12 == 11:
                made.settle()
                inputs = [record.id for record in running.log.read() if record.kind == "input"]
                what = ("account", f"a{chance.randrange(3)}") if number % 24 == 11 else chance.choice(inputs)
                running.erase(what, actor="ann", reason="they asked")
                compact(running.log, keep=chance.randrange(20))
        clock.move(timedelta(minutes=2))
        made.settle()
        return list(running.log.read())


@pytest.mark.parametrize("seed", [3, 8])
def test_every_command_that_looks_at_a_log_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    print(f"seed {seed}")
    url = f"sqlite:///{tmp_path}/log.db"
    records = history(url, seed)
    chance = random.Random(seed)
    asked = [["verify"], ["stats"], ["stuck"], ["flow"], ["flow", *APP], ["latency", *APP], ["views", *APP], ["snapshots", *APP], ["tail"]]
    asked += [["check", *APP], ["check", "--fold", *APP], ["bisect", "amount > -1000", "Balance", *APP]]
    gone = {record.name: record for record in records if record.body is None}
    assert {"Draw", "Drawn", "Slip", "schedule"} <= gone.keys()
    asked += [["trace", record.id] for record in (*gone.values(), *chance.sample(records, 3))]
    asked += [["show", str(record.position)] for record in gone.values()]
    for account in ("a0", "a1"):
        asked += [[what, "Balance", account, *APP] for what in ("why", "blame", "state", "view")]
        asked += [["at", str(chance.choice(records).position), what, "Balance", account, *APP] for what in ("state", "view")]
        asked.append(["step", f"account={account}", *APP])
    capsys.readouterr()

    for one in asked:
        told = ["--json"] * (chance.random() < 0.7)
        code = main([*one, "--log", url, *told])
        printed = capsys.readouterr()
        assert code in (0, 1), (one, printed.err)
        if told:
            for text in printed.out.splitlines() if one[0] in LINES else [printed.out]:
                json.loads(text)
