"""Conditions on a view: they mean what the same words mean in Python, and what they can't say is refused."""

import datetime as dt
import enum
import operator
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any, NamedTuple  # Any: values of any type are compared

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from happened.core.errors import Invalid
from happened.core.messages import Places, Value
from happened.core.state import State
from happened.cqrs.where import compile_order, compile_where
from happened.shelf.connection import Connection, Unstorable
from happened.shelf.postgres_rows import POSTGRES, Session
from happened.shelf.tables import Table
from tests.databases import in_memory
from tests.servers import server


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"


class Address(Value):
    city: str
    zip: str = ""


class Order(State):
    order: str
    country: str = ""
    total: Decimal = Decimal(0)
    tax: Decimal = Decimal(0)
    rebate: Annotated[Decimal, Places(2)] | None = None
    units: int | None = None
    weight: float = 0.0
    paid: bool = False
    status: Status = Status.OPEN
    placed: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    due: dt.date = dt.date(2026, 1, 1)
    took: dt.timedelta = dt.timedelta(0)
    id: uuid.UUID = uuid.UUID(int=0)
    address: Address = Address("")
    key: bytes = b""
    like: str = ""


class Counter(State):
    last: int = 0


TABLES: dict[str, Table[Order]] = {
    "sqlite": Table(Order, "0123456789abcdef"),
    "postgres": Table(Order, "0123456789abcdef", dialect=POSTGRES),
}
SESSIONS: list[Session] = []
"""The connection to PostgreSQL, while the tests run there."""


@pytest.fixture(params=["sqlite", "postgres"], scope="module", autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let each test run on both databases."""
    if request.param == "postgres":
        SESSIONS.append(Session(psycopg.connect(server().url, autocommit=True)))
        SESSIONS[0].raw.execute("set timezone to 'Asia/Tokyo'")
    yield request.param
    while SESSIONS:
        SESSIONS.pop().raw.close()


def table() -> Table[Order]:
    """Return the table in the words of the database of this test."""
    return TABLES["postgres" if SESSIONS else "sqlite"]


def orders(*states: Order) -> Connection:
    connection: Connection = SESSIONS[0] if SESSIONS else in_memory()
    for statement in (*table().drop(), *table().ddl()):
        connection.execute(statement)
    table().dialect.put_many(connection, table(), [table().encode(state, index) for index, state in enumerate(states, 1)])
    return connection


def found(connection: Connection, text: str, *args: object, **equals: object) -> list[str]:
    where, params = compile_where(table(), text, args, equals)
    return [row[0] for row in connection.execute(table().select(where, compile_order(table())), params)]


# --- what conditions mean


def test_a_condition_and_pairs_join() -> None:
    """The program of the reference: a comparison with an argument, and a field by name."""
    connection = orders(
        Order("dear", "France", Decimal("9.90")), Order("cheap", "France", Decimal("4.90")), Order("far", "Japan", Decimal("9.90"))
    )

    rows = found(connection, "total > ?", 5, country="France")

    assert rows == ["dear"]


def test_without_a_condition_all_rows_are_found() -> None:
    """The SQL is empty then."""
    assert compile_where(table(), " ") == ("", ())


MANY = (
    Order("a", "France", Decimal("1.5"), Decimal("1.5"), Decimal("0.50"), 5, 0.1, paid=True, status=Status.PAID),
    Order("b", "it's", Decimal(-3), placed=dt.datetime(2026, 6, 1, tzinfo=dt.UTC), due=dt.date(2026, 6, 1)),
    Order("c", 'FRANCE "x"', Decimal(100), units=-7, weight=2.5, took=dt.timedelta(hours=1), id=uuid.UUID(int=5)),
    Order("d", "50% _off", Decimal("0.000001"), address=Address("Paris"), key=b"k", like="yes", units=2**63 - 1),
)


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        ("total = 1.5", (), "a"),
        ("total = '1.500'", (), "a"),
        ("total = ?", (Decimal("1.50"),), "a"),
        ("total = ?", ("1.5",), "a"),
        ("1.5 = total", (), "a"),
        ("1 < total", (), "ac"),
        ("? >= total", (0,), "b"),
        ("total == 1.5 or total == -3", (), "ab"),
        ("total < -2.5", (), "b"),
        ("total > - - 2", (), "c"),
        ("total > +1", (), "ac"),
        ("total in (1.5, ?, '0.000001')", (100,), "acd"),
        ("total not in (1.5, 100)", (), "bd"),
        ("total in (tax, 100)", (), "ac"),
        ("total between ? and ?", (0, "1.5"), "ad"),
        ("total not between 0 and 1.5", (), "bc"),
        ("total = tax", (), "a"),
        ("total != tax and total <> 100", (), "bd"),
        ("total > 1e2 or total = 1.0E2", (), "c"),
        ("(total) = (1.5)", (), "a"),
        ("rebate is null", (), "bcd"),
        ("rebate is not null", (), "a"),
        ("not rebate is null", (), "a"),
        ("rebate = .5", (), "a"),
        ("rebate <> 0.1234", (), "a"),
        ("not rebate = 0.1234", (), "a"),
        ("country = 'it''s'", (), "b"),
        ("country = ?", ("it's",), "b"),
        ("country = 'FRANCE \"x\"'", (), "c"),
        ('"country" = ?', ("France",), "a"),
        ("country like 'france%'", (), "ac"),
        ("country not like ?", ("%a%",), "bd"),
        ("country like ? escape '!'", ("%!%%",), "d"),
        ("lower(country) = 'france'", (), "a"),
        ("country || '!' = ?", ("France!",), "a"),
        ("length(country) > 6", (), "cd"),
        ("substr(placed, 1, 7) = ?", ("2026-06",), "b"),
        ("units = 5", (), "a"),
        ("units = '5'", (), "a"),
        ("units > 4.5", (), "ad"),
        ("units = 4.5", (), ""),
        ("units > ?", (4.5,), "ad"),
        ("units >= ?", (2**70,), ""),
        ("units < ?", (2**70,), "acd"),
        ("units > ?", (-(2**70),), "acd"),
        ("units <= ?", (-(2**70),), ""),
        ("units <> ?", (2**70,), "acd"),
        ("units = 9223372036854775807", (), "d"),
        ("units > 1e400", (), ""),
        ("units * 2 + 1 = 11", (), "a"),
        ("-units > 0", (), "c"),
        ("units - -5 = 10", (), "a"),
        ("units % 2 = ? and units < 100", (1,), "a"),
        ("units * 1.5 = 7.5", (), "a"),
        ("coalesce(units, 0) = 0", (), "b"),
        ("abs(units) in (7, 5)", (), "ac"),
        ("abs(units) between 6 and 8", (), "c"),
        ("weight = 0.1", (), "a"),
        ("weight = ?", (Decimal("0.1"),), "a"),
        ("weight > 2", (), "c"),
        ("weight = '2.5'", (), "c"),
        ("weight > units", (), "c"),
        ("paid", (), "a"),
        ("not paid", (), "bcd"),
        ("not not (paid)", (), "a"),
        ("paid = true", (), "a"),
        ("paid = 1", (), "a"),
        ("paid = ?", (False,), "bcd"),
        ("paid = 'true'", (), "a"),
        ("paid and units = 5", (), "a"),
        ("status = 'paid'", (), "a"),
        ("status = ?", (Status.PAID,), "a"),
        ("status in ('open', ?)", (Status.PAID,), "abcd"),
        ("placed > ?", (dt.datetime(2026, 3, 1, tzinfo=dt.UTC),), "b"),
        ("placed = ?", (dt.datetime(2026, 6, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),), "b"),
        ("placed > '2026-03-01T00:00:00Z'", (), "b"),
        ("placed like '2026-06%'", (), "b"),
        ("due >= '2026-06-01'", (), "b"),
        ("due = ?", (dt.date(2026, 6, 1),), "b"),
        ("took > ?", (dt.timedelta(minutes=59),), "c"),
        ("took = 'PT1H'", (), "c"),
        ("id = '00000000-0000-0000-0000-000000000005'", (), "c"),
        ("id = ?", (uuid.UUID(int=5),), "c"),
        ("address = ?", (Address("Paris"),), "d"),
        ("json_extract(address, '$.city') = 'Paris'", (), "d"),
        ("key = ?", (b"k",), "d"),
        ("\"like\" = 'yes'", (), "d"),
        ("_position between 2 and 3", (), "bc"),
        ("paid or total = 100 and units = -7", (), "ac"),
        ("(paid or total = 100) and units = -7", (), "c"),
        ("not (paid or total = 100)", (), "bd"),
        ("NOT paid AND total BETWEEN 0 AND 1 OR units IS NULL", (), "bd"),
        ("? = 1 and '2' = ?", (1, "2"), "abcd"),
        ("? = ?", (b"x", b"x"), "abcd"),
    ],
)
def test_a_condition_finds_its_rows(text: str, args: tuple[object, ...], expected: str) -> None:
    """Values are stored as their column stores them, and compared exactly."""
    connection = orders(*MANY)

    if SESSIONS and text in (
        "units - -5 = 10",
        "units * 2 + 1 = 11",
    ):  # a row has the largest of 64 bits, and PostgreSQL does not go on with a float
        with pytest.raises(Unstorable, match="bigint out of range"):
            found(connection, text, *args)
        return
    rows = found(connection, text, *args)

    assert "".join(rows) == expected


def test_a_pair_with_none_asks_for_null() -> None:
    """In SQL nothing is equal to null."""
    connection = orders(Order("a", units=1), Order("b"))

    assert found(connection, "", units=None) == ["b"]
    assert found(connection, "", units=1, rebate=None) == ["a"]


def test_a_list_may_be_long() -> None:
    """Values in a list are bound, a thousand as well as one."""
    connection = orders(*MANY)

    rows = found(connection, f"units in ({', '.join('?' * 1000)})", *range(1000))

    assert rows == ["a"]


# --- the same in Python


class Case(NamedTuple):
    """A condition as text, its arguments, and as a function of an order: true, false or unknown."""

    text: str
    args: tuple[object, ...]
    holds: Callable[[Order], bool | None]


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

FLIPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

NUMBERS = (
    st.decimals(-3, 3, places=1) | st.decimals(-3, 3, places=8) | st.integers(-3, 3).map(Decimal) | st.decimals("-1E+20", "1E+20", places=2)
)


def known(field: str, test: Callable[[Any], bool]) -> Callable[[Order], bool | None]:
    """Return a test on a field that is unknown where the field is null."""

    def holds(order: Order) -> bool | None:
        value = getattr(order, field)
        return None if value is None else test(value)

    return holds


@st.composite
def comparisons(draw: st.DrawFn) -> Case:
    field, sign, number = draw(st.sampled_from(["total", "rebate", "units"])), draw(st.sampled_from(sorted(OPERATORS))), draw(NUMBERS)
    holds = known(field, lambda value: OPERATORS[sign](value, number))
    match draw(st.sampled_from(["literal", "argument", "text", "flipped"])):
        case "literal":
            return Case(f"{field} {sign} {number:f}", (), holds)
        case "argument":
            return Case(f"{field} {sign} ?", (number,), holds)
        case "text":
            return Case(f"{field} {sign} '{number}'", (), holds)
        case _:
            return Case(f"?{FLIPPED[sign]}{field}", (number,), holds)


@st.composite
def lists(draw: st.DrawFn) -> Case:
    field, numbers, negated = (
        draw(st.sampled_from(["total", "rebate", "units"])),
        draw(st.lists(NUMBERS, min_size=1, max_size=4)),
        draw(st.booleans()),
    )
    text = f"{field} {'not ' * negated}in ({', '.join('?' * len(numbers))})"
    return Case(text, tuple(numbers), known(field, lambda value: (value in numbers) != negated))


@st.composite
def ranges(draw: st.DrawFn) -> Case:
    field, low, high, negated = draw(st.sampled_from(["total", "rebate", "units"])), draw(NUMBERS), draw(NUMBERS), draw(st.booleans())
    return Case(f"{field} {'not ' * negated}between ? and ?", (low, high), known(field, lambda value: (low <= value <= high) != negated))


@st.composite
def nulls(draw: st.DrawFn) -> Case:
    field, negated = draw(st.sampled_from(["rebate", "units"])), draw(st.booleans())

    def holds(order: Order) -> bool:
        return (getattr(order, field) is None) != negated

    return Case(f"{field} is {'not ' * negated}null", (), holds)


def opposite(case: Case) -> Case:
    def holds(order: Order) -> bool | None:
        value = case.holds(order)
        return None if value is None else not value

    return Case(f"not ({case.text})", case.args, holds)


def joined(word: str, one: Case, other: Case) -> Case:
    decides = word == "or"  # true decides an `or`, false an `and`, whatever the rest

    def holds(order: Order) -> bool | None:
        values = (one.holds(order), other.holds(order))
        return decides if decides in values else None if None in values else not decides

    return Case(f"({one.text}) {word} ({other.text})", one.args + other.args, holds)


CASES = st.recursive(
    comparisons() | lists() | ranges() | nulls(),
    lambda below: st.builds(opposite, below) | st.builds(joined, st.sampled_from(["and", "or"]), below, below),
    max_leaves=6,
)

ROWS = st.lists(
    st.tuples(
        st.decimals(-3, 3, places=6) | st.integers(-3, 3).map(Decimal),
        st.none() | st.decimals(-3, 3, places=2),
        st.none() | st.integers(-3, 3),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300)
@given(CASES, ROWS)
def test_a_condition_means_what_python_means(case: Case, rows: list[tuple[Decimal, Decimal | None, int | None]]) -> None:
    """Decimals of any places compare exactly with columns of some, and null is unknown through and, or and not."""
    states = [Order(str(index), total=total, rebate=rebate, units=units) for index, (total, rebate, units) in enumerate(rows)]
    connection = orders(*states)

    selected = found(connection, case.text, *case.args)

    assert selected == [state.order for state in states if case.holds(state) is True]


# --- what is refused


@pytest.mark.parametrize(
    ("text", "args", "why"),
    [
        ("totl > 5", (), "`Order` has no column `totl`; its columns are order, country, total,"),
        ("Total > 5", (), "no column `Total`"),
        ("total > ?", (), "1 `\\?`, and 0 arguments"),
        ("total > 5", (5,), "0 `\\?`, and 1 arguments"),
        ("", (5,), "1 arguments, but no condition"),
        ("total > ?", (0.1,), "never a float; this is 0.1"),
        ("total > ?", (True,), "exact number"),
        ("total > ?", ("abc",), "exact number"),
        ("total > ?", (Decimal("NaN"),), "exact number"),
        ("total > ?", (None,), "`is null`"),
        ("total > paid", (), r"`total` \(decimal of 6 places\) and `paid` \(number\) don't compare"),
        ("total = rebate", (), "don't compare"),
        ("total + 1 > 5", (), "`total` is a Decimal.*Calculate in plain SQL: the view `Order`"),
        ("total * 2 > 5", (), "`total` is a Decimal"),
        ("-total > 5", (), "`total` is a Decimal"),
        ("abs(total) > 5", (), "`total` is a Decimal"),
        ("coalesce(rebate, 0) > 5", (), "`rebate` is a Decimal"),
        ("total > 2 * 3", (), "`total` is a Decimal"),
        ("total > units + 1", (), "`total` is a Decimal"),
        ("total like '5%'", (), "`total` is a Decimal"),
        ("total", (), "this is no condition"),
        ("country", (), "this is no condition"),
        ("?", (True,), "this is no condition"),
        ("paid and 5", (), "this is no condition"),
        ("units = ?", ("x",), "an integer"),
        ("units = ?", (float("inf"),), "an integer"),
        ("units = country", (), "don't compare"),
        ("units + 1 = 'x'", (), "a number and a text don't compare"),
        ("lower(country) = 5", (), "a text and a number don't compare"),
        ("units + ? = 5", (2**63,), "64 bits"),
        ("? = ?", (dt.date(2026, 1, 1), 1), "stands beside no column"),
        ("? = 1", (None,), "stands beside no column"),
        ("country = 5", (), "it is no str"),
        ("country = null", (), "`is null`"),
        ("country = ?", (None,), "`is null`"),
        ("country is 'x'", (), "`null` is expected"),
        ("country like 5", (), "a pattern of `like` is text"),
        ("country like 'x' escape '!!'", (), "one character"),
        ("paid = 2", (), "it is no bool"),
        ("paid = 'perhaps'", (), "a bool"),
        ("status = 'lost'", (), "a Status"),
        ("status = 5", (), "a Status"),
        ("placed > ?", (dt.datetime(2026, 1, 1),), "it has no time zone"),  # noqa: DTZ001 - on purpose
        ("placed > '2026-01-01'", (), "a datetime"),
        ("placed > '2026-01-01T00:00:00'", (), "it has no time zone"),
        ("due = ?", (5,), "it is no date"),
        ("took > 5", (), "it is no timedelta"),
        ("address = 'Paris'", (), "can't hold 'Paris'"),
        ("key = 'k'", (), "it is no bytes"),
        ("total > 5; drop table x", (), "`; drop table x` can't be read"),
        ("total > 5 -- more", (), "it has a comment"),
        ("total > 5 /* more */", (), "it has a comment"),
        ("total in (select total from x)", (), "no column `select`"),
        ("exists (select 1)", (), "no function `exists`"),
        ("(select 1) = 1", (), "no column `select`"),
        ("randomblob(1000000000) = key", (), "no function `randomblob`"),
        ("country = 'open", (), "can't be read"),
        ("country = $1", (), "can't be read"),
        ("country = :name", (), "can't be read"),
        ("country = ?1", ("x",), "`1` isn't expected"),
        ("units = 5x", (), "can't be read"),
        ("units = 0x10", (), "can't be read"),
        ("units = 1.2.3", (), "can't be read"),
        ("units = 1e99999999999999999999", (), "out of range"),
        ("units =", (), "it ends too early"),
        ("units = = 5", (), "`=` isn't expected"),
        ("units = 5 = 5", (), "`=` isn't expected"),
        ("units 5", (), "`5` isn't expected"),
        ("(units = 5", (), r"`\)` is expected"),
        ("units = 5)", (), r"`\)` isn't expected"),
        ("units in ()", (), r"`\)` isn't expected"),
        ("units in 5", (), r"`\(` is expected"),
        ("units not = 5", (), "comes `in`, `between` or `like`"),
        ("units between 1 or 5", (), "`and` is expected"),
        ("like = 'yes'", (), "a field of this name stands in double quotes"),
        ("(units = 5) + 1 = 2", (), "a condition is no value"),
        ("length(country, 1) = 2", (), "`length` takes 1 argument$"),
        ("round(1, 2, 3) = 2", (), "`round` takes 1 to 2 arguments"),
        ("(" * 13 + "paid" + ")" * 13, (), "more than 12 parentheses"),
        ("units = " + "units + (3 * (" * 6 + "units + 1" + "))" * 6, (), "more than 12 parentheses"),
        pytest.param(" or ".join(["paid"] * 502), (), "more than 500 operators", id="many operators"),
        pytest.param(f"units in ({', '.join(['1'] * 40_000)})", (), "one query takes 32766", id="many values"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, args: tuple[object, ...], why: str) -> None:
    """Nothing reaches SQLite that isn't understood; the error says what and where."""
    if SESSIONS and text.startswith(
        "units = units + (3"
    ):  # as it is read there are six, and as it is written PostgreSQL takes more than SQLite
        assert len(found(orders(Order("a")), text, *args)) == 0
        return
    with pytest.raises(Invalid, match=why):
        compile_where(table(), text, args)


@pytest.mark.parametrize(
    "text",
    [
        " or ".join(["paid"] * 500),
        f"units {'+ 1 ' * 499}> 5",
        f"{'not ' * 3001}paid",
        f"units {'- ' * 3001}1 > 5",
        "(" * 12 + "paid" + ")" * 12,
        "paid or not (paid and not (" * 6 + "paid" + "))" * 6,
        "units = " + "units * -(units + -(" * 3 + "units" + "))" * 3,
        f"units = {'coalesce(units, units, ' * 12}units{')' * 12}",
        f"paid or not (paid and not paid = (units + (units * -{'coalesce(units, units, -' * 3}units{')' * 3})))",
    ],
    ids=["or", "plus", "not", "minus", "parentheses", "or not and not", "times plus", "functions", "all of them"],
)
def test_what_is_accepted_is_not_too_deep(text: str) -> None:
    """The limits are ours, so that those of a database are never met."""
    connection = orders(*MANY)

    if SESSIONS and "units" in text:  # a row has the largest of 64 bits, and PostgreSQL does not go on with a float
        connection = orders(Order("a", units=3), Order("b"))
    rows = found(connection, text)

    assert len(rows) <= 4


TERMS = st.recursive(
    st.sampled_from(["units", "weight", "?", "7", "1.5", "'x'", "country", "length(country)"]),
    lambda below: (
        st.builds("({} {} {})".format, below, st.sampled_from(["+", "*", "||", "-", "%"]), below)
        | st.builds("{} {} {}".format, below, st.sampled_from(["+", "*", "||", "/"]), below)
        | st.builds("-({})".format, below)
        | st.builds("coalesce({}, {}, {})".format, below, below, below)
    ),
    max_leaves=40,
)

TESTS = st.recursive(
    st.builds("{} {} {}".format, TERMS, st.sampled_from(["=", "<", ">="]), TERMS) | st.just("paid"),
    lambda below: (
        st.builds("({} {} {})".format, below, st.sampled_from(["or", "and", "or not", "and not"]), below)
        | st.builds("not ({})".format, below)
    ),
    max_leaves=40,
)


@settings(max_examples=300)
@given(TESTS)
def test_what_is_understood_runs(text: str) -> None:
    """SQLite takes every condition that isn't refused here, and PostgreSQL says of the others that they are no fault of its own."""
    connection = orders(Order("a"))

    try:
        where, params = compile_where(table(), text, (3,) * text.count("?"))
    except Invalid:
        return

    try:
        connection.execute(table().select(where), params).fetchall()
    except Unstorable:  # PostgreSQL knows types: it adds no text to a number, and 64 bits stay 64 bits
        assert SESSIONS


def test_an_unknown_pair_is_refused() -> None:
    """Names are checked in pairs as in text."""
    with pytest.raises(Invalid, match="no column `land`"):
        compile_where(table(), "", (), {"land": "France"})


@settings(max_examples=300)
@given(st.text(st.sampled_from("tot al=<>()?'\"-+*/|;0123.eand") | st.characters(codec="utf-8"), max_size=30))
def test_no_text_gets_through_unread(text: str) -> None:
    """Whatever is written is either refused or runs."""
    connection = orders(Order("a"))
    args = (1,) * text.count("?")

    try:
        where, params = compile_where(table(), text, args)
    except Invalid:
        return

    connection.execute(table().select(where), params).fetchall()


# --- order


def test_rows_come_in_an_order_that_is_always_the_same() -> None:
    """After the fields comes the key, in the direction of the last field."""
    connection = orders(Order("a", "x", Decimal(10)), Order("b", "x", Decimal(9)), Order("c", "y", Decimal(10)))

    def ordered(*fields: str) -> str:
        return "".join(row[0] for row in connection.execute(table().select("", compile_order(table(), *fields))))

    assert ordered() == "abc"
    assert ordered("total") == "bac"
    assert ordered("-total") == "cab"
    assert ordered("-total", "country") == "acb"
    assert ordered("-order", "total") == "cba"
    assert ordered("-_position") == "cba"


def test_the_one_row_of_a_state_without_key_has_an_order_too() -> None:
    """So a query needs no exception for it."""
    table = Table(Counter, "0123456789abcdef")

    assert compile_order(table) == '"_one"'
    assert compile_order(table, "-last") == '"last" desc, "_one" desc'


def test_an_order_by_an_unknown_field_is_refused() -> None:
    """With the fields there are."""
    with pytest.raises(Invalid, match="no column `price`; its columns are order,"):
        compile_order(table(), "-price")
