"""What the tests of this folder share: modules that are written for one test."""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

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
