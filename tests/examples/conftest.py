"""What the tests of the examples share: how an example is run, and where the real data is."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

REAL_DATA = ROOT.parent / "shared" / "data"

Run = Callable[..., subprocess.CompletedProcess[str]]
Real = Callable[[str], Path]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a module as a program of its own, as a person would, from the top of the repository."""

    def run_module(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)

    return run_module


@pytest.fixture(scope="session")
def real() -> Real:
    """Find a file of the real data, or say plainly that it isn't there: elsewhere the folder may be missing."""

    def real_file(name: str) -> Path:
        if not REAL_DATA.is_dir():
            pytest.skip(f"NOT RUN ON REAL DATA: the folder shared/data beside the repository, with {name}, is not there")
        return REAL_DATA / name

    return real_file
