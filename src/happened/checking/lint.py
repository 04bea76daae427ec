"""Lint: what must come out the same each time reads no clock, throws no dice, asks nobody, and keeps nothing.

The syntax trees of deciders, reactions, publications, `evolve` and `key_of` are walked, and those of all functions of the project that they name. A name is
looked up as Python would, and known by what it leads to, not by how it is written: `from time import time as now` is found. What a name leads to at run
time alone (an object without an annotation, `getattr`) can't be seen here; a name that leads nowhere is listed as unresolved. A gateway is not walked
into: it is where the outside belongs, as long as it is asked by `World.ask`.
"""

import ast
import builtins
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple  # Any: what a name leads to

import msgspec
from msgspec import inspect

from happened.core.annotations import unwrapped
from happened.core.plain import undescribed, within
from happened.core.state import Fold, fold_of
from happened.log.fingerprint import HAPPENED, PROJECT, cells_of, file_of, functions_in, label_of, node_of, place_of
from happened.wiring import Wiring

CLOCK, CHANCE, ENVIRONMENT, NETWORK, IO, PROCESS, GLOBAL, GATEWAY, BUT, ORDER = (
    *("clock", "chance", "environment", "network", "files", "process", "global state", "gateway", "but", "order of a set"),
)

RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        CLOCK,
        (
            *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")),
            *(f"time.{name}" for name in ("process_time", "process_time_ns", "thread_time", "thread_time_ns", "localtime", "gmtime")),
            *("time.ctime", "time.clock_gettime", "time.clock_gettime_ns", "time.sleep"),
            *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
        ),
    ),
    (CHANCE, ("random", "_random", "secrets", "uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom", "numpy.random", "faker")),
    (
        ENVIRONMENT,
        (
            *("os.environ", "os.environb", "os.getenv", "os._Environ", "os.getpid", "os.getcwd", "os.uname", "os.cpu_count", "os.getlogin"),
            *("sys.argv", "platform", "getpass", "locale.getlocale", "socket.gethostname"),
        ),
    ),
    (
        NETWORK,
        (
            *(
                "socket",
                "_socket",
                "ssl",
                "http.client",
                "urllib.request",
                "ftplib",
                "smtplib",
                "imaplib",
                "poplib",
                "xmlrpc",
                "socketserver",
            ),
            *(
                "requests",
                "httpx",
                "aiohttp",
                "urllib3",
                "boto3",
                "botocore",
                "grpc",
                "websockets",
                "redis",
                "psycopg",
                "psycopg2",
                "asyncpg",
            ),
        ),
    ),
    (
        IO,
        (
            *(
                "builtins.open",
                "builtins.input",
                "builtins.print",
                "io.open",
                "io.FileIO",
                "os",
                "pathlib.Path",
                "pathlib.PosixPath",
                "shutil",
            ),
            *(
                "pathlib._local.Path",
                "pathlib._local.PosixPath",
                "tempfile",
                "glob",
                "sqlite3",
                "_sqlite3",
                "logging",
                "fileinput",
                "dbm",
                "shelve",
            ),
            *("genericpath", "posixpath.realpath", "posixpath.abspath", "posixpath.expanduser", "sys.stdout", "sys.stderr", "sys.stdin"),
        ),
    ),
    (
        PROCESS,
        (
            *("subprocess", "multiprocessing", "threading", "_thread", "concurrent.futures", "asyncio", "signal", "ctypes", "gc"),
            *("builtins.hash", "builtins.id", "builtins.exec", "builtins.eval", "builtins.globals"),
        ),
    ),
)
"""What is found, by the dotted name of what a name leads to, or of anything in it; the first that fits."""

SPELLED = {"_io": "io", "posix": "os", "nt": "os", "_datetime": "datetime", "ntpath": "posixpath", "_pydatetime": "datetime"}
"""Modules of Python whose names are others inside."""

PURE = ("os.path", "os.fspath", "os.PathLike", "os.sep", "os.linesep", "asyncio.CancelledError", "platform.python_version")

WITH_WORLD = {
    CLOCK: "ask the `World`: `world.now`",
    CHANCE: "ask the `World`: `world.new_id()` or `world.random()`",
    ENVIRONMENT: "give it to a gateway, and ask the `World`: `world.ask(gateway, ...)`; or put it into the command",
    NETWORK: "make a gateway of it, and ask the `World`: `world.ask(gateway, ...)`",
    IO: "make a gateway of it, and ask the `World`: `world.ask(gateway, ...)`",
    PROCESS: "make a gateway of it, and ask the `World`: `world.ask(gateway, ...)`",
    GLOBAL: "keep it in a `State`, which events change",
    GATEWAY: "ask the `World`: `world.ask({name}, ...)`, so that the answer is recorded",
}
FROM_EVENTS = {
    CLOCK: "take the time from the event, or ask for `Recorded`: `record.time`, `record.occurred`",
    CHANCE: "have the decider put it into the event: `world.new_id()`, `world.random()`",
    ENVIRONMENT: "have the decider put it into the event",
    NETWORK: "have the decider ask a gateway, and put the answer into the event",
    IO: "have the decider ask a gateway, and put the answer into the event",
    PROCESS: "have the decider ask a gateway, and put the answer into the event",
    GLOBAL: "keep it in a `State`, which events change",
    GATEWAY: "have the decider ask it, `world.ask({name}, ...)`, and put the answer into the event",
}

SORTED = "a set has another order in the next process: `sorted(...)`"
TO_SETS = ("set", "frozenset")
IN_ORDER = ("list", "tuple", "iter", "enumerate")
"""What keeps the order of what it is given, and has it seen."""
OF_SETS = ("union", "intersection", "difference", "symmetric_difference", "copy")
"""Methods of a set that come to one."""

MUTATING = frozenset(
    (
        *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft"),
        *("remove", "reverse", "rotate", "setdefault", "sort", "update", "__setitem__", "write"),
    )
)
"""Methods by which what is held in common is changed."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """One place in the code."""

    file: str
    line: int
    rule: str
    what: str
    """What is used there, as it is written."""
    where: str
    """The function that it stands in."""
    by: str
    """What is called with it: the decider, the reaction, the `evolve`."""
    instead: str


class Linted(msgspec.Struct, frozen=True):
    """What was found, how many functions were looked at, and what could not be resolved."""

    findings: tuple[Finding, ...]
    functions: int
    unresolved: tuple[str, ...]


class Root(NamedTuple):
    """A function that must come out the same each time."""

    name: str
    function: Any
    instead: Mapping[str, str]


def lint(app: Wiring) -> Linted:
    """Look at all that must come out the same each time, and at all that it names. Imports and runs nothing. Cost: a few milliseconds a function."""
    return _Linting(app).over(_roots(app))


def _roots(app: Wiring) -> Iterator[Root]:
    for handler in app.handlers.values():
        yield Root(f"decider {handler.name}", handler.function, WITH_WORLD)
    for reaction in app.reactions:
        yield Root(f"reaction {reaction.name}", reaction.function, WITH_WORLD)
    for publication in app.publications:
        yield Root(f"publication {publication.name}", publication.function, FROM_EVENTS)
    for step in app.lifts.steps.values():
        if step.function is not None:
            yield Root(f"upcast {label_of(step.function)}", step.function, FROM_EVENTS)
    for fold in _folds(app):
        for name, function in (("evolve", fold.evolve), ("key_of", fold.key_of)):
            if function is not None:
                yield Root(f"{fold.state.__name__}.{name}", function, FROM_EVENTS)


def _folds(app: Wiring) -> list[Fold]:
    states = [*(fold.state for fold in app.folds), *app.views, *app.shares]
    joined = [join.state for state in states for join in fold_of(state).joins]
    return [fold_of(state) for state in dict.fromkeys([*states, *joined])]


class _Linting:
    """One look at an app."""

    def __init__(self, app: Wiring) -> None:
        self.gateways = {unwrapped(gateway.call): gateway.name for gateway in app.gateways}
        self.states = {fold.state: fold for fold in _folds(app)}
        self.methods = _methods_of([*app.events, *app.handlers, *self.states])
        self.sets = _sets_in([*app.events, *app.handlers, *self.states])
        """Fields that are sets, wherever messages and states have one of that name."""
        self.found: dict[tuple[str, int, str, str], Finding] = {}
        self.unresolved: set[str] = set()
        self._changed: dict[str, frozenset[str]] = {}

    def over(self, roots: Iterable[Root]) -> Linted:
        functions: set[FunctionType] = set()
        for root in roots:
            first = unwrapped(root.function)
            queue = [first] if isinstance(first, FunctionType) else []
            seen = set(queue)
            own = place_of(first)
            while queue:
                function = queue.pop()
                functions.add(function)
                node = node_of(function)
                if node is None:
                    self.unresolved.add(f"{label_of(function)}: its source can't be read")
                    continue
                for named in _Look(self, root, function, own).through(node):
                    if named not in seen and named not in self.gateways and _is_own(named, own):
                        seen.add(named)
                        queue.append(named)
        return Linted(tuple(sorted(self.found.values())), len(functions), tuple(sorted(self.unresolved)))

    def changed_in(self, function: FunctionType) -> frozenset[str]:
        """Return the names of a module that some function in it changes."""
        path = file_of(function)
        if path not in self._changed:
            try:
                with open(path, "rb") as file:  # noqa: PTH123 - a path as the code knows it
                    tree = ast.parse(file.read())
            except (OSError, SyntaxError, ValueError):
                tree = ast.Module([], [])
            inside = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
            self._changed[path] = frozenset(name for one in inside for name in _changes(one))
        return self._changed[path]


def _is_own(function: FunctionType, own: str) -> bool:
    return place_of(function) in {PROJECT, own} - {HAPPENED}


def _methods_of(classes: Iterable[type]) -> dict[str, list[FunctionType]]:
    """Return the methods and properties of messages and states, by name: they are found by name on whatever holds one."""
    found: dict[str, list[FunctionType]] = {}
    for cls in classes:
        for base in cls.__mro__:
            for name, value in vars(base).items():
                if not name.startswith("__") and place_of(base) != HAPPENED:
                    found.setdefault(name, []).extend(functions_in(value))
    return found


def _sets_in(classes: Iterable[type]) -> frozenset[str]:
    """Return the names of fields of messages and states, and of what lies in them, that are sets in all that have them."""
    found: dict[str, bool] = {}
    parts = (part for cls in classes for part in within(inspect.type_info(cls)))
    for field in (field for part in parts if isinstance(part, inspect.StructType) for field in part.fields):
        is_set = isinstance(undescribed(field.type), inspect.SetType | inspect.FrozenSetType)
        found[field.name] = is_set and found.get(field.name, True)
    return frozenset(name for name, is_set in found.items() if is_set)


class _Look:
    """A look at one function: what each name in it leads to."""

    def __init__(self, linting: _Linting, root: Root, function: FunctionType, own: str) -> None:
        self._linting = linting
        self._root = root
        self._function = function
        self._own = own
        self._cells = cells_of(function)
        self._names = function.__globals__
        self._imported: dict[str, str] = {}
        self._bound: set[str] = set()
        self._sets: dict[str, bool] = {}
        """Names that are given a value: whether each value is a set."""
        self._state = next((fold for state, fold in linting.states.items() if function in _own_functions(state)), None)

    def through(self, node: ast.AST) -> Iterator[FunctionType]:
        """Say what is found, and yield the functions that are named."""
        self._bind(node)
        for name in sorted(_changes(node)):
            self._check_changed(name, node)
        body: Any = node.body if isinstance(node, ast.Lambda) else getattr(node, "body", [])
        stack: list[ast.AST] = [body] if isinstance(body, ast.AST) else list(body)
        while stack:
            one = stack.pop()
            below: list[ast.AST] = []
            match one:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    below = [*one.decorator_list, *one.body, *(default for default in one.args.defaults)]
                case ast.AnnAssign():
                    below = [one.target, *([one.value] if one.value is not None else [])]
                case ast.Name() | ast.Attribute():
                    below, named = self._chain(one)
                    yield from named
                case ast.Call():
                    self._check_but(one)
                    below = list(ast.iter_child_nodes(one))
                    self._check_gateway(one)
                    self._check_order(one)
                case ast.For() | ast.YieldFrom():
                    below = list(ast.iter_child_nodes(one))
                    self._check_order(one)
                case _:
                    below = list(ast.iter_child_nodes(one))
            stack += below

    def _bind(self, node: ast.AST) -> None:
        declared: set[str] = set()
        for one in ast.walk(node):
            match one:
                case ast.Global() | ast.Nonlocal():
                    declared.update(one.names)
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    self._sets[name] = self._is_set(value) and self._sets.get(name, True)
                case ast.Name(ctx=ast.Store()):
                    self._bound.add(one.id)
                case ast.arg():
                    self._bound.add(one.arg)
                case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                    self._bound.add(name)
                case ast.ExceptHandler(name=str(name)):
                    self._bound.add(name)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if one is not node:
                    self._bound.add(one.name)
                case ast.Import():
                    for alias in one.names:
                        self._imported[alias.asname or alias.name.partition(".")[0]] = (
                            alias.name if alias.asname else alias.name.partition(".")[0]
                        )
                case ast.ImportFrom():
                    for alias in one.names:
                        self._imported[alias.asname or alias.name] = f"{one.module or ''}.{alias.name}"
                case _:
                    pass
        self._bound -= declared

    # --- names

    def _chain(self, node: ast.Name | ast.Attribute) -> tuple[list[ast.AST], list[FunctionType]]:
        """Follow a name and the attributes after it; return what is to be looked at below, and the functions that it leads to."""
        attributes: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            attributes.insert(0, root.attr)
            root = root.value
        methods = [function for attribute in attributes for function in self._linting.methods.get(attribute, ())]
        if not isinstance(root, ast.Name):
            return [root], methods
        written = ".".join([root.id, *attributes])
        if root.id in self._imported:
            return [], self._check_imported(self._imported[root.id], attributes, written, node)
        if root.id in self._bound:
            return [], methods
        if root.id in self._cells:
            value = self._cells[root.id]
        elif root.id in self._names:
            value = self._names[root.id]
        elif root.id in vars(builtins):
            value = vars(builtins)[root.id]
        else:
            self._linting.unresolved.add(f"{label_of(self._function)}.{root.id}")
            return [], methods
        return [], [*methods, *self._led(value, root.id, attributes, written, node)]

    def _led(self, value: Any, name: str, attributes: list[str], written: str, node: ast.expr) -> list[FunctionType]:
        """Check what a name leads to, step by step; return the functions of the project."""
        if not callable(value) and not isinstance(value, ModuleType) and name in self._linting.changed_in(self._function):
            self._find(node, GLOBAL, name)
        for attribute in [*attributes, None]:
            if self._check(value, written, node):
                return []
            if attribute is None:
                break
            if isinstance(value, ModuleType) and not hasattr(value, attribute):  # a part of it that nobody has imported yet
                return self._check_text(f"{value.__name__}.{'.'.join(attributes[attributes.index(attribute) :])}", written, node)
            if isinstance(value, ModuleType | type):
                value = getattr(value, attribute, None)
            elif place_of(value.__class__) in {PROJECT, self._own}:
                value = getattr(value.__class__, attribute, None)
            else:
                return []
        return self._functions_of(value)

    def _functions_of(self, value: Any) -> list[FunctionType]:
        if isinstance(value, type):
            made = [vars(base).get(name) for base in value.__mro__ for name in ("__init__", "__new__", "__post_init__")]
            return [function for one in made for function in functions_in(one)] if place_of(value) in {PROJECT, self._own} else []
        if isinstance(value, functools.partial):
            return self._functions_of(value.func)  # pyright: ignore[reportUnknownMemberType]  # of whatever it is a part
        if isinstance(value, MethodType):
            return self._functions_of(value.__func__)
        return functions_in(value)

    def _check_imported(self, dotted: str, attributes: list[str], written: str, node: ast.expr) -> list[FunctionType]:
        """Check a name that the function itself imports."""
        module, found = dotted, sys.modules.get(dotted)
        rest = list(attributes)
        if found is None and "." in dotted:
            module, _, last = dotted.rpartition(".")
            found, rest = sys.modules.get(module), [last, *attributes]
        if found is not None:
            return self._led(found, dotted, rest, written, node)
        return self._check_text(".".join([dotted, *attributes]), written, node)

    def _check_text(self, dotted: str, written: str, node: ast.expr) -> list[FunctionType]:
        """Check what is not there to be looked at, by what it is called."""
        rule = _rule_of(dotted)
        if rule is not None:
            self._find(node, rule, written)
        else:
            self._linting.unresolved.add(f"{label_of(self._function)}: {dotted}")
        return []

    def _check(self, value: Any, written: str, node: ast.expr) -> bool:
        """Say whether what a name leads to is among what is not to be used, and note it."""
        if isinstance(value, type) and issubclass(value, BaseException):
            return False
        if isinstance(value, ModuleType):
            return False  # what is taken from it is looked at
        for name in _names_of(value):
            rule = _rule_of(name)
            if rule is not None:
                self._find(node, rule, written)
                return True
        return False

    # --- what is changed, asked, given

    def _check_changed(self, name: str, node: ast.AST) -> None:
        """Note a name of the module, or of a closure, that the function changes."""
        if name in self._imported or (name in self._bound and name not in self._cells):
            return
        if name not in self._cells and name not in self._names:
            return
        value = self._cells.get(name, self._names.get(name))
        place = next((one for one in ast.walk(node) if isinstance(one, ast.Name | ast.Global | ast.Nonlocal) and _names(one, name)), node)
        if not isinstance(value, FunctionType):
            self._find(place, GLOBAL, name)

    def _check_gateway(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id in self._bound:
            return
        value = self._cells.get(node.func.id, self._names.get(node.func.id))
        gateway = self._linting.gateways.get(unwrapped(value)) if isinstance(value, FunctionType) else None
        if gateway is not None:
            self._find(node, GATEWAY, f"{node.func.id}(...)", name=node.func.id)

    def _check_but(self, node: ast.Call) -> None:
        """Check the names that `self.but(...)` is given."""
        match node.func:
            case ast.Attribute(value=ast.Name(id=own), attr="but") if self._state is not None and own == self._self:
                pass
            case _:
                return
        for keyword in node.keywords:
            fold = self._state
            if keyword.arg is not None and keyword.arg not in fold.fields:
                self._find(node, BUT, f"but({keyword.arg}=...)", instead=f"`{fold.state.__name__}` has the fields {', '.join(fold.fields)}")
            elif keyword.arg in fold.key:
                self._find(
                    node, BUT, f"but({keyword.arg}=...)", instead=f"`{keyword.arg}` is the key of `{fold.state.__name__}`, which stays"
                )

    def _check_order(self, node: ast.Call | ast.For | ast.YieldFrom) -> None:
        """Note where what follows is in the order of a set, which each process has its own of."""
        match node:
            case ast.For(iter=each) if any(isinstance(one, ast.Yield | ast.YieldFrom) for below in node.body for one in ast.walk(below)):
                pass
            case ast.YieldFrom(value=each):
                pass
            case ast.Call(func=ast.Name(id=name), args=[each, *_]) if name in IN_ORDER and name not in self._bound:
                pass
            case ast.Call(func=ast.Attribute(attr="join"), args=[each]) | ast.Call(func=ast.Attribute(value=each, attr="pop"), args=[]):
                pass
            case _:
                return
        if isinstance(each, ast.GeneratorExp | ast.ListComp):
            each = each.generators[0].iter
        if self._is_set(each):
            self._find(node, ORDER, ast.unparse(each), instead=SORTED)

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return self._sets.get(name, False)
            case ast.Attribute(attr=name):
                return name in self._linting.sets
            case ast.Call(func=ast.Name(id=name)):
                return name in TO_SETS and name not in self._bound
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                return name in OF_SETS and self._is_set(value)
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.BitXor() | ast.Sub(), right=right):
                return self._is_set(left) or self._is_set(right)
            case _:
                return False

    @property
    def _self(self) -> str:
        return self._function.__code__.co_varnames[0] if self._function.__code__.co_argcount else ""

    def _find(self, node: ast.AST, rule: str, written: str, *, name: str = "", instead: str = "") -> None:
        said = instead or self._root.instead[rule].format(name=name)
        line: int = getattr(node, "lineno", self._function.__code__.co_firstlineno)
        finding = Finding(file_of(self._function), line, rule, written, label_of(self._function), self._root.name, said)
        self._linting.found.setdefault((finding.file, finding.line, rule, written), finding)


def _own_functions(state: type) -> set[FunctionType]:
    return {function for value in vars(state).values() for function in functions_in(value)}


def _names(node: ast.Name | ast.Global | ast.Nonlocal, name: str) -> bool:
    return node.id == name if isinstance(node, ast.Name) else name in node.names


def _names_of(value: Any) -> Iterator[str]:
    """Yield the dotted names by which something may be known: its own, and its class's where it is an object with a life."""
    if isinstance(value, BuiltinFunctionType) or type(value).__name__ in ("method-wrapper", "builtin_function_or_method"):
        holder = getattr(value, "__self__", None)
        if isinstance(holder, ModuleType):
            yield _spelled(holder.__name__, value.__name__)
        elif holder is not None:
            cls: Any = holder if isinstance(holder, type) else type(holder)
            yield _spelled(cls.__module__, f"{cls.__qualname__}.{value.__name__}")
        if getattr(value, "__module__", None):
            yield _spelled(value.__module__, value.__qualname__)
    elif isinstance(value, FunctionType | type):
        yield _spelled(value.__module__, value.__qualname__)
    elif isinstance(value, MethodType):
        yield from _names_of(type(value.__self__))
        yield from _names_of(value.__func__)
    elif value is sys.stdout or value is sys.stderr or value is sys.stdin:
        yield "sys.stdout"
    elif value is sys.argv:
        yield "sys.argv"
    else:
        yield _spelled(type(value).__module__, type(value).__qualname__)


def _spelled(module: str, name: str) -> str:
    return f"{SPELLED.get(module, module)}.{name}"


def _rule_of(dotted: str) -> str | None:
    if any(_lies_in(dotted, pure) for pure in PURE):
        return None
    return next((rule for rule, names in RULES if any(_lies_in(dotted, name) for name in names)), None)


def _lies_in(dotted: str, name: str) -> bool:
    return dotted == name or dotted.startswith(f"{name}.")


def _changes(node: ast.AST) -> set[str]:
    """Return the names that are changed inside a function: declared global and bound, written into, or told to change themselves."""
    found: set[str] = set()
    for one in ast.walk(node):
        match one:
            case ast.Global() | ast.Nonlocal():
                found.update(one.names)
            case ast.Subscript(value=target, ctx=ast.Store() | ast.Del()) | ast.Attribute(value=target, ctx=ast.Store() | ast.Del()):
                found.update(_first_of(target))
            case ast.Call(func=ast.Attribute(value=target, attr=attribute)) if attribute in MUTATING:
                found.update(_first_of(target))
            case _:
                pass
    return found


def _first_of(node: ast.expr) -> list[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return [node.id] if isinstance(node, ast.Name) else []
