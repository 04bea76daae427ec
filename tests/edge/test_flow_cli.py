"""`happened flow`, `trace`, `why` and `latency`, as they are run: text, Mermaid and JSON, with and without a log, and its exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from happened.edge.sight import as_mermaid, causes_as_text
from happened.notification.drawing import drawn
from happened.notification.flow import Flow, Node
from happened.notification.why import Cause
from happened.testing.world import START
from tests.commands import run

MODEL = """
import happened as h
from typing import Annotated

Sku = Annotated[str, h.Tag("sku")]

class Received(h.Event):
    sku: Sku

class Ordered(h.Event):
    sku: Sku

class Order(h.Command):
    sku: Sku

class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Ordered) -> "Stock":
        return self.but(units=self.units + (1 if isinstance(event, Received) else -1))

def order(command: Order, stock: Stock) -> list[Ordered]:
    if not stock.units:
        raise h.Refused("none left")
    return [Ordered(command.sku)]

app = h.App("store", records=[Received], deciders=[order], views=[Stock])
other = h.App("store", records=[Received])
foreign = h.App("foreign", records=[Received])

def fill() -> None:
    with app.open("sqlite:///shop.db", run=False) as running:
        running.record(Received("A"), id="delivery-1")
        running.dispatch(Order("A"), id="order-1")
        try:
            running.dispatch(Order("B"), id="order-2")
        except h.Refused:
            pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project: an app, and a log of it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    subprocess.run([sys.executable, "-c", "import model; model.fill()"], cwd=folder, check=True)
    return folder


LOG = ("--log", "sqlite:///shop.db")


def test_an_app_is_drawn_without_a_log(folder: Path) -> None:
    """As lines of what leads to what, with what is good to know."""
    code, output, _ = run(folder, "flow", "model:app")

    assert code == 0
    assert re.search(r"^command Order +decider order$", output, re.MULTILINE)
    assert "the command `Order` comes from outside only" in output
    assert "count" not in output


def test_a_log_says_how_often_and_how_long(folder: Path) -> None:
    """With the app, and by the wiring that the log has recorded."""
    code, output, _ = run(folder, "flow", "model:app", *LOG)
    alone = run(folder, "flow", *LOG)

    assert code == 0
    assert re.search(r"^command Order +decider order +2 +1 .* (µs|ms)", output, re.MULTILINE)
    assert re.search(r"^decider order +event Ordered +1$", output, re.MULTILINE)
    assert alone == (0, output, "")


def test_a_stretch_of_the_log_is_drawn(folder: Path) -> None:
    """By positions or times; what is none says so."""
    _, told, _ = run(folder, "flow", *LOG, "--json")
    head = json.loads(told)["until"]
    _, late, _ = run(folder, "flow", *LOG, "--after", str(head), "--json")
    _, early, _ = run(folder, "flow", *LOG, "--until", "2000-01-01T00:00:00Z", "--json")

    assert sum(arrow["count"] for arrow in json.loads(told)["arrows"]) > 0
    for stretch in (late, early):
        assert sum(arrow["count"] for arrow in json.loads(stretch)["arrows"]) == 0
    assert "arrows; nothing of the log\n" in run(folder, "flow", *LOG, "--after", str(head))[1]
    assert run(folder, "flow", *LOG, "--after", "yesterday")[0] == 2
    assert run(folder, "flow", "model:app", "--after", "1")[0] == 2


@pytest.mark.parametrize(
    ("name", "drawn_as"),
    [('a"b', "a#quot;b"), ("x#35;y", "x#35;35;y"), ("`md`", "#96;md#96;"), ("a<b>&c", "a&lt;b>&amp;c"), ("end", "end")],
)
def test_mermaid_takes_a_name_as_it_is(name: str, drawn_as: str) -> None:
    """What means something to it is written so that it does not."""
    flow = Flow("odd", (Node(f"event:{name}", "event", name),), (), ())

    assert list(as_mermaid(flow, drawn(flow))) == ["flowchart LR", f'  n0(["{drawn_as}"])']


def test_mermaid_says_what_a_handler_reads(folder: Path) -> None:
    """No arrow tells of it, and an event that is only decided on would seem to be heard by nobody."""
    _, output, _ = run(folder, "flow", "model:app", "-o", "mermaid")
    flow = Flow("odd", (Node("decider:order", "decider", "order", reads=("Stock", "a<b")),), (), ())

    assert '{{"order<br/>reads Stock"}}' in output
    assert list(as_mermaid(flow, drawn(flow))) == ["flowchart LR", '  n0{{"order<br/>reads Stock, a&lt;b"}}']


def test_mermaid_is_drawn(folder: Path) -> None:
    """One node and one arrow a line; what is hidden is counted."""
    code, output, _ = run(folder, "flow", "model:app", "-o", "mermaid")
    _, near, _ = run(folder, "flow", "model:app", "-o", "mermaid", "--focus", "order", "--hops", "1")

    assert code == 0
    assert output.startswith("flowchart LR\n")
    assert len(re.findall(r"^  n\d+ -\.->|^  n\d+ -->", output, re.MULTILINE)) == 6
    assert "hidden" not in output
    assert 'hidden["hidden: 3 messages and handlers, 4 arrows"]' in near


def test_what_was_seen_and_is_not_declared_is_exit_code_1(folder: Path) -> None:
    """It is named; in JSON it is the status of the arrow."""
    code, output, _ = run(folder, "flow", "model:other", *LOG)
    json_code, told, _ = run(folder, "flow", "model:other", *LOG, "--json")

    assert (code, json_code) == (0, 0)  # the log has recorded a wiring that declares it
    assert "declared earlier" in output
    assert {arrow["status"] for arrow in json.loads(told)["arrows"]} >= {"earlier"}

    subprocess.run(
        [
            sys.executable,
            "-c",
            'import happened as h; log = h.open_log("sqlite:///planted.db", create=True); log.append(h.Loose("Noted", {})); log.close()',
        ],
        cwd=folder,
        check=True,
    )
    code, output, _ = run(folder, "flow", "model:other", "--log", "sqlite:///planted.db")
    _, told, _ = run(folder, "flow", "model:other", "--log", "sqlite:///planted.db", "-o", "json")

    assert code == 1
    assert "NOT DECLARED" in output
    assert "outside -> event `Noted` was seen 1 times, and is not declared" in output
    assert [arrow["target"] for arrow in json.loads(told)["arrows"] if arrow["status"] == "undeclared"] == ["event:Noted"]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["flow"], 2, "which log?"),
        (["flow", "--declared"], 2, "which app?"),
        (["flow", "model:foreign", *LOG], 2, "of the app `store`"),
        (["flow", "model:app", "--focus", "Nothing"], 1, "Nothing"),
    ],
)
def test_what_can_t_be_drawn_is_said(folder: Path, arguments: list[str], code: int, error: str) -> None:
    """One line, with what to give."""
    found, _, errors = run(folder, *arguments)

    assert found == code
    assert error in errors


def test_the_settings_name_app_and_log(folder: Path) -> None:
    """A log that is not there yet is no trouble: then the map is the declared one."""
    settings = folder / "pyproject.toml"
    try:
        settings.write_text('[tool.happened]\napp = "model:app"\nlog = "sqlite:///none.db"\n', encoding="utf-8")
        declared = run(folder, "flow")
        settings.write_text('[tool.happened]\napp = "model:app"\nlog = "sqlite:///shop.db"\n', encoding="utf-8")
        seen = run(folder, "flow")
        again = run(folder, "flow", "--declared")
    finally:
        settings.unlink()

    assert declared == run(folder, "flow", "model:app") == again
    assert seen == run(folder, "flow", "model:app", *LOG)


def test_a_record_is_shown_with_its_execution(folder: Path) -> None:
    """How its decider waited and ran, what it had read, and what came of it; a fact has none."""
    _, told, _ = run(folder, "show", "order-1", "--json", *LOG)
    _, fact, _ = run(folder, "show", "delivery-1", "--json", *LOG)

    asked, decided = json.loads(told)
    assert asked["execution"] == decided["execution"]
    assert (asked["outcome"], asked["execution"]["attempt"]) == ("accepted", 1)
    assert asked["execution"]["reads"] == [json.loads(fact)[0]["position"]]
    assert "execution" not in json.loads(fact)[0]


# --- trace and why


def test_a_conversation_is_told(folder: Path) -> None:
    """By id or position, as lines and as JSON; what is not there is exit code 1."""
    code, output, _ = run(folder, "trace", "order-2", *LOG)
    _, told, _ = run(folder, "trace", "--id", "order-1", "--json", *LOG)
    story = json.loads(told)
    by_position = run(folder, "trace", str(story["lines"][-1]["position"]), "--json", *LOG)

    assert code == 0
    assert "conversation order-2: 2 records in 2 lines" in output
    assert re.search(r"Order  order-2  refused  decided by order  waited .*, ran ", output)
    assert re.search(r"^ +\d+ +\+0 µs +refusal  order-2#1  none left$", output, re.MULTILINE)
    assert [(line["name"], line["depth"], line["outcome"]) for line in story["lines"]] == [("Order", 0, "accepted"), ("Ordered", 1, "")]
    assert by_position == (0, told, "")
    assert run(folder, "trace", "order-1", "--all", "--json", *LOG)[1] == told
    assert run(folder, "trace", "nobody", *LOG)[0] == 1
    assert run(folder, "trace", *LOG)[0] == 2


def test_a_row_says_why_it_is_so(folder: Path) -> None:
    """The event, the command, who read what; a key that has no row, or that is none, says so."""
    code, output, _ = run(folder, "why", "Stock", "A", "--app", "model:app", *LOG)
    _, told, _ = run(folder, "why", "Stock", "A", "--app", "model:app", "--json", *LOG)
    causes = json.loads(told)["causes"]

    assert code == 0
    assert "was last changed by the internal Ordered" in output
    assert "decided by order, waited" in output
    assert "because of the input Order" in output
    assert output.endswith("which came from outside\n")
    assert [cause["name"] for cause in causes] == ["Ordered", "Order"]
    assert [read["state"] for read in causes[0]["reads"]] == ["Stock"]
    assert f"which had read Stock as of position {causes[0]['reads'][0]['position']}" in output
    assert run(folder, "why", "Stock", "Z", "--app", "model:app", *LOG)[0] == 1
    assert run(folder, "why", "Stock", "--app", "model:app", *LOG)[0] == 2
    assert run(folder, "why", "Nothing", "A", "--app", "model:app", *LOG)[0] == 2


def test_latency_is_told_by_view_and_decider(folder: Path) -> None:
    """As columns and as JSON; of one view alone without deciders."""
    code, output, _ = run(folder, "latency", "--app", "model:app", *LOG)
    _, told, _ = run(folder, "latency", "Stock", "--app", "model:app", "--json", *LOG)
    _, both, _ = run(folder, "latency", "--app", "model:app", "--json", *LOG)

    assert code == 0
    assert re.search(r"^Stock +0 +- +- +- +-$", output, re.MULTILINE)
    assert re.search(r"^order +2 ", output, re.MULTILINE)
    assert json.loads(told)["deciders"] == []
    assert [view["view"] for view in json.loads(told)["views"]] == ["Stock"]
    assert [(arrow["target"], arrow["count"]) for arrow in json.loads(both)["deciders"]] == [("decider:order", 2)]
    assert run(folder, "latency", "Nothing", "--app", "model:app", *LOG)[0] == 2


def test_a_reason_that_lies_in_another_system_says_how_to_go_on_there() -> None:
    """Its receipt is what `trace` takes in the other log; of what a caller gave as a cause nothing is known."""
    of_another = f"crm:1:7:{'0' * 32}"
    for cause, said in ((of_another, ": a receipt of another one, where `happened trace` takes it"), ("span-1", "")):
        found = Cause(3, "m-1", "input", "crm/Moved", START, "", {}, cause=cause)
        assert list(causes_as_text("Debtor c-1", [found]))[-1] == f"caused by `{cause}`, which is not in this log{said}"
