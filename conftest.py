"""Run the code of the documents and of the docstrings: what is shown works.

In a Markdown file each block marked `python` runs, as parts of one program, in a folder of its own; a block marked `py` is only shown.
In a docstring the lines behind `>>>` run.
"""

import os
import tempfile
from pathlib import Path
from typing import Any  # Any: a document's names are what its code makes

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

FOLDER = "folder of the document"
"""A name that no code can use."""


def enter_folder(names: dict[str, Any]) -> None:  # Any: see above
    """Let the document run as a program, where nobody else writes."""
    folder = tempfile.TemporaryDirectory()
    names |= {"__name__": "__main__", FOLDER: (folder, Path.cwd())}
    os.chdir(folder.name)


def leave_folder(names: dict[str, Any]) -> None:  # Any: see above
    """Go back, and take away what the document wrote."""
    folder, before = names[FOLDER]
    os.chdir(before)
    folder.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the blocks of a document together and in order, whatever the order of the tests is."""
    places = dict[Path, int]()
    keys = dict[pytest.Item, tuple[int, int]]()
    for place, item in enumerate(items):
        if isinstance(item, SybilItem):
            keys[item] = (places.setdefault(item.path, place), item.example.line)
        else:
            keys[item] = (place, 0)
    items.sort(key=keys.__getitem__)


documents = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"], setup=enter_folder, teardown=leave_folder)
docstrings = Sybil(parsers=[DocTestParser()], patterns=["src/**/*.py"])

pytest_collect_file = (documents + docstrings).pytest()
