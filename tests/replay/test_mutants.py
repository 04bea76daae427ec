"""Twenty changes of behaviour, put one by one into the shop's deciders and evolves: `check` finds each, and nothing in the code as it is."""

from pathlib import Path
from typing import NamedTuple

import pytest

import happened as h
from examples.shop import model
from happened.checking.decisions import decide_again
from happened.checking.views import fold_views_again, load_states_again
from happened.opening import beside, look_at_rows
from tests.replay.history import fill
from tests.replay.made import imported

SOURCE = Path(model.__file__).read_text(encoding="utf-8")


class Mutant(NamedTuple):
    """One change: what stands there, what is put in its place, and where that is to be seen."""

    old: str
    new: str
    found: str


MUTANTS = [
    Mutant("if command.units > bought.units:", "if command.units >= bought.units:", "cancel_line"),
    Mutant('raise h.Refused("more than was bought", bought=bought.units)', 'raise h.Refused("more than bought", bought=bought.units)', "cancel_line"),
    Mutant('"more than was bought", bought=bought.units', '"more than was bought", bought=command.units', "cancel_line"),
    Mutant("yield LineCancelled(command.customer, command.sku, command.units)", "yield LineCancelled(command.customer, command.sku, 1)", "cancel_line"),
    Mutant("if command.units > stock.units:", "if command.units > stock.units + 1:", "place_order"),
    Mutant("left=stock.units)", "left=str(stock.units))", "place_order"),
    Mutant("total = 2 * command.units + ", "total = 3 * command.units + ", "place_order"),
    Mutant("world.ask(freight, command.units)", "world.ask(freight, command.units + 1)", "place_order"),
    Mutant("command.sku, command.units, total, command.customer)", "command.sku, command.units, total)", "place_order"),
    Mutant("if reorder is None and stock.units < STOCK_MIN:", "if stock.units < STOCK_MIN:", "reorder_stock"),
    Mutant("    yield StockReordered(command.sku, command.units)", "    yield StockReordered(command.sku, 2 * command.units)", "reorder_stock"),
    Mutant('if order.standing == "placed":\n        yield', 'if order.standing != "paid":\n        yield', "cancel_unpaid"),
    Mutant("yield OrderCancelled(command.order, order.sku, order.units)", "yield OrderCancelled(command.order, order.sku, 0)", "cancel_unpaid"),
    Mutant("units=self.units + max(event.units, 0)", "units=self.units + event.units", "cancel_line"),
    Mutant("units=self.units - event.units)\n\n\nclass Stock(", "units=self.units)\n\n\nclass Stock(", "cancel_line"),
    Mutant("case StockReceived() | OrderCancelled():\n                return self.but(units=self.units + event.units)", "case StockReceived() | OrderCancelled():\n                return self.but(units=event.units)", "Stock"),
    Mutant("            case StockReceived():\n                return None", "            case StockReceived():\n                return self", "reorder_stock"),
    Mutant('standing="paid") if self.standing == "placed" else self', 'standing="paid")', "Order"),
    Mutant("revenue=self.revenue + event.amount)\n\n\nclass MonthRevenue", "revenue=self.revenue - event.amount)\n\n\nclass MonthRevenue", "CountryRevenue"),
    Mutant("self.but(asked=self.asked + 1)", "self.but(asked=self.asked + 2)", "Cancellations"),
    Mutant('f"{record.occurred.year}-{record.occurred.month:02}"', 'f"{record.time.year}-{record.time.month:02}"', "MonthRevenue"),
    Mutant("return self.units * self.price\n\n\nclass LineCredited", "return -self.units * self.price\n\n\nclass LineCredited", "ItemRevenue"),
]  # fmt: skip


def differing(url: str, folder: Path, text: str) -> set[str]:
    """Return where the log comes to something else by the code in a text: deciders, reactions, views, states."""
    code = imported(folder, text)
    with h.open_log(url) as log, look_at_rows(beside(url)) as there:
        checked = decide_again(code.shop, log)
        folded = fold_views_again(code.shop, log, there)
        folded += load_states_again(code.shop, log)
    assert checked.unchecked == {}
    assert checked.inputs > 15
    assert checked.runs >= 4
    assert all(not one.why and one.rows for one in folded)
    return {*checked.by_handler, *(one.name for one in folded if one.wrong)}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Record some days of the shop, as it is; return the URL of the log."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shop')}/shop.db"
    fill(url)
    return url


def test_nothing_is_found_in_the_code_as_it_is(url: str, tmp_path: Path) -> None:
    """Nor where only a comment, a name or the layout is another."""
    other = SOURCE.replace("    total = 2 * command.units + ", "    # what it costs\n    total = command.units * 2 + ")

    assert differing(url, tmp_path, SOURCE) == set()
    assert differing(url, tmp_path, other) == set()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{number}-{mutant.found}" for number, mutant in enumerate(MUTANTS, 1)])
def test_each_mutant_is_found(url: str, tmp_path: Path, mutant: Mutant) -> None:
    """Where it is to be seen, by deciding or by folding again."""
    assert SOURCE.count(mutant.old) == 1, "what is to be changed stands there once"

    assert mutant.found in differing(url, tmp_path, SOURCE.replace(mutant.old, mutant.new))


def test_there_are_twenty_of_them() -> None:
    """So many were promised."""
    assert len(MUTANTS) >= 20
