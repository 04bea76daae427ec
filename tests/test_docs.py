"""The documents are true: links lead somewhere, tests that are named exist, and pages that are written from the code are fresh.

That their code runs as it is read is the business of conftest.py; here it is put into one file.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tools import house

PAGES = sorted([*house.ROOT.glob("*.md"), *(house.ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(```+).*?^\1$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DECISIONS = house.ROOT / "docs" / "decisions"
GUARANTEES = house.ROOT / "docs" / "guarantees.md"
PAGE_LINES_MAX = 60
"""What a decision may have: a page."""


def prose(page: Path) -> str:
    """Return what a page says outside of its code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Give text and target of each link to a place in the project."""
    for found in LINK.finditer(prose(page)):
        if not re.match(r"[a-z]+:", found[2]):
            yield found[1], unquote(found[2])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made on the web."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_public_name_has_its_group() -> None:
    """The reference has no heap of names that nobody has put in order."""
    reference = (house.ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")

    assert "| More |" not in reference


def test_the_reference_describes_each_name_once() -> None:
    """A name in two groups would have two headings, and one anchor."""
    reference = (house.ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^## (.+)$", reference, re.MULTILINE)

    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(house.ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A link names a file that is there, and a heading in it."""
    broken = list[str]()
    for _, target in links(page):
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists() or not place.is_relative_to(house.ROOT) or (anchor and anchor not in anchors(place)):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if CODE.search(page.read_text(encoding="utf-8"))], ids=lambda page: str(page.relative_to(house.ROOT))
)
def test_a_page_can_be_followed_in_one_file_and_run_again(page: Path, tmp_path: Path) -> None:
    """Who puts the blocks of a page into a file can run it as often as they like: ids, not luck, make things count once."""
    (tmp_path / "followed.py").write_text("\n".join(CODE.findall(page.read_text(encoding="utf-8"))), encoding="utf-8")

    for _ in range(2):
        done = subprocess.run([sys.executable, "followed.py"], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_every_page_is_reached_from_the_readme() -> None:
    """A reader who follows links from the README finds every page."""
    reached, ahead = set[Path](), [house.ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        found = {
            (page.parent / target.partition("#")[0]).resolve() for _, target in links(page) if target.partition("#")[0].endswith(".md")
        }
        ahead += found - reached

    assert set(PAGES) - reached == set()


def test_every_test_that_guarantees_name_exists() -> None:
    """A promise is linked to the test that shows it: by its name, in its file."""
    named = [(text.strip("`"), target) for text, target in links(GUARANTEES) if text.startswith("`test_")]
    missing = [
        f"{name} in {target}"
        for name, target in named
        if not re.search(rf"^\s*(?:async )?def {name}\(", (GUARANTEES.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
    ]

    assert named
    assert missing == []


def test_every_test_in_guarantees_is_a_link() -> None:
    """A name without a link could be the name of nothing."""
    unlinked = re.findall(r"(?<!\[)`test_\w+`", prose(GUARANTEES))

    assert unlinked == []


def test_decisions_are_short_dated_and_listed() -> None:
    """A decision fits a page, says when it was made, and stands in the list."""
    listed = {target for _, target in links(DECISIONS / "README.md")}

    for page in sorted(DECISIONS.glob("[0-9]*.md")):
        lines = page.read_text(encoding="utf-8").splitlines()
        assert page.name in listed, page.name
        assert len(lines) <= PAGE_LINES_MAX, page.name
        assert re.match(rf"# {page.name[:4]}: \S", lines[0]), page.name
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", lines[2]), page.name
        assert "## Refused" in lines, page.name
