"""What the tests of this folder share: modules that are written for one test."""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import happened as h
from tests.replay import bank

_NUMBERS = itertools.count()


def imported(folder: Path, text: str) -> ModuleType:
    """Write a module under a name of its own, and import it."""
    folder.mkdir(exist_ok=True)
    name = f"made_{next(_NUMBERS)}"
    path = folder / f"{name}.py"
    path.write_text(text.lstrip(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folded(running: h.Running) -> None:
    """Wait until every view has come to all that is recorded."""
    for state in running.app.views:
        running.view(state).rows(since=running.log.head)


def recorded(folder: Path) -> str:
    """Record a history of the bank; return the URL of its log."""
    url = f"sqlite:///{folder}/bank.db"
    with bank.app.open(url) as running:
        for account in ("a", "bb", "down"):
            running.record(bank.Opened(account, 100))
        for number, (account, cents) in enumerate([("a", 30), ("bb", 60), ("down", 1), ("a", 40), ("a", 50), ("bb", 10)]):
            try:
                running.dispatch(bank.Pay(account, cents), id=f"pay-{number}")
            except h.Refused:
                assert number == 4
            running.settled()
        running.outcome(running.enqueue(bank.Pay("down", 7), id="pay-6"))
        running.settled()
        folded(running)
    return url
