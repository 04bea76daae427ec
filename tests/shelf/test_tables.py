"""A state class as a table: what goes in comes out, and what a column can't hold is refused."""

import datetime as dt
import enum
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType  # Any: wrong values on purpose
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from happened.core.errors import Invalid
from happened.core.messages import Index, Places, Tag, Value, named
from happened.core.state import State
from happened.shelf.dialect import SQLITE, select_keys_sql
from happened.shelf.postgres_rows import POSTGRES
from happened.shelf.tables import Table
from tests.databases import in_memory

FINGERPRINT = "0123456789abcdef"

CustomerNo = Annotated[str, Tag("customer")]
Grams = NewType("Grams", int)
Choose = Literal["a", "b"]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Address(Value):
    street: str
    number: int = 0


class Totals(State):
    country: str
    revenue: Annotated[Decimal, Places(2)] = Decimal(0)


class Bought(State):
    customer: CustomerNo
    sku: str
    units: int = 0


class Counter(State):
    last: int = 0


class Order(State):
    order: str
    country: Annotated[str, Index()] = ""
    placed: dt.datetime = dt.datetime.min.replace(tzinfo=dt.UTC)


class Wide(State):
    key: str
    number: int
    text: str | None = None
    count: int | None = None
    yes: bool = False
    maybe: bool | None = None
    real: float = 0.0
    exact: Decimal = Decimal(0)
    cents: Annotated[Decimal, Places(2)] | None = None
    whole: Annotated[Decimal, Places(0)] = Decimal(0)
    moment: dt.datetime = dt.datetime.min.replace(tzinfo=dt.UTC)
    until: dt.datetime | None = None
    day: dt.date = dt.date.min
    hour: dt.time = dt.time.min
    took: dt.timedelta = dt.timedelta(0)
    id: uuid.UUID | None = None
    color: Color = Color.RED
    level: Level | None = None
    rights: Right = Right.READ
    choice: Choose = "a"
    grade: Literal[1, 2] = 1
    grams: Grams = Grams(0)
    raw: bytes = b""
    address: Address | None = None
    lines: tuple[Address, ...] = ()
    names: frozenset[str] = frozenset()
    homes: frozenset[Address] = frozenset()
    by_name: Mapping[str, tuple[Decimal, ...]] = {}
    by_number: Mapping[int, str] = {}
    listed: Sequence[str] = ()
    sets: AbstractSet[frozenset[int]] = frozenset()
    pairs: frozenset[tuple[int, frozenset[str]]] = frozenset()
    either: int | str = 0
    anything: Any = 0


INT64 = st.integers(-(2**63), 2**63 - 1)
ZONES = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(dt.timedelta(seconds=-7))])
MOMENTS = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=ZONES)  # noqa: DTZ001 - the zones are added
ADDRESSES = st.builds(Address, st.text(max_size=3), st.integers(-9, 9))


def written(scaled: int, places: int, zeros: int) -> Decimal:
    """Return a number with zeros before and after it that don't count."""
    return Decimal(f"{'-' if scaled < 0 else ''}{'0' * zeros}{abs(scaled)}{'0' * zeros}E-{places + zeros}")


def decimals(places: int) -> st.SearchStrategy[Decimal]:
    """Return every number that a column of so many places holds."""
    return st.builds(written, INT64, st.just(places), st.integers(0, 3))


WIDE = st.builds(
    Wide,
    key=st.text(),
    number=INT64,
    text=st.none() | st.text(),
    count=st.none() | INT64,
    yes=st.booleans(),
    maybe=st.none() | st.booleans(),
    real=st.floats(allow_nan=False),
    exact=decimals(6),
    cents=st.none() | decimals(2),
    whole=decimals(0),
    moment=MOMENTS,
    until=st.none() | MOMENTS,
    day=st.dates(),
    hour=st.times(),
    took=st.timedeltas(dt.timedelta(days=-100_000_000), dt.timedelta(days=100_000_000)),
    id=st.none() | st.uuids(),
    color=st.sampled_from(Color),
    level=st.none() | st.sampled_from(Level),
    rights=st.sampled_from([Right.READ, Right.WRITE, Right.READ | Right.WRITE, Right(0)]),
    choice=st.sampled_from(["a", "b"]),
    grade=st.sampled_from([1, 2]),
    grams=INT64,
    raw=st.binary(),
    address=st.none() | ADDRESSES,
    lines=st.lists(ADDRESSES, max_size=3).map(tuple),
    names=st.frozensets(st.text(max_size=3), max_size=4),
    homes=st.frozensets(ADDRESSES, max_size=4),
    by_name=st.dictionaries(st.text(max_size=3), st.lists(st.decimals(allow_nan=False), max_size=2).map(tuple), max_size=3),
    by_number=st.dictionaries(st.integers(), st.text(max_size=3), max_size=3),
    listed=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    sets=st.frozensets(st.frozensets(st.integers(0, 4), max_size=3), max_size=3),
    pairs=st.frozensets(st.tuples(st.integers(0, 4), st.frozensets(st.text(max_size=2), max_size=3)), max_size=3),
    either=st.integers(-9, 9) | st.text(max_size=3),
    anything=st.booleans() | st.text(max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def opened(*tables: Table[Any]) -> sqlite3.Connection:
    connection = in_memory()
    for table in tables:
        for statement in table.ddl() + table.view_ddl():
            connection.execute(statement)
    return connection


# --- there and back


@settings(max_examples=200)
@given(WIDE)
def test_a_state_comes_back_from_its_row(state: Wide) -> None:
    """Decoding what was encoded gives an equal state, for every type of column."""
    table = Table(Wide, FINGERPRINT)

    row = table.encode(state, 7)

    assert table.decode(row) == state
    assert row[-1] == 7


@settings(max_examples=50)
@given(WIDE)
def test_sqlite_keeps_a_row_as_it_was_encoded(state: Wide) -> None:
    """What SQLite gives back is what it was given: no affinity changes a value."""
    table = Table(Wide, FINGERPRINT)
    connection = opened(table)
    row = table.encode(state, 7)

    connection.execute(table.upsert, row)

    found = connection.execute(table.get, table.encode_key((state.key, state.number))).fetchone()
    assert found == row
    assert table.decode(found) == state


def test_a_row_of_the_initial_state_comes_back() -> None:
    """A state of which only the key is known is a row like others."""
    table = Table(Order, FINGERPRINT)

    row = table.encode(Order("o-1"), 0)

    assert row == ("o-1", "", "0001-01-01T00:00:00.000000Z", 0)
    assert table.decode(row) == Order("o-1")


class Keywords(State, kw_only=True):
    total: int = 0
    name: str = ""


def test_fields_that_are_given_by_name_only_come_back() -> None:
    """The constructor of a state may take fields by name."""
    table = Table(Keywords, FINGERPRINT)
    given_state = Keywords(total=3, name="n")

    back = table.decode(table.encode(given_state, 1))

    assert back == given_state


class Nothing(State):
    pass


def test_a_state_without_fields_is_a_row() -> None:
    """Even a state that remembers nothing has a position."""
    table = Table(Nothing, FINGERPRINT)
    connection = opened(table)

    connection.execute(table.upsert, table.encode(Nothing(), 4))

    assert connection.execute(table.get).fetchall() == [(4,)]
    assert table.decode((4,)) == Nothing()
    assert connection.execute('select * from "Nothing"').fetchall() == [(4,)]


class Basket(State):
    customer: CustomerNo
    lines: tuple[Address, ...] = ()


class Scan(State):
    page: int
    image: bytes = b""


class Latest(State):
    lines: tuple[Address, ...] = ()


@pytest.mark.parametrize(("state", "large"), [(Order, False), (Totals, False), (Basket, True), (Scan, True), (Wide, True), (Latest, False)])
def test_rows_that_may_be_large_have_rowids(state: type[State], large: bool) -> None:
    """Else SQLite reads each that lies on the way to another one."""
    table = Table(state, FINGERPRINT)
    connection = opened(table)
    [(made,)] = connection.execute("select sql from sqlite_master where name = ?", (table.name,))

    assert ("without rowid" in made) is not large


def test_a_large_state_without_a_key_is_one_row() -> None:
    """Its constant key is none that SQLite gives by itself."""
    table = Table(Latest, FINGERPRINT)
    connection = opened(table)
    for number in (1, 2):
        assert table.put(connection, [table.encode(Latest((Address("here", number),)), number)]) == []
    assert [table.decode(row) for row in connection.execute(table.get)] == [Latest((Address("here", 2),))]


def test_a_large_row_with_a_number_as_its_key_is_kept_and_replaced() -> None:
    """Where rows have rowids, such a key is one."""
    table = Table(Scan, FINGERPRINT)
    connection = opened(table)
    scans = [Scan(page, bytes([page % 256]) * 3_000) for page in (7, -(2**63), 2**63 - 1, 0)]

    assert table.put(connection, [table.encode(scan, 1) for scan in scans]) == []
    assert table.put(connection, [table.encode(Scan(7, b"anew"), 2)]) == []

    found = {table.decode(row) for row in connection.execute(table.select())}
    assert found == {Scan(7, b"anew"), *scans[1:]}


# --- decimals


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1.50", "1.5"),
        ("100", "100"),
        ("1E+2", "100"),
        ("1.5000000000000000000000000000", "1.5"),
        ("-0.01", "-0.01"),
        ("-0.00", "0"),
        ("0E+50", "0"),
    ],
)
def test_a_decimal_is_read_in_one_form(written: str, read: str) -> None:
    """Trailing zeros after the point go, and an exponent is never positive."""
    table = Table(Totals, FINGERPRINT)

    back = table.decode(table.encode(Totals("FR", Decimal(written)), 1))

    assert str(back.revenue) == read
    assert back.revenue == Decimal(written)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Decimal("1.234"), "more than 2 places"),
        (Decimal("1E-999999"), "more than 2 places"),
        (Decimal("12345678901234567.891"), "more than 2 places"),
        (Decimal("92233720368547758.08"), "more than 64 bits"),
        (Decimal("-92233720368547758.09"), "more than 64 bits"),
        (Decimal("1E+999999"), "more than 64 bits"),
        (Decimal("NaN"), "no number"),
        (Decimal("sNaN"), "no number"),
        (Decimal("-Infinity"), "no number"),
        (1.5, "no Decimal"),
        ("1.5", "no Decimal"),
        (None, "no Decimal"),
    ],
    ids=repr,
)
def test_a_decimal_that_does_not_fit_is_refused(value: Any, why: str) -> None:
    """More places or digits than the column has are never rounded or wrapped; the error names column and value."""
    table = Table(Totals, FINGERPRINT)

    with pytest.raises(Invalid, match=why) as caught:
        table.encode(Totals("FR", value), 1)

    assert caught.value.facts == {"state": "Totals", "column": "revenue", "value": repr(value)}


@pytest.mark.parametrize("value", ["92233720368547758.07", "-92233720368547758.08", "1.500", "0.01"])
def test_a_decimal_at_the_edge_fits(value: str) -> None:
    """All 64 bits are used, and trailing zeros don't count as places."""
    table = Table(Totals, FINGERPRINT)

    back = table.decode(table.encode(Totals("FR", Decimal(value)), 1))

    assert back.revenue == Decimal(value)


def test_decimals_add_up_exactly_in_sql() -> None:
    """A sum over the table's scaled integers has no error of floats."""
    table = Table(Totals, FINGERPRINT)
    connection = opened(table)
    connection.executemany(table.upsert, [table.encode(Totals(str(index), Decimal("0.10")), 1) for index in range(1001)])

    [(total,)] = connection.execute(f'select sum(revenue) from "{table.name}"')

    assert total == 10010


@settings(max_examples=200)
@given(decimals(6), st.none() | decimals(2), decimals(0))
def test_the_readable_view_shows_decimals_exactly(exact: Decimal, cents: Decimal | None, whole: Decimal) -> None:
    """Its text is the number's own, without a float between, and without trailing zeros."""
    table = Table(Wide, FINGERPRINT)
    connection = opened(table)
    row = table.encode(Wide("k", 1, exact=exact, cents=cents, whole=whole), 1)
    connection.execute(table.upsert, row)

    [shown] = connection.execute('select exact, cents, whole from "Wide"')

    back = table.decode(row)
    assert shown == (f"{back.exact:f}", None if back.cents is None else f"{back.cents:f}", f"{back.whole:f}")


class Looked(State):
    key: str
    number: int = 0
    text: str | None = None
    exact: Decimal = Decimal("0.00")
    cents: Annotated[Decimal | None, Places(2)] = None
    fine: Annotated[Decimal, Places(17)] = Decimal("0.00")
    yes: bool = False
    real: float = 0.0
    raw: bytes = b""


ANY_DECIMAL = st.decimals() | st.decimals(places=2) | st.builds(written, INT64, st.integers(0, 20), st.integers(0, 3))
ANY_VALUE = st.none() | st.integers() | st.text(st.characters()) | st.just("\ud800") | st.floats() | st.booleans() | ANY_DECIMAL
LOOKED = st.builds(
    Looked,
    key=st.just("k"),
    number=st.integers() | ANY_VALUE,
    text=st.text() | ANY_VALUE,
    exact=ANY_DECIMAL | ANY_VALUE,
    cents=ANY_DECIMAL,
    fine=ANY_DECIMAL,
    yes=st.booleans() | ANY_VALUE,
    real=st.floats(),
    raw=st.binary(),
)


@settings(max_examples=1_000)
@given(
    LOOKED
    | st.builds(Looked, key=st.just("k"), number=st.integers(), text=st.text())
    | st.builds(Looked, key=st.just("k"), exact=ANY_DECIMAL)
    | st.builds(Looked, key=st.just("k"), cents=st.decimals(places=2))
    | st.builds(Looked, key=st.just("k"), fine=st.decimals(-20, 20, places=2))
)
def test_what_holds_for_certain_is_stored_by_both_databases(state: Looked) -> None:
    """The quick look says so of no state whose row one of them refuses."""
    for dialect in (SQLITE, POSTGRES):
        table = Table(Looked, FINGERPRINT, dialect=dialect)
        if not table.doubtful([state]):
            dialect.check(table.encode(state, 1))


def test_most_states_hold_for_certain() -> None:
    """Where it said so of none nothing would be wrong, and all would be slow."""
    table, totals = Table(Looked, FINGERPRINT), Table(Totals, FINGERPRINT)

    assert not table.doubtful([Looked("k", 2**63 - 1, "a", Decimal("1.50"), Decimal("-0.01"), Decimal(9), yes=True, real=1e300, raw=b"\0")])
    sums = {
        value: Totals("FR", Decimal(value))
        for value in ("0.00", "0", "1.5", "-1234567890123456.78", "12345678901234567.89", "0.001", "NaN")
    }
    assert totals.doubtful(list(sums.values())) == [sums[value] for value in ("12345678901234567.89", "0.001", "NaN")]


# --- other types


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, pytest.param(10**5000, id="huge")])
def test_an_integer_beyond_64_bits_is_refused(value: int) -> None:
    """It is never wrapped; a number too long to be written doesn't spoil the message."""
    table = Table(Bought, FINGERPRINT)

    with pytest.raises(Invalid, match=r"column `units` of `Bought` can't hold .* 64 bits"):
        table.encode(Bought("c", "s", value), 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", 5),
        ("key", None),
        ("key", b"k"),
        ("number", "5"),
        ("number", 5.0),
        ("text", 5),
        ("yes", 2),
        ("yes", None),
        ("real", float("nan")),
        ("real", "1"),
        ("real", True),
        ("real", 2**53 + 1),
        ("real", 10**400),
        ("moment", "2026-01-01T00:00:00Z"),
        ("moment", dt.date(2026, 1, 1)),
        ("moment", dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - without zone on purpose
        ("moment", dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=1)))),
        ("day", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("day", "2026-01-01"),
        ("hour", dt.time(1, tzinfo=dt.UTC)),
        ("hour", 1),
        ("took", 5),
        ("took", dt.timedelta.max),
        ("id", "0" * 32),
        ("color", "red"),
        ("level", 1),
        ("choice", 1),
        ("grade", "1"),
        ("raw", "text"),
        ("raw", bytearray(b"x")),
        ("address", 5),
        ("lines", ("x",)),
        ("names", frozenset({1})),
        ("by_name", {"a": (Decimal("NaN"),)}),
        ("either", 1.5),
        ("either", object()),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    """Constructors of states check nothing, so the column does, and names itself."""
    table = Table(Wide, FINGERPRINT)

    with pytest.raises(Invalid, match=f"column `{field}` of `Wide` can't hold") as caught:
        table.encode(Wide("k", 1).but(**{field: value}), 1)

    assert caught.value.facts["column"] == field


def test_members_of_a_type_are_stored_as_the_type() -> None:
    """A subclass of the type, as enumerations with values are, is its value."""
    table = Table(Wide, FINGERPRINT)

    row = table.encode(Wide("k", Level.HIGH, text=enum.StrEnum("Names", ["A"]).A, count=True, real=5), 1)  # type: ignore[attr-defined] # made on the fly

    assert row[:4] == ("k", 2, "a", 1)
    assert [type(value) for value in row[:4]] == [str, int, str, int]
    assert row[6] == 5.0


def test_times_are_text_that_sorts() -> None:
    """Moments are in UTC with a fixed width, so the order of the text is the order in time."""
    table = Table(Order, FINGERPRINT)
    berlin = ZoneInfo("Europe/Berlin")
    moments = [
        dt.datetime(2026, 1, 1, 0, 30, tzinfo=berlin),
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 1, 1, 1, tzinfo=berlin),
        dt.datetime(2026, 1, 1, 0, 1, 10, tzinfo=dt.timezone(dt.timedelta(seconds=5))),
    ]

    texts = [table.encode(Order("o", "", moment), 1)[2] for moment in moments]

    assert texts == [
        "2025-12-31T23:30:00.000000Z",
        "2026-01-01T00:00:00.000000Z",
        "2026-01-01T00:00:00.000001Z",
        "2026-01-01T00:01:00.000000Z",
        "2026-01-01T00:01:05.000000Z",
    ]


def test_equal_collections_are_stored_as_equal_text() -> None:
    """Members of sets and keys of mappings stand in one order, also those that Python can't sort."""
    table = Table(Wide, FINGERPRINT)
    numbers = [9, 10, 1, 8]

    def row(order: Callable[[list[int]], list[int]]) -> tuple[object, ...]:
        ordered = order(numbers)
        return table.encode(
            Wide(
                "k",
                1,
                names=frozenset(map(str, ordered)),
                homes=frozenset(Address("a", number) for number in ordered),
                by_name={str(number): () for number in ordered},
                by_number=dict.fromkeys(ordered, ""),
                sets=frozenset(frozenset({number, 8 + number}) for number in ordered),
            ),
            1,
        )

    one, other = row(sorted), row(lambda numbers: sorted(numbers, reverse=True))

    assert one == other


# --- the table


def test_one_row_lies_under_each_key() -> None:
    """An upsert replaces the row of its key, and a delete removes it."""
    table = Table(Bought, FINGERPRINT)
    connection = opened(table)
    connection.executemany(table.upsert, [table.encode(Bought("c", sku, 1), 1) for sku in "ab"])

    connection.execute(table.upsert, table.encode(Bought("c", "a", 5), 2))
    connection.execute(table.delete, table.encode_key(("c", "b")))

    assert connection.execute(table.select()).fetchall() == [("c", "a", 5, 2)]


def test_a_state_without_key_is_one_row() -> None:
    """Its table has a constant key beside the fields."""
    table = Table(Counter, FINGERPRINT)
    connection = opened(table)

    for last in (1, 2):
        connection.execute(table.upsert, table.encode(Counter(last), last))

    assert connection.execute(table.get, table.encode_key(())).fetchall() == [(2, 2)]
    assert SQLITE.found(connection, table, [()]) == [(2, 2)]
    assert connection.execute('select * from "Counter"').fetchall() == [(2, 2)]
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f'insert into "{table.name}" values (2, 3, 3)')
    connection.execute(table.delete, table.encode_key(()))
    assert connection.execute(table.select()).fetchall() == []


@pytest.mark.parametrize("count", [1, 3, 1000, 6000])
def test_many_keys_are_loaded_by_few_queries(count: int) -> None:
    """Each query finds its rows by the primary key, whether it has one column or two."""
    single, double = Table(Totals, FINGERPRINT), Table(Bought, FINGERPRINT)
    connection = opened(single, double)
    connection.executemany(single.upsert, [single.encode(Totals(str(index)), index) for index in range(12_000)])
    connection.executemany(double.upsert, [double.encode(Bought(str(index), "s", index), index) for index in range(12_000)])

    singles = SQLITE.found(connection, single, [(str(2 * index),) for index in range(count)])
    doubles = SQLITE.found(connection, double, [(str(2 * index), "s") for index in range(count)])

    assert {row[-1] for row in singles} == {row[-1] for row in doubles} == {2 * index for index in range(count)}
    for sql, parameters in ((select_keys_sql(single, 2), 2), (select_keys_sql(double, 2), 4)):
        plan = " ".join(row[3] for row in connection.execute(f"explain query plan {sql}", ["x"] * parameters))
        assert "USING PRIMARY KEY" in plan


def test_a_key_of_the_wrong_size_is_refused() -> None:
    """The error names the key's fields."""
    table = Table(Bought, FINGERPRINT)

    with pytest.raises(Invalid, match=r"the key of `Bought` is \(customer, sku\), not \('c',\)"):
        table.encode_key(("c",))
    with pytest.raises(Invalid, match="column `sku`"):
        table.encode_key(("c", 5))


def test_a_field_that_is_searched_has_an_index() -> None:
    """Its name carries the fingerprint, as the table's does."""
    table = Table(Order, FINGERPRINT)
    connection = opened(table)

    [plan] = connection.execute(f"explain query plan {table.select('country = ?')}", ("FR",))

    assert "USING INDEX _Order_01234567_country" in plan[3]


class Searched(State):
    key: Annotated[str, Index()]
    other: Annotated[str, Index()]


def test_the_first_key_needs_no_index_of_its_own() -> None:
    """Rows lie in the order of the key already."""
    table = Table(Searched, FINGERPRINT)

    statements = table.ddl()

    assert [statement.split()[5] for statement in statements] == ['"_Searched_01234567"', '"_Searched_01234567_other"']


def test_tables_of_old_and_new_code_lie_side_by_side() -> None:
    """The readable view goes over to the new one, and the old one can go."""
    old, new = Table(Totals, "a" * 64), Table(Totals, "b" * 64)
    connection = opened(old, new)
    connection.execute(old.upsert, old.encode(Totals("FR", Decimal(1)), 1))
    connection.execute(new.upsert, new.encode(Totals("FR", Decimal(2)), 1))

    for statement in old.drop():
        connection.execute(statement)

    assert (old.name, new.name) == ("_Totals_aaaaaaaa", "_Totals_bbbbbbbb")
    assert connection.execute('select * from "Totals"').fetchall() == [("FR", "2", 1)]


def test_statements_can_run_twice() -> None:
    """Creating what is there, and dropping what is gone, changes nothing."""
    table = Table(Order, FINGERPRINT)
    connection = opened(table)
    connection.execute(table.upsert, table.encode(Order("o"), 1))

    for statement in table.ddl() + table.view_ddl():
        connection.execute(statement)

    assert len(connection.execute('select * from "Order"').fetchall()) == 1
    for statement in table.drop() + table.drop():
        connection.execute(statement)


@named('odd "name"; --')
class Odd(State):
    order: str
    group: str = ""


def test_any_name_can_be_a_table() -> None:
    """Names are quoted, also those that SQL uses itself."""
    table = Table(Odd, FINGERPRINT)
    connection = opened(table)

    connection.execute(table.upsert, table.encode(Odd("o", "g"), 1))

    assert connection.execute('select "order", "group" from "odd ""name""; --"').fetchall() == [("o", "g")]


# --- classes that can't be tables


class Hidden(State):
    _secret: int = 0


class Twice(State):
    total: int = 0
    Total: int = 0


class MaybeKey(State):
    key: str | None


class TooPrecise(State):
    number: Annotated[Decimal, Places(19)] = Decimal(0)


class Ambiguous(State):
    either: dt.date | uuid.UUID | None = None


@named("sqlite_master")
class Master(State):
    pass


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (Hidden, "`Hidden._secret` can't be a column: names that start with `_`"),
        (Twice, "`Total` and `total` of `Twice` are one name"),
        (MaybeKey, "`MaybeKey.key` is a key and can't be None"),
        (TooPrecise, "`TooPrecise.number` can't be a column: `Places` are 0 to 18, not 19"),
        (Ambiguous, "`Ambiguous.either` can't be a column: .*str-like"),
        (Master, "`sqlite_master` can't be a view"),
    ],
)
def test_a_state_that_can_not_be_a_table_is_refused(state: type[State], why: str) -> None:
    """The error says so when the table is made, names the field, and says what is wrong with it."""
    with pytest.raises(Invalid, match=why):
        Table(state, FINGERPRINT)


def test_an_unknown_column_is_refused_with_the_names_there_are() -> None:
    """Whoever asks sees what could be asked for."""
    table = Table(Totals, FINGERPRINT)

    with pytest.raises(Invalid, match="`Totals` has no column `revenu`; its columns are country, revenue, _position"):
        table.column("revenu")
