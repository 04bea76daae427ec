"""The ledger on `umadb`, an event store in Rust whose server comes in its wheel, driven by its Python client.

The client is blocking and releases the interpreter's lock, so concurrent callers are threads here, each with a client
of its own: its best from Python. The server syncs twice per commit, which several appends may share. Of its settings, reading
by `mmap` was the best or as good as any; its pipelined writer made eight callers slower.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Self

import umadb

START_SECONDS_MAX = 20.0
SETTINGS = ("--read-method", "mmap")


class Server:
    """The server as a process of its own, on the loopback address."""

    def __init__(self, path: Path) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        program = Path(sys.executable).with_name("umadb")
        self._process = subprocess.Popen(
            [program, "--listen", f"127.0.0.1:{port}", "--db-path", path, *SETTINGS],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                umadb.Client(self.url).head()
            except Exception:  # whatever the client raises while nobody listens yet
                if self._process.poll() is not None or time.monotonic() > until:
                    self._process.kill()
                    raise
                time.sleep(0.01)
            else:
                return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def client(self) -> umadb.Client:
        """Return a new client."""
        return umadb.Client(self.url)

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Appender:
    """Appends to one boundary, each time on condition that nothing came into it since the last."""

    def __init__(self, client: umadb.Client, tags: Sequence[str]) -> None:
        self._client = client
        self._tags = list(tags)
        self._boundary = umadb.Query([umadb.QueryItem(tags=self._tags)])
        self._after = client.head() or 0

    def append(self, body: bytes) -> None:
        """Append one event, or raise what the client raises where somebody else was faster."""
        event = umadb.Event("Deposited", body, tags=self._tags)
        self._after = self._client.append([event], umadb.AppendCondition(self._boundary, after=self._after))


def append(client: umadb.Client, bodies: Sequence[bytes], tags: Sequence[list[str]]) -> None:
    """Append events in one commit, on no condition."""
    client.append([umadb.Event("Deposited", body, tags=own) for body, own in zip(bodies, tags, strict=True)])


def _free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
