"""Conditions: the SQL text that a view is searched with, checked against its columns and written anew.

The text is read into its parts and never passed on: what reaches SQLite are the table's own names, operators and functions from the tables below,
and bound values. Each value is stored as the column it is compared with stores it. `Decimal` columns, which hold scaled integers, are compared exactly,
also with a value of more places than they keep; what can't be exact is refused.
"""

import datetime as dt
import decimal
import enum
import re
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple  # Any: tables of any state, values of any type

import msgspec

from happened.core.equal import EXACT
from happened.core.errors import Invalid
from happened.shelf.dialect import VARIABLES_MAX, quoted
from happened.shelf.tables import HIGH, LOW, ONE, Column, Row, Stored, Table, is_enum, show

DEPTH_MAX = 12
"""Parentheses within each other as they are read."""

OPERATORS_MAX = 500
"""Half of the depth at which SQLite refuses an expression."""

FUNCTIONS = {
    "abs": (1, 1, "number"),
    "coalesce": (2, 9, ""),
    "instr": (2, 2, "number"),
    "json_array_length": (1, 2, "number"),
    "json_extract": (2, 2, ""),
    "length": (1, 1, "number"),
    "lower": (1, 1, "text"),
    "round": (1, 2, "number"),
    "substr": (2, 3, "text"),
    "trim": (1, 1, "text"),
    "upper": (1, 1, "text"),
}
"""The functions of SQLite that a condition may use: fewest and most arguments, and what comes out (empty: it depends)."""

TOO_DEEP = f"more than {DEPTH_MAX} parentheses lie in each other"

COMPARISONS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

FLIPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

WORDS = ("and", "between", "escape", "false", "in", "is", "like", "not", "null", "or", "true")
"""Words of the language, in any case. A field of such a name stands in double quotes."""


def compile_where(table: Table[Any], text: str, args: Sequence[object] = (), equals: Mapping[str, object] | None = None) -> tuple[str, Row]:
    """Return the condition of `text` with `args` for its `?`, and of all pairs in `equals`, as SQL for `table.select` and its parameters.

    `text` compares fields with `= <> < <= > >=`, `in (…)`, `between … and …`, `like` and `is null`, joined by `and`, `or`, `not` and parentheses; fields
    that are no `Decimal` may be calculated with. A pair asks for equality, and one with `None` for `is null`. Text that reads as a column's type is taken
    for a value of it. Without conditions the SQL is empty: all rows.

    `Invalid` for an unknown field (with the fields there are), a wrong number of arguments, a value that is not of the column's type (a float where a
    `Decimal` is), and all that is no such condition: comments, `;`, sub-selects. Some 20 µs.
    """
    conditions: list[_Part] = []
    if text.strip():
        conditions.append(_Reader(table, text, args).condition())
    elif args:
        raise Invalid(f"{len(args)} arguments, but no condition", args=len(args))
    for name, value in (equals or {}).items():
        column = table.column(name)
        conditions.append(_test(f"{quoted(name)} is null") if value is None else _against(column, "=", value))
    params = tuple(param for condition in conditions for param in condition.params)
    if len(params) > VARIABLES_MAX:
        raise Invalid(f"{len(params)} values; one query takes {VARIABLES_MAX}", values=len(params))
    return " and ".join(condition.sql for condition in conditions), params


def compile_order(table: Table[Any], *fields: str) -> str:
    """Return the SQL for an order by these fields, each descending if `-` stands before it, then by the key: so the order is always the same one.

    The key goes the way of the last field, as an index on it does. `Invalid`, with the fields there are, for an unknown one.
    """
    order: dict[str, bool] = {}
    down = False
    for field in fields:
        down = field.startswith("-")
        order.setdefault(table.column(field.removeprefix("-")).name, down)
    for name in table.key or (ONE,):
        order.setdefault(name, down)
    return ", ".join(table.dialect.order(quoted(name), down=way) for name, way in order.items())


# --- parts of a condition -------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A column, a value (stored once it is known what it is compared with), something calculated, or a test: what is true or false."""

    kind: Literal["column", "value", "calculated", "test"]
    sql: str = ""
    params: Row = ()
    holds: str = ""  # text, number or blob; empty: it depends
    column: Column | None = None
    value: object = None


def _test(sql: str, params: Row = ()) -> _Part:
    return _Part("test", sql, params)


def _against(column: Column, operator: str, value: object) -> _Part:
    """Compare a column with a value."""
    if value is None:
        raise _unlike(column, value, "a value; ask with `is null`")
    if column.places is not None:
        return _exactly(column, operator, _number(column, value), column.places)
    if column.type is int:
        return _exactly(column, operator, _number(column, value), 0)
    return _test(f"{quoted(column.name)} {operator} ?", (_stored(column, value),))


def _exactly(column: Column, operator: str, number: decimal.Decimal, places: int) -> _Part:
    """Compare integers, scaled by `places`, with any number: one between two integers is moved to the lower one, and the operator with it."""
    name = quoted(column.name)
    scaled = number.scaleb(places, EXACT)
    above, below, cut = ">", "<=", HIGH
    if scaled < LOW:
        above, below, cut = ">=", "<", LOW
    elif scaled <= HIGH:
        floor = scaled.to_integral_value(decimal.ROUND_FLOOR)
        cut = int(floor)
        if floor == scaled:
            return _test(f"{name} {operator} ?", (cut,))
    if operator in ("=", "<>"):
        return _test(f"{name} {'<>' if operator == '=' else '='} {name}")  # never or always, but unknown for null, as SQL has it
    return _test(f"{name} {above if operator in ('>', '>=') else below} ?", (cut,))


def _number(column: Column, value: object) -> decimal.Decimal:
    """Return a value for a column of exact numbers."""
    of_integers = column.places is None
    number: decimal.Decimal | None = None
    if isinstance(value, str | decimal.Decimal) or (isinstance(value, int) and (of_integers or not isinstance(value, bool))):
        try:
            number = decimal.Decimal(value)
        except decimal.InvalidOperation:
            number = None
    elif isinstance(value, float) and of_integers:
        number = decimal.Decimal(value)
    if number is None or not number.is_finite():
        raise _unlike(column, value, "an integer" if of_integers else "an exact number: a Decimal, an int or their text, never a float")
    return number


READ_FROM_TEXT = (dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID)


def _stored(column: Column, value: object) -> Stored:
    """Return a value as the column stores it."""
    kind = column.type
    of_enum = is_enum(kind) and isinstance(value, str | int) and not isinstance(value, enum.Enum)
    if of_enum or (isinstance(value, str) and kind in READ_FROM_TEXT):
        value = _converted(column, value, strict=True)
    elif isinstance(value, str) and kind in (float, bool):
        value = _converted(column, value, strict=False)
    elif isinstance(value, decimal.Decimal) and kind is float:
        value = float(value)
    elif isinstance(value, int) and kind is bool and value in (0, 1):
        value = bool(value)
    return column.encode(value)


def _converted(column: Column, value: object, *, strict: bool) -> object:
    try:
        converted: object = msgspec.convert(value, column.type, strict=strict)
    except msgspec.ValidationError as error:
        raise _unlike(column, value, f"a {column.type.__name__}") from error
    return converted


def _unlike(column: Column, value: object, wanted: str) -> Invalid:
    return Invalid(f"column `{column.name}` is compared with {wanted}; this is {show(value)}", column=column.name, value=show(value))


def _depth(sql: str) -> int:
    deepest = depth = 0
    for mark in PARENTHESIS.findall(sql):  # names of fields have none
        depth += 1 if mark == "(" else -1
        deepest = max(deepest, depth)
    return deepest


# --- reading --------------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])
    |(?P<name>[^\W\d]\w*)
    |"(?P<quoted>(?:[^"]|"")+)"
    |'(?P<text>(?:[^']|'')*)'
    |(?P<comment>--|/\*)
    |(?P<symbol><>|<=|>=|==|!=|\|\||[=<>()?,+\-*/%])
    |(?P<end>\Z)
    )""",
    re.VERBOSE,
)


PARENTHESIS = re.compile("[()]")


class _Reader:
    """Reads one condition, from its weakest operator (`or`) down to its values."""

    def __init__(self, table: Table[Any], text: str, args: Sequence[object]) -> None:
        self._table = table
        self._text = text
        self._tokens = list(self._split())
        self._next = 0
        self._depth = -1
        self._operators = 0
        marks = sum(token.kind == "symbol" and token.text == "?" for token in self._tokens)
        if marks != len(args):
            raise Invalid(f"{show(text)} has {marks} `?`, and {len(args)} arguments were given", text=text, marks=marks, args=len(args))
        self._args = iter(args)

    def condition(self) -> _Part:
        part = self._any_of()
        if self._token.kind != "end":
            raise self._wrong(f"`{self._token.text}` isn't expected")
        part = self._tested(part)
        if _depth(part.sql) > self._table.dialect.depth_max:
            raise self._wrong(TOO_DEEP)
        return part

    def _any_of(self) -> _Part:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._wrong(TOO_DEEP)
        part = self._joined("or", self._all_of)
        self._depth -= 1
        return part

    def _all_of(self) -> _Part:
        return self._joined("and", self._negated)

    def _joined(self, word: str, below: Callable[[], _Part]) -> _Part:
        part = below()
        if not self._is(word):
            return part
        parts = [self._tested(part)]
        while self._take(word):
            self._count()
            parts.append(self._tested(below()))
        return _test(f"({f' {word} '.join(part.sql for part in parts)})", tuple(param for part in parts for param in part.params))

    def _negated(self) -> _Part:
        nots = 0
        while self._take("not"):
            nots += 1
        part = self._compared()
        if not nots:
            return part
        part = self._tested(part)
        return part._replace(sql=f"not {part.sql}") if nots % 2 else part

    def _compared(self) -> _Part:
        left = self._sum()
        if self._at(COMPARISONS):
            return self._compare(left, COMPARISONS[self._advance().text], self._sum())
        if self._take("is"):
            negated = self._take("not")
            self._expect("null")
            bare = left if left.kind == "column" else self._calculable(left)
            return _test(f"{bare.sql} is {'not ' if negated else ''}null", bare.params)
        negated = self._take("not")
        if self._take("in"):
            found = self._in(left, self._listed())
        elif self._take("between"):
            low = self._sum()
            self._expect("and")
            found = self._both(self._compare(left, ">=", low), self._compare(left, "<=", self._sum()))
        elif self._take("like"):
            found = self._like(left, self._sum())
        elif negated:
            raise self._wrong("after `not` here comes `in`, `between` or `like`")
        else:
            return left
        return found._replace(sql=f"not {found.sql}") if negated else found

    def _compare(self, left: _Part, operator: str, right: _Part) -> _Part:
        if right.column is not None and left.kind == "value":
            left, operator, right = right, FLIPPED[operator], left
        if left.column is not None and right.kind == "value":
            return _against(left.column, operator, right.value)
        if left.column is not None and right.column is not None:
            if left.column.form != right.column.form:
                raise self._wrong(
                    f"`{left.column.name}` ({left.column.form}) and `{right.column.name}` ({right.column.form}) don't compare"
                )
        else:
            left, right = self._calculable(left), self._calculable(right)
            if left.holds and right.holds and left.holds != right.holds:
                raise self._wrong(f"a {left.holds} and a {right.holds} don't compare")
            held = self._table.dialect.held
            left = left if left.holds else left._replace(sql=held(left.sql, right.holds))
            right = right if right.holds else right._replace(sql=held(right.sql, left.holds))
        return _test(f"{left.sql} {operator} {right.sql}", left.params + right.params)

    def _in(self, left: _Part, members: list[_Part]) -> _Part:
        if left.column is not None and all(member.kind == "value" for member in members):
            found = [_against(left.column, "=", member.value) for member in members]
            params = tuple(param for test in found for param in test.params)  # without those that the column can't hold
            return _test(f"{left.sql} in ({', '.join('?' * len(params))})", params) if params else found[0]
        tests = [self._compare(left, "=", member) for member in members]
        for _ in tests:
            self._count()
        return _test(f"({' or '.join(test.sql for test in tests)})", tuple(param for test in tests for param in test.params))

    def _like(self, left: _Part, pattern: _Part) -> _Part:
        left, pattern = self._calculable(left), self._calculable(pattern)
        if pattern.holds == "number":
            raise self._wrong("a pattern of `like` is text")
        if not self._take("escape"):
            return _test(self._table.dialect.like(left.sql, pattern.sql, ""), left.params + pattern.params)
        escape = self._value().value
        if not isinstance(escape, str) or len(escape) != 1:
            raise self._wrong("`escape` takes one character")
        return _test(self._table.dialect.like(left.sql, pattern.sql, "?"), (*left.params, *pattern.params, escape))

    def _sum(self) -> _Part:
        return self._calculated(("+", "-"), "number", self._product)

    def _product(self) -> _Part:
        return self._calculated(("*", "/", "%"), "number", self._concatenation)

    def _concatenation(self) -> _Part:
        return self._calculated(("||",), "text", self._signed)

    def _calculated(self, symbols: tuple[str, ...], holds: str, below: Callable[[], _Part]) -> _Part:
        part = below()
        if not self._at(symbols):
            return part
        part = self._calculable(part)
        sql, params = part.sql, part.params
        while self._at(symbols):
            self._count()
            symbol, part = self._advance().text, self._calculable(below())
            sql, params = self._table.dialect.calculated(symbol, sql, part.sql), params + part.params
        return _Part("calculated", f"({sql})", params, holds)

    def _signed(self) -> _Part:
        signs = ""
        while self._is("-") or self._is("+"):
            signs += self._advance().text
        part = self._value()
        if not signs:
            return part
        negative = signs.count("-") % 2 == 1
        if part.kind == "value" and isinstance(part.value, int | decimal.Decimal):
            return (
                part._replace(value=part.value.copy_negate() if isinstance(part.value, decimal.Decimal) else -part.value)
                if negative
                else part
            )
        part = self._calculable(part)
        return _Part("calculated", f"({'-' if negative else '+'} {part.sql})", part.params, "number")

    def _value(self) -> _Part:
        token = self._advance()
        match token.kind, token.text.lower():
            case "number", text:
                return _Part("value", value=int(text) if text.isdigit() and len(text) < 20 else self._decimal(text))  # noqa: PLR2004 - beyond 64 bits
            case "text", _:
                return _Part("value", value=token.text)
            case "symbol", "?":
                return _Part("value", value=next(self._args))
            case "symbol", "(":
                part = self._any_of()
                self._expect(")")
                return part
            case "name", ("true" | "false") as word:
                return _Part("value", value=word == "true")
            case "name", "null":
                raise self._wrong("compare with null by `is null`")
            case "name", word if word in WORDS:
                raise self._wrong(f"`{token.text}` isn't expected; a field of this name stands in double quotes")
            case "name", word if self._is("("):
                return self._called(word)
            case (("name" | "quoted"), _):
                column = self._table.column(token.text)
                return _Part(
                    "column", quoted(column.name), holds={"integer": "number", "real": "number"}.get(column.sql, column.sql), column=column
                )
            case _:
                raise self._wrong("it ends too early" if token.kind == "end" else f"`{token.text}` isn't expected")

    def _called(self, name: str) -> _Part:
        if name not in FUNCTIONS:
            raise self._wrong(f"there is no function `{name}`; these may be used: {', '.join(FUNCTIONS)}")
        least, most, holds = FUNCTIONS[name]
        self._count()
        arguments = [self._calculable(part) for part in self._listed()]
        if not least <= len(arguments) <= most:
            raise self._wrong(
                f"`{name}` takes {least} to {most} arguments" if least < most else f"`{name}` takes {least} argument{'s'[: least - 1]}"
            )
        return _Part(
            "calculated",
            self._table.dialect.called(name, [part.sql for part in arguments]),
            tuple(param for part in arguments for param in part.params),
            holds,
        )

    def _listed(self) -> list[_Part]:
        self._expect("(")
        parts = [self._any_of()]
        while self._take(","):
            parts.append(self._any_of())
        self._expect(")")
        return parts

    def _both(self, one: _Part, other: _Part) -> _Part:
        return _test(f"({one.sql} and {other.sql})", one.params + other.params)

    def _tested(self, part: _Part) -> _Part:
        """Return a part where true or false is asked for."""
        if part.kind == "test":
            return part
        if part.column is not None and part.column.type is bool:
            return _test(self._table.dialect.test(part.sql))
        raise self._wrong("this is no condition: compare it with something")

    def _calculable(self, part: _Part) -> _Part:
        """Return a part where SQLite is to calculate with it."""
        if part.kind == "test":
            raise self._wrong("a condition is no value")
        if part.column is not None and part.column.places is not None:
            raise self._wrong(
                f"`{part.column.name}` is a Decimal, which is only compared, with a value or a column of equal places. "
                f"Calculate in plain SQL: the view `{self._table.view_name}` shows its exact text, and the table its number times 10^{part.column.places}"
            )
        if part.kind != "value":
            return part
        value = float(part.value) if isinstance(part.value, decimal.Decimal) else part.value
        match value:
            case str():
                return _Part("calculated", "?", (value,), "text")
            case bytes():
                return _Part("calculated", "?", (value,), "blob")
            case float():
                return _Part("calculated", "?", (value,), "number")
            case int() if LOW <= value <= HIGH:
                return _Part("calculated", "?", (int(value),), "number")
            case _:
                raise self._wrong(f"{show(value)} stands beside no column, and so must be text, bytes or a number of 64 bits")

    # --- tokens

    def _split(self) -> Iterator[_Token]:
        at = 0
        while True:
            found = TOKEN.match(self._text, at)
            if found is None or found.lastgroup is None or found.lastgroup == "comment":
                rest = self._text[at:].lstrip()
                raise self._wrong(
                    f"`{show(rest)[1:-1]}` can't be read" if found is None else "it has a comment", len(self._text) - len(rest)
                )
            text = found[found.lastgroup]
            if found.lastgroup in ("quoted", "text"):
                mark = '"' if found.lastgroup == "quoted" else "'"
                text = text.replace(mark * 2, mark)
            yield _Token(found.lastgroup, text, found.start(found.lastgroup))
            if found.lastgroup == "end":
                return
            at = found.end()

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _advance(self) -> _Token:
        token = self._token
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _at(self, symbols: Container[str]) -> bool:
        return self._token.kind == "symbol" and self._token.text in symbols

    def _is(self, word: str) -> bool:
        return self._token.kind in ("name", "symbol") and self._token.text.lower() == word

    def _take(self, word: str) -> bool:
        found = self._is(word)
        if found:
            self._advance()
        return found

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._wrong(f"`{word}` is expected")

    def _count(self) -> None:
        self._operators += 1
        if self._operators > OPERATORS_MAX:
            raise self._wrong(f"it has more than {OPERATORS_MAX} operators")

    def _decimal(self, text: str) -> decimal.Decimal:
        try:
            return decimal.Decimal(text)
        except decimal.InvalidOperation as error:
            raise self._wrong(f"`{text}` is out of range") from error

    def _wrong(self, why: str, at: int | None = None) -> Invalid:
        at = self._token.at if at is None else at
        view = self._table.view_name
        return Invalid(f"{show(self._text)} is no condition for `{view}`: at character {at + 1}, {why}", text=self._text, at=at, state=view)
