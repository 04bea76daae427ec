"""Differences: what was recorded beside what today's code comes to, by message and field."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any  # Any: messages of any class, their fields as plain data

import msgspec

from happened.core.errors import Invalid
from happened.core.messages import name_of
from happened.log.row import encode
from happened.sourcing.handling import Refusal

NOTHING = "(nothing)"
REFUSED = "refused"
"""What a refusal's text is called where it differs, and what stands before the name of a fact."""


class Difference(msgspec.Struct, frozen=True):
    """One place where it is not the same: `OrderPlaced.total`, `outcome`, `refused.left`, or a message that is on one side only."""

    path: str
    then: Any
    now: Any


class Divergence(msgspec.Struct, frozen=True):
    """One recorded run that comes to something else by today's code."""

    position: int
    """Of the row that holds what came of it then."""
    id: str
    """Of the input, or of the run of a reaction."""
    handler: str
    heard: str
    """The name of the command or event that it was run on."""
    differences: tuple[Difference, ...]
    fingerprint_then: str
    fingerprint_now: str
    had_read: tuple[int, ...] = ()
    """Positions of events that are erased, and that it had read."""
    may_have_read: tuple[int, ...] = ()
    """Positions of the latest events that are erased, and of which it is not known whether it had read them."""

    @property
    def unproven(self) -> bool:
        """Whether what is erased may be why: it had read some of it; or it may have, and its code is what it was."""
        return bool(self.had_read) or (bool(self.may_have_read) and self.fingerprint_then == self.fingerprint_now)


class MayDiffer:
    """The declared differences: fields of messages that may come out otherwise, text and facts of refusals (`refused`), or one of their facts."""

    def __init__(self, declared: Iterable[str], classes: Iterable[type]) -> None:
        fields = {name_of(cls)[0]: {field.encode_name for field in msgspec.structs.fields(cls)} for cls in classes}
        self._paths: set[str] = set()
        for one in declared:
            name, _, field = one.partition(".")
            if name not in fields and name != REFUSED:
                raise Invalid(
                    f"`{one}` may differ, and the app has no event or command called `{name}`: write Name.field, or {REFUSED}", declared=one
                )
            if name in fields and field not in fields[name]:
                raise Invalid(f"`{one}` may differ, and `{name}` has the fields {', '.join(sorted(fields[name]))}", declared=one)
            self._paths.add(one)

    def allows(self, difference: Difference) -> bool:
        """Say whether a difference is declared: it lies in such a field, however deep."""
        return any(difference.path == path or difference.path.startswith((f"{path}.", f"{path}[")) for path in self._paths)


def same_messages(then: Sequence[Any], now: Sequence[Any]) -> bool:
    """Say whether these messages would be written the same. Cost: 0.6 µs each."""
    if len(then) != len(now):
        return False
    for one, other in zip(then, now, strict=True):
        if type(one) is not type(other):
            return False
        try:
            if encode(one) != encode(other):
                return False
        except (TypeError, UnicodeEncodeError, msgspec.MsgspecError):  # it could not be recorded: told where it is looked at closely
            return False
    return True


def differing_messages(then: Sequence[tuple[str, Any]], now: Sequence[tuple[str, Any]]) -> Iterator[Difference]:
    """Yield where two lists of messages differ, each a name and its fields as plain data: matched by name and order, then field by field."""
    matched = SequenceMatcher(a=[name for name, _ in then], b=[name for name, _ in now], autojunk=False)
    for how, start, end, other_start, other_end in matched.get_opcodes():
        if how == "equal":
            for (name, one), (_, other) in zip(then[start:end], now[other_start:other_end], strict=True):
                yield from differing(name, one, other)
            continue
        for name, one in then[start:end]:
            yield Difference(name, one, NOTHING)
        for name, other in now[other_start:other_end]:
            yield Difference(name, NOTHING, other)


def differing(path: str, then: Any, now: Any) -> Iterator[Difference]:
    """Yield where plain data differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        one: dict[str, Any] = then  # pyright: ignore[reportUnknownVariableType]  # plain data, from JSON
        other: dict[str, Any] = now  # pyright: ignore[reportUnknownVariableType]  # as above
        for field in dict.fromkeys([*one, *other]):
            yield from differing(f"{path}.{field}", one.get(field, NOTHING), other.get(field, NOTHING))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):  # pyright: ignore[reportUnknownArgumentType]  # as above
        for place, (each, found) in enumerate(zip(then, now, strict=True)):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # as above
            yield from differing(f"{path}[{place}]", each, found)
    elif then != now or type(then) is not type(now):  # pyright: ignore[reportUnknownArgumentType]  # as above
        yield Difference(path, then, now)


def differing_outcomes(then: Refusal | None, now: Refusal | None, failure: BaseException | None) -> Iterator[Difference]:
    """Yield where an outcome differs: accepted, refused with a text and facts, or failed."""
    if failure is not None:
        yield Difference("outcome", _outcome(then), f"failed: {type(failure).__name__}: {failure}")
    elif (then is None) != (now is None):
        yield Difference("outcome", _outcome(then), _outcome(now))
    elif then is not None and now is not None:
        yield from differing(REFUSED, then.text, now.text)
        yield from differing(REFUSED, then.facts, now.facts)


def _outcome(refusal: Refusal | None) -> str:
    return "accepted" if refusal is None else f"refused: {refusal.text}"


def plain(message: Any) -> Any:
    """Return the fields of a message as plain data, as they would be written."""
    return msgspec.json.decode(encode(message))
