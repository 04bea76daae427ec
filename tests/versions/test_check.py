"""`happened check`: of every change of a shape it says whether what was recorded can be read, and what is lost."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest

import happened as h
from examples.shop.model import CustomerMoved, CustomerNo, LineSold, OrderNo, OrderPlaced, Sku, StockReceived
from happened.checking.ranges import readings_of
from happened.checking.reading import Readings, Verdict
from happened.core.tags import hints_of
from happened.edge.main import main
from tests.programs import p07_versions
from tests.versions import nested_once as before
from tests.versions import nested_today as after
from tests.versions import was

EVENTS: tuple[type[h.Event], ...] = (LineSold, StockReceived, OrderPlaced, CustomerMoved)


def of(report: Readings, name: str, version: int = 1) -> Verdict:
    """Return what is said of one name."""
    [found] = [one for one in report.names if (one.name, one.version) == (name, version)]
    return found


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def made(chance: random.Random) -> list[h.Event]:
    """Return events of the shop, in a seeded order."""
    found: list[h.Event] = []
    for number in range(200):
        sku, units = f"sku-{chance.randrange(9)}", chance.randrange(1, 90)
        customer = f"c-{chance.randrange(9)}" if chance.random() < 0.5 else None
        price = Decimal(chance.randrange(1, 9999)) / 100
        country = chance.choice(["France", "Spain"])
        given: dict[type[h.Event], Any] = {
            StockReceived: lambda sku=sku, units=units: StockReceived(sku, units),
            OrderPlaced: lambda n=number, s=sku, u=units, p=price, c=customer: OrderPlaced(f"o-{n}", s, u, p, c),
            CustomerMoved: lambda n=number, c=country: CustomerMoved(f"c-{n}", "Ann", "Mill Lane 5" if n % 3 else "Mill", c),
        }
        found.append(given[chance.choice(list(given))]())
    return found


def changed(
    cls: type[h.Event],
    *,
    without: Iterable[str] = (),
    types: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    defaults: Mapping[str, tuple[Any, Any]] | None = None,
    name: str = "",
    version: int = 1,
    doc: str = "Changed.",
    backwards: bool = False,
) -> Any:
    """Return an event class that has changed: fields taken out, of other types, and new, with and without a default."""
    hints: dict[str, Any] = {**_hints(cls), **(types or {}), **(more or {})}
    required: list[Any] = []
    optional: list[Any] = []
    for field, kind in hints.items():
        own = next((one for one in msgspec.structs.fields(cls) if one.name == field), None)
        if field in without:
            continue
        if own is not None and not own.required and field not in (types or {}):
            optional.append((field, kind, own.default))
        else:
            required.append((field, kind))
    optional += [(field, kind, default) for field, (kind, default) in (defaults or {}).items()]
    fields = [*(reversed(required) if backwards else required), *optional]
    found = msgspec.defstruct(name or cls.__name__, fields, bases=(h.Event,), frozen=True, gc=False, namespace={"__doc__": doc})
    return h.named(name or cls.__name__, version=version)(found)


def _hints(cls: type[h.Event]) -> dict[str, Any]:
    return {field.name: hints_of(cls)[field.name] for field in msgspec.structs.fields(cls)}


class Case(NamedTuple):
    """A change of one event, and what is to be said of it."""

    of: type[h.Event]
    today: Any
    upcasts: Iterable[h.UpcastEntry]
    verdict: str
    bad: Callable[[Any], bool] = lambda _: False
    """Which of the recorded events can't be read."""
    dropped: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()
    path: str = ""
    note: str = ""


def adding(field: str, value: Any) -> Callable[[h.Data], h.Data]:
    """Return an upcast that adds a field."""

    def add(old: h.Data) -> h.Data:
        return old | {field: value}

    return add


def with_house(old: h.Data) -> h.Data:
    street, house = str(old["street"]).rsplit(" ", 1)
    return {**old, "street": street, "house": house}


def in_two(old: h.Data) -> Iterable[tuple[str, h.Data]]:
    return [("StockReceived", {"sku": old["sku"], "units": 1}), ("StockReceived", old | {"units": old["units"] - 1})]


def everything(_: Any) -> bool:
    return True


def elsewhere(event: CustomerMoved) -> bool:
    return event.country != "France"


def many(event: StockReceived) -> bool:
    return event.units > 50


def at_the_counter(event: OrderPlaced) -> bool:
    return event.customer is None


def without_house(event: CustomerMoved) -> bool:
    return " " not in event.street


OLD_SHAPE = "changed without a new version: the log has the old shape"
CASES: dict[str, Case] = {
    "nothing": Case(OrderPlaced, OrderPlaced, (), "fine"),
    "docstring": Case(OrderPlaced, changed(OrderPlaced), (), "fine"),
    "order of fields": Case(CustomerMoved, changed(CustomerMoved, backwards=True), (), "fine"),
    "field dropped": Case(CustomerMoved, changed(CustomerMoved, without=["street"]), (), "risky", dropped=("street",), note=OLD_SHAPE),
    "field with a default": Case(
        StockReceived, changed(StockReceived, defaults={"shelf": (str, "")}), (), "risky", defaulted=("shelf",), note=OLD_SHAPE
    ),
    "field without a default": Case(
        StockReceived, changed(StockReceived, more={"shelf": str}), (), "impossible", everything, note=OLD_SHAPE
    ),
    "field renamed": Case(
        StockReceived,
        changed(StockReceived, without=["units"], more={"pieces": int}),
        (),
        "impossible",
        everything,
        ("units",),
        note=OLD_SHAPE,
    ),
    "field renamed, with a default": Case(
        StockReceived,
        changed(StockReceived, without=["units"], defaults={"pieces": (int, 0)}),
        (),
        "risky",
        dropped=("units",),
        defaulted=("pieces",),
        note=OLD_SHAPE,
    ),
    "number to text": Case(
        StockReceived, changed(StockReceived, types={"units": str}), (), "impossible", everything, path="units", note=OLD_SHAPE
    ),
    "number to float": Case(StockReceived, changed(StockReceived, types={"units": float}), (), "fine", note=OLD_SHAPE),
    "money to float": Case(
        OrderPlaced, changed(OrderPlaced, types={"total": float}), (), "impossible", everything, path="total", note=OLD_SHAPE
    ),
    "text to one of some": Case(
        CustomerMoved,
        changed(CustomerMoved, types={"country": Literal["France"]}),
        (),
        "impossible",
        elsewhere,
        path="country",
        note=OLD_SHAPE,
    ),
    "narrower number": Case(
        StockReceived,
        changed(StockReceived, types={"units": Annotated[int, msgspec.Meta(le=50)]}),
        (),
        "impossible",
        many,
        path="units",
        note=OLD_SHAPE,
    ),
    "optional to required": Case(
        OrderPlaced,
        changed(OrderPlaced, types={"customer": CustomerNo}),
        (),
        "impossible",
        at_the_counter,
        path="customer",
        note=OLD_SHAPE,
    ),
    "tag moved": Case(
        OrderPlaced, changed(OrderPlaced, types={"order": str}), (), "fine", note="changed without a new version: its tags lie elsewhere"
    ),
    "class renamed": Case(StockReceived, changed(StockReceived, name="StockCame"), (), "impossible", everything),
    "class renamed, with an upcast": Case(
        StockReceived, changed(StockReceived, name="StockCame", version=2), [h.Upcast("StockReceived", 1, to="StockCame")], "fine"
    ),
    "class gone": Case(StockReceived, None, (), "impossible", everything),
    "retired": Case(StockReceived, None, [h.Retired("StockReceived")], "fine", note="it is retired"),
    "new version": Case(StockReceived, changed(StockReceived, version=2, more={"shelf": str}), (), "impossible", everything),
    "new version, with an upcast": Case(
        StockReceived,
        changed(StockReceived, version=2, more={"shelf": str}),
        [h.Upcast("StockReceived", 1, adding("shelf", "a"))],
        "fine",
    ),
    "upcast of a wrong type": Case(
        StockReceived,
        changed(StockReceived, version=2, more={"shelf": str}),
        [h.Upcast("StockReceived", 1, adding("shelf", 7))],
        "impossible",
        everything,
        path="shelf",
    ),
    "upcast that leaves a field": Case(
        StockReceived,
        changed(StockReceived, version=2),
        [h.Upcast("StockReceived", 1, adding("shelf", "a"))],
        "risky",
        dropped=("shelf",),
    ),
    "upcast that fails for some": Case(
        CustomerMoved,
        changed(CustomerMoved, version=2, more={"house": str}),
        [h.Upcast("CustomerMoved", 1, with_house)],
        "impossible",
        without_house,
    ),
    "split": Case(StockReceived, changed(StockReceived, version=2), [h.Upcast("StockReceived", 1, in_two)], "fine"),
}


@pytest.mark.parametrize("change", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_each_change_of_an_event_gets_its_verdict(url: str, change: str, seed: int) -> None:
    """And the others are fine, with all positions that can't be read, the path of the field, and what is lost."""
    print("seed", seed)
    case = CASES[change]
    with h.App("shop", records=EVENTS).open(url) as running:
        running.record_all(made(random.Random(seed)))
        where = {record.position: record.body for record in running.log.read() if record.kind == "input"}
    assert len(where) == 200
    records = [case.today if cls is case.of else cls for cls in EVENTS if cls is not case.of or case.today is not None]

    report = readings_of(url, h.App("shop", records=records, upcasts=case.upcasts))

    said = of(report, case.of.__name__)
    bad = [position for position, body in where.items() if type(body) is case.of and case.bad(body)]
    assert said.verdict == case.verdict, said
    assert sorted(position for trouble in said.troubles for position in trouble.positions) == bad
    assert (said.bad, said.count) == (len(bad), sum(type(body) is case.of for body in where.values()))
    assert said.first == min(position for position, body in where.items() if type(body) is case.of)
    assert (tuple(said.dropped), tuple(said.defaulted)) == (case.dropped, case.defaulted)
    assert {trouble.path for trouble in said.troubles} <= {case.path}
    assert any(case.note in note for note in said.notes) if case.note else said.notes == []
    assert all(one.verdict == "fine" and not one.notes for one in report.names if one.name != case.of.__name__)
    assert report.readable == (case.verdict != "impossible")


def test_there_are_twenty_changes() -> None:
    """That many were asked for."""
    assert len(CASES) >= 20
    assert Sku is not OrderNo


def order() -> before.OrderPlaced:
    line = before.Line("widget", 2, before.Weight(500))
    return before.OrderPlaced("o-1", (line,), {"mum": line}, before.Card("4711"), (7, line))


def test_what_lies_inside_is_said_with_its_path(url: str) -> None:
    """Dropped, defaulted, of another version without an upcast, and where an upcast of a part fails."""
    with before.shop.open(url) as running:
        running.record(order())
        running.record(before.OrderPlaced("o-2", (), {}, before.Cash(1), (0, before.Line("nut", 0))))

    def heavy(old: h.Data) -> h.Data:
        return {"kilograms": 1 / (old["g"] - 500)}

    def checks(*upcasts: h.UpcastEntry) -> Verdict:
        return of(readings_of(url, h.App("shop", records=[after.OrderPlaced], upcasts=upcasts, ignores=["Take", "Moved"])), "OrderPlaced")

    grams = h.Upcast("Weight", 1, after.grams_in_all)
    lifted = checks(grams, h.Upcast("Weight", 2, after.kilograms), h.Upcast("Line", 1, after.dozens), h.Upcast("Card", 1, after.with_bank))
    failing = checks(grams, h.Upcast("Weight", 2, heavy), h.Upcast("Line", 1, after.dozens), h.Upcast("Card", 1, after.with_bank))
    alone = checks()

    assert (lifted.verdict, lifted.troubles) == ("fine", [])
    assert (failing.verdict, failing.bad, failing.troubles[0].positions) == ("impossible", 1, [failing.first])
    assert failing.troubles[0].path in ("lines[].weight", "gifts[...].weight", "first[].weight")
    assert "heavy" in failing.troubles[0].reason
    assert (alone.verdict, alone.bad) == ("impossible", 1)
    assert alone.troubles[0].path == "lines[].weight"
    assert set(alone.dropped) == {"lines[].weight.grams", "gifts[...].weight.grams", "first[].weight.grams"}
    assert alone.defaulted == []  # `paid.bank` has no default: what lacks it can't be read
    assert any("`Card` inside, at `paid`, is of version 1 and read as version 2" in note for note in alone.notes)


def test_facts_without_a_schema_are_looked_at_one_by_one(url: str) -> None:
    """What they hold is known of each by itself."""
    with h.open_log(url, create=True) as log:
        log.append([h.Loose("CustomerMoved", body) for body in _payloads()])

    said = of(readings_of(url, h.App("shop", records=[CustomerMoved])), "CustomerMoved")

    assert (said.verdict, said.count, said.bad) == ("impossible", 4, 1)
    assert [(trouble.path, trouble.positions) for trouble in said.troubles] == [("name", [said.first + 2])]
    assert (said.dropped, said.defaulted) == (["vat"], [])


def _payloads() -> list[dict[str, Any]]:
    good = {"customer": "c", "name": "Ann", "street": "", "country": "UK"}
    return [good, good | {"vat": 1}, good | {"name": None}, good]


def test_a_log_that_open_refuses_is_checked(url: str) -> None:
    """Also with hundreds of pages that have something bad, and names that nobody claims."""
    with h.App("shop", records=[p07_versions.StockTaken1, was.OrderViewed]).open(url) as running:
        running.record_all([p07_versions.StockTaken1("w", n) for n in range(3000)])
        running.record_all([was.OrderViewed(f"o-{n}") for n in range(100)])
    app = h.App(
        "shop", records=[changed(p07_versions.StockTaken1, types={"missing": Annotated[int, msgspec.Meta(lt=2990)]}, name="StockTaken")]
    )
    with pytest.raises(h.Incompatible):
        app.open(url, run=False)

    report = readings_of(url, app)

    assert (of(report, "StockTaken").bad, of(report, "StockTaken").count) == (10, 3000)
    assert of(report, "StockTaken").troubles[0].path == "missing"
    assert of(report, "StockTaken").last - of(report, "StockTaken").first == 2999
    assert (of(report, "OrderViewed").bad, of(report, "OrderViewed").verdict) == (100, "impossible")
    assert report.names[0].troubles[0].reason == "no class, upcast or retired name of this app claims it"


def test_inputs_are_read_too_and_a_newer_class_is_said_to_lack_an_upcast(url: str) -> None:
    """A command whose class has changed, beside events that have not; a name of which the code has an older class only."""

    class Take(h.Command):
        order: Annotated[str, h.Tag("order")]
        cents: int

    def take(command: Take) -> list[was.OrderViewed]:
        return [was.OrderViewed(command.order)]

    with h.App("shop", deciders=[take]).open(url) as running:
        receipts = [running.dispatch(Take(f"o-{n}", n)) for n in range(30)]

    @h.named("Take", version=2)
    class Taken(h.Command):
        order: Annotated[str, h.Tag("order")]
        euros: Decimal

    def take_again(command: Taken) -> list[was.OrderViewed]:
        return [was.OrderViewed(command.order)]

    def in_euros(old: h.Data) -> h.Data:
        return {"order": old["order"], "euros": str(Decimal(100) / old["cents"])}

    without = readings_of(url, h.App("shop", deciders=[take_again]))
    lifted = readings_of(url, h.App("shop", deciders=[take_again], upcasts=[h.Upcast("Take", 1, in_euros)]))

    assert of(without, "Take").troubles[0].reason == "its class has version 2, and no upcast leads there: add `Upcast('Take', 1, ...)`"
    assert of(without, "Take").bad == 30
    assert (of(lifted, "Take").what, of(lifted, "Take").bad) == ("command", 1)
    assert "ivisionByZero" in of(lifted, "Take").troubles[0].reason
    assert of(lifted, "Take").troubles[0].positions == [of(lifted, "Take").first] == [receipts[0].position - 1]
    assert (of(lifted, "OrderViewed").verdict, of(lifted, "OrderViewed").count) == ("fine", 30)


def test_the_command_tells_it_in_text_and_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Positions are capped in text, with how many are hidden; the exit code is 0 only where everything can be read."""
    with h.App("shop", records=[p07_versions.StockTaken1, was.OrderViewed]).open(url) as running:
        running.record_all([p07_versions.StockTaken1("w", n) for n in range(30)])
        running.record(was.OrderViewed("o-1"))

    assert main(["check", "tests.programs.p07_versions:shop", "--log", url]) == 0
    fine = capsys.readouterr().out
    assert main(["check", "--app", "tests.versions.nested_today:shop", "--log", url]) == 1
    bad = capsys.readouterr().out
    assert main(["check", "tests.versions.nested_today:shop", "--log", url, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert main(["check", "tests.programs.p01_bank:bank", "--log", url]) == 2

    assert "2 names: all can be read" in fine
    assert "it is retired" in fine
    assert "functions looked at" in fine
    assert "impossible" in bad
    assert "and 10 more (--show COUNT)" in bad
    assert told["readable"] is False
    assert {one["name"]: one["bad"] for one in told["names"]} == {"StockTaken": 30, "OrderViewed": 0}


def test_what_lint_finds_is_said_too_and_fails_nothing(tmp_path: Path) -> None:
    """The log can be read; `happened lint` has an exit code of its own."""
    (tmp_path / "shop.py").write_text(
        "import time\nimport happened as h\nclass Came(h.Event):\n    at: float\nclass Come(h.Command):\n    pass\n"
        "def come(command: Come) -> list[Came]:\n    return [Came(time.time())]\n"
        "app = h.App('shop', deciders=[come])\n"
        "if __name__ == '__main__':\n    with app.open('sqlite:///log.db') as running:\n        running.dispatch(Come())\n"
    )
    subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, check=True)

    done = subprocess.run(
        [sys.executable, "-m", "happened", "check", "shop:app", "--log", "sqlite:///log.db"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "2 names: all can be read" in done.stdout
    assert "time.time (clock)" in done.stdout


def test_it_says_which_snapshots_are_not_used(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And why; that is no failure: they are made anew."""
    code = (
        "import happened as h\nfrom typing import Annotated\nSku = Annotated[str, h.Tag('sku')]\nclass Came(h.Event):\n    sku: Sku\n"
        "class Stock(h.State):\n    sku: Sku\n    units: int = 0\n    def evolve(self, event: Came) -> 'Stock':\n"
        "        return self.but(units=self.units + 1)\nclass Seen(h.State):\n    sku: Sku\n    units: int = 0\n"
        "    def evolve(self, event: Came, stock: Stock) -> 'Seen':\n        return self.but(units=stock.units)\n"
        "app = h.App('shop', records=[Came], views=[Stock, Seen])\n"
    )
    (tmp_path / "then.py").write_text(code)
    (tmp_path / "now.py").write_text(code.replace("+ 1", "+ 2"))
    take = (
        "import then\nwith then.app.open('sqlite:///log.db') as running:\n    running.record_all([then.Came('a')] * 5)\n"
        "    running.catch_up()\n    for fold in running.app.snapped():\n        running.snapshots.take(fold, running.log.head)\n"
    )
    subprocess.run([sys.executable, "-c", take], cwd=tmp_path, check=True)

    done = [
        subprocess.run(
            [sys.executable, "-m", "happened", "check", f"{name}:app", "--log", "sqlite:///log.db"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in ("then", "now")
    ]

    assert "2 snapshots, 2 of them used" in done[0]
    assert "snapshot of Stock at position 7 is not used: it was made by other code" in done[1]
    assert "snapshot of Seen at position 7 is not used: it was made by other code" in done[1]  # since what it joins was
    assert "2 snapshots, 0 of them used" in done[1]


def test_a_look_from_outside_leaves_a_running_app_its_index(url: str) -> None:
    """A tool without classes, and a check with other code, read tags otherwise: the app goes on, and finds by its own tags."""
    write = h.App("shop", records=[before.Moved])
    with write.open(url) as running:
        running.record_all([before.Moved(f"sku-{n % 3}", f"shelf-{n}") for n in range(9)])
    with after.shop.open(url) as running:
        look = (
            "import happened as h, sys\n"
            "from happened.edge.main import main\n"
            f"with h.open_log({url!r}) as log:\n"
            "    assert len([one for one in log.read(h.query(sku='sku-1'))]) == 3, 'by the tags that were recorded'\n"
            "    assert not list(log.read(h.query(shelf='shelf-1')))\n"
            "    log.append(h.Loose('Moved', {'sku': 'sku-1', 'shelf': 'shelf-10'}, tags=(('sku', 'sku-1'),)), id='by-hand')\n"
            f"main(['check', 'tests.versions.nested_once:shop', '--log', {url!r}])\n"
            f"main(['check', '--fold', 'tests.versions.nested_once:shop', '--log', {url!r}])\n"
        )
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "not compared: the index was made by code that reads tags otherwise" in done.stdout

        running.record(after.Moved("sku-1", "shelf-11"))
        assert [len(list(running.log.read(h.query(shelf=f"shelf-{n}")))) for n in (1, 10, 11)] == [1, 1, 1]
        assert running.state(after.OnShelf, "shelf-10") == after.OnShelf("shelf-10", 1)


def test_check_fold_reads_tags_as_the_app_does(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """States whose tags only an upcast makes are loaded by the index, and equal to a scan."""
    with h.App("shop", records=[before.Moved]).open(url) as running:
        running.record_all([before.Moved(f"sku-{n % 3}", f"shelf-{n % 2}") for n in range(9)])
    with after.shop.open(url) as running:
        assert len(running.view(after.OnShelf).rows(since=running.log.head)) == 2

    assert main(["check", "--fold", "tests.versions.nested_today:shop", "--log", url]) == 0
    assert "view OnShelf: 2 rows equal" in capsys.readouterr().out
