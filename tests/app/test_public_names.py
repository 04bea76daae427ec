"""The front door: every name is there, imported when it is first used, and tells what it is."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import pytest

import happened as h

Sku = Annotated[str, h.Tag("sku")]


class Counted(h.Event):
    sku: Sku


class Count(h.Command):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Counted) -> "Stock":
        return self.but(units=self.units + 1)


def weigh(sku: str) -> int:
    return 1


def count(command: Count, stock: Stock) -> Iterator[Counted]:
    yield Counted(command.sku)


shop = h.App("shop", deciders=[count], gateways=[h.Gateway(weigh, attempts_max=2)], views=[Stock])


def test_every_public_name_is_there() -> None:
    """Each is found, also by `dir`; another one is no attribute."""
    assert all(getattr(h, name) is not None for name in h.__all__)
    assert set(h.__all__) <= set(dir(h))
    with pytest.raises(AttributeError, match="has no `Apple`"):
        _ = h.Apple  # type: ignore[attr-defined]  # the mistake that is planted  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]


def test_the_version_is_that_of_the_distribution() -> None:
    """It is written down once, in pyproject.toml."""
    assert h.__version__ == importlib.metadata.version("happened")


def test_a_name_is_imported_when_it_is_used() -> None:
    """To import the package is quick; all names come with a star."""
    code = "import sys, happened; print('sqlite3' in sys.modules); from happened import *; print(App.__name__, 'sqlite3' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout.split() == ["False", "App", "True"]


def test_what_one_holds_tells_what_it_is() -> None:
    """At the prompt and in messages, without opening the source."""
    with shop.open() as running:
        view = running.view(Stock).where("units > ?", 1).order_by("-units")
        shown = [repr(shop), repr(running), repr(running.log), repr(view), repr(shop.gateways[0])]

    assert shown[0] == "<App shop: 1 deciders, 1 views>"
    assert shown[1] == "<Running shop on memory:>"
    assert shown[2].startswith("<Log ")
    assert "of shop, epoch 1" in shown[2]
    assert shown[3].startswith("<View Stock where ")
    assert shown[4] == "<Gateway weigh: 2 x 10 s>"
