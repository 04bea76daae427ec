"""The machine's clock, ids and chance: the one place where they are read."""

import base64
import itertools
import os
import socket
import time


class Machine:
    """The source of time and ids of a running process. Ids are a random prefix of 64 bits for each instance, and a counter: short, and cheap."""

    def __init__(self) -> None:
        self._prefix = base64.b32encode(os.urandom(8)).decode().rstrip("=").lower()
        self._next = itertools.count(1).__next__

    def now_us(self) -> int:
        """Return the time in microseconds since 1970, UTC."""
        return time.time_ns() // 1000

    def new_id(self) -> str:
        """Return an id that no other call, process or machine returns."""
        return f"{self._prefix}-{self._next()}"

    def salt(self, count: int) -> bytes:
        """Return this many unpredictable bytes."""
        return os.urandom(count)

    def owner(self) -> str:
        """Return `host:pid:instance`."""
        return f"{socket.gethostname()}:{os.getpid()}:{self._prefix}"

    def gone(self, owner: str) -> bool:
        """Say whether the process of this name ran on this host and has ended. A process of another host is not known to be gone."""
        host, pid, instance = owner.rsplit(":", 2)
        if host != socket.gethostname() or instance == self._prefix:
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
