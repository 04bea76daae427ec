"""Watching how far a view has come, for all of one event loop who await that."""

import asyncio
from collections.abc import Awaitable, Callable

FIRST_POLL_SECONDS = 0.001
"""How soon it is looked again after it has moved."""
LATER = 1.25
"""How much later each time, where it has not moved: at most a quarter of what it takes is waited for in vain."""
POLL_SECONDS = 0.01
"""How often, at least, it is looked whether others have brought it further."""


class Watch:
    """One task that looks, for as long as anybody waits. `look` says how far it is, or `None` where each is to look for himself.

    `known` says so without a look, or `None` where it takes one; where it moves on by this process `heard` is called, and nobody waits for the next look.
    """

    def __init__(self, look: Callable[[], Awaitable[int | None]], known: Callable[[], int | None]) -> None:
        self._look = look
        self._known = known
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
        # Not `asyncio.wait`: each turn that a busy loop takes until this one goes on is a commit of others.
        over = loop.call_later(seconds, _answer, future, False)
        try:
            if self._task is None:
                self._task = loop.create_task(self._watch())
                self._task.add_done_callback(self._ended)
            return await future
        finally:
            over.cancel()
            del self._waiting[future]

    def heard(self) -> None:
        """Hear, in the loop, that it may have moved on."""
        found = self._known()
        if found is not None:
            self._tell(found)

    async def _watch(self) -> None:
        before: int | None = None
        pause = FIRST_POLL_SECONDS
        while self._waiting:
            try:
                found = await self._look()
            except Exception:  # noqa: BLE001 - who looks for himself hears what it is
                found = None
            self._tell(found)
            await asyncio.sleep(pause)
            pause = min(LATER * pause, POLL_SECONDS) if found == before else FIRST_POLL_SECONDS
            before = found

    def _tell(self, found: int | None) -> None:
        for future, position in self._waiting.items():
            if found is None or position <= found:
                _answer(future, found is not None)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        """Have each who waits look for himself; he begins anew while he has time. Whoever cancels all tasks may cancel this one before it has begun."""
        self._task = None
        self._tell(None)


def _answer(future: "asyncio.Future[bool]", said: bool) -> None:
    if not future.done():
        future.set_result(said)
