"""Fingerprints: another one where code may mean something else, the same one where it can't."""

import collections
import importlib
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from happened.core import messages
from happened.log.fingerprint import DIGEST_CHARS, Fingerprint, fingerprint_of

SOURCE = Path(messages.__file__).parents[2]
Look = Callable[..., Fingerprint]

SHOP = """
    def decide(units):
        return units * price()

    def price():
        return 2
"""


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Write modules as a project of their own, import `shop`, and take the fingerprint of its `decide`, or of what `of` names."""
    folders = (tmp_path / str(number) for number in range(100))

    def look(of: str = "decide", **modules: str) -> Fingerprint:
        folder = next(folders)
        write(folder, **modules)
        for name in modules:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        importlib.invalidate_caches()
        thing: object = importlib.import_module("shop")
        for attribute in of.split("."):
            thing = getattr(thing, attribute)
        assert callable(thing)
        return fingerprint_of(thing)

    return look


def write(folder: Path, **modules: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(dedent(text), encoding="utf-8")


def child(*paths: Path, seed: str = "0", code: str = "import shop; thing = shop.decide") -> list[str]:
    """Take a fingerprint in a process of its own: its digest, then what is unresolved."""
    report = "from happened.log.fingerprint import fingerprint_of\nfound = fingerprint_of(thing)\nprint(found.digest, *found.unresolved)"
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(map(str, (*paths, SOURCE)))}
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], env=environment, check=True, capture_output=True, text=True)
    return run.stdout.split()


# --- what changes nothing


def test_a_fingerprint_is_sixteen_hex_digits(look: Look) -> None:
    """It is short enough for a table's name."""
    found = look(shop=SHOP)

    assert len(found.digest) == DIGEST_CHARS
    assert int(found.digest, 16) > 0
    assert found.unresolved == ()


def test_a_docstring_changes_nothing(look: Look) -> None:
    """What is said about code is not what it does; nor is a body that says nothing."""
    given = look(shop='class Rule:\n    "Old."\ndef decide(rule: Rule):\n    "Old."\n    return rule')

    when = look(shop="class Rule:\n    pass\ndef decide(rule: Rule):\n    return rule")

    assert when == given


def test_comments_lines_and_formatting_change_nothing(look: Look) -> None:
    """Only the syntax tree counts, not how it is written down."""
    given = look(shop="def decide(units, price=1_000):\n    return (units\n        * 'a' 'b')")

    when = look(shop='\n\n# why\ndef decide(\n    units,\n    price = 1000,\n):\n    # because\n    return units * "ab"')

    assert when == given


def test_quotes_around_an_annotation_change_nothing(look: Look) -> None:
    """An annotation means the same, quoted or not."""
    given = look(
        shop="""
        from typing import Annotated, Literal, Optional
        class Order: ...
        def decide(order: Order | None, mode: Literal["Order"], note: Annotated[Order, "Order"], more: tuple[Order, ...]) -> Order: ...
    """
    )

    when = look(
        shop="""
        from typing import Annotated, Literal, Optional
        class Order: ...
        def decide(order: "Order | None", mode: 'Literal["Order"]', note: Annotated["Order", "Order"], more: "tuple['Order', ...]") -> "Order": ...
    """
    )

    assert when == given


def test_text_that_is_no_annotation_stays_text(look: Look) -> None:
    """Quotes that hold no expression are kept as they are."""
    given = look(shop="def decide(units: 'how many'): ...")

    when = look(shop="def decide(units: 'how much'): ...")

    assert when != given


def test_a_function_that_is_not_named_changes_nothing(look: Look) -> None:
    """What the code doesn't use is not its business."""
    given = look(shop=SHOP + "    def other(): return 1\n    limit = 1")

    when = look(shop=SHOP + "    def other(): return 2\n    limit = 2")

    assert when == given


def test_a_local_of_the_same_name_changes_nothing(look: Look) -> None:
    """A local is not the module's function of that name."""
    given = look(shop="def price(): return 1\ndef decide(price): return [price for _ in price]")

    when = look(shop="def price(): return 2\ndef decide(price): return [price for _ in price]")

    assert when == given


def test_only_names_from_outside_are_looked_up(look: Look) -> None:
    """Names are bound in many ways; whatever a function binds itself is its own."""
    found = look(
        shop="""
        count = 0
        def decide(a, /, b, *c, d, **e):
            global count
            try:
                import json as f, os.path
                from json import dumps as g
            except ValueError as h:
                h, f, g, os
            match a:
                case {"x": i, **j}: i, j
                case [k, *l]: k, l
                case _ as m: m
            with b as n, c as (o, p): n, o, p
            def q(r=a): return q, r, s
            class S(q(), key=b):
                t: a = 1
                u: int = t
                def v(self): return b, w
            count += len([(s := x) for x in d if x])
            w = lambda y=d: (y, e)
            z: missing = q().attribute.other
            nothing: missing
            del w
            return S, {k: v for k, v in e}, {s for s in d}, (s for s in d), s
    """
    )

    assert found.unresolved == ()


def test_a_move_to_another_module_changes_nothing(look: Look) -> None:
    """Where a function lives is not what it does; so a script has the same fingerprint as the module that it is."""
    given = look(shop=SHOP)

    when = look(shop="from prices import price\ndef decide(units):\n    return units * price()", prices="def price():\n    return 2")

    assert when == given


def test_the_same_code_has_the_same_fingerprint_in_every_process(tmp_path: Path) -> None:
    """Sets come in another order in another process."""
    write(
        tmp_path,
        shop="""
        import enum
        import prices, rebates
        class Kind(enum.Enum):
            A = 1
            B = 2
        KINDS = frozenset({Kind.A, Kind.B, "c", "d", "e", ("f", frozenset("xyz")), prices.price, rebates.price})
        def decide(kind):
            return kind in KINDS or kind in {"g", "h", "i"}
    """,
        prices="def price(): return 1",
        rebates="def price(): return 2",
    )

    runs = [child(tmp_path, seed=seed) for seed in ("1", "2", "3", "4")]

    assert runs[1:] == runs[:-1]


# --- what changes it


def test_changed_code_has_another_fingerprint(look: Look) -> None:
    """Another operator is another meaning."""
    given = look(shop=SHOP)

    when = look(shop=SHOP.replace("*", "+"))

    assert when != given


def test_a_changed_helper_changes_it(look: Look) -> None:
    """A function means what those it calls mean."""
    given = look(shop=SHOP)

    when = look(shop=SHOP.replace("return 2", "return 3"))

    assert when != given


def test_a_changed_helper_of_a_helper_in_another_module_changes_it(look: Look) -> None:
    """Names are followed as far as the project reaches: by import, by module, by package."""
    shop = "import prices\ndef decide(units): return units * prices.price()"
    prices = "from rebates import rebate\ndef price(): return 2 - rebate()"
    given = look(shop=shop, prices=prices, rebates="def rebate(): return 0")

    when = look(shop=shop, prices=prices, rebates="def rebate(): return 1")

    assert when != given


def test_helpers_that_change_places_change_it(look: Look) -> None:
    """Two functions of one name in two modules are told apart."""
    both = {"prices": "def price(): return 1", "rebates": "def price(): return 2"}
    shop = "from {} import price as a\nfrom {} import price as b\ndef decide(): return a() - b()"
    given = look(shop=shop.format("prices", "rebates"), **both)

    when = look(shop=shop.format("rebates", "prices"), **both)

    assert when != given


INNER = [
    "def inner(): return price",
    "def inner(a=price): pass",
    "def inner(a: price): pass",
    "@price\n    def inner(): pass",
    "class Inner(price): pass",
    "class Inner:\n        a: price",
    "class Inner:\n        a = price",
    "class Inner:\n        def a(self): return price",
    "inner = lambda a=price: a",
    "inner = lambda price_: price",
    "inner = {price: a for a in price_}",
    "global other; other = price",
    "price().a.b",
    "a: int = price",
]


@pytest.mark.parametrize("inner", INNER)
def test_names_in_inner_scopes_are_followed(look: Look, inner: str) -> None:
    """Whatever is written inside a function is part of it, and so is what it names."""
    shop = "price_ = {}\ndef price(): return {}\ndef decide():\n    " + inner.replace("{", "{{").replace("}", "}}")
    given = look(shop=shop.format(0, 1))

    when = look(shop=shop.format(0, 2))

    assert given.unresolved == when.unresolved == ()
    assert when != given


def test_recursion_ends(look: Look) -> None:
    """Functions and classes may name each other in a ring, and data may hold itself."""
    shop = """
        class Node:
            def next(self) -> "Node": return decide()
        RING = [Node]
        RING.append(RING)
        def decide(): return other() or decide() or Node or RING
        def other(): return decide() or {}
    """
    given = look(shop=shop.format(1))

    when = look(shop=shop.format(2))

    assert when != given
    assert given.unresolved == ()


CONSTANTS = [
    ("1", "2"),
    ("1", "True"),
    ("1", "1.0"),
    ("'a'", "b'a'"),
    ("None", "..."),
    ("Decimal('1.0')", "Decimal('1.00')"),
    ("(1, 2)", "[1, 2]"),
    ("(1, 2)", "(2, 1)"),
    ("{1, 2}", "frozenset({1, 2})"),
    ("frozenset({1, 2})", "frozenset({1, 3})"),
    ("{'a': 1}", "{'a': 2}"),
    ("MappingProxyType({'a': 1})", "MappingProxyType({'a': 2})"),
    ("defaultdict(int)", "defaultdict(list)"),
    ("Color.RED", "Color.BLUE"),
    ("Access.READ | Access.WRITE", "Access.READ"),
    ("Sku('a')", "Sku('b')"),
    ("Sku('a')", "'a'"),
    ("date(2024, 1, 1)", "date(2024, 1, 2)"),
    ("datetime(2024, 1, 1)", "datetime(2024, 1, 1, tzinfo=UTC)"),
    ("timedelta(days=1)", "timedelta(days=2)"),
    ("re.compile('a')", "re.compile('b')"),
    ("re.compile('a')", "re.compile('a', re.I)"),
    ("Point(1, 2)", "Point(1, 3)"),
    ("Pair(1, 2)", "Pair(1, 3)"),
    ("Line(1, 2)", "Line(1, 3)"),
    ("Color", "Access"),
    ("sqrt", "csqrt"),
    ("math", "cmath"),
    ("str.upper", "str.lower"),
    ("'-'.join", "'+'.join"),
    ("itemgetter(1)", "itemgetter(2)"),
    ("partial(max, 1)", "partial(max, 2)"),
    ("Line(1, 2).total", "Line(1, 3).total"),
    ("lambda: 1", "lambda: 2"),
    ("cache(lambda: 1)", "cache(lambda: 2)"),
    ("staticmethod(lambda: 1)", "staticmethod(lambda: 2)"),
    ("Annotated[str, 'a']", "Annotated[str, 'b']"),
    ("Optional[int]", "Optional[str]"),
    ("list['Line']", "list['Pair']"),
    ("List['Line']", "List['Pair']"),
    ("Callable[[int], str]", "Callable[[str], str]"),
    ("NewType('Id', int)", "NewType('Id', str)"),
    ("TypeVar('T')", "TypeVar('T', bound=int)"),
    ("Any", "Self"),
    ("logging.getLogger('a')", "logging.getLogger('b')"),
]


@pytest.mark.parametrize(("before", "after"), CONSTANTS)
def test_a_changed_constant_changes_it(look: Look, before: str, after: str) -> None:
    """A constant counts by its value, however it is written, wherever it comes from."""
    shop = """
        import cmath, enum, logging, math, re
        from cmath import sqrt as csqrt
        from collections import defaultdict
        from collections.abc import Callable
        from dataclasses import dataclass
        from datetime import UTC, date, datetime, timedelta
        from decimal import Decimal
        from functools import cache, partial
        from math import sqrt
        from operator import itemgetter
        from types import MappingProxyType
        from typing import Annotated, Any, List, NamedTuple, NewType, Optional, Self, TypeVar
        import msgspec
        class Color(enum.Enum):
            RED = 1
            BLUE = 2
        class Access(enum.Flag):
            READ = 1
            WRITE = 2
        class Sku(str): ...
        class Point(NamedTuple):
            x: int
            y: int
        @dataclass
        class Pair:
            x: int
            y: int
        class Line(msgspec.Struct):
            x: int
            y: int
            def total(self): return self.x
        LIMIT = {}
        def decide(): return LIMIT
    """
    given = look(shop=shop.format(before))
    again = look(shop=shop.format(before))

    when = look(shop=shop.format(after))

    assert given.unresolved == when.unresolved == ()
    assert again == given
    assert when != given


def test_a_changed_closure_value_changes_it(look: Look) -> None:
    """A limit that is given from outside is part of the rule."""
    shop = """
        def enrol(open_max):
            def enrol(command):
                return [open_max for _ in command]
            return enrol
        decide = enrol({})
    """
    given = look(shop=shop.format(1))

    when = look(shop=shop.format(2))

    assert when != given


def test_a_changed_function_in_a_closure_changes_it(look: Look) -> None:
    """What a closure holds is followed; a name that is not bound yet has no value."""
    shop = """
        def outer():
            def inner(): return {}
            def decide(): return inner() + decide() + (later if False else 0)
            found = decide
            if found is None:
                later = 1
            return found
        decide = outer()
    """
    given = look(shop=shop.format(1))

    when = look(shop=shop.format(2))

    assert when != given
    assert given.unresolved == ("shop.outer.<locals>.decide.later",)


@pytest.mark.parametrize("bound", ["partial(enrol, {})", "partial(enrol, open_max={})"])
def test_a_changed_partial_argument_changes_it(look: Look, bound: str) -> None:
    """So is one that `partial` binds, by place or by name."""
    shop = "from functools import partial\ndef enrol(open_max, command=None): return open_max\ndecide = "
    given = look(shop=shop + bound.format(1))

    when = look(shop=shop + bound.format(2))

    assert when != given


@pytest.mark.parametrize("star", ["", "*, "])
def test_a_changed_default_changes_it(look: Look, star: str) -> None:
    """A default counts by its value, which may come from elsewhere."""
    shop = "def start(): return {}\nfirst = start()\ndel start\ndef decide(" + star + "limit=first): return limit"
    given = look(shop=shop.format(1))

    when = look(shop=shop.format(2))

    assert when != given


def test_a_new_field_of_an_event_changes_it(look: Look) -> None:
    """What a function's annotations name belongs to it."""
    shop = """
        from __future__ import annotations
        import happened.core.messages as h
        class Bought(h.Event):
            units: int{}
        def decide(event: Bought): return event
    """
    given = look(shop=shop.format(""))

    when = look(shop=shop.format("\n            price: int = 0"))

    assert when != given


def test_a_changed_alias_of_an_annotation_changes_it(look: Look) -> None:
    """The tag of a field stands in an alias."""
    shop = """
        import typing
        import happened.core.messages as h
        Sku = typing.Annotated[str, h.Tag("{}")]
        class Bought(h.Event):
            sku: Sku
        def decide(event: Bought): return event
    """
    given = look(shop=shop.format("sku"))

    when = look(shop=shop.format("item"))

    assert when != given


STATE = """
    import msgspec
    from happened.core.messages import Event
    from happened.core.state import State
    START = 0
    def worth(event): return event.units * 2
    class Counted(msgspec.Struct):
        @property
        def twice(self): return helped(self)
        @twice.setter
        def twice(self, value): worth(value)
    def helped(counted): return 1
    class Bought(Event):
        sku: str
        units: int
    class Stock(State, Counted):
        sku: str
        units: int = START
        most: list[int] = msgspec.field(default_factory=lambda: [units for units in range(2)])
        def evolve(self, event: Bought) -> "Stock":
            return self.but(units=self.units - worth(event))
        @staticmethod
        def key_of(event: Bought) -> str:
            return event.sku
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("self.units - worth", "self.units + worth"),
        ("START = 0", "START = 1"),
        ("event.units * 2", "event.units * 3"),
        ("return event.sku", "return event.sku.lower()"),
        ("        units: int\n", "        units: int\n        price: int = 0\n"),
        ("return 1", "return 2"),
    ],
)
@pytest.mark.parametrize("of", ["Stock", "Stock.evolve", "Stock.key_of"])
def test_a_state_counts_as_a_whole(look: Look, of: str, before: str, after: str) -> None:
    """Fields, defaults, all methods, bases and what they name; a method alone brings its class, since `self` leads to it."""
    given = look(of, shop=STATE)

    when = look(of, shop=STATE.replace(before, after))

    assert [name for name in given.unresolved if name.startswith("shop")] == []
    assert when != given


def test_a_state_made_in_a_function_counts_too(look: Look) -> None:
    """Its events are found in the closure or by the annotation itself."""
    shop = """
        def make():
            class Bought:
                units: int = {}
            class Sold:
                units: int = 0
            class Stock:
                units: int = 0
                best: Sold | None = None
                def evolve(self, event: Bought) -> "Stock | None":
                    return super().evolve()
            return Stock
        Stock = make()
    """
    given = look("Stock", shop=shop.format(1))

    when = look("Stock", shop=shop.format(2))

    assert given.unresolved == ()
    assert when != given


def test_of_two_classes_with_one_name_the_right_one_counts(look: Look) -> None:
    """A module may define a class twice and keep either."""
    shop = """
        if True:
            class Stock:
                def evolve(self): return {}
        else:
            class Stock:
                def evolve(self): return {}
        class Plain: a = 1
        class Plain: a = {}
        def decide(): return Plain
    """
    given = look("Stock", shop=shop.format(1, 2, 3)), look(shop=shop.format(1, 2, 3))

    unused = look("Stock", shop=shop.format(1, 3, 3))
    first = look("Stock", shop=shop.format(2, 2, 3))
    last = look(shop=shop.format(1, 2, 4))

    assert unused == given[0]
    assert first != given[0]
    assert last != given[1]


@pytest.mark.parametrize(
    "decorator",
    ["functools.cache", "contextlib.contextmanager", "logged", "silent", "named(0)", "functools.singledispatch", "counted"],
)
def test_a_decorated_function_counts(look: Look, decorator: str) -> None:
    """What lies under a decorator is found: by `__wrapped__`, or in the wrapper's closure."""
    shop = (
        """
        import contextlib, functools
        def logged(function):
            @functools.wraps(function)
            def call(*args): return function(*args)
            return call
        def silent(function):
            return lambda *args: function(*args)
        def named(_):
            return lambda function: function
        def counted(function):
            class Counted:
                def __call__(self): return function()
            return functools.wraps(function)(Counted())
        @"""
        + decorator
        + """
        def decide(units):
            yield {}
    """
    )
    given = look(shop=shop.format(1))

    when = look(shop=shop.format(2))

    assert given.unresolved == (("shop.decide",) if decorator == "counted" else ())
    assert when != given


LAMBDAS = [
    ("decide = lambda x: x + {}", "1", "2"),
    ("other, decide = lambda x: x, lambda x: x * {}", "1", "2"),
    ("decide = (lambda: lambda y: y * {})()", "1", "2"),
    ("def first(f, g): return f\ndecide = first(lambda x:\n  (x and\n   {}), lambda x: 3)", "1", "2"),
]


@pytest.mark.parametrize(("shop", "before", "after"), LAMBDAS)
def test_a_changed_lambda_changes_it(look: Look, shop: str, before: str, after: str) -> None:
    """A lambda is found by its place in the line."""
    given = look(shop=shop.format(before))

    when = look(shop=shop.format(after))

    assert given.unresolved == ()
    assert when != given


def test_a_lambda_beside_another_is_none_of_its_business(look: Look) -> None:
    """Of two lambdas in one line only the one that is meant counts."""
    given = look(shop="other, decide = lambda x: x + 1, lambda x: x * 2")

    when = look(shop="other, decide = lambda x: x + 8, lambda x: x * 2")

    assert when == given


def test_more_things_make_one_fingerprint(look: Look) -> None:
    """A view's code is read together with the upcasts before it, in their order."""
    alone = fingerprint_of(len)

    together = fingerprint_of(len, ("Order", 1, str.upper), {"a": 1})

    assert fingerprint_of(len, ("Order", 1, str.upper), {"a": 1}) == together
    assert len({alone, together, fingerprint_of(len, {"a": 1}, ("Order", 1, str.upper))}) == 3


def test_a_builtin_function_is_its_name() -> None:
    """What Python itself brings keeps its meaning."""
    assert fingerprint_of(len) == fingerprint_of(len)
    assert fingerprint_of(len) != fingerprint_of(max)
    assert fingerprint_of(len).unresolved == ()


# --- what belongs to others


def test_another_version_of_a_distribution_changes_it(tmp_path: Path) -> None:
    """Code of others counts by name and version, not by its text; a name of a module may differ from that of its distribution."""
    shop = """
        import prices, tools.rebates
        from prices import price
        @price
        def decide(x):
            import later
            return prices.price() + tools.rebates.rebate() + x
    """
    write(tmp_path / "project", shop=shop)

    def run(version: str, text: str) -> list[str]:
        site = tmp_path / version / text / "site-packages"
        write(site, prices=f"def price(f=None):\n    return f or {text}", later="")
        write(site / "tools", rebates="def rebate(): return 1")
        for name, modules in {"prices": "prices", "py_rebates": "tools", "later": "later"}.items():
            write(site / f"{name}-{version}.dist-info")
            (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            (site / f"{name}-{version}.dist-info" / "top_level.txt").write_text(modules)
        return child(tmp_path / "project", site)

    given = run("1.0", "1")

    assert run("1.0", "2") == given
    assert run("1.1", "1") != given
    assert len(given) == 1


def test_what_is_asked_for_counts_as_project_even_where_it_is_installed(tmp_path: Path) -> None:
    """An app that is deployed as a wheel keeps its fingerprints honest, whatever its version says."""
    for folder, price in (("a", 1), ("b", 2)):
        write(tmp_path / folder / "site-packages", shop=f"def decide(): return price()\ndef price(): return {price}")

    before, after = (child(tmp_path / folder / "site-packages") for folder in ("a", "b"))

    assert before != after


def test_a_module_without_a_version_is_unresolved(tmp_path: Path) -> None:
    """Nobody says when it changes."""
    write(tmp_path / "project", shop="import stray\ndef decide(): return stray.price()")
    write(tmp_path / "site-packages", stray="def price(): return 1")

    found = child(tmp_path / "project", tmp_path / "site-packages")

    assert found[1:] == ["stray"]


def test_what_others_wrap_is_found(tmp_path: Path) -> None:
    """A decorator of others keeps our function in its closure."""
    write(tmp_path / "site-packages", wrapping="def wrap(f, note={}):\n    def call(): return f(), note\n    return call")
    for folder, price in (("a", 1), ("b", 2)):
        write(
            tmp_path / folder,
            shop=f"import wrapping\ndef price(): return {price}\ncall = wrapping.wrap(price)\ndef decide(): return call()",
        )

    before, after = (child(tmp_path / folder, tmp_path / "site-packages") for folder in ("a", "b"))

    assert before[0] != after[0]


# --- what can't be resolved


def test_what_cannot_be_resolved_is_listed(look: Look) -> None:
    """A lock, a name that is not there, a lazy import, a bare module: each by its dotted name, each once."""
    found = look(
        shop="""
        import threading, prices
        from dataclasses import dataclass
        from functools import partial
        LOCK = threading.Lock()
        class Machine:
            def __call__(self): return 1
        MACHINE = Machine()
        @dataclass
        class Held:
            lock: object
        HELD = Held(LOCK)
        def decide(a=LOCK):
            import json, happened
            from prices import late
            from . import near
            return LOCK, LOCK, MACHINE, HELD, gone, prices, prices.price, prices.missing, partial(MACHINE)
    """,
        prices="price = object()",
    )

    assert set(found.unresolved) - {"happened"} == {
        "prices",
        "prices.missing",
        "prices.price",
        "shop.HELD.lock",
        "shop.LOCK",
        "shop.MACHINE",
        "shop.decide.a",
        "shop.decide.late",
        "shop.decide.near",
        "shop.decide.gone",
    }


def test_an_instance_brings_its_class(look: Look) -> None:
    """The values in it are unknown, its code is not."""
    shop = """
        class Machine:
            def __call__(self): return {}
        decide = Machine()
    """
    given = look(shop=shop.format(1))

    when = look(shop=shop.format(2))

    assert given.unresolved == ("shop.Machine",)
    assert when != given


def test_compiled_code_of_the_project_is_unresolved(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension module has no text, and nobody says its version."""
    monkeypatch.setattr(math.ulp, "__module__", "shop")

    found = look(shop="from math import ulp\ndef decide(): return ulp")

    assert found.unresolved == ("shop.ulp",)


def test_a_module_made_by_hand_is_unresolved(look: Look) -> None:
    """A lazy import is looked for, not made, and what nobody can find is taken for the project's."""
    found = look(
        shop="""
        import sys, types
        sys.modules["shop_by_hand"] = types.ModuleType("shop_by_hand")
        def decide():
            from shop_by_hand.inner import rule
            from shop_not_there import other
    """
    )
    del sys.modules["shop_by_hand"]

    assert found.unresolved == ("shop.decide.other", "shop.decide.rule")


def test_a_method_that_is_gone_is_read_by_its_text(look: Look) -> None:
    """A class may drop what its body defines; its text still names things."""
    shop = """
        def price(): return {}
        class Stock:
            def evolve(self): return price()
            del evolve
    """
    given = look("Stock", shop=shop.format(1))

    when = look("Stock", shop=shop.format(2))

    assert when != given


def test_a_stand_in_is_left_alone(look: Look) -> None:
    """An object that says it is something else may run code when it is looked at."""
    found = look(
        shop="""
        class Proxy:
            @property
            def __class__(self): raise RuntimeError
        request = Proxy()
        def decide(): return request
    """
    )

    assert found.unresolved == ("shop.request",)


MADE = {"__name__": "made", "limit": 1}
BODY = "def decide(x):\n    'Said.'\n    return x + limit + price() + module.y\ndef price(): return [{} for _ in {{'a', 'b'}}]"


@pytest.mark.parametrize(("before", "after", "limit", "same"), [("1", "1", 1, True), ("1", "2", 1, False), ("1", "1", 2, False)])
def test_code_without_a_source_counts_by_its_bytecode(before: str, after: str, limit: int, *, same: bool) -> None:
    """It is listed, since bytecode says another thing in another version of Python; what it names is followed all the same."""

    def made(text: str, limit: int) -> Fingerprint:
        names: dict[str, object] = {"__name__": "made", "limit": limit, "module": collections}
        exec(BODY.format(text), names)
        decide = names["decide"]
        assert callable(decide)
        return fingerprint_of(decide)

    given = made(before, 1)

    when = made(after, limit)

    assert (when == given) is same
    assert given.unresolved == ("made.decide", "made.price")


def test_a_module_named_by_code_without_a_source_is_followed(look: Look) -> None:
    """Its names are tried on the modules it names."""
    shop = "import prices\nexec('def decide(): return prices.price()')"
    given = look(shop=shop, prices="def price(): return 1")

    when = look(shop=shop, prices="def price(): return 2")

    assert given.unresolved == ("shop.decide",)
    assert when != given


def test_a_class_without_a_source_counts_by_what_it_holds(look: Look) -> None:
    """A class that a function made has no text of its own."""
    shop = """
        import collections, enum, msgspec
        def total(self): return {}
        Line = msgspec.defstruct("Line", [("units", int, 1), ("price", "{}", {})], namespace={{"total": total}})
        Pair = collections.namedtuple("Pair", "x y")
        Color = enum.Enum("Color", "RED BLUE")
        def decide(): return Line, Pair, Color
    """
    given = look(shop=shop.format(1, "int", 2))

    others = {look(shop=shop.format(*values)) for values in ((2, "int", 2), (1, "str", 2), (1, "int", 3))}

    assert given.unresolved == ("shop.Color", "shop.Line", "shop.Pair")
    assert look(shop=shop.format(1, "int", 2)) == given
    assert len(others | {given}) == 4


@pytest.mark.parametrize("text", ["def (", "\0", "", "def decide(a, b):\n    return 1"])
def test_a_source_that_is_no_longer_what_was_loaded_is_not_trusted(look: Look, tmp_path: Path, text: str) -> None:
    """A file may be edited while its code runs."""
    look(shop="def decide(a):\n    return 1")
    (tmp_path / "0" / "shop.py").write_text(text, encoding="utf-8")

    found = fingerprint_of(sys.modules["shop"].decide)

    assert found.unresolved == ("shop.decide",)


def test_code_without_a_path_has_a_fingerprint() -> None:
    """Its path is empty, and that is the folder it runs in: no file to be read."""
    names: dict[str, Callable[[int], int]] = {}
    exec(compile("def double(number):\n    return 2 * number", "", "exec"), names)

    assert fingerprint_of(names["double"]).digest


def test_code_in_a_notebook_has_its_source(tmp_path: Path) -> None:
    """A shell that keeps the text of its cells for tracebacks keeps it for us too."""
    code = """
import linecache
text = "def decide(): return {}"
linecache.cache["<cell 1>"] = (len(text), None, [text], "<cell 1>")
exec(compile(text, "<cell 1>", "exec"))
thing = decide
"""

    runs = [child(tmp_path, code=code.replace("{}", number)) for number in "12"]

    assert runs[0][0] != runs[1][0]
    assert runs[0][1:] == []


def test_lambdas_without_columns_are_unresolved_where_there_are_two(tmp_path: Path) -> None:
    """Python can be told to forget columns; a line with one lambda needs none."""
    write(tmp_path, shop="a, decide = lambda: 1, lambda: 2\nalone = lambda: 3")
    shop = compile((tmp_path / "shop.py").read_text(), str(tmp_path / "shop.py"), "exec")
    names: dict[str, object] = {"__name__": "shop", "__file__": str(tmp_path / "shop.py")}
    exec(without_columns(shop), names)

    found = [fingerprint_of(thing).unresolved for thing in (names["decide"], names["alone"]) if callable(thing)]

    assert found == [("shop.<lambda>",), ()]


def without_columns(code: types.CodeType) -> types.CodeType:
    """Return the code as `-X no_debug_ranges` makes it: lines only."""
    consts = tuple(without_columns(const) if isinstance(const, types.CodeType) else const for const in code.co_consts)
    words = len(code.co_code) // 2
    table = bytearray()
    for start in range(0, words, 8):  # an entry of kind 13 (no column) for up to 8 code units, line delta 0
        table += bytes([0x80 | 13 << 3 | min(8, words - start) - 1, 0])
    return code.replace(co_consts=consts, co_linetable=bytes(table))


def test_a_changed_file_is_read_again(look: Look, tmp_path: Path) -> None:
    """Files are kept parsed by path and time."""
    given = look(shop="def decide():\n    return 1")
    path = tmp_path / "0" / "shop.py"
    path.write_text("def decide():\n    return 2", encoding="utf-8")
    os.utime(path, (1, 1))

    when = fingerprint_of(sys.modules["shop"].decide)

    assert when != given


def test_a_script_agrees_with_the_module_that_it_is(tmp_path: Path) -> None:
    """`python shop.py` names the file as it was typed, and calls itself `__main__`."""
    write(
        tmp_path,
        shop="""
        import os, sys
        from happened.log.fingerprint import fingerprint_of
        class Order:
            units: int = 1
        def decide(order: Order): return Order
        if __name__ == "__main__":
            os.chdir(os.sep)
            found = fingerprint_of(decide)
            print(found.digest, *found.unresolved)
    """,
    )

    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    run = subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)

    assert run.stdout.split() == child(tmp_path)
    assert len(run.stdout.split()) == 1
