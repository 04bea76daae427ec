"""Tables: a view's state class as a typed table.

A `Table` is read once from the class. It holds the SQL of the table and three functions compiled for its columns, `encode`, `encode_key` and `decode`;
the connection is the caller's. A column holds its type in one form, so that rows sort, compare and add up in SQL:

- `str`, `UUID`, an `Enum` or `Literal` of texts: text
- `int`, `bool`, an `Enum` or `Literal` of integers: integer of 64 bits
- `Decimal`: integer, the number times 10 to the power of its `Places` (6 if not given)
- `float`: real; `bytes`: blob
- `datetime`: text in UTC, `2026-01-01T00:00:00.000000Z`; `date` and `time`: ISO text; `timedelta`: integer of microseconds
- all other types: JSON text, members of sets and keys of mappings in one order; in a key all values that are equal are one text

What a column can't hold exactly is refused, never rounded or wrapped: SQLite itself would sum decimals as floats, and JSON has no `nan`.
A `Decimal` is read back equal, without trailing zeros after the point and never with a positive exponent: 1.50 as 1.5, 1E+2 as 100.
"""

import collections.abc
import datetime as dt
import decimal
import enum
import functools
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar  # Any: annotations and values of any type pass through here

import msgspec

from happened.core.equal import as_one
from happened.core.errors import Invalid
from happened.core.messages import Index, Places, name_of
from happened.core.state import Key, State
from happened.core.tags import bare, hints_of, is_struct, members, scope_of
from happened.shelf.connection import UNSTORABLE, Connection, Dialect
from happened.shelf.dialect import SQLITE, quoted

S = TypeVar("S", bound=State)

Stored = str | int | float | bytes | None
"""A value as SQLite holds it."""

Row = tuple[Stored, ...]
"""The fields of a state, in their order, as stored, then the position of the event that last changed it."""

LOW, HIGH = -(2**63), 2**63 - 1
"""The integers that SQLite holds."""

QUANTA = {f"E{places}": decimal.Decimal(1).scaleb(-places) for places in (2, 3, 0, 1, 4)}
"""How many places money mostly has, the most usual first."""

PLACES = 6
"""Places of a `Decimal` column that doesn't say: enough for prices, rates and grams, and leaves 12 digits before the point."""

PLACES_MAX = 18
"""10 to the power of 18 is the largest that 64 bits hold."""


SHOWN_MAX = 100
"""Characters of a refused value that a message shows."""

JSON_FORM = "JSON of "
"""What the form of a column begins with that holds JSON."""

POSITION, ONE = "_position", "_one"
"""Columns beside the fields: the position of the last change, and the constant key of a state without one."""


class Column(NamedTuple):
    """A column: its field, its SQL type, the form and Python type of its values, how to store one, and what the field's annotation adds.

    Columns of one `form` can be compared with each other.
    """

    name: str
    sql: str
    form: str
    type: Any
    optional: bool
    indexed: bool
    places: int | None
    encode: Callable[[Any], Stored]


class Table(Generic[S]):
    """A state class as a table: its SQL, and the functions between states and rows.

    `name` carries the fingerprint, so that tables of old and new code lie side by side; `view_name` is the state's own. `encode(state, position)` makes
    a row, `decode(row)` a state of it, `encode_key(key)` the parameters of `get` and `delete`. `upsert` writes a row, and `get` finds the row of a key;
    many at once are the dialect's. `look` finds in one statement how a view's table stands, whether a key, listed in either way, stands still, and its row.
    `name` stands in the place of the state's own; `beside` names columns of bytes after the position, which the caller adds to a row for `upsert`.

    `doubtful(states)` leaves out those whose row, but for its key, can be stored for certain, which are most: quicker than `encode`, which says it of the rest.

    `encode` raises `Invalid` for a value that its column can't hold: the wrong type, more places, beyond 64 bits, a time without zone, `nan`.
    Making a table raises `Invalid` for fields that can't be columns. A row of plain columns takes 100 to 700 ns either way; a JSON column takes a
    microsecond more, and longer as it grows, since what is written is read back and compared.
    """

    def __init__(
        self, state: type[S], fingerprint: str, *, name: str | None = None, beside: Sequence[str] = (), dialect: Dialect = SQLITE
    ) -> None:
        scope_of(state)  # refuses what can be changed, and data without an end
        self.state = state
        self.fingerprint = fingerprint
        self.view_name = name if name is not None else name_of(state)[0]
        self._beside = tuple(beside)
        self.dialect = dialect
        self.name = dialect.name(f"_{self.view_name}_{fingerprint[:8]}")
        hints = hints_of(state)
        fields = msgspec.structs.fields(state)
        read = [_read(state, field.name, hints[field.name], key=field.required) for field in fields]
        self.columns = tuple(column for column, _ in read)
        self.key = tuple(field.name for field in fields if field.required)
        self._check()
        keys = [pair for pair in read if pair[0].name in self.key]
        self.everything = ", ".join(quoted(name) for name in (*(column.name for column in self.columns), POSITION))
        self.written = {
            **{column.name: column.sql for column in self.columns},
            POSITION: "integer",
            **dict.fromkeys(self._beside, "blob"),
        }
        self.upsert = dialect.upsert(self.name, self.key or (ONE,), tuple(self.written))
        shown = ", ".join(f"{dialect.exact(quoted(column.name), column.places)} as {quoted(column.name)}" for column in self.columns)
        self.shown = f"select {shown}{', ' if shown else ''}{quoted(POSITION)} from {quoted(self.name)}"  # noqa: S608 - as above
        of_key = " and ".join(f"{quoted(name)} = ?" for name in self.key) or f"{quoted(ONE)} = 1"
        self.get = self.select(of_key)
        self.look = (
            "select shown.position, shown.ready, shown.broken, held.position, held.error, found.* from _view shown left join _stuck held "  # noqa: S608 - as above
            "on held.name = shown.name and held.fingerprint = shown.fingerprint and held.generation = shown.generation and held.key in (?, ?) "
            f"left join ({self.get}) found on 1 = 1 where shown.name = ? and shown.fingerprint = ? and shown.generation = ?"
        )
        self.delete = f"delete from {quoted(self.name)} where {of_key}"  # noqa: S608 - as above
        self.encode: Callable[[S, int], Row] = _compiled_encode(state, read)
        self.doubtful: Callable[[Sequence[S]], list[S]] = _compiled_doubtful(state, [one for one in read if one[0].name not in self.key])
        self.encode_key: Callable[[Key], Row] = _compiled_encode_key(state, keys)
        self.decode: Callable[[Sequence[Stored]], S] = _compiled_decode(state, read)

    def ddl(self) -> list[str]:
        """Return the statements that create the table and its indexes where they are missing. Names of indexes carry the fingerprint.

        Rows that may be large have rowids in SQLite. In a table without them all of a row is part of what is compared, and what does not fit into a quarter
        of a page is read for each row on the way to another: a row of 1,500 bytes was found in 22 µs and written in 29, where it is 6 and 4 with rowids.
        One of 150 bytes is found in 3.9 µs and written in 2.8 without, and with them in 4.7 and 4.4.
        """
        columns = [f"{quoted(column.name)} {column.sql}{'' if column.optional else ' not null'}" for column in self.columns]
        if not self.key:
            columns.insert(0, f"{quoted(ONE)} integer not null default 1 check ({quoted(ONE)} = 1)")
        columns += [f"{quoted(POSITION)} integer not null", *(f"{quoted(name)} blob not null" for name in self._beside)]
        keys = ", ".join(quoted(name) for name in self.key or (ONE,))
        first = self.key[:1]  # rows lie in the order of the key, so its first column needs no index
        searched = [column.name for column in self.columns if column.indexed and column.name not in first]
        index = self.dialect.name
        may_be_large = any(column.form == "blob" or column.form.startswith(JSON_FORM) for column in self.columns)
        layout = "" if may_be_large and self.key else " without rowid"  # one row has no other on its way
        return [
            self.dialect.ddl(f"create table if not exists {quoted(self.name)} ({', '.join(columns)}, primary key ({keys})){layout}"),
            *(
                f"create index if not exists {quoted(index(f'{self.name}_{name}'))} on {quoted(self.name)} ({quoted(name)})"
                for name in searched
            ),
        ]

    def view_ddl(self) -> list[str]:
        """Return the statements that put the readable view, named as the state, over this table, in place of the one that is there.

        It shows a `Decimal` as its exact text. Text doesn't sort or add up as numbers do: for that use the table's own scaled integers.
        """
        return [f"drop view if exists {quoted(self.view_name)}", f"create view {quoted(self.view_name)} as {self.shown}"]

    def drop(self) -> list[str]:
        """Return the statements that remove the table with its indexes. The view stays: it may already stand over a newer table."""
        return [self.dialect.dropping(self.name)]

    def select(self, where: str = "", order: str = "", *, limit: bool = False) -> str:
        """Return the query for rows that `decode` reads, under a condition and in an order as `where.py` makes them; `limit` adds a last parameter."""
        rest = f"{where and f' where {where}'}{order and f' order by {order}'}{' limit ?' if limit else ''}"
        return f"select {self.everything} from {quoted(self.name)}{rest}"  # noqa: S608 - as above

    def counting(self, where: str = "") -> str:
        """Return the query for how many rows there are under a condition."""
        return f"select count(*) from {quoted(self.name)}{where and f' where {where}'}"  # noqa: S608 - as above

    def column(self, name: str) -> Column:
        """Return a column by its field's name, or that of the position. `Invalid`, with the names there are, for another one."""
        for column in self.columns:
            if column.name == name:
                return column
        if name == POSITION:
            return Column(POSITION, "integer", "number", int, optional=False, indexed=False, places=None, encode=int)
        names = [column.name for column in self.columns]
        raise Invalid(
            f"`{self.view_name}` has no column `{name}`; its columns are {', '.join((*names, POSITION))}",
            state=self.view_name,
            name=name,
            columns=names,
        )

    def put(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> list[tuple[int, Exception]]:
        """Write rows of different keys; return those that the database can't hold, by their place, with the error. They are found by halves."""
        try:
            self.dialect.put_many(connection, self, rows)
        except UNSTORABLE as error:
            if len(rows) == 1:
                return [(0, error)]
            half = len(rows) // 2
            return [*self.put(connection, rows[:half]), *((half + place, why) for place, why in self.put(connection, rows[half:]))]
        return []

    def _check(self) -> None:
        seen: dict[str, str] = {}
        for column in self.columns:
            where = {"state": self.view_name, "column": column.name}
            if column.name.startswith("_"):
                raise Invalid(f"`{self.view_name}.{column.name}` can't be a column: names that start with `_` are the table's own", **where)
            if column.name.lower() in seen:
                other = seen[column.name.lower()]
                raise Invalid(
                    f"`{column.name}` and `{other}` of `{self.view_name}` are one name in SQL, which doesn't tell case apart", **where
                )
            if column.optional and column.name in self.key:
                raise Invalid(
                    f"`{self.view_name}.{column.name}` is a key and can't be None: say what stands for none, for example an empty text",
                    **where,
                )
            seen[column.name.lower()] = column.name
        if self.view_name.lower().startswith("sqlite_"):
            raise Invalid(
                f"`{self.view_name}` can't be a view: SQLite keeps names that start with `sqlite_` for itself", state=self.view_name
            )


def is_enum(kind: Any) -> bool:
    """Say whether this is an enumeration."""
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def show(value: object) -> str:
    """Return a value as text for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python doesn't write integers of more than 4,300 digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"


# --- compiled per table ---------------------------------------------------------------------------------------------------


class _Codec(NamedTuple):
    """How values of a type are stored. A value that passes `plain`, a test in Python with `{v}` for the value, is stored as it is.

    One that passes `certain` is stored without trouble, by whichever database; where that is empty, `plain` says so.
    """

    sql: str
    form: str
    type: Any
    encode: Callable[[Any], Stored]
    decode: Callable[[Any], Any] | None = None
    plain: str = ""
    places: int | None = None
    certain: str = ""


Read = Sequence[tuple[Column, _Codec]]


def _compiled_encode(state: type[State], read: Read) -> Callable[..., Row]:
    def wrong(found: object) -> Invalid:
        return Invalid(f"{show(found)} is no `{state.__name__}`: `evolve` returns the next one, or None", state=state.__name__)

    names = {f"e{index}": codec.encode for index, (_, codec) in enumerate(read)}
    source = f"""
def encode(state, position):
    if state.__class__ is not kind:
        raise wrong(state)
    {_listed("v", read)} = astuple(state)
    return ({_encoded(read)}position,)
"""
    return _compiled(source, "encode", {"astuple": msgspec.structs.astuple, "kind": state, "wrong": wrong, **names})


def _compiled_doubtful(state: type[State], read: Read) -> Callable[..., list[Any]]:
    tests = [codec.certain or codec.plain for _, codec in read]
    each = [
        f"({f'{value} is None or ' if column.optional else ''}{test.format(v=value)})"
        for value, test, (column, _) in zip([f"v{index}" for index in range(len(read))], tests, read, strict=True)
    ]
    source = f"""
def doubtful(states):
    found = []
    for state in states:
        if state.__class__ is kind:
            {"; ".join(f"v{index} = state.{column.name}" for index, (column, _) in enumerate(read)) or "pass"}
            if {" and ".join(each) or True if all(tests) else False}:
                continue
        found.append(state)
    return found
"""
    return _compiled(source, "doubtful", {"kind": state, "Decimal": decimal.Decimal, **QUANTA})


def _compiled_encode_key(state: type[State], keys: Read) -> Callable[..., Row]:
    def wrong(key: Key) -> Invalid:
        fields = ", ".join(column.name for column, _ in keys)
        return Invalid(f"the key of `{state.__name__}` is ({fields}), not {show(key)}", state=state.__name__, key=show(key))

    names = {f"e{index}": codec.encode for index, (_, codec) in enumerate(keys)}
    source = f"""
def encode_key(key):
    if len(key) != {len(keys)}:
        raise wrong(key)
    {_listed("v", keys)} = key
    return ({_encoded(keys)})
"""
    return _compiled(source, "encode_key", {"wrong": wrong, **names})


def _compiled_decode(state: type[S], read: Read) -> Callable[..., S]:
    names = {f"d{index}": codec.decode for index, (_, codec) in enumerate(read)}
    by_position = set[str](state.__match_args__)
    arguments: list[str] = []
    for index, (column, codec) in enumerate(read):
        value = f"v{index}" if codec.decode is None else f"d{index}(v{index})"
        if column.optional and codec.decode is not None:
            value = f"None if v{index} is None else {value}"
        arguments.append(value if column.name in by_position else f"{column.name}={value}")
    source = f"""
def decode(row):
    {_listed("v", read, "_")} = row
    return make({", ".join(arguments)})
"""
    return _compiled(source, "decode", {"make": state, **names})


def _listed(prefix: str, read: Read, *more: str) -> str:
    return f"({''.join(f'{name}, ' for name in (*(f'{prefix}{index}' for index in range(len(read))), *more))})"


def _encoded(read: Read) -> str:
    return "".join(_encoding(f"v{index}", f"e{index}", column, codec) + ", " for index, (column, codec) in enumerate(read))


def _encoding(value: str, encode: str, column: Column, codec: _Codec) -> str:
    tests = ([f"{value} is None"] if column.optional else []) + ([codec.plain.format(v=value)] if codec.plain else [])
    return f"{value} if {' or '.join(tests)} else {encode}({value})" if tests else f"{encode}({value})"


def _compiled(source: str, name: str, names: dict[str, Any]) -> Callable[..., Any]:
    """Compile one function. A loop over the columns takes twice as long for each row; the source has only numbered names and names of fields."""
    exec(source, names)  # noqa: S102 - as `dataclasses` and `namedtuple` do
    compiled: Callable[..., Any] = names[name]
    return compiled


# --- types of columns -----------------------------------------------------------------------------------------------------


def _read(state: type[State], field: str, annotation: Any, *, key: bool) -> tuple[Column, _Codec]:
    def refuse(value: object, why: str) -> Invalid:
        return Invalid(
            f"column `{field}` of `{state.__name__}` can't hold {show(value)}: {why}", state=state.__name__, column=field, value=show(value)
        )

    inner, extras = bare(annotation)
    found = members(inner)
    optional = inner is not found[0] and types.NoneType in typing.get_args(inner)
    if len(found) == 1:
        inner, more = bare(found[0])
        extras += more
    while hasattr(inner, "__supertype__"):  # a NewType
        inner, more = bare(inner.__supertype__)
        extras += more
    try:
        codec = _codec(inner, next((extra.count for extra in extras if isinstance(extra, Places)), PLACES), refuse, key=key)
    except TypeError as error:  # msgspec says which types it can't read
        raise Invalid(f"`{state.__name__}.{field}` can't be a column: {error}", state=state.__name__, column=field) from error
    if codec.places is None and any(isinstance(extra, Places) for extra in extras):
        raise Invalid(
            f"`{state.__name__}.{field}` has `Places`, which are of a Decimal: annotate it `Annotated[Decimal, Places(...)]`, or leave them out",
            state=state.__name__,
            column=field,
        )
    indexed = any(isinstance(extra, Index) for extra in extras)
    encode = _or_none(codec.encode) if optional else codec.encode
    return Column(field, codec.sql, codec.form, codec.type, optional, indexed, codec.places, encode), codec


def _or_none(encode: Callable[[Any], Stored]) -> Callable[[Any], Stored]:
    return lambda value: None if value is None else encode(value)


Refuse = Callable[[object, str], Invalid]


def _codec(kind: Any, places: int, refuse: Refuse, *, key: bool) -> _Codec:
    if kind is decimal.Decimal:
        return _decimal(places, refuse)
    simple = next((of for one, of in SIMPLE.items() if one is kind), None)
    if simple is not None:
        return simple(refuse)
    enumerated = is_enum(kind)
    choices: Sequence[Any] = ()
    if enumerated:
        choices = [member.value for member in kind]
    elif typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
    if choices and all(isinstance(choice, str) for choice in choices):
        of = _text(refuse)
    elif choices and all(isinstance(choice, int) and LOW <= choice <= HIGH for choice in choices):
        of = _integer(refuse)
    else:
        return _json(kind, refuse, key=key)
    return _enumeration(kind, of, refuse) if enumerated else of._replace(type=kind)


def _enumeration(kind: type[enum.Enum], of: _Codec, refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if value.__class__ is not kind:
            raise refuse(value, f"it is no {kind.__name__}")
        stored: Stored = value._value_  # `value` is a property, at four times the cost
        return stored

    decode: Callable[[Any], enum.Enum] = kind if issubclass(kind, enum.Flag) else {member.value: member for member in kind}.__getitem__
    return _Codec(of.sql, of.form, kind, encode, decode)


def _text(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if isinstance(value, str):
            return str.__str__(value)  # a subclass
        raise refuse(value, "it is no str")

    plain = "{v}.__class__ is str"
    return _Codec("text", "text", str, encode, plain=plain, certain=f"{plain} and {{v}}.isascii() and '\\0' not in {{v}}")


def _integer(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if not isinstance(value, int):
            raise refuse(value, "it is no int")
        if not LOW <= value <= HIGH:
            raise refuse(value, "it has more than 64 bits")
        return int(value)

    return _Codec("integer", "number", int, encode, plain=f"{{v}}.__class__ is int and {LOW} <= {{v}} <= {HIGH}")


def _boolean(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if value is True or value is False:
            return int(value)
        raise refuse(value, "it is no bool")

    return _Codec("integer", "number", bool, encode, bool, plain="{v} is True or {v} is False")


def _real(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise refuse(value, "it is no float")
        try:
            real = float(value)
        except OverflowError as error:
            raise refuse(value, "it is too large for a float") from error
        if real != value:
            raise refuse(value, "it is not a number" if value != value else "a float doesn't hold it exactly")  # noqa: PLR0124 - so is nan
        return real

    return _Codec("real", "number", float, encode, plain="{v}.__class__ is float and {v} == {v}")


def _blob(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if isinstance(value, bytes):
            return bytes(value)
        raise refuse(value, "it is no bytes")

    return _Codec("blob", "blob", bytes, encode, plain="{v}.__class__ is bytes")


def _decimal(places: int, refuse: Refuse) -> _Codec:
    if not 0 <= places <= PLACES_MAX:
        raise TypeError(f"`Places` are 0 to {PLACES_MAX}, not {places}")
    # 19 digits hold every integer of 64 bits. What has more, or more places, raises instead of being rounded.
    context = decimal.Context(prec=19, Emax=18, Emin=-18, traps=[decimal.Inexact, decimal.Overflow, decimal.InvalidOperation])
    times, whole, over = context.multiply, context.to_integral_exact, context.divide
    scale = decimal.Decimal(10**places)
    largest = over(decimal.Decimal(HIGH), scale)

    def encode(value: Any) -> Stored:
        try:
            scaled = int(whole(times(value, scale)))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise refuse(value, why(value)) from error
        if LOW <= scaled <= HIGH:
            return scaled
        raise refuse(value, why(value))

    def why(value: Any) -> str:
        if not isinstance(value, decimal.Decimal):
            return "it is no Decimal"
        if not value.is_finite():
            return "it is no number"
        if value.copy_abs() > largest:
            return f"with {places} places it has more than 64 bits"
        return f"it has more than {places} places; annotate the field with `Places`, or round where it is computed"

    def decode(stored: int) -> decimal.Decimal:
        return over(decimal.Decimal(stored), scale)  # an exact quotient comes without trailing zeros, and never with a positive exponent

    # Of digits 18 fit in 64 bits, whichever they are.
    same = " or ".join(f"{{v}}.same_quantum({name})" for name, one in QUANTA.items() if one.adjusted() >= -places)
    certain = f"{{v}}.__class__ is Decimal and ({same}) and {{v}}.adjusted() < {18 - places}"
    return _Codec("integer", f"decimal of {places} places", decimal.Decimal, encode, decode, places=places, certain=certain)


def _datetime(refuse: Refuse) -> _Codec:
    text_of, whole_seconds, full = msgspec.to_builtins, len("2026-01-01T00:00:00"), len("2026-01-01T00:00:00.000000Z")

    def encode(value: Any) -> Stored:
        if not isinstance(value, dt.datetime):
            raise refuse(value, "it is no datetime")
        if value.tzinfo is not dt.UTC:
            if value.utcoffset() is None:
                raise refuse(value, "it has no time zone")
            try:
                value = value.astimezone(dt.UTC)
            except OverflowError as error:
                raise refuse(value, "in UTC it lies outside the years 1 to 9999") from error
        text: str = text_of(value)  # ten times as fast as `isoformat`, but without zeros after the point
        return text if len(text) == full else text[:whole_seconds] + ".000000Z"

    return _Codec("text", "datetime", dt.datetime, encode, dt.datetime.fromisoformat)


def _date(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
            raise refuse(value, "it is no date")
        return value.isoformat()

    return _Codec("text", "date", dt.date, encode, dt.date.fromisoformat)


def _time(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if not isinstance(value, dt.time):
            raise refuse(value, "it is no time")
        if value.tzinfo is not None:
            raise refuse(value, "times of a day with a zone don't sort; use a datetime")
        return value.isoformat("microseconds")

    return _Codec("text", "time", dt.time, encode, dt.time.fromisoformat)


def _timedelta(refuse: Refuse) -> _Codec:
    microsecond = dt.timedelta(microseconds=1)

    def encode(value: Any) -> Stored:
        if not isinstance(value, dt.timedelta):
            raise refuse(value, "it is no timedelta")
        count = value // microsecond
        if not LOW <= count <= HIGH:
            raise refuse(value, "in microseconds it has more than 64 bits")
        return count

    def decode(stored: int) -> dt.timedelta:
        return dt.timedelta(microseconds=stored)

    return _Codec("integer", "timedelta", dt.timedelta, encode, decode)


def _uuid(refuse: Refuse) -> _Codec:
    def encode(value: Any) -> Stored:
        if not isinstance(value, uuid.UUID):
            raise refuse(value, "it is no UUID")
        text: str = msgspec.to_builtins(value)
        return text

    def decode(stored: str) -> uuid.UUID:
        return msgspec.convert(stored, uuid.UUID)  # three times as fast as `UUID(stored)`

    return _Codec("text", "uuid", uuid.UUID, encode, decode)


def _json(kind: Any, refuse: Refuse, *, key: bool) -> _Codec:
    """Return how a column holds JSON; in a key all values that are equal are one text."""
    read = msgspec.json.Decoder(_kept(kind)).decode
    write = msgspec.json.Encoder(order="deterministic").encode if _sorts(kind) else _encode_in_order

    def encode(value: Any) -> Stored:
        try:
            text = write(as_one(value) if key else value).decode()
            same = read(text) == value
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise refuse(value, str(error)) from error
        if not same:
            raise refuse(value, "it would be read back as something else")
        return text

    return _Codec("text", f"{JSON_FORM}{kind}", kind, encode, read)


SIMPLE: Mapping[Any, Callable[[Refuse], _Codec]] = {
    str: _text,
    int: _integer,
    bool: _boolean,
    float: _real,
    bytes: _blob,
    dt.datetime: _datetime,
    dt.date: _date,
    dt.time: _time,
    dt.timedelta: _timedelta,
    uuid.UUID: _uuid,
}

SORTED_AS_THEY_ARE = (str, int, bool, float, decimal.Decimal, dt.date, dt.time, dt.timedelta, uuid.UUID, bytes)


KEPT_AS: Mapping[Any, Any] = {
    tuple: tuple,
    frozenset: frozenset,
    collections.abc.Mapping: collections.abc.Mapping,
    collections.abc.Sequence: tuple,
    collections.abc.Collection: tuple,
    collections.abc.Set: frozenset,
}


def _kept(annotation: Any) -> Any:
    """Return the type to read JSON as: msgspec reads the abstract collections as list and set, but a state holds tuples and frozensets."""
    inner, _ = bare(annotation)
    origin, args = typing.get_origin(inner), typing.get_args(inner)
    union = origin in (typing.Union, types.UnionType)
    if not args or not (union or origin in KEPT_AS):
        return inner
    kept: tuple[Any, ...] = tuple(arg if arg is Ellipsis else _kept(arg) for arg in args)
    if union:
        return functools.reduce(lambda one, other: one | other, kept)
    return KEPT_AS[origin][(*kept, ...) if KEPT_AS[origin] is tuple and origin is not tuple else kept]


def _sorts(annotation: Any) -> bool:
    """Say whether msgspec can bring all sets and mappings in this type into an order: it needs members that Python sorts, and keys that are text."""
    inner, _ = bare(annotation)
    origin, args = typing.get_origin(inner) or inner, typing.get_args(inner)
    if is_struct(origin):
        return all(_sorts(hint) for hint in hints_of(origin).values())
    if isinstance(origin, type) and issubclass(origin, collections.abc.Set):
        return bool(args) and bare(args[0])[0] in SORTED_AS_THEY_ARE
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return bool(args) and bare(args[0])[0] is str and _sorts(args[1])
    return inner is not Any and inner is not object and all(_sorts(arg) for arg in args if arg is not Ellipsis)


def _encode_in_order(value: Any) -> bytes:
    return msgspec.json.encode(_in_order(value))


def _in_order(value: Any) -> Any:
    """Return the value with the members of all sets, and the keys of all mappings, in the order of their JSON."""
    kind = value.__class__
    if issubclass(kind, collections.abc.Set):
        return msgspec.Raw(b"[" + b",".join(sorted(map(_encode_in_order, value))) + b"]")
    if issubclass(kind, tuple):
        return [_in_order(member) for member in value]
    if issubclass(kind, collections.abc.Mapping):
        return {key: _in_order(value[key]) for key in sorted(value, key=_key_text)}
    if issubclass(kind, msgspec.Struct):
        return msgspec.structs.replace(value, **{name: _in_order(getattr(value, name)) for name in kind.__struct_fields__})
    return value


def _key_text(key: Any) -> bytes:
    return msgspec.json.encode({key: None})
