"""Watching how far a view has come, for all of one event loop who await that."""

import asyncio
from collections.abc import Awaitable, Callable

FIRST_POLL_SECONDS = 0.001
"""How soon it is looked again after it has moved; after that twice as long each time."""
POLL_SECONDS = 0.01
"""How often, at least, it is looked whether others have brought it further."""


class Watch:
    """One task that looks, for as long as anybody waits. `look` says how far it is, or `None` where each is to look for himself."""

    def __init__(self, look: Callable[[], Awaitable[int | None]]) -> None:
        self._look = look
        self._waiting: dict[asyncio.Future[bool], int] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    async def wait(self, position: int, seconds: float) -> bool:
        """Wait until it has come to a position, and say so. False where each is to look for himself, or the time is over."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting[future] = position
        try:
            if self._task is None:
                self._task = loop.create_task(self._watch())
                self._task.add_done_callback(self._ended)
            await asyncio.wait([future], timeout=seconds)
            return future.done() and future.result()
        finally:
            del self._waiting[future]

    async def _watch(self) -> None:
        before: int | None = None
        pause = FIRST_POLL_SECONDS
        while self._waiting:
            try:
                found = await self._look()
            except Exception:  # noqa: BLE001 - who looks for himself hears what it is
                found = None
            for future, position in self._waiting.items():
                if not future.done() and (found is None or position <= found):
                    future.set_result(found is not None)
            await asyncio.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS) if found == before else FIRST_POLL_SECONDS
            before = found

    def _ended(self, _task: asyncio.Task[None]) -> None:
        """Have each who waits look for himself; he begins anew while he has time. Whoever cancels all tasks may cancel this one before it has begun."""
        self._task = None
        for future in self._waiting:
            if not future.done():
                future.set_result(False)
