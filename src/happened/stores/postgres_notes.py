"""The notes of a log as PostgreSQL keeps them, which takes no NUL, and no key that is longer than a page of an index has room for.

NUL, and the character after it, are written as two characters: so keys keep their order, and what they start with. Of a long key its beginning and a digest
are the key, and the whole stands before the body.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any  # Any: rows of the columns that were asked for

from happened.stores.shelving import keys_between

KEY_BYTES_MAX = 2_400
"""An index of the server takes some 2,700."""
KEY_CHARACTERS = KEY_BYTES_MAX // 4
"""So much of a longer key is kept in it."""
_ESCAPE = "\1"
_CUT = "\1\4"
_LAST = "\U0010ffff"


def written(notes: Mapping[str, str | None]) -> tuple[list[str], list[str], list[str]]:
    """Return the keys of notes that are set, and their bodies, and the keys of those that are deleted."""
    kept = [_kept(key, body) for key, body in notes.items() if body is not None]
    return [key for key, _ in kept], [body for _, body in kept], [key_of(key) for key, body in notes.items() if body is None]


def key_of(key: str) -> str:
    """Return the key that a note is kept under."""
    return _kept(key, "")[0]


def bounds(start: str, before: str | None = None) -> tuple[str, str]:
    """Return from which key on, and before which one, all notes are kept whose key starts with a text and sorts before another; and maybe more."""
    first, end = map(_escaped, keys_between(start, before))
    return first[:KEY_CHARACTERS], end if len(end) <= KEY_CHARACTERS else end[:KEY_CHARACTERS] + _LAST


def found(rows: Iterable[tuple[Any, ...]], start: str = "", before: str | None = None) -> dict[str, str]:
    """Return those of the notes in these rows whose key starts with a text and sorts before another."""
    first, end = keys_between(start, before)
    notes: dict[str, str] = {}
    for kept, body in rows:
        key = kept
        if kept.startswith(_CUT, KEY_CHARACTERS):
            key, _, body = body.partition(_CUT)  # noqa: PLW2901 - the whole key stands before it
        key = _told(key)
        if first <= key < end:
            notes[key] = _told(body)
    return notes


def _kept(key: str, body: str) -> tuple[str, str]:
    key, body = _escaped(key), _escaped(body)
    if len(key) <= KEY_CHARACTERS or len(key.encode()) <= KEY_BYTES_MAX:
        return key, body
    return f"{key[:KEY_CHARACTERS]}{_CUT}{sha256(key.encode()).hexdigest()[:32]}", f"{key}{_CUT}{body}"


def _escaped(text: str) -> str:
    return text.replace("\1", "\1\3").replace("\0", "\1\2") if "\0" in text or _ESCAPE in text else text


def _told(text: str) -> str:
    return text.replace("\1\2", "\0").replace("\1\3", "\1") if _ESCAPE in text else text
