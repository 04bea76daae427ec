"""`happened` as it is run, in the tests' own process: a command takes hundredths of a second so. That it can be started is shown by `tests/edge/test_cli_run.py`."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import pytest

from happened.edge.main import main


def run(folder: Path, *arguments: str, given: str = "") -> tuple[int, str, str]:
    """Run a command in a folder, whose modules are its own, and hand it some input; return exit code, output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(sys, "stdin", io.StringIO(given))
        importlib.invalidate_caches()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                code = main(list(arguments))
        except SystemExit as ended:  # as --help does
            code = int(ended.code or 0)
        finally:
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", None)).startswith(f"{folder}/"):
                    del sys.modules[name]
    return code, output.getvalue(), errors.getvalue()
