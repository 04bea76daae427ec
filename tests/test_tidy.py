"""The house stays tidy: the rules of ours that no linter knows.

Each test shows all places that break its rule. How they are found stands in tools/house.py.
"""

import re
from collections.abc import Iterable

import pytest

from tools import house

PACKAGE = house.modules()
OURS = PACKAGE + [module for folder in ("tests", "examples", "tools", "benchmarks") for module in house.modules(house.ROOT / folder)]

PATTERNS = {
    "notification": "Event notification",
    "transfer": "Event-carried state transfer",
    "sourcing": "Event sourcing",
    "cqrs": "CQRS",
}
FILE_BYTES_MAX = 1_000_000
MACHINE = re.compile(
    r"""(?<![\w.~$}/-])/(work|farm|home|root|Users)/|\b(?:files\.)?python(?:hosted)\.org|\bpypi\.org|registry\.npm(?:js)\."""
)
"""A path that one machine has, or the host of a package registry."""


def text(name: str) -> str:
    """Return the text of a file of the project; a missing one is empty."""
    path = house.ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def nothing(found: Iterable[str]) -> None:
    """Fail if something was found, and show all of it."""
    places = sorted(found)
    assert not places, "\n" + "\n".join(places)


# --- code


def test_every_module_opens_with_a_sentence() -> None:
    """A reader learns from the first line what a file is for."""
    nothing(house.without_sentence(OURS))


def test_no_metaclass_is_ours() -> None:
    """What a class does is written in it."""
    nothing(house.own_metaclasses(PACKAGE))


def test_no_class_changes_its_subclasses() -> None:
    """Inheriting from a class of ours runs no code."""
    nothing(house.subclass_hooks(PACKAGE))


def test_no_class_is_deeper_than_two() -> None:
    """A class and what it is a kind of: nobody has to climb further."""
    nothing(f"{name}: {depth}" for name, depth in house.depths(PACKAGE).items() if depth > 2)


def test_what_is_private_stays_in_its_module() -> None:
    """A name that begins with `_` may change without a look at other files."""
    nothing(house.private_elsewhere(PACKAGE))


def test_attributes_are_set_from_outside_for_a_reason() -> None:
    """A class stays as it was written; the one decorator that marks it says so."""
    nothing(house.without_reason(house.set_attributes(PACKAGE)))


def test_a_lazy_import_says_why() -> None:
    """An import inside a function has `# lazy: ...` with its reason."""
    nothing(house.without_reason(house.imports_inside_functions(PACKAGE), mark="lazy:"))


def test_every_cast_has_a_reason() -> None:
    """Who overrules the checkers says why, on the line or above it."""
    nothing(house.without_reason(house.casts(OURS)))


def test_every_any_has_a_reason() -> None:
    """`Any` stands only where data can have any type, and says why: on the line, above it, or for the whole module on the import."""
    nothing(house.without_reason(house.anys(PACKAGE)))


def test_every_silenced_checker_has_a_reason() -> None:
    """A `noqa` or an `ignore` says why, on the line or above it."""
    nothing(house.without_reason(house.silenced(OURS)))


def test_what_is_put_off_has_an_issue() -> None:
    """A note to do something later names its issue, as in `#12`."""
    nothing(house.todos(OURS))


def test_no_parameter_of_sql_has_a_number() -> None:
    """Python 3.12.0 to 3.12.3 warns of `?1` where a sequence is bound."""
    nothing(
        f"{path.relative_to(house.ROOT)}:{number}: {line.strip()}"
        for path in house.PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\?[0-9]", line)
    )


@pytest.mark.parametrize("chapter", sorted(PATTERNS))
def test_a_chapter_opens_with_its_pattern(chapter: str) -> None:
    """The folder of a pattern says which one it is."""
    folder = house.PACKAGE / chapter

    opening = text(f"src/happened/{chapter}/__init__.py")

    assert not folder.exists() or opening.startswith(f'"""{PATTERNS[chapter]}')


# --- documents


def test_every_public_name_is_documented() -> None:
    """Each name in `happened.__all__` has a section or a mention in the reference, and so has every error."""
    reference = "\n".join(path.read_text(encoding="utf-8") for path in sorted((house.ROOT / "docs" / "reference").glob("*.md")))
    names = {*house.public_names(PACKAGE), *house.errors(PACKAGE)}

    assert names
    nothing(name for name in names if not re.search(rf"^#+ .*\b{name}\b|`{name}\b[^`]*`", reference, re.MULTILINE))


def test_every_error_says_what_to_do() -> None:
    """An error's docstring has a sentence that tells the caller what to do now."""
    errors = house.errors(PACKAGE)

    assert errors
    nothing(name for name, docstring in errors.items() if not house.says_what_to_do(docstring))


def test_the_drawn_tree_is_the_real_one() -> None:
    """ARCHITECTURE.md shows every file there is, and none that is not."""
    drawn, real = house.drawn_tree(text("ARCHITECTURE.md")), house.real_tree()

    nothing([f"not drawn: {path}" for path in real - drawn] + [f"not there: {path}" for path in drawn - real])


# --- files


def test_no_file_is_large() -> None:
    """Data is fetched or made, not committed."""
    nothing(str(path.relative_to(house.ROOT)) for path in house.files_in_git() if path.stat().st_size > FILE_BYTES_MAX)


def test_no_file_knows_a_machine() -> None:
    """A clone works anywhere: no absolute path of a machine, no host of a package registry."""
    nothing(
        f"{path.relative_to(house.ROOT)}:{number}: {line.strip()}"
        for path in house.files_in_git()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if MACHINE.search(line)
    )
