"""One caller or many: the same work handed in by a loop, by threads, or by tasks, each call timed.

A crowd is a list of callers; each has a function to call and what to call it with, in order.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar

from benchmarks.measure import Run, Timer

H = TypeVar("H")
W = TypeVar("W")


def alone(handle: Callable[[W], object], work: Sequence[W]) -> Run:
    """Hand in all work, one by one."""
    latencies: list[float] = []
    with Timer() as timer:
        for piece in work:
            start = perf_counter()
            handle(piece)
            latencies.append(perf_counter() - start)
    return timer.run(len(work), latencies)


def in_threads(crowd: Sequence[tuple[Callable[[W], object], Sequence[W]]]) -> Run:
    """Hand in all work, each caller a thread. The first error of any of them is raised."""
    latencies: list[float] = []
    errors: list[BaseException] = []

    def call(handle: Callable[[W], object], work: Sequence[W]) -> None:
        try:
            for piece in work:
                start = perf_counter()
                handle(piece)
                latencies.append(perf_counter() - start)
        except BaseException as error:  # noqa: BLE001  # raised again below, in the thread that measures
            errors.append(error)

    threads = [threading.Thread(target=call, args=caller) for caller in crowd]
    with Timer() as timer:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return timer.run(len(latencies), latencies)


def in_tasks(crowd: Sequence[tuple[Callable[[W], Awaitable[object]], Sequence[W]]]) -> Run:
    """Hand in all work, each caller a task of one event loop."""
    latencies: list[float] = []

    async def call(handle: Callable[[W], Awaitable[object]], work: Sequence[W]) -> None:
        for piece in work:
            start = perf_counter()
            await handle(piece)
            latencies.append(perf_counter() - start)

    async def main() -> Run:
        with Timer() as timer:
            await asyncio.gather(*(call(*caller) for caller in crowd))
        return timer.run(len(latencies), latencies)

    return asyncio.run(main())


def dealt(handle: H, work: Sequence[W], callers: int) -> list[tuple[H, Sequence[W]]]:
    """Deal the work out to so many callers."""
    return [(handle, work[caller::callers]) for caller in range(callers)]
