"""Typed: one class of data, ready for the log: checked, encoded, its tags found, its number looked up."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any  # Any: instances of the class

import msgspec

from happened.core.errors import Invalid
from happened.core.messages import Command, Event
from happened.core.plain import NO_DATA, strange_in, zoneless_in
from happened.core.tags import hints_of, in_one_writing, is_a, scope_of, terms_of
from happened.log.names import Names, Wish, wish_for
from happened.log.row import ERASED, encode

if TYPE_CHECKING:
    from happened.log.writer import Batch


encode_in_order = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode


def decode_of(cls: type) -> Callable[[bytes], Any]:
    """Return the function that reads the body of a class. `Invalid` where the class has a field that could be written and not read again."""
    hints_of(cls)  # first, since it says what can't be seen
    try:
        decode: Callable[[bytes], Any] = msgspec.json.Decoder(cls).decode
    except TypeError as error:
        raise Invalid(f"`{cls.__name__}` has a field that can't be stored as JSON: {error}", type=cls.__name__) from error
    strange = strange_in(cls)
    if strange:
        raise Invalid(
            f"`{cls.__name__}` has a field of type `{strange}`, which can't be read from JSON again: use plain data", type=cls.__name__
        )
    return decode


class Typed:
    """One event or command class. Made once for each log that is opened. `what` and `name` say how the log calls it, where that is not the usual; `before`, what else it was called."""

    __slots__ = ("_changes", "_decode", "_names", "_number", "_one", "_zoneless", "called", "cls", "terms", "what", "wish")

    def __init__(self, cls: type, names: Names, *, what: str | None = None, name: str | None = None, before: Collection[str] = ()) -> None:
        if not (is_a(cls, Event) or is_a(cls, Command)):
            raise Invalid(f"`{cls!r}` is neither an event nor a command: subclass `Event` or `Command`", type=str(cls))
        self.cls = cls
        self.what = what if what is not None else "event" if is_a(cls, Event) else "command"
        self.wish: Wish = wish_for(cls, self.what, name)
        self.called = frozenset([self.wish.name, *before])
        """What it is called in the log, today and before."""
        self.terms = terms_of(scope_of(cls))
        self._decode = decode_of(cls)
        self._zoneless = zoneless_in(cls)
        self._one = in_one_writing(scope_of(cls))
        self._names = names
        self._number = 0
        self._changes = -1

    def checked(self, body: Any) -> tuple[bytes, Any]:
        """Return the body's bytes, and the body as it will be read again, the values of tags each written in one way.

        `Invalid` for a wrong type; nothing else checks what a constructor was given.
        """
        decode, zoneless = self._decode, self._zoneless
        try:
            encoded = encode(body)
            again = decode(encoded)
        except NO_DATA as error:
            raise Invalid(f"`{self.cls.__name__}` is not valid: {error}", type=self.cls.__name__) from error
        if again != body:
            self._say_why(body, again)
        if zoneless is not None and (path := zoneless(again)):
            raise Invalid(f"`{self.cls.__name__}` is not valid: the time `{path}` has no zone", type=self.cls.__name__, field=path)
        if self._one is not None:
            again = self._one(again)
            encoded = encode(again)
        return encoded, again

    def read(self, body: bytes) -> tuple[bytes, Any]:
        """Return what `checked` does, of bytes that came from elsewhere. `Invalid` where they are no such body."""
        try:
            found = self._decode(body)
        except msgspec.MsgspecError as error:
            raise Invalid(f"it is no `{self.cls.__name__}`: {error}", type=self.cls.__name__) from error
        return self.checked(found)

    def same(self, recorded: bytes, body: bytes) -> bool:
        """Say whether a recorded body of this shape is the same as another, or erased. What is equal may have been written otherwise: `1.50`, a set."""
        return recorded in (body, ERASED) or bool(self._decode(recorded) == self._decode(body))

    def in_order(self, body: bytes) -> bytes:
        """Return a body as it is digested where it is not kept: what has no order is put into one, so that it has the same bytes in every process."""
        return encode_in_order(self._decode(body))

    def number(self, batch: "Batch") -> int:
        """Return the number of the class's name; recorded in this batch if it is new."""
        if self._changes != self._names.changes:
            self._number = batch.number(self.wish)
            self._changes = self._names.changes
        return self._number

    def _say_why(self, body: Any, again: Any) -> None:
        """Refuse what is not the same when it is read again: a float that is no number, a subclass of a field's class."""
        for field in msgspec.structs.fields(self.cls):
            before, after = getattr(body, field.name), getattr(again, field.name)
            if before != after:
                called = f"`{self.cls.__name__}.{field.name}`"
                raise Invalid(
                    f"{called} would be read back as {after!r}, not {before!r}"
                    if repr(before) != repr(after)
                    else f"{called} is {before!r}, which does not equal what it would be read back as, since it is no number or holds such: say `None`",
                    type=self.cls.__name__,
                    field=field.name,
                )
