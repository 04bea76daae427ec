"""The commands about cold parts: `compact` and `unpack`."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta

from happened.core.store import Parts
from happened.edge.progress import bar
from happened.edge.settings import log_url
from happened.edge.words import print_json
from happened.log.compacting import compact, unpack
from happened.opening import open_log


def compacted(asked: argparse.Namespace) -> int:
    """Pack what is old."""
    older = timedelta(days=asked.older) if asked.older is not None else None
    with closing(open_log(log_url(asked.log))) as log, bar("compacting") as progress:
        parts = compact(log, keep=asked.keep, older=older, above=asked.above, rewrite=asked.rewrite, progress=progress)
    return _told(parts, as_json=asked.json)


def unpacked(asked: argparse.Namespace) -> int:
    """Put back what was packed."""
    with closing(open_log(log_url(asked.log))) as log, bar("unpacking") as progress:
        parts = unpack(log, after=asked.after, progress=progress)
    return _told(parts, as_json=asked.json)


def _told(parts: Parts, *, as_json: bool) -> int:
    if as_json:
        print_json(parts)
        return 0
    print("\n".join(lines(parts)))
    if parts.free_bytes and not parts.gives_back:
        print(
            f"{parts.free_bytes:,} bytes are free where rows lay, and are used again; `happened compact --rewrite` gives them back, while others wait"
        )
    return 0


def lines(parts: Parts) -> list[str]:
    """Say how much is packed."""
    if not parts.cold:
        return [f"cold      nothing; hot {parts.hot_rows:,} rows"]
    each = parts.cold_bytes / parts.cold_rows
    return [
        f"cold      up to position {parts.cold:,}: {parts.cold_rows:,} rows in {parts.segments:,} segments of {parts.cold_bytes:,} bytes, {each:.0f} a row",
        f"hot       from position {parts.cold + 1:,} on: {parts.hot_rows:,} rows",
    ]


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"compact": compacted, "unpack": unpacked}
