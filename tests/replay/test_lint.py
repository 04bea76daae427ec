"""What must come out the same each time is searched for what does not."""

import importlib
from pathlib import Path

import pytest

import happened as h
from happened.checking.lint import Linted, lint
from tests.replay.made import imported

HEAD = '''
"""An app whose code is looked at."""
import datetime as dt
import logging
import os
import random
import time as clock
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from time import time as now
from typing import Annotated
from uuid import uuid4
import happened as h

Sku = Annotated[str, h.Tag("sku")]
RATES = {"a": 1}
SEEN = []
COUNT = 0
LOG = logging.getLogger(__name__)
DICE = random.Random(3)

class Sold(h.Event):
    sku: Sku
    units: int = 0

    @property
    def amount(self) -> int:
        return AMOUNT

class Sell(h.Command):
    sku: Sku

def remember(sku: str) -> None:
    SEEN.append(sku)

def count() -> None:
    global COUNT
    COUNT += 1

def deep() -> float:
    return now()

def rate(sku: str) -> int:
    return int(clock.time())

class Stock(h.State):
    sku: Sku
    units: int = 0
    shops: frozenset[str] = frozenset()

    def evolve(self, event: Sold) -> "Stock":
        EVOLVE

def sell(command: Sell, stock: Stock, world: h.World) -> Iterator[Sold]:
    DECIDER

def react(event: Sold) -> Iterator[Sell]:
    REACTION

app = h.App("a", deciders=[sell], gateways=[rate], reactions=[react], views=[Stock])
'''

PLAIN = {
    "AMOUNT": "self.units",
    "EVOLVE": "return self.but(units=self.units + event.units)",
    "DECIDER": "yield Sold(command.sku, world.ask(rate, command.sku) + RATES['a'])",
    "REACTION": "yield from ()",
}


def linted(folder: Path, **code: str) -> Linted:
    """Write an app with this code in it, and lint it."""
    text = HEAD
    for place, plain in PLAIN.items():
        text = text.replace(place, code.get(place, plain))
    return lint(imported(folder, text).app)


def test_nothing_is_found_in_code_that_is_pure(tmp_path: Path) -> None:
    """Reading a table that nobody changes, asking a gateway, and adding numbers is fine."""
    found = linted(tmp_path)

    assert (found.findings, found.unresolved) == ((), ())
    assert found.functions == 3


def test_a_set_that_is_put_into_an_order_or_looked_through_for_none_is_fine(tmp_path: Path) -> None:
    """The order of its members makes nothing of it."""
    found = linted(
        tmp_path,
        DECIDER="for shop in sorted(stock.shops | {command.sku}):\n        yield Sold(shop, sum(len(one) for one in stock.shops))",
        EVOLVE="units = self.units\n        for shop in self.shops:\n            units += len(shop)\n        return self.but(units=units)",
    )

    assert found.findings == ()


@pytest.mark.parametrize(
    ("place", "code", "rule", "what"),
    [
        ("DECIDER", "yield Sold(command.sku, int(now()))", "clock", "now"),
        ("DECIDER", "yield Sold(command.sku, clock.time_ns())", "clock", "clock.time_ns"),
        ("DECIDER", "yield Sold(command.sku, datetime.now().year)", "clock", "datetime.now"),
        ("DECIDER", "yield Sold(command.sku, dt.date.today().year)", "clock", "dt.date.today"),
        ("DECIDER", "yield Sold(command.sku, int(deep()))", "clock", "now"),
        ("DECIDER", "import time\n    yield Sold(command.sku, int(time.time()))", "clock", "time.time"),
        ("DECIDER", "from datetime import datetime as d\n    yield Sold(command.sku, d.now().year)", "clock", "d.now"),
        ("DECIDER", "yield Sold(str(uuid4()))", "chance", "uuid4"),
        ("DECIDER", "yield Sold(command.sku, random.randint(1, 6))", "chance", "random.randint"),
        ("DECIDER", "yield Sold(command.sku, DICE.randint(1, 6))", "chance", "DICE.randint"),
        ("DECIDER", "yield Sold(command.sku, len(os.urandom(3)))", "chance", "os.urandom"),
        ("DECIDER", "yield Sold(os.environ['SKU'])", "environment", "os.environ"),
        ("DECIDER", "yield Sold(os.getenv('SKU') or '')", "environment", "os.getenv"),
        ("DECIDER", "yield Sold(Path('sku').read_text())", "files", "Path"),
        ("DECIDER", "yield Sold(open('sku').read())", "files", "open"),
        ("DECIDER", "print(command)\n    yield Sold(command.sku)", "files", "print"),
        ("DECIDER", "LOG.info('sold')\n    yield Sold(command.sku)", "files", "LOG.info"),
        ("DECIDER", "import urllib.request\n    yield Sold(str(urllib.request.urlopen('x')))", "network", "urllib.request.urlopen"),
        ("DECIDER", "import socket\n    yield Sold(str(socket.socket()))", "network", "socket.socket"),
        ("DECIDER", "yield Sold(command.sku, hash(command.sku))", "process", "hash"),
        ("DECIDER", "remember(command.sku)\n    yield Sold(command.sku)", "global state", "SEEN"),
        ("DECIDER", "yield Sold(command.sku, len(SEEN))", "global state", "SEEN"),
        ("DECIDER", "yield Sold(command.sku, COUNT)", "global state", "COUNT"),
        ("DECIDER", "RATES['b'] = 2\n    yield Sold(command.sku)", "global state", "RATES"),
        ("DECIDER", "yield Sold(command.sku, rate(command.sku))", "gateway", "rate(...)"),
        ("DECIDER", "yield Sold(command.sku, max([clock.time() for _ in 'ab']))", "clock", "clock.time"),
        ("DECIDER", "for sku in {command.sku, 'b'}:\n        yield Sold(sku)", "order of a set", "{command.sku, 'b'}"),
        ("DECIDER", "left = stock.shops - {'b'}\n    for shop in left:\n        yield Sold(shop)", "order of a set", "left"),
        ("DECIDER", "yield from (Sold(shop) for shop in stock.shops)", "order of a set", "stock.shops"),
        ("DECIDER", "yield Sold(','.join(stock.shops.union('b')))", "order of a set", "stock.shops.union('b')"),
        ("DECIDER", "yield Sold(tuple([shop for shop in stock.shops])[0])", "order of a set", "stock.shops"),
        ("EVOLVE", "return self.but(units=len(next(iter(self.shops))))", "order of a set", "self.shops"),
        ("EVOLVE", "return self.but(units=int(now()))", "clock", "now"),
        ("EVOLVE", "return self.but(unit=1)", "but", "but(unit=...)"),
        ("EVOLVE", "return self.but(sku='b')", "but", "but(sku=...)"),
        ("EVOLVE", "return self.but(units=event.amount)", "clock", "now"),
        ("REACTION", "yield Sell(str(uuid4()))", "chance", "uuid4"),
    ],
)
def test_what_does_not_come_out_the_same_is_found(tmp_path: Path, place: str, code: str, rule: str, what: str) -> None:
    """By what a name leads to: through other names, imports, helpers and properties."""
    found = linted(
        tmp_path,
        **{place: code.replace("\n    ", f"\n    {'    ' * (place == 'EVOLVE')}"), "AMOUNT": "int(now())" if "amount" in code else "1"},
    )

    [one] = found.findings
    assert (one.rule, one.what) == (rule, what)
    assert Path(one.file).parent == tmp_path
    assert what.split("(", maxsplit=1)[0] in Path(one.file).read_text(encoding="utf-8").splitlines()[one.line - 1]
    assert one.instead


def test_it_says_what_to_use_instead_where_it_is(tmp_path: Path) -> None:
    """A decider has the World; `evolve` has the event."""
    decider = linted(tmp_path / "a", DECIDER="yield Sold(command.sku, int(now()))").findings[0]
    evolve = linted(tmp_path / "b", EVOLVE="return self.but(units=int(now()))").findings[0]

    assert (decider.by, decider.instead) == ("decider sell", "ask the `World`: `world.now`")
    assert (evolve.by, evolve.instead) == (
        "Stock.evolve",
        "take the time from the event, or ask for `Recorded`: `record.time`, `record.occurred`",
    )


def test_a_name_that_leads_nowhere_is_listed(tmp_path: Path) -> None:
    """It is no finding, and is not passed over."""
    found = linted(tmp_path, DECIDER="yield Sold(nowhere(command.sku))")

    assert found.findings == ()
    assert [name.rpartition(".")[2] for name in found.unresolved] == ["nowhere"]


def test_upcasts_are_looked_at_too(tmp_path: Path) -> None:
    app = h.App("stock", records=[Sold2], upcasts=[h.Upcast("Sold", 1, by_clock)])
    found = lint(app)

    assert [(one.rule, one.by) for one in found.findings] == [("clock", f"upcast {__name__}.by_clock")]


@h.named("Sold", version=2)
class Sold2(h.Event):
    sku: str
    at: float


def by_clock(data: dict[str, object]) -> dict[str, object]:
    """Stand for an upcast that must not be."""
    return {**data, "at": _time()}


def _time() -> float:
    import time  # local: that it is found there, too

    return time.time()


@pytest.mark.parametrize("module", ["shop.model", "enrolment.model", "billing.model", "history.model", "exchange.reader"])
def test_nothing_is_found_in_the_examples(module: str) -> None:
    """They keep their own rules."""
    apps = [one for one in vars(importlib.import_module(f"examples.{module}")).values() if isinstance(one, h.App)]

    assert apps
    for app in apps:
        found = lint(app)
        assert (found.findings, found.unresolved) == ((), ())
