"""A proxy before PostgreSQL, which loses answers, holds back what it was given, and breaks off: between any two messages of a connection."""

import contextlib
import ctypes
import selectors
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.servers import Server

LOSE_ANSWER, LOSE_COMMIT, HOLD_COMMIT = "lose the answer", "lose the commit", "hold the commit back"
REST_SECONDS = 0.05
CLIENT, SERVER = "client", "server"
ATTACH_FILTER = 26
"""The number of the option `SO_ATTACH_FILTER` of Linux, which Python does not name."""
COMMIT = b"commit\0"
"""What a client's message holds that commits."""


class Proxy:
    """Listens on a socket of its own, and passes on what comes. `trouble` is done once, to the next commit; `hold_seconds` says for how long it is held.

    `cut` breaks off a connection once, before so many messages more of one side were passed on.
    """

    def __init__(self, server: Server) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="happened-proxy-"))
        self.trouble = ""
        self.cut: tuple[str, int] | None = None
        self.then: Callable[[], object] = lambda: None
        """What happens before the client hears that its connection is gone."""
        self.broken: list[str] = []
        self.done: list[str] = []
        self.idle = threading.Event()
        """No trouble is on its way."""
        self.idle.set()
        self.hold_seconds = 0.3
        self._to = f"{server.folder}/.s.PGSQL.5432"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen()
        self._ended = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, url: str) -> str:
        """Return a URL of the server by way of this proxy."""
        head, _, rest = url.partition("host=")
        return f"{head}host={self.folder}&{rest.partition('&')[2]}"

    def break_off(self) -> None:
        """Break all connections there are."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take nothing more, and break off."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.break_off()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._to)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready, client, server:
            ready.register(client, selectors.EVENT_READ)
            ready.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    try:
                        found = (client if key.fileobj is client else server).recv(1 << 16)
                        if not found:
                            return
                        if key.fileobj is client and COMMIT in found and self.trouble:
                            self._disturb(found, client, server)
                            return
                        if self.cut is not None and self.cut[0] == (CLIENT if key.fileobj is client else SERVER):
                            found, broken = self._cut(found)
                            if broken:
                                (server if key.fileobj is client else client).sendall(found)
                                return
                        (server if key.fileobj is client else client).sendall(found)
                    except OSError:
                        return

    def _cut(self, found: bytes) -> tuple[bytes, bool]:
        """Return what is still passed on of some messages, which are whole, and whether it ends there."""
        assert self.cut is not None, "it is asked for"
        side, left = self.cut
        place = 0
        while place < len(found) and left:
            place += 1 + int.from_bytes(found[place + 1 : place + 5])
            left -= 1
        broken = place < len(found)
        self.cut = None if broken else (side, left)
        if broken:
            self.broken.append(side)
        return found[:place], broken

    def _disturb(self, found: bytes, client: socket.socket, server: socket.socket) -> None:
        trouble, self.trouble = self.trouble, ""
        self.idle.clear()
        if trouble != LOSE_COMMIT:
            client.settimeout(REST_SECONDS)
            with contextlib.suppress(TimeoutError):  # what ends the message may come by itself
                while more := client.recv(1 << 16):
                    found += more
        if trouble == HOLD_COMMIT:
            client.close()
            threading.Event().wait(self.hold_seconds)
        if trouble != LOSE_COMMIT:
            server.sendall(found)
            server.recv(1 << 16)
        self.then()
        client.close()
        self.done.append(trouble)
        self.idle.set()


class Line:
    """A line by TCP to a server, which may go silent: what is sent by then is neither taken nor refused, as where a cable is cut."""

    def __init__(self, server: Server) -> None:
        self._to = f"{server.folder}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, url: str) -> str:
        """Return a URL of the server by way of this line."""
        head, _, rest = url.partition("host=")
        return f"{head}host=127.0.0.1&port={self._listener.getsockname()[1]}&{rest.partition('&')[2]}"

    def go_silent(self) -> int:
        """Let nothing through on the connections that there are; return how many they are. Those that come are as before."""
        nothing = ctypes.create_string_buffer(
            struct.pack("HBBI", 6, 0, 0, 0)
        )  # `return 0`: no packet is let through, not even to be acknowledged
        there = [client for client, _ in self._pairs if client.fileno() >= 0]
        for client in there:
            client.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(nothing)))
        return len(there)

    def close(self) -> None:
        """Take nobody any more, and break off."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for _, server in self._pairs:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._to)
                self._pairs.append((client, server))
                self._threads.append(threading.Thread(target=self._pass_on, args=(client, server), daemon=True))
                self._threads[-1].start()

    @staticmethod
    def _pass_on(client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready, client, server, contextlib.suppress(OSError):
            ready.register(client, selectors.EVENT_READ)
            ready.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    one, other = (client, server) if key.fileobj is client else (server, client)
                    found = one.recv(1 << 16)
                    if not found:
                        return
                    other.sendall(found)
