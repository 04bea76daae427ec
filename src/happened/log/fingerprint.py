"""Fingerprints: a short text that changes when code may mean something else.

A view's table, a snapshot and the header of a command carry the fingerprint of the code that made them; where today's differs, what is derived is made anew.
A fingerprint only invalidates. It is no proof that two codes mean the same: random keys are folded again for that.

What counts is what the code names, as far as the project reaches: functions and classes by their syntax trees without docstrings, line numbers and formatting
(an annotation counts the same with and without quotes); constants, defaults, values in closures and arguments of `partial` by value, as they are when the
fingerprint is taken. The order of a set does not count, that of a dict does. Where a function lives does not count, so a script and the module that it is agree.

Code of others counts by name and version of its distribution, and so does `happened` itself: a release says when it changes. What lies in a folder of installed
packages belongs to others, an editable install to the project, and so does the top-level package of whatever the fingerprint is asked of: an app that is
deployed as a wheel may never change its version. The version of Python does not count: its library keeps its meaning from release to release, and else
every view would be built anew after an upgrade, and two processes on two versions could not share one.

What can't be resolved is listed and not guessed: objects with a life (a lock, a client), names that are not there yet, what a function imports when it runs. So is code
without a source (a plain shell, `exec`): there the bytecode counts, which also differs between versions of Python. Calls on objects (`self.lines.total()`)
are found by the annotations that name their classes, not by types. Source is read when the fingerprint is taken, so take it when the app is made:
an edit between import and fingerprint is noticed only where it moves the lines.

Cost: parsing each source file once (10 ms for 1,000 lines), then a fraction of a millisecond for a function.
"""

import ast
import builtins
import collections
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import linecache
import logging
import operator
import os
import re
import stat
import sys
import sysconfig
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from happened.core.annotations import unwrapped

DIGEST_CHARS = 16
"""64 bits. A fingerprint is compared with a few others of the same code, nobody gains by forging one, and a thousand differ but for 1 chance in 10^13."""


class Fingerprint(msgspec.Struct, frozen=True):
    """The digest of code and all it names, and the dotted names in it that could not be resolved, sorted: changes there go unnoticed."""

    digest: str
    unresolved: tuple[str, ...] = ()


def fingerprint_of(thing: Callable[..., object] | type, *more: object) -> Fingerprint:
    """Return the fingerprint of a function, a class or a `partial`, together with more of them, or with data, in this order.

    A method brings its class. Equal in all processes that run the same code, whatever the hash seed and the folder.
    """
    roots = (thing, *more)
    walk = _Walk(roots)
    lines = [*(walk.text(root, label_of(root)) for root in roots), *walk.lines()]
    lines += sorted(walk.releases)
    return Fingerprint(hashlib.sha256("\n".join(lines).encode()).hexdigest()[:DIGEST_CHARS], tuple(sorted(walk.unresolved)))


Chain = tuple[str, ...]
"""A name and the attributes after it: `prices.price` is `("prices", "price")`."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

EXACT = (
    *(bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, range),
    *(datetime, date, time, timedelta, timezone, ZoneInfo),  # `datetime` before `date`, which it is a kind of, as `bool` before `int`
    *(Decimal, Fraction, UUID, PurePath, operator.itemgetter, operator.attrgetter, operator.methodcaller),
)
"""Types of plain values whose `repr` says all, and the same in every process."""

PROJECT = ""
PYTHON = "python"
HAPPENED = "happened"
"""Places that code comes from; any other place is the top-level name of an installed package."""

PACKAGE = Path(__file__).parents[1]
LIBRARY = {Path(os.__file__).parent, Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"))}


class _Scope(NamedTuple):
    """Where names are looked up: closure, then module; then come the builtins. Labels tell people where something unresolved stands."""

    cells: Mapping[str, object]
    names: Mapping[str, object]
    label: str
    module: str


class _Walk:
    """One walk over all that some roots name. What is met is numbered in the order it is met: so rings end, and the names of modules don't count."""

    def __init__(self, roots: Iterable[object] = ()) -> None:
        self.unresolved: set[str] = set()
        self.releases: set[str] = set()
        self._own = {place_of(root if isinstance(root, type) else unwrapped(root)) for root in roots if callable(root)} - {
            PYTHON,
            HAPPENED,
        }
        self._met: list[FunctionType | type] = []
        self._numbers: dict[int, int] = {}
        self._inside: set[int] = set()

    def lines(self) -> Iterator[str]:
        """Read what was met, and what is met by reading it."""
        for number, thing in enumerate(self._met):  # the list grows meanwhile
            for line in self._class(thing) if isinstance(thing, type) else self._function(thing):
                yield f"#{number} {line}"

    def text(self, value: object, label: str) -> str:
        """Return a value as text that is equal in every process; functions and classes of the project are met."""
        kind = type(value)
        if kind in EXACT:
            return f"{kind.__name__} {value!r}"
        if any("__class__" in vars(base) for base in kind.__mro__[:-1]):  # a stand-in: `isinstance` would run its code
            return self._unknown(kind, label)
        if isinstance(value, FunctionType | type):
            return self._reference(value)
        if id(value) in self._inside:
            return "itself"
        self._inside.add(id(value))
        try:
            return self._data(value, label) or self._typing(value, label) or self._callable(value, label) or self._unknown(kind, label)
        finally:
            self._inside.remove(id(value))

    # --- values

    def _texts(self, values: Iterable[object], label: str) -> str:
        return ", ".join([self.text(value, label) for value in values])

    def _data(self, value: object, label: str) -> str:
        kind = self.text(type(value), label)
        fields = _fields(type(value))
        if isinstance(value, enum.Enum):
            return f"{kind}.{value.name}"
        if isinstance(value, set | frozenset):
            members = cast("Iterable[object]", value)  # cast: `isinstance` says nothing of the members, here and below
            return f"{kind}{{{self._texts(sorted(members, key=_rank), label)}}}"
        if isinstance(value, tuple | list | collections.deque):
            return f"{kind}[{self._texts(cast('Iterable[object]', value), label)}]"  # cast: see above
        if isinstance(value, dict | types.MappingProxyType):
            items = cast("Mapping[object, object]", value).items()  # cast: see above
            factory = value.default_factory if isinstance(value, collections.defaultdict) else None
            return f"{kind}{{{self._texts([one for item in items for one in item], label)}}}{self.text(factory, label)}"
        if isinstance(value, re.Pattern):
            pattern = cast("re.Pattern[str]", value)  # cast: of text or of bytes, `repr` says which
            return f"{kind} {pattern.pattern!r} {pattern.flags}"
        if isinstance(value, logging.Logger):
            return f"{kind} {value.name}"
        if fields is not None:
            return f"{kind}({', '.join([self.text(getattr(value, field, None), f'{label}.{field}') for field in fields])})"
        exact = next((base for base in EXACT if isinstance(value, base)), None)
        return "" if exact is None else f"{kind} {vars(exact)['__repr__'](value)}"  # a subclass may print itself in its own way

    def _typing(self, value: object, label: str) -> str:
        origin = typing.get_origin(value)
        if origin is not None:
            return f"{self.text(origin, label)}[{self._texts(typing.get_args(value), label)}]"
        if type(value).__module__ not in {"typing", "typing_extensions"}:
            return ""
        inner = [getattr(value, name, None) for name in ("__supertype__", "__bound__", "__constraints__", "__value__", "__forward_arg__")]
        return f"{type(value).__name__} {getattr(value, '__name__', None)} {self._texts(inner, label)}"

    def _callable(self, value: object, label: str) -> str:
        match value:
            case ModuleType():
                return self._module(value)
            case functools.partial():
                named = sorted(value.keywords.items())
                return f"partial({self._texts([value.func, *value.args, *(one for pair in named for one in pair)], label)})"
            case MethodType():
                return f"method({self._texts([value.__func__, value.__self__], label)})"
            case types.BuiltinFunctionType() if value.__self__ is None or isinstance(value.__self__, ModuleType):
                return self._elsewhere(value, label)
            case types.BuiltinFunctionType() | types.MethodWrapperType():
                return f"{value.__name__} of {self.text(value.__self__, label)}"
            case types.MethodDescriptorType() | types.WrapperDescriptorType() | types.ClassMethodDescriptorType():
                return f"{value.__name__} of {self.text(value.__objclass__, label)}"
            case _:
                functions = functions_in(value)
                if functions and place_of(type(value)) != PYTHON:  # a decorator that is a class may hold more
                    self.unresolved.add(label)
                return self._texts([type(value), *functions], label) if functions else ""

    def _unknown(self, kind: type, label: str) -> str:
        self.unresolved.add(label)
        return f"object {self._reference(kind)}"

    # --- code

    def _is_own(self, place: str) -> bool:
        return place == PROJECT or place in self._own

    def _reference(self, thing: FunctionType | type) -> str:
        if not self._is_own(place_of(thing)) and (isinstance(thing, type) or not _held(thing)):
            return self._elsewhere(thing, label_of(thing))
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self._met)
            self._met.append(thing)
        return f"#{self._numbers[id(thing)]} {thing.__qualname__}"

    def _elsewhere(self, thing: FunctionType | types.BuiltinFunctionType | type, label: str) -> str:
        place = place_of(thing)
        if self._is_own(place):  # compiled, for example
            self.unresolved.add(label)
        if isinstance(thing, FunctionType):  # its own name may be that of what it wraps
            return f"{self._release(place)} {thing.__globals__.get('__name__')}.{thing.__code__.co_qualname}"
        return f"{self._release(place)} {thing.__module__}.{thing.__qualname__}"

    def _release(self, place: str) -> str:
        if not self._is_own(place) and place != PYTHON:
            releases = _releases_of(place)
            self.releases.update(releases)
            if not releases:
                self.unresolved.add(place)
        return place

    def _module(self, module: ModuleType) -> str:
        place = _place_of_module(module.__name__)
        if self._is_own(place):
            self.unresolved.add(module.__name__)
        return f"module {self._release(place)} {module.__name__}"

    def _function(self, function: FunctionType) -> Iterator[str]:
        label = label_of(function)
        if not self._is_own(place_of(function)):
            yield self._elsewhere(function, label)
            yield self._texts(_held(function), label)
            return
        scope = _Scope(cells_of(function), function.__globals__, label, function.__module__)
        node, cls = node_of(function), class_of(function)
        if node is not None:
            yield _written(node).text
            yield from self._names(_written(node), scope, function)
            yield from self._named_all(_written(node).outside if cls is None else (), scope)
        else:
            self.unresolved.add(label)
            yield from self._compiled(function, scope)
        yield from self._given(function, label)
        yield self.text(cls, label)

    def _names(self, written: "_Written", scope: _Scope, thing: FunctionType | type) -> Iterator[str]:
        yield from self._named_all(written.names, scope)
        found = {chain: self._named(chain, scope) for chain in written.annotations}
        yield from (line for line in found.values() if line is not None)
        missing = {chain[0] for chain, line in found.items() if line is None}
        if missing:  # local classes: where an annotation is not text, it has them itself
            hints = _hints(thing).values()
            yield self._texts([hint for hint in hints if not isinstance(hint, str)], scope.label)
            missing &= {word for hint in hints if isinstance(hint, str) for word in re.findall(r"\w+", hint)}
            self.unresolved.update(f"{scope.label}.{name}" for name in missing)
        for module, name in written.imports:
            if self._is_own(self._release(_place_of_module(module) if module else PROJECT)):
                self.unresolved.add(f"{scope.label}.{name}")

    def _named_all(self, chains: Iterable[Chain], scope: _Scope) -> Iterator[str]:
        for chain in chains:
            line = self._named(chain, scope)
            if line is None:
                self.unresolved.add(f"{scope.label}.{chain[0]}")
            else:
                yield line

    def _named(self, chain: Chain, scope: _Scope) -> str | None:
        """Return what a chain of names leads to, as far as it goes through modules of the project; `None` where its first name is nowhere."""
        first, *rest = chain
        if first in scope.cells:
            value, label = scope.cells[first], f"{scope.label}.{first}"
        elif (first.startswith("__") and first.endswith("__")) or (first not in scope.names and first in vars(builtins)):
            return ""
        elif first in scope.names:
            value, label = scope.names[first], f"{scope.module}.{first}"
        else:
            return None
        for attribute in rest:
            if type(value) is not ModuleType or not self._is_own(_place_of_module(value.__name__)):
                break
            label = f"{value.__name__}.{attribute}"
            if attribute not in vars(value):
                self.unresolved.add(label)
                return ""
            value = vars(value)[attribute]
        return f"{'.'.join(chain)} = {self.text(value, label)}"

    def _given(self, function: FunctionType, label: str) -> Iterator[str]:
        code = function.__code__
        positional = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        given = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True)) | (function.__kwdefaults__ or {})
        yield from (f"{name} = {self.text(value, f'{label}.{name}')}" for name, value in given.items())

    def _compiled(self, function: FunctionType, scope: _Scope) -> Iterator[str]:
        names = dict.fromkeys(name for code in _codes(function.__code__) for name in (*code.co_names, *code.co_freevars))
        for code in _codes(function.__code__):
            consts = [const for const in code.co_consts if not isinstance(const, CodeType) and const != function.__doc__]
            yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {self._texts(consts, scope.label)}"
        known = {**scope.names, **scope.cells}
        for name in names:
            value = known.get(name)
            attributes = vars(value) if type(value) is ModuleType else {}
            chains: list[Chain] = [(name, attribute) for attribute in names if attribute in attributes] or [(name,)]
            yield from (self._named(chain, scope) or "" for chain in chains)

    def _class(self, cls: type) -> Iterator[str]:
        label = label_of(cls)
        yield self._texts((type(cls), *cls.__bases__), label)
        node = _class_node(cls)
        if node is None:
            self.unresolved.add(label)
            yield from self._made(cls, label)
            return
        cells: dict[str, object] = {cls.__name__: cls}
        functions = {stmt: functions_in(vars(cls).get(stmt.name)) for stmt in node.body if isinstance(stmt, Function)}
        for function in [function for found in functions.values() for function in found]:
            cells |= cells_of(function)
        module = sys.modules.get(cls.__module__)
        scope = _Scope(cells, vars(module) if module is not None else {}, label, cls.__module__)
        yield _written(node).text
        yield from self._named_all(_written(node).outside, scope)
        yield from self._names(_written(node), scope, cls)
        for stmt, found in functions.items():
            own = [function for function in found if node_of(function) is stmt]
            yield self._texts([function for function in found if node_of(function) not in functions], label)
            for function in own:
                inner = _Scope(cells | cells_of(function), function.__globals__, label_of(function), function.__module__)
                yield from self._names(_written(stmt), inner, function)
                yield from self._given(function, inner.label)
            if not found:
                yield from self._names(_written(stmt), scope, cls)
        yield self._texts([vars(cls).get(stmt.name) for stmt in node.body if isinstance(stmt, ast.ClassDef)], label)

    def _made(self, cls: type[object], label: str) -> Iterator[str]:
        yield f"{cls.__name__} {self.text(_hints(cls), label)}"
        yield self._texts([getattr(cls, name, None) for name in ("__struct_fields__", "__struct_defaults__")], label)
        held: dict[str, object] = {name: value for name, value in vars(cls).items() if not name.startswith("__")}
        plain = {name: held[name] for name in held if isinstance(held[name], (tuple, list, dict, *EXACT))}
        yield self.text(plain, label)
        yield self._texts([function for value in held.values() for function in functions_in(value)], label)


# --- values


def _rank(member: object) -> tuple[str, str]:
    """Return the place of a member in a set: by its text, then by its module."""
    return _Walk().text(member, ""), str(getattr(member, "__module__", ""))


def _fields(kind: type[object]) -> list[str] | None:
    """Return the fields of a class whose instances are data: a dataclass, a Struct, a class of `attrs`."""
    kinds = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__")
    found: Iterable[object] | None = next((getattr(kind, name) for name in kinds if hasattr(kind, name)), None)
    return None if found is None else [str(getattr(field, "name", field)) for field in found]


MAKERS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (staticmethod, ("__func__",)),
    (classmethod, ("__func__",)),
    (property, ("fget", "fset", "fdel")),
    (functools.cached_property, ("func",)),
    (functools.partialmethod, ("func",)),
    (functools.singledispatchmethod, ("func",)),
)


def functions_in(value: object) -> list[FunctionType]:
    """Return the functions in what a decorator has made: what a class holds under the name of a method, for example."""
    names = next((names for kind, names in MAKERS if isinstance(value, kind)), ())
    inner = [getattr(value, name) for name in names] or [getattr(value, "__dict__", {}).get("__wrapped__")]
    own = [value] if isinstance(value, FunctionType) else []
    return own + [function for one in inner if one is not None for function in functions_in(one)]


def _held(function: FunctionType) -> list[object]:
    """Return the functions that a wrapper of others holds: in its closure, as what it wraps, as what `singledispatch` has registered."""
    registered: Mapping[object, object] = vars(function).get("registry", {})
    held = [*cells_of(function).values(), vars(function).get("__wrapped__"), *registered.values()]
    return [one for one in held if isinstance(one, FunctionType | MethodType | functools.partial)]


def cells_of(function: FunctionType) -> dict[str, object]:
    """Return what the closure of a function holds, by name."""
    found = dict[str, object]()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # the name is not bound yet
            continue
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _hints(thing: FunctionType | type) -> dict[str, object]:
    try:
        return inspect.get_annotations(thing)
    except NameError:  # from Python 3.14 on they are evaluated here
        return {}


def label_of(thing: object) -> str:
    """Return the dotted name of a function or a class, or that of the class of anything else."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{getattr(named, '__qualname__', '')}"


# --- where code comes from


def place_of(thing: object) -> str:
    """Return where code comes from: the project, Python, `happened`, or the top-level name of an installed package."""
    if isinstance(thing, FunctionType) and not file_of(thing).startswith("<"):
        return _place_of_file(file_of(thing))
    module = getattr(thing, "__module__", None) or type(getattr(thing, "__self__", thing)).__module__
    return _place_of_module(str(module))


def _place_of_module(name: str) -> str:
    """Return where a module comes from; one that isn't loaded is not loaded for this, its top-level package is looked for."""
    top = name.partition(".")[0]
    module = sys.modules.get(name)
    path = _path_of(top) if module is None else getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if path is None:
        return PYTHON if top in sys.stdlib_module_names else PROJECT
    return _place_of_file(path)


def _path_of(top: str) -> str | None:
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made by hand has none
        return None
    if spec is None:
        return None
    return spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)


@functools.lru_cache(maxsize=10_000)
def _place_of_file(path: str) -> str:
    pure = Path(path)
    for folder, below in itertools.pairwise(pure.parts):
        if folder in {"site-packages", "dist-packages"}:
            return below.partition(".")[0]
    if PACKAGE in {pure, *pure.parents}:
        return HAPPENED
    return PYTHON if any(library in pure.parents for library in LIBRARY) else PROJECT


@functools.cache
def _releases_of(top: str) -> list[str]:
    """Return name and version of the distributions that a top-level package is from: nearly always one, and nearly always of the same name."""
    try:
        return [f"{top} {importlib.metadata.version(top)}"]
    except importlib.metadata.PackageNotFoundError:
        return [f"{name} {importlib.metadata.version(name)}" for name in sorted(set(_distributions().get(top, ())))]


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


# --- where code is written


class _Source(NamedTuple):
    """One file's code by where it stands: functions by first line and name, lambdas by line, classes by qualified name."""

    functions: dict[tuple[int, str], Function]
    lambdas: dict[int, list[ast.Lambda]]
    classes: dict[str, list[ast.ClassDef]]


_sources: dict[str, tuple[object, _Source | None]] = {}
"""By path, each with what says that the file is still the same."""


def _source_of(path: str, names: Mapping[str, object]) -> _Source | None:
    try:
        status = Path(path).stat()
    except OSError:  # a cell of a notebook, a file in an archive
        status = None
    stamp: object
    text: str | None
    if status is not None and stat.S_ISREG(status.st_mode):
        stamp, text = (status.st_mtime_ns, status.st_size), None
    else:  # code that was given as a text has no path, and that is the folder it runs in
        stamp = text = "".join(linecache.getlines(path, dict(names)))
    known = _sources.get(path)
    if known is None or known[0] != stamp:
        known = _sources[path] = (stamp, _parsed(Path(path).read_bytes() if text is None else text))
    return known[1]


def _parsed(text: str | bytes) -> _Source | None:
    try:
        with warnings.catch_warnings():  # they were shown when the code was loaded
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    source = _Source({}, {}, {})
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, path = stack.pop()
        inner = path
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                source.functions[_first_line(node), node.name] = node
                inner = f"{path}{node.name}.<locals>."
            case ast.ClassDef():
                source.classes.setdefault(path + node.name, []).append(node)
                inner = f"{path}{node.name}."
            case ast.Lambda():
                source.lambdas.setdefault(node.lineno, []).append(node)
                inner = f"{path}<lambda>.<locals>."
            case _:
                pass
        stack.extend((child, inner) for child in ast.iter_child_nodes(node))
    return source


def _first_line(node: Function | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def file_of(function: FunctionType) -> str:
    """Return the path of the file that a function is written in."""
    path = function.__code__.co_filename
    own = function.__globals__.get("__file__")
    if own == path or not isinstance(own, str) or PurePath(path).is_absolute():
        return path
    return own if PurePath(own).name == PurePath(path).name else path  # a script's code knows its file as it was typed, its module in full


def node_of(function: FunctionType) -> Function | ast.Lambda | None:
    """Return the syntax tree of a function; `None` where its source can't be had."""
    code = function.__code__
    source = _source_of(file_of(function), function.__globals__)
    if source is None:
        return None
    if code.co_name == "<lambda>":
        node: Function | ast.Lambda | None = _lambda_of(code, source.lambdas.get(code.co_firstlineno, []))
    else:
        node = source.functions.get((code.co_firstlineno, code.co_name))
    return node if node is not None and _arguments(node.args) == _parameters(code) else None


def _lambda_of(code: CodeType, nodes: list[ast.Lambda]) -> ast.Lambda | None:
    """Return the innermost lambda whose body has all instructions of the code."""
    if len(nodes) == 1:
        return nodes[0]
    places = [
        (line, column, end_line, end_column)
        for line, end_line, column, end_column in code.co_positions()
        if line is not None and end_line is not None and column is not None and end_column  # else it is no part of the body
    ]
    if not places:
        return None
    start = min(place[:2] for place in places)
    end = max(place[2:] for place in places)
    around = [node for node in nodes if _start(node.body) <= start and end <= _end(node.body)]
    return max(around, key=lambda node: _start(node.body), default=None)


def _start(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def _parameters(code: CodeType) -> list[str]:
    stars = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars])


def class_of(function: FunctionType) -> type | None:
    """Return the class whose method this is, where its qualified name leads to it."""
    first, *rest = function.__qualname__.split(".")[:-1] or ("",)
    found: object = function.__globals__.get(first)
    for name in rest:
        found = vars(found).get(name) if isinstance(found, type) else None
    return found if isinstance(found, type) and function in functions_in(vars(found).get(function.__name__)) else None


def _class_node(cls: type) -> ast.ClassDef | None:
    functions = [function for value in vars(cls).values() for function in functions_in(value)]
    module = sys.modules.get(cls.__module__)
    files = {getattr(module, "__file__", None) or "": vars(module) if module is not None else {}}
    files |= {file_of(function): function.__globals__ for function in functions}
    for path, names in files.items():
        source = _source_of(path, names)
        nodes = sorted(source.classes.get(cls.__qualname__, []), key=_first_line) if source is not None else []
        for node in nodes:
            if any(node_of(function) in node.body for function in functions):
                return node
        if nodes:
            return nodes[-1]
    return None


# --- what is written


class _Written(NamedTuple):
    """What a node says: its normalised text, the names it takes from around it, and what it imports when it runs.

    Names outside are those of decorators and bases, which the scope around it looks up. What stands in the functions and classes of a class is left out
    but for the text: they are read by themselves.
    """

    text: str
    outside: list[Chain]
    names: list[Chain]
    annotations: list[Chain]
    imports: list[tuple[str, str]]


@functools.lru_cache(maxsize=10_000)
def _written(node: Function | ast.Lambda | ast.ClassDef) -> _Written:
    outside, inside, hints = _Uses(), _Uses(), _Uses()
    match node:
        case ast.Lambda():
            inside.read_function(node)
        case ast.ClassDef():
            outside.read(_outside(node))
            hints.read(_field_annotations(node))
            for stmt in node.body:
                if isinstance(stmt, Function | ast.ClassDef):
                    inside.bound.add(stmt.name)
                    inside.read(_outside(stmt))
                else:
                    inside.read([stmt])
        case _:
            outside.read(_outside(node))
            hints.read(_annotations(node))
            inside.read_function(node)
    outside.bound = hints.bound = _type_parameters(node)
    return _Written(_dumped(node), outside.free(), inside.free(), hints.free(), inside.imports)


class _Uses:
    """The names that one scope uses, those that it binds, and what it imports: (module, name)."""

    def __init__(self) -> None:
        self.used: dict[Chain, None] = {}
        self.bound: set[str] = set()
        self.declared: set[str] = set()
        self.imports: list[tuple[str, str]] = []

    def free(self) -> list[Chain]:
        """Return the chains whose first name is bound outside, each once, in the order of their appearance."""
        return [chain for chain in self.used if chain[0] not in self.bound or chain[0] in self.declared]

    def read_function(self, node: Function | ast.Lambda) -> None:
        """Take in the inside of a function, with its parameters."""
        self.bound |= {*_arguments(node.args), *_type_parameters(node)}
        self.read(node.body if isinstance(node.body, list) else [node.body])

    def read(self, nodes: Iterable[ast.AST]) -> None:
        """Take in nodes of this scope; inner scopes hand on the names that they leave free."""
        stack = list(nodes)[::-1]
        while stack:
            node = stack.pop()
            below: Iterable[ast.AST] = ast.iter_child_nodes(node)
            match node:
                case ast.Name():
                    if isinstance(node.ctx, ast.Store):
                        self.bound.add(node.id)
                    else:
                        self.used[node.id,] = None
                case ast.Attribute():
                    below = self._chain(node)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.bound.add(node.name)
                    below = [*_outside(node), *_annotations(node), *_defaults(node.args)]
                    self._inner(node)
                case ast.Lambda():
                    below = _defaults(node.args)
                    self._inner(node)
                case ast.ClassDef():
                    self.bound.add(node.name)
                    below = [*_outside(node), *_field_annotations(node)]
                    self._inner(node)
                case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                    below = []
                    self._inner(node)
                case ast.AnnAssign():  # in a function the annotation is never looked at; in a class it is read apart
                    below = [node.target, *([node.value] if node.value is not None else [])]
                case ast.Import():
                    for alias in node.names:
                        self._import(alias.name, alias)
                case ast.ImportFrom():
                    for alias in node.names:
                        self._import("" if node.level else node.module or "", alias)
                case ast.Global() | ast.Nonlocal():
                    self.declared.update(node.names)
                case (
                    ast.ExceptHandler(name=str(name))
                    | ast.MatchAs(name=str(name))
                    | ast.MatchStar(name=str(name))
                    | ast.MatchMapping(rest=str(name))
                ):
                    self.bound.add(name)
                case _:
                    pass
            stack.extend([*below][::-1])

    def _chain(self, node: ast.Attribute) -> list[ast.AST]:
        attributes = [node.attr]
        root = node.value
        while isinstance(root, ast.Attribute):
            attributes.append(root.attr)
            root = root.value
        if not isinstance(root, ast.Name):
            return [root]
        self.used[root.id, *attributes[::-1]] = None
        return []

    def _inner(self, node: Function | ast.Lambda | ast.ClassDef | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        inner = _Uses()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                inner.read_function(node)
            case ast.ClassDef():
                inner.read(node.body)
            case _:
                inner.read(ast.iter_child_nodes(node))
                self.bound |= {walrus.target.id for walrus in ast.walk(node) if isinstance(walrus, ast.NamedExpr)}
        self.used |= dict.fromkeys(inner.free())
        self.imports += inner.imports

    def _import(self, module: str, alias: ast.alias) -> None:
        self.bound.add(alias.asname or alias.name.partition(".")[0])
        self.imports.append((module, alias.name))


def _outside(node: Function | ast.ClassDef) -> list[ast.expr]:
    kinds = [*node.bases, *(keyword.value for keyword in node.keywords)] if isinstance(node, ast.ClassDef) else []
    return [*node.decorator_list, *kinds]


def _defaults(node: ast.arguments) -> list[ast.expr]:
    return [default for default in (*node.defaults, *node.kw_defaults) if default is not None]


def _arguments(node: ast.arguments) -> list[str]:
    return [argument.arg for argument in _all_arguments(node)]


def _all_arguments(node: ast.arguments) -> list[ast.arg]:
    """Return the parameters in the order in which code objects have them."""
    return [*node.posonlyargs, *node.args, *node.kwonlyargs, *(one for one in (node.vararg, node.kwarg) if one is not None)]


def _type_parameters(node: ast.AST) -> set[str]:
    return {str(getattr(parameter, "name", "")) for parameter in getattr(node, "type_params", ())}  # from Python 3.12 on


def _annotations(node: Function) -> list[ast.expr]:
    found = [argument.annotation for argument in _all_arguments(node.args)]
    return [_unquoted(annotation) for annotation in (*found, node.returns) if annotation is not None]


def _field_annotations(node: ast.ClassDef) -> list[ast.expr]:
    return [_unquoted(stmt.annotation) for stmt in node.body if isinstance(stmt, ast.AnnAssign)]


def _unquoted(node: ast.expr) -> ast.expr:
    """Return an annotation as it would be without quotes; text that is data, in `Literal` and `Annotated`, stays text."""
    match node:
        case ast.Constant(value=str(text)):
            try:
                return _unquoted(ast.parse(text, mode="eval").body)
            except (SyntaxError, ValueError):
                return node
        case ast.BinOp():
            return ast.BinOp(_unquoted(node.left), node.op, _unquoted(node.right))
        case ast.Tuple() | ast.List():
            return type(node)([_unquoted(element) for element in node.elts], node.ctx)
        case ast.Subscript(value=ast.Name(id="Literal") | ast.Attribute(attr="Literal")):
            return node
        case ast.Subscript(value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=[first, *extras])):
            return ast.Subscript(node.value, ast.Tuple([_unquoted(first), *extras], node.ctx), node.ctx)
        case ast.Subscript():
            return ast.Subscript(node.value, _unquoted(node.slice), node.ctx)
        case _:
            return node


def _dumped(root: ast.AST) -> str:
    """Return a tree as text, without what says nothing: positions, docstrings, `pass`, empty fields (which differ between versions of Python)."""
    text: list[str] = []
    stack: list[object] = [root]
    while stack:
        item = stack.pop()
        match item:
            case str():
                text.append(item)
            case ast.Constant():
                text.append(repr(item.value))
            case ast.AST():
                stack.append(")")
                for name, value in reversed([*ast.iter_fields(item)]):
                    if name not in {"ctx", "kind", "type_comment"} and value not in (None, []):
                        quoted = name in {"annotation", "returns"}
                        stack += [_unquoted(value) if quoted else value, f" {name}="]
                stack.append(f"{type(item).__name__}(")
            case list():
                members = cast("list[object]", item)  # cast: a list in a tree is one of nodes or of texts
                said = [one for one in members if not _says_nothing(one)]
                stack += ["]", *[part for one in reversed(said) for part in (",", one)], "["]
            case _:
                text.append(repr(item))
    return "".join(text)


def _says_nothing(node: object) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
