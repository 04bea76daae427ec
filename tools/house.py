"""Measure the house: what tests/test_tidy.py forbids and what tools/gauges.py prints is counted here, once.

Everything is read from the source text; nothing of the package is imported.
A function that looks for something returns its findings, one for each place, so that a test can show them.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "happened"

DIRECTIVE = re.compile(r"#\s*(?:(?:type|pyright):\s*ignore(?:\[[^\]]*\])?|noqa(?::\s*[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*)?)")
"""A comment that silences a checker."""

PRIVATE = re.compile(r"_(?!_|(?:asdict|fields|make|replace)\b)\w*(?<!_)")
"""A private name; what named tuples and enums call `_replace` and `_value_` is public."""

DOING = re.compile(
    r"(ask|call|catch|check|choose|close|define|dispatch|find|fix|give|leave|list|look|make|mend|name|open|pass|raise|read|remove|restore"
    r"|retry|run|say|send|set|show|shorten|split|start|stop|take|try|update|use|wait|write)\b",
    re.IGNORECASE,
)
"""Verbs that tell a caller what to do about an error."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file, read once."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, str(self.path))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> dict[int, str]:
        """Comment by line number."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text."""
        return self.text.splitlines()

    @cached_property
    def name(self) -> str:
        """The dotted name that the module is imported by."""
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def reason(self, line: int) -> str:
        """Return what a comment on this line, or one that fills the line above, says beside silencing a checker."""
        own = self.comments.get(line, "")
        above = self.comments.get(line - 1, "") if line > 1 and self.lines[line - 2].lstrip().startswith("#") else ""
        return DIRECTIVE.sub("", own + above).strip("# \t—-")

    def at(self, line: int, text: str = "") -> str:
        """Return the place as a person would look it up."""
        return f"{self.path.relative_to(ROOT)}:{line}: {text or self.lines[line - 1].strip()}"


def modules(folder: Path = PACKAGE) -> list[Module]:
    """Read all modules under `folder`, in the order of their paths."""
    return [Module(path, path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))]


# --- classes


def classes(package: list[Module]) -> Iterator[tuple[Module, ast.ClassDef]]:
    """Go through all classes, nested and local ones too."""
    return ((module, node) for module in package for node in module.nodes if isinstance(node, ast.ClassDef))


def own_metaclasses(package: list[Module]) -> list[str]:
    """Find classes that are metaclasses, and classes that ask for one."""
    return [
        module.at(node.lineno)
        for module, node in classes(package)
        if any(keyword.arg == "metaclass" for keyword in node.keywords)
        or any((base := ast.unparse(base_node).rpartition(".")[2]) == "type" or base.endswith("Meta") for base_node in node.bases)
    ]


def subclass_hooks(package: list[Module]) -> list[str]:
    """Find `__init_subclass__`."""
    return [
        module.at(node.lineno)
        for module in package
        for node in module.nodes
        if isinstance(node, Function) and node.name == "__init_subclass__"
    ]


def depths(package: list[Module]) -> dict[str, int]:
    """Return how deep each class lies under classes of our own: 1 for one that inherits from none of them."""
    bases: dict[str, list[str]] = {}
    for module in package:
        known = imported_names(module) | {
            node.name: f"{module.name}.{node.name}" for node in module.nodes if isinstance(node, ast.ClassDef)
        }
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                bases[known[node.name]] = [resolved(base, known) for base in node.bases]

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in bases[name] if base in bases and base != name), default=0)

    return {name: depth(name) for name in bases}


def imported_names(module: Module) -> dict[str, str]:
    """Return the full name of each name that the module imports."""
    found = dict[str, str]()
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return found


def resolved(base: ast.expr, known: dict[str, str]) -> str:
    """Return the full name of a base class: `Store`, `messages.Event`, `View[Row]`."""
    name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
    first, dot, rest = name.partition(".")
    return known.get(first, first) + dot + rest


# --- what is private


def private_elsewhere(package: list[Module]) -> list[str]:
    """Find private names that are used outside of the module that defines them."""
    found = list[str]()
    for module in package:
        own = set(defined_names(module))
        for node in module.nodes:
            match node:
                case ast.Attribute(attr=name, value=ast.expr() as owner) if ast.unparse(owner) not in {"self", "cls"}:
                    names = [name]
                case ast.ImportFrom(names=aliases):
                    names = [alias.name for alias in aliases]
                case _:
                    continue
            found += [module.at(node.lineno) for name in names if PRIVATE.fullmatch(name) and name not in own]
    return found


def defined_names(module: Module) -> Iterator[str]:
    """Go through all names that a module gives to something: functions, classes, variables and attributes."""
    for node in module.nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                yield name
            case _:
                pass


# --- what needs a reason


def imports_inside_functions(package: list[Module]) -> list[tuple[Module, int]]:
    """Find imports that run when a function is called."""
    places = {
        (module, node.lineno)
        for module in package
        for function in module.nodes
        if isinstance(function, Function)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return sorted(places, key=lambda place: (place[0].path, place[1]))


def set_attributes(package: list[Module]) -> Iterator[tuple[Module, int]]:
    """Find `setattr(thing, ...)`, where the thing may be a class, and assignments to `cls`."""
    for module in package:
        for node in module.nodes:
            match node:
                case ast.Call(func=ast.Name(id="setattr"), args=[first, *_]) if ast.unparse(first) != "self":
                    yield module, node.lineno
                case ast.Attribute(value=ast.Name(id="cls"), ctx=ast.Store()):
                    yield module, node.lineno
                case _:
                    pass


def casts(package: list[Module]) -> Iterator[tuple[Module, int]]:
    """Find `cast(...)`."""
    for module in package:
        for node in module.nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"cast", "typing.cast"}:
                yield module, node.lineno


def anys(package: list[Module]) -> Iterator[tuple[Module, int]]:
    """Find `Any` where it is used, but not in a module whose import of it gives the reason for all."""
    for module in package:
        imports = [
            node.lineno
            for node in module.nodes
            if isinstance(node, ast.ImportFrom) and node.module == "typing" and any(alias.name == "Any" for alias in node.names)
        ]
        if not any(module.reason(line) for line in imports):
            for node in module.nodes:
                if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in {"Any", "typing.Any"}:
                    yield module, node.lineno


def silenced(package: list[Module]) -> Iterator[tuple[Module, int]]:
    """Find comments that silence a checker."""
    return ((module, line) for module in package for line, comment in module.comments.items() if DIRECTIVE.search(comment))


def without_reason(places: Iterable[tuple[Module, int]], mark: str = "") -> list[str]:
    """Keep the places where no comment gives a reason (after `mark`, where there is one)."""
    return sorted({module.at(line) for module, line in places if not re.search(rf"{mark}.*\w\w", module.reason(line))})


def todos(package: list[Module]) -> list[str]:
    """Find what is put off without the number of an issue."""
    put_off = re.compile(r"\b(TODO|FIXME|XXX)\b(?!.*#\d+)")
    return [module.at(line) for module in package for line, comment in module.comments.items() if put_off.search(comment)]


# --- sentences and names


def without_sentence(package: list[Module]) -> list[str]:
    """Find modules whose docstring does not open with a whole sentence."""
    return [
        module.at(1) for module in package if not re.match(r"[A-Z`].*?[.:!?](\s|$)", (ast.get_docstring(module.tree) or "").split("\n")[0])
    ]


def public_names(package: list[Module]) -> list[str]:
    """Return `happened.__all__`."""
    front = next((module for module in package if module.path == PACKAGE / "__init__.py"), None)
    for node in front.tree.body if front else []:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(map(str, ast.literal_eval(node.value)))
    return []


def errors(package: list[Module]) -> dict[str, str]:
    """Return the docstring of each error."""
    return {node.name: ast.get_docstring(node) or "" for module, node in classes(package) if module.path == PACKAGE / "core" / "errors.py"}


def says_what_to_do(docstring: str) -> bool:
    """Tell whether a sentence, or a part of one behind a semicolon, opens with what to do."""
    return any(DOING.match(part) for part in re.split(r"[.;:!?]\s+|\n\s*\n", docstring))


def seam_methods(package: list[Module]) -> list[str]:
    """Return the public methods that every store of the log must write."""
    for module, node in classes(package):
        if module.path == PACKAGE / "core" / "store.py" and node.name == "Store":
            return [part.name for part in node.body if isinstance(part, Function) and not part.name.startswith("_")]
    return []


# --- files


def real_tree() -> set[str]:
    """Return the paths of all modules, from the package's folder on."""
    return {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}


def drawn_tree(document: str) -> set[str]:
    """Return the paths of the modules in the tree that a document draws in a block that begins with `src/happened/`.

    Depth is two spaces; a folder ends with a slash; what follows a name is a remark, and so is a line that begins otherwise.
    """
    block = re.search(r"^```\w*\nsrc/happened/.*?\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    found = set[str]()
    folders: list[str] = []
    for line in block[1].splitlines() if block else []:
        entry = re.match(r"((?:  )+)(\w+/|\w+\.py)(\s|$)", line)
        if entry is None:
            continue
        folders = folders[: len(entry[1]) // 2 - 1]
        if entry[2].endswith("/"):
            folders.append(entry[2])
        elif entry[2] != "__init__.py":
            found.add("".join(folders) + entry[2])
    return found


def files_in_git() -> list[Path]:
    """Return all files that git has, or would take with `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in sorted(set(listed.split("\0")) - {""}) if (path := ROOT / name).is_file()]
