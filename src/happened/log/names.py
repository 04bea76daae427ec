"""Names: which number in the rows stands for which class or function, as recorded in the log itself.

Every name that a row uses is first recorded as a `schema` record (kind system): number, what it is, name, version, a fingerprint, and for data the JSON
schema and where its tags lie. So the types of every past position are known, and a log can be read without the code that wrote it. One number stands
for one (what, name, version, fingerprint): a class that changed its fields has a new one, so each record says exactly which shape it was written in.

Numbers are given under the store's lock. A note of the store (`name/NUMBER`) repeats each record, so that opening a log need not search for them.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple  # Any: JSON schemas are JSON

import msgspec

from happened.core.errors import Broken, Invalid
from happened.core.messages import name_of
from happened.core.tags import nesting, outline, scope_of
from happened.log.row import FIRST_NUMBER, Written, encode

NOTE = "name/"


class Name(msgspec.Struct, frozen=True):
    """One recorded name."""

    number: int
    what: str
    """`event`, `command`, what is said to other systems (`notification`, `share`, `beacon`), or what kind of handler."""
    name: str
    version: int
    fingerprint: str
    tags: Any = None
    """Where the tags lie, as `core.tags.outline` says it."""
    parts: Any = None
    """Which values lie nested in it, as `core.tags.nesting` says it."""


class Wish(NamedTuple):
    """A name that is to be recorded, without its number."""

    what: str
    name: str
    version: int
    fingerprint: str
    tags: Any = None
    schema: Any = None
    parts: Any = None


def wish_for(cls: type, what: str, name: str | None = None) -> Wish:
    """Return what is to be recorded of a class of data: its JSON schema, where its tags lie, and a fingerprint of both; under another name if given."""
    own, version = name_of(cls)
    try:
        _, components = msgspec.json.schema_components([cls], ref_template="#/{name}")
        schema: Any = components
    except TypeError:  # a type that JSON schema has no word for; its fields still tell it from others
        schema = {field.name: repr(field.type) for field in msgspec.structs.fields(cls)}
    except KeyError as error:  # msgspec knows classes by their names
        raise Invalid(
            f"`{own}` holds two classes that are both called `{error.args[0].__qualname__}`, made by one function, say: give them different names",
            type=own,
        ) from error
    scope = scope_of(cls)
    tags, parts = outline(scope), nesting(scope)
    text = encode([schema, tags, parts] if has_versions(parts) else [schema, tags])
    return Wish(what, name if name is not None else own, version, hashlib.sha256(text).hexdigest()[:16], tags, schema, parts or None)


def has_versions(parts: Any) -> bool:
    """Say whether anything that lies nested is of another version than the first."""
    return any(version != 1 or has_versions(below) for _, _, _, version, below, _ in parts)


class Schema(Name, frozen=True):
    """A name as its record has it: with the JSON schema, which the note of it leaves out."""

    schema: Any = None


def wish_again(name: Name) -> Wish:
    """Return what is to be recorded of a name that another log has recorded."""
    return Wish(
        name.what, name.name, name.version, name.fingerprint, name.tags, name.schema if isinstance(name, Schema) else None, name.parts
    )


decode_schema = msgspec.json.Decoder(Schema).decode


class Names:
    """The names of one log that this process has seen, and in a batch those it is about to add."""

    def __init__(self) -> None:
        self.by_number: dict[int, Name] = {}
        self._numbers: dict[tuple[str, str, int, str], int] = {}
        self._added: list[Name] = []
        self.changes = 0
        """Goes up with each name, so that what was derived from the names knows when to look again."""
        self.noted: Callable[[str], Mapping[str, str]] | None = None
        """Reads the notes of the log, where others may have given names since."""

    def learn(self, notes: Callable[[str], Mapping[str, str]]) -> None:
        """Take in the names that are noted in the log and not known yet."""
        for body in notes(NOTE).values():
            self._take_in(_read(body))

    def known(self, number: int) -> Name | None:
        """Return the name of a number, also where others have given it since; `None` where the log has none."""
        if number not in self.by_number and self.noted is not None:
            self.learn(self.noted)
        return self.by_number.get(number)

    def learn_record(self, body: bytes) -> None:
        """Take in a name from its schema record, which stands in the log before the first use of the number."""
        self._take_in(_read(body))

    def number(self, wish: Wish) -> int | None:
        """Return the number of a name, or `None` if it has none yet."""
        return self._numbers.get(wish[:4])

    def add(self, wish: Wish) -> tuple[int, Written, str, str]:
        """Give a name its number, for the batch that is being written; return it with its record and its note's key and body."""
        number = max(self.by_number, default=FIRST_NUMBER - 1) + 1
        name = Name(number, *wish[:5], parts=wish.parts)
        self._keep(name)
        self._added.append(name)
        body = encode({"number": number, **{key: value for key, value in wish._asdict().items() if value is not None}})
        return number, Written(0, body), f"{NOTE}{number}", encode(name).decode()

    def kept(self) -> None:
        """Keep what the batch added: it was committed."""
        self._added.clear()

    @property
    def added(self) -> int:
        """How many names the batch has added so far."""
        return len(self._added)

    def dropped(self, after: int = 0) -> None:
        """Forget what the batch added, after the first so many: it was not committed."""
        for name in self._added[after:]:
            if self.by_number.get(name.number) is name:
                del self.by_number[name.number]
            if self._numbers.get(_told(name)) == name.number:
                del self._numbers[_told(name)]
            self.changes += 1
        del self._added[after:]

    def _take_in(self, name: Name) -> None:
        """Keep a name that the log has. One that this process was about to add under its number comes to nothing: others were the first to commit."""
        known = self.by_number.get(name.number)
        if known is None or (_told(known) != _told(name) and any(one is known for one in self._added)):
            self._keep(name)

    def _keep(self, name: Name) -> None:
        self.by_number[name.number] = name
        self._numbers[_told(name)] = name.number
        self.changes += 1


def _told(name: Name) -> tuple[str, str, int, str]:
    """Return what one number stands for."""
    return name.what, name.name, name.version, name.fingerprint


def _read(body: bytes | str) -> Name:
    try:
        return msgspec.json.decode(body, type=Name)
    except msgspec.MsgspecError as error:
        raise Broken(f"the name {body!r} can't be read: {error}") from error
