"""Shelving: what the shelves of several stores have in common, whatever they are kept in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from happened.core.store import Row


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges of positions as ranges that neither overlap nor adjoin, in order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def reading_text(reading: Mapping[int, str]) -> str:
    """Return how names are read, as one text."""
    return "\n".join(f"{name}\t{how}" for name, how in reading.items())


def reading_in(text: str) -> dict[int, str]:
    """Return what such a text says."""
    return {int(name): how for name, _, how in (line.partition("\t") for line in text.split("\n") if line)}


def keys_between(start: str, before: str | None) -> tuple[str, str]:
    """Return from which key on, and before which one, those lie that start with a text and sort before another, if one is given."""
    end = start + "\U0010ffff"
    return start, end if before is None else min(before, end)


def next_row_first(
    holding: Callable[[int], Row | None], pages: Callable[[int], Iterator[Sequence[Row]]], after: int, until: int | None
) -> Iterator[Sequence[Row]]:
    """Yield the row behind a position by itself, then the pages behind that: most who ask for pages of one row want one, and no look at the log's edges."""
    row = holding(max(after, 0) + 1)
    if row is None:  # nothing lies there, or the log begins later
        yield from pages(after)
    elif until is None or row.last <= until:
        yield [row]
        yield from pages(row.last)
