"""Write docs/reference/api.md from the source: one section for each public name, as its signature and docstring say.

`--check` writes nothing, and exits with 1 if the page is stale.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from inspect import cleandoc

from tools import house

PAGE = house.ROOT / "docs" / "reference" / "api.md"

GROUPS: dict[str, list[str]] = {
    "Data": ["Event", "Command", "Value", "State", "Tag", "Index", "Places", "Part", "Recorded", "Message", "Loose", "Later", "Replica"],
    "Names": ["named", "Position", "CallId", "Data"],
    "The outside": ["World", "Gateway"],
    "What would have been": ["Branch", "Change", "Drop", "Insert", "Answer", "Clock", "Difference"],
    "Wiring": ["App", "Decider", "Reaction", "Publication", "Projection", "Upcast", "UpcastEntry", "Retired"],
    "At work": ["Running", "Receipt", "View", "Rows", "Settled", "Held", "Past"],
    "What is seen": ["Flow"],
    "Care of a log": ["adopt", "erase", "Erasure", "copy_log", "export_log", "import_log"],
    "The log": ["open_log", "Log", "Record", "Boundary", "Query", "Item", "query"],
}
"""The order of the page. What the table does not name follows: errors under "Errors", the rest under "More"."""

NAMED_IN_SIGNATURES = {
    "Source": "happened.core.world",
    "Progress": "happened.log.log",
    "Verified": "happened.log.log",
    **dict.fromkeys(("Identity", "CameFrom"), "happened.log.log"),
    "Published": "happened.log.erasure",
    "Exported": "happened.log.portable",
    **dict.fromkeys(("Node", "Arrow", "Finding", "Times"), "happened.notification.flow"),
    **dict.fromkeys(("Story", "Line"), "happened.notification.story"),
    **dict.fromkeys(("Cause", "Read"), "happened.notification.why"),
}
"""Types that signatures name and nobody needs to import from `happened`, with where they are defined."""

NOT_MADE_BY_HAND = {"Running", "View", "Rows", "Log", "Receipt", "Record"}
"""Classes whose instances come from a call: their constructor is no business of a caller's."""

WITHIN = {
    *("Log.write_with", "Log.committed", "Log.condition", "Log.numbers", "Log.describe", "Log.written", "Log.receipt"),
    *("Held.note", "Held.text", "Held.makes_wait"),
}
"""Methods that other parts of the package call, and nobody else."""

INNER_BASES = {"Wiring"}
"""Classes that only split what is one class to its users."""

LINE_MAX = 100
"""Characters of a signature on one line: what a page shows without scrolling."""


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is stale")
    check = parser.parse_args().check

    page = written()

    if check and (not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page):
        print(f"{PAGE.relative_to(house.ROOT)} is stale: make reference", file=sys.stderr)
        return 1
    if not check:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
    return 0


def written() -> str:
    """Return the whole page."""
    package = {module.name: module for module in house.modules()}
    groups = grouped(house.public_names(list(package.values())), list(house.errors(list(package.values()))))
    table = ["| group | names |", "| --- | --- |"]
    table += [f"| {group} | {', '.join(f'[`{name}`](#{name.lower()})' for name in names)} |" for group, names in groups.items()]
    sections = [section(name, package) for names in groups.values() for name in names]
    sections += ["# Named in signatures", "These are not in `happened`: a type checker finds them, and a program rarely writes them."]
    sections += [section(name, package, home) for name, home in NAMED_IN_SIGNATURES.items()]
    return "\n\n".join(["# The public names", "Written by `make reference` from the docstrings.", "\n".join(table), *sections]) + "\n"


def grouped(names: list[str], errors: list[str]) -> dict[str, list[str]]:
    """Put the public names in the order of the page."""
    groups = {group: [name for name in order if name in names] for group, order in GROUPS.items()}
    placed = {name for order in groups.values() for name in order}
    groups["Errors"] = [name for name in errors if name in names]
    groups["More"] = [name for name in names if name not in placed and name not in errors]
    return {group: order for group, order in groups.items() if order}


def section(name: str, package: dict[str, house.Module], home: str = "happened") -> str:
    """Return the section of one name, with a smaller one for each method."""
    definition, docstring = found(name, package[home], package)
    parts = [f"## `{name}`", block(definition), shown(docstring)]
    if isinstance(definition, ast.ClassDef):
        for method in methods(definition):
            if f"{name}.{method.name}" in WITHIN:
                continue
            parts += [f"### `{name}.{method.name}`", block(method), shown(ast.get_docstring(method) or "")]
    return "\n\n".join(part for part in parts if part)


def block(node: ast.stmt) -> str:
    """Return a signature as a block that is shown, not run."""
    lines = [re.sub(r"'([^'\"\\]*)'", r'"\1"', line) for line in signature(node)]
    return "\n".join(["```py", *lines, "```"])


def found(name: str, module: house.Module, package: dict[str, house.Module]) -> tuple[ast.stmt, str]:
    """Return where a name is defined, and its docstring; imports are followed."""
    for node, after in zip(module.tree.body, [*module.tree.body[1:], None], strict=True):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=imports) if module.name == "happened":
                return found(name, house.Module(module.path, "\n".join(map(ast.unparse, imports))), package)
            case ast.ImportFrom(module=str(source)) if source in package:
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return found(alias.name, package[source], package)
            case ast.ClassDef() if node.name == name:
                return with_bases(node, module, package), ast.get_docstring(node) or ""
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name == name:
                return node, ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)) if target == name:
                match after:
                    case ast.Expr(value=ast.Constant(value=str(docstring))):
                        return node, cleandoc(docstring)
                    case _:
                        return node, ""
            case _:
                pass
    raise SystemExit(f"{name} is in happened.__all__, but {module.name} does not define it")


def with_bases(node: ast.ClassDef, module: house.Module, package: dict[str, house.Module]) -> ast.ClassDef:
    """Return a class with all that it has from bases that are no public names: to a reader there is one class."""
    public = house.public_names(list(package.values()))
    for base in list(node.bases):
        if isinstance(base, ast.Name) and base.id in INNER_BASES and base.id not in public:
            inherited, _ = found(base.id, module, package)
            assert isinstance(inherited, ast.ClassDef)
            node = ast.ClassDef(
                name=node.name,
                bases=[one for one in node.bases if one is not base] + inherited.bases,
                keywords=node.keywords,
                body=[*node.body, *inherited.body[1:]],  # the first is its docstring
                decorator_list=node.decorator_list,
            )
    return node


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Go through the public methods that have something to say."""
    return (part for part in node.body if isinstance(part, house.Function) and not part.name.startswith("_") and ast.get_docstring(part))


def signature(node: ast.stmt) -> Iterator[str]:
    """Give the lines of a signature: with fields for a class, without bodies."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from (
                f"@{text}" for each in node.decorator_list if (text := ast.unparse(each)) in {"property", "staticmethod", "classmethod"}
            )
            start = f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}def {node.name}"
            end = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield from folded(start, ast.unparse(node.args), end)
        case ast.ClassDef():
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"class {node.name}({bases})" if bases else f"class {node.name}"
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and not ast.unparse(part.target).startswith("_"):
                    yield "    " + ast.unparse(part)
                elif isinstance(part, ast.FunctionDef) and part.name == "__init__" and node.name not in NOT_MADE_BY_HAND:
                    yield from ("    " + line for line in signature(part))
        case _:
            yield ast.unparse(node)


def folded(start: str, arguments: str, end: str) -> list[str]:
    """Return a signature on one line, or with one argument a line where that is too long."""
    parts, depth, in_lambda = [""], 0, False
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        in_lambda = depth == 0 and (in_lambda or parts[-1].endswith("lambda")) and character != ":"
        parts += [""] if character == "," and depth == 0 and not in_lambda else []
        parts[-1] += character
    parts = [part.strip(" ,") for part in parts]
    parts = [re.sub(r"^(\w+: .*?)=(?!=)", r"\1 = ", part) for part in parts if not part.endswith(": Never")]  # what nobody can give
    line = f"{start}({', '.join(parts)}){end}"
    return [line] if len(line) <= LINE_MAX else [f"{start}(", *(f"    {part}," for part in parts), f"){end}"]


def shown(docstring: str) -> str:
    """Return a docstring as Markdown: its examples as blocks."""
    return re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", docstring, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
