"""A bar for long work: on stderr, and only on a terminal. Where rich is not installed (`pip install happened[cli]`) it is a line now and then."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

LINE_SECONDS = 1.0
"""How often a line says how far the work has come."""


def lines(title: str) -> Callable[[int, int | None], None]:
    """Return a function that says now and then how much is done; nothing in the first second."""
    due = time.monotonic() + LINE_SECONDS

    def show(done: int, whole: int | None) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + LINE_SECONDS
            print(f"{title}: {done:,}{f' of {whole:,}' if whole else ''}", file=sys.stderr, flush=True)

    return show


@contextmanager
def bar(title: str) -> Generator[Callable[[int, int | None], None], None, None]:
    """Give a function that is told how much is done, and of how much where that is known. The bar appears where that takes longer than a second."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    try:
        from rich.console import Console  # lazy: it is an extra, and slow to import
        from rich.progress import Progress  # lazy: see above
    except ImportError:
        yield lines(title)
        return
    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=None)
    due = time.monotonic() + LINE_SECONDS

    def show(done: int, whole: int | None) -> None:
        if time.monotonic() >= due:
            progress.start()
        progress.update(task, completed=done, total=whole)

    try:
        yield show
    finally:
        progress.stop()
