"""What the examples do is what they declare: nothing was seen that their wiring does not say."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import happened as h
from examples.enrolment.model import enrolment
from examples.exchange.producers import PRODUCERS
from examples.exchange.reader import reader
from examples.shop.model import shop

Run = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLES: list[tuple[h.App, tuple[str, ...]]] = [
    (shop, ("happened", "demo")),
    (enrolment, ("examples.enrolment", "--capacity", "50")),
]


@pytest.mark.parametrize(("app", "command"), EXAMPLES, ids=[app.name for app, _ in EXAMPLES])
def test_an_example_has_no_discrepancy(run: Run, tmp_path: Path, app: h.App, command: tuple[str, ...]) -> None:
    """On its sample, as it is run by a person; and each decider that ran is seen."""
    url = f"sqlite:///{tmp_path}/log.db"
    done = run(*command, "--log", url)
    assert done.returncode == 0, done.stderr

    with app.open(url, run=False) as running:
        flow = running.flow()

    assert flow.undeclared == ()
    assert [finding.text for finding in flow.findings if finding.kind in ("undecided", "unrecorded", "cycle")] == []
    assert sum(arrow.count for arrow in flow.arrows if arrow.target.startswith("decider:")) > 50


def test_systems_that_hear_of_each_other_have_no_discrepancy(run: Run, tmp_path: Path) -> None:
    """The five producers of the exchange, and its reader."""
    done = run("examples.exchange", "--logs", tmp_path)
    assert done.returncode == 0, done.stderr

    for app in (*PRODUCERS, reader):
        with app.open(f"sqlite:///{tmp_path}/{app.name}.db", run=False, channels=dict.fromkeys(app.subscriptions)) as running:
            flow = running.flow()
        assert flow.undeclared == (), app.name
        assert [finding.text for finding in flow.findings if finding.kind in ("undecided", "unrecorded", "cycle")] == []
        assert sum(arrow.count for arrow in flow.arrows) > 50
