"""What of the recorded data a class of today drops, defaults, or reads as something else: as the data says, and not what its schema allows."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest

import happened as h
from happened.checking.ranges import readings_of
from happened.checking.reading import Verdict
from happened.edge.main import main


class Person(h.Value):
    login: str
    site: str = ""


class Login(h.Value):
    login: str


class Page(h.Value):
    html: str
    site: str = ""


class Point(h.Value, array_like=True):
    x: int
    y: int


class Point3(h.Value, array_like=True):
    x: int
    y: int
    z: int = 0


class Card(h.Value, tag="card"):
    number: str


class CardOnly(h.Value, tag="card"):
    bank: str = ""


class Cash(h.Value, tag="cash"):
    till: int


class Thin(h.Value, omit_defaults=True):
    login: str
    state: str = "open"


class ThinToo(h.Value, omit_defaults=True):
    login: str
    state: Literal["open", "closed"] = "open"


class Closed(h.Value, omit_defaults=True):
    login: str
    state: str = "closed"


@dataclasses.dataclass(frozen=True)
class Node:
    """A chain of any length."""

    name: str
    below: "Node | None" = None


@dataclasses.dataclass(frozen=True)
class NodeToo:
    name: str
    below: "NodeToo | None" = None
    state: str = ""


class Link(NamedTuple):
    name: str
    below: "Link | None" = None


class LinkToo(NamedTuple):
    name: str
    below: "LinkToo | None" = None
    state: str = ""


class When(h.Value):
    at: tuple[str, ...]


class WhenToo(h.Value):
    at: tuple[datetime, ...]


class Case(NamedTuple):
    """The type of a field then and today, what was recorded of it, and what is lost of that."""

    then: Any
    today: Any
    recorded: tuple[Any, ...]
    dropped: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    zoneless: tuple[str, ...] = ()


ANN = Person("ann", "a.org")
CASES = {
    "a field that no record has": Case(Person | None, Login | None, (None, None)),
    "a field that one record has": Case(Person | None, Login | None, (None, ANN), dropped=("field.site",)),
    "members, of which there are none": Case(tuple[Person, ...], tuple[Login, ...], ((), ())),
    "a member of a union that nothing is of": Case(Card | Cash, CardOnly | Cash, (Cash(1),)),
    "a member of a union": Case(Card | Cash, CardOnly | Cash, (Cash(1), Card("4")), ("field.number",), ("field.bank",)),
    "a mapping that became a class": Case(Mapping[str, str], Person, ({"login": "a", "zip": "1"},), ("field.zip",), ("field.site",)),
    "anything that became a class": Case(Any, tuple[Page, ...], ([{"html": "<p>", "id": 7}],), ("field[].id",), ("field[].site",)),
    "a class in a place": Case(int | tuple[int, Person], int | tuple[int, Login], (1, (1, ANN)), ("field[].site",)),
    "a class that a text describes": Case(Person, Annotated[Login, msgspec.Meta(title="who")], (ANN,), ("field.site",)),
    "fewer places": Case(Point3, Point, (Point3(1, 2, 3),), ("field[]",)),
    "more places": Case(Point | None, Point3 | None, (None, Point(1, 2)), defaulted=("field[]",)),
    "members that a set holds once": Case(tuple[str, ...], frozenset[str], (("a", "b"), ("a", "a")), altered=("field",)),
    "members that differ": Case(tuple[str, ...], frozenset[str], (("a", "b"),)),
    "digits that a float does not hold": Case(int, float, (1, 2**53 + 1), altered=("field",)),
    "digits that a float holds": Case(int, float | None, (2**53, 2**80)),
    "digits, where whole numbers are read": Case(int, int | float, (2**53 + 1,)),
    "a time to the nanosecond": Case(str, datetime | None, ("2024-05-06T07:08:09.123456789Z",), altered=("field",)),
    "a time of a day to the nanosecond": Case(str, time | None, ("07:08:09.123456789",), altered=("field",)),
    "a day and a time, with a space": Case(str, datetime | None, ("2024-05-06 07:08:09.123456789Z",), altered=("field",)),
    "a plain time to the nanosecond": Case(str, datetime, ("2024-05-06T07:08:09.123456789Z",), altered=("field",)),
    "plain times inside": Case(
        tuple[str, ...], tuple[datetime, ...], (("2024-05-06T07:08:09.123456789+02:00", "2024-05-06 07:08:09Z"),), altered=("field[]",)
    ),
    "a plain time of a day to the nanosecond": Case(str, time, ("07:08:09.123456789",), altered=("field",)),
    "a plain time of a day without a zone": Case(str, time, ("07:08:09",)),
    "a plain time with a zone": Case(str, datetime, ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09.120+02:00")),
    "a time without a zone": Case(str, datetime, ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09"), zoneless=("field",)),
    "a time without a zone, or none": Case(str, datetime | None, ("2024-05-06 07:08:09.5",), zoneless=("field",)),
    "times without a zone inside": Case(
        Mapping[str, When], Mapping[str, WhenToo], ({"k": When(("2024-05-06T07:08:09",))},), zoneless=("field[...].at[]",)
    ),
    "keys that are one": Case(Mapping[str, int], Mapping[Decimal, int], ({"1.0": 1, "1.00": 2},), altered=("field",)),
    "keys that are several": Case(Mapping[str, int], Mapping[Decimal, int], ({"1.0": 1, "1.01": 2},)),
    "keys that are one moment": Case(
        Mapping[str, int], Mapping[datetime, int], ({"2024-05-06T07:08:09Z": 1, "2024-05-06T09:08:09+02:00": 2},), altered=("field",)
    ),
    "keys without a zone": Case(Mapping[str, int], Mapping[datetime, int], ({"2024-05-06T07:08:09": 1},), zoneless=("field",)),
    "a while to the nanosecond": Case(str, timedelta, ("PT1.000000001S",), altered=("field",)),
    "a while to the microsecond": Case(str, timedelta | None, ("PT1.000001S",)),
    "a time to the microsecond": Case(str, datetime, ("2024-05-06T07:08:09.123456000Z",)),
    "a class that holds itself": Case(Node, NodeToo, (Node("a", Node("b")),), defaulted=("field.state", "field.below.state")),
    "a class that holds itself in a place": Case(Link, LinkToo, (Link("a", Link("b")),), defaulted=("field[][]", "field[]")),
    "a class that holds itself, and another field": Case(Node, Node | None, (Node("a", Node("b")),)),
    "a default that was left out": Case(Thin, ThinToo, (Thin("a"),)),
    "a default that was left out, and is another now": Case(Thin, Closed, (Thin("a", "new"), Thin("b")), defaulted=("field.state",)),
    "a default inside, that was left out": Case(tuple[Mapping[str, Thin], ...], tuple[Mapping[str, ThinToo], ...], (({"k": Thin("a")},),)),
}


def event(kind: Any) -> Any:
    return msgspec.defstruct("Came", [("field", kind)], bases=(h.Event,), frozen=True)


def said(url: str, kind: Any) -> Verdict:
    [found] = readings_of(url, h.App("shop", records=[event(kind)])).names
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_lost_is_what_the_data_says(case: Case, tmp_path: Path) -> None:
    """A class that changed is risky where something that was recorded is not read as it was, and fine where nothing is."""
    url = f"sqlite:///{tmp_path}/log.db"
    then = event(case.then)
    with h.App("shop", records=[then]).open(url) as running:
        running.record_all([then(value) for value in case.recorded])

    unchanged, found = said(url, case.then), said(url, case.today)

    assert (unchanged.verdict, unchanged.notes) == ("fine", [])
    assert (tuple(found.dropped), tuple(found.defaulted), tuple(found.altered)) == (case.dropped, case.defaulted, case.altered)
    assert tuple(found.zoneless) == case.zoneless
    assert found.verdict == ("risky" if case.dropped or case.defaulted or case.altered or case.zoneless else "fine")
    assert (found.bad, found.count) == (0, len(case.recorded))


def test_a_number_that_no_float_can_be_is_said_to_be_unreadable(tmp_path: Path) -> None:
    """It has more digits than any."""
    url = f"sqlite:///{tmp_path}/log.db"
    then = event(int)
    with h.App("shop", records=[then]).open(url) as running:
        running.record_all([then(1), then(10**400), then(2**1023)])

    found = said(url, float)

    assert (found.verdict, found.bad, found.troubles[0].reason) == ("impossible", 1, "Number out of range")


def test_what_is_not_read_in_full_is_said_in_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of facts without a schema; the exit code is that of a log that can be read."""
    url = f"sqlite:///{tmp_path}/log.db"
    with h.open_log(url, create=True) as log:
        log.append(h.Loose("Timed", {"at": "2024-05-06T07:08:09.123456789Z", "size": 1}))

    assert main(["check", "tests.versions.test_lost:timed", "--log", url]) == 0
    told = capsys.readouterr().out

    assert "recorded, and not read in full: at\n" in told
    assert "of 1 something is lost or defaulted" in told


@pytest.mark.parametrize("zone", [None, UTC])
def test_a_time_that_an_upcast_makes_without_a_zone_is_said(tmp_path: Path, zone: tzinfo | None) -> None:
    """A text or a time, whichever it returns."""

    def at_noon(_old: h.Data) -> h.Data:
        return {"at": datetime(2024, 5, 6, 12, tzinfo=zone), "size": 1}

    url = f"sqlite:///{tmp_path}/log.db"
    with h.open_log(url, create=True) as log:
        log.append(h.Loose("Timed", {"day": "2024-05-06"}))

    [found] = readings_of(url, h.App("timed", records=[Again], upcasts=[h.Upcast("Timed", 1, at_noon)])).names

    assert (found.verdict, tuple(found.zoneless)) == (("risky", ("at",)) if zone is None else ("fine", ()))


@h.named("Timed", version=2)
class Again(h.Event):
    at: datetime
    size: float


class Timed(h.Event):
    at: datetime
    size: float


timed = h.App("timed", records=[Timed])


@h.named("Told")
class ToldThen(h.Event):
    who: Annotated[str, h.Tag("who")]
    at: str


@h.named("Told")
class ToldNow(h.Event):
    who: Annotated[str, h.Tag("who")]
    at: datetime


@pytest.mark.parametrize("others", [[], [Timed(datetime(2024, 5, 6, tzinfo=UTC), 1.0)]], ids=["alone", "beside others"])
@pytest.mark.parametrize("erased", [False, True])
@pytest.mark.parametrize(
    ("text", "wrong"), [("2024-05-06T12:00:00Z", ""), ("2024-05-06T12:00:00", "zoneless"), ("2024-05-06T12:00:00.1234567Z", "altered")]
)
def test_what_no_schema_tells_of_a_time_is_found_in_its_text(
    tmp_path: Path, text: str, wrong: str, erased: bool, others: list[h.Event]
) -> None:
    """A text and a time have one schema. It is found among others, and where some are erased."""
    url = f"sqlite:///{tmp_path}/log.db"
    with h.App("told", records=[ToldThen, Timed]).open(url, run=False) as running:
        running.record_all(
            [ToldThen("ann", "2024-05-06T12:00:00+02:00"), *others, ToldThen("bob", text), ToldThen("eve", "2024-05-06T12:00:00Z")]
        )
        if erased:
            running.erase(("who", "eve"), actor="ann", reason="asked")

    found = {one.name: one for one in readings_of(url, h.App("told", records=[ToldNow, Timed])).names}["Told"]

    assert (found.verdict, found.count) == ("risky" if wrong else "fine", 3)
    assert {what: tuple(getattr(found, what)) for what in ("zoneless", "altered")} == {"zoneless": (), "altered": ()} | (
        {wrong: ("at",)} if wrong else {}
    )


def test_a_key_that_can_not_be_read_is_told_with_its_field(tmp_path: Path) -> None:
    """By the path of its mapping, as any other value is."""
    url = f"sqlite:///{tmp_path}/log.db"
    then = event(Mapping[str, int])
    with h.App("shop", records=[then]).open(url) as running:
        running.record_all([then({"1": 1}), then({"one": 1})])

    found = said(url, Mapping[int, int])

    [trouble] = found.troubles
    assert (found.verdict, trouble.path, trouble.reason) == ("impossible", "field", "a key: Expected `int`, got `str`")
