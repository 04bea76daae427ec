"""A bar for long work: on stderr, only on a terminal, and only where rich is installed (`pip install happened[cli]`)."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def bar(title: str) -> Generator[Callable[[int, int | None], None], None, None]:
    """Give a function that is told how much is done, and of how much where that is known. The bar appears with the first call."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    try:
        from rich.console import Console  # lazy: it is an extra, and slow to import
        from rich.progress import Progress  # lazy: see above
    except ImportError:
        yield lambda _done, _all: None
        return
    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=None)

    def show(done: int, whole: int | None) -> None:
        progress.start()
        progress.update(task, completed=done, total=whole)

    try:
        yield show
    finally:
        progress.stop()
