"""A replay reaches nothing outside: with sockets, files, clock and chance blocked it hears what was recorded."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.replay import bank
from tests.replay.made import recorded

ROOT = Path(__file__).parents[2]

CHILD = '''
import builtins, importlib, os, random, secrets, socket, sys, time, uuid
import happened as h
from happened.checking.decisions import decide_again

url, folder, name, sources = sys.argv[1:]
sys.path.insert(0, folder)
code = importlib.import_module(name)
blocked = []
on = False

def hook(event, args):
    """Block whatever leaves the process, or comes in from outside: also what C code does for Python."""
    if on and event.split(".")[0] in {"open", "os", "socket", "subprocess", "sqlite3", "shutil", "tempfile", "urllib", "http", "ftplib", "mmap", "fcntl", "pty"}:
        if event == "open" and str(args[0]).endswith(tuple(sources.split(","))) and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return  # the code's own text is read, for its fingerprint
        blocked.append(event)
        raise PermissionError(f"{event} is blocked")

def never(what):
    def raising(*_args, **_kwargs):
        store = sys._getframe(1).f_globals["__name__"].startswith("happened.stores")  # how long it may wait for its lock
        if on and not (store and what == "time.monotonic"):
            blocked.append(what)
            raise PermissionError(f"{what} is blocked")
        return kept(*_args, **_kwargs)
    module, _, function = what.rpartition(".")
    kept = getattr(sys.modules[module], function)
    setattr(sys.modules[module], function, raising)

with h.open_log(url) as log:
    decide_again(code.app, log)  # connections are open, and what is imported late is there
    sys.addaudithook(hook)
    for what in ["time.time", "time.time_ns", "time.monotonic", "time.perf_counter", "time.sleep", "random.random", "random.randint",
                 "os.urandom", "uuid.uuid4", "uuid.uuid1", "secrets.token_hex", "socket.create_connection", "socket.getaddrinfo", "os.open", "os.write"]:
        never(what)
    on = True
    try:
        checked = decide_again(code.app, log)
    finally:
        on = False
first = checked.divergences[0].differences[0] if checked.divergences else None
print(checked.inputs, checked.runs, checked.diverged, sorted(set(blocked)), first.now if first else None, sep="|")
'''


def replayed(url: str, folder: Path, text: str) -> list[str]:
    """Replay a log by this code in a child process where all else is blocked; return what it says."""
    (folder / "code_of_child.py").write_text(text, encoding="utf-8")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, str(folder), "code_of_child", "code_of_child.py,.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip().split("|")


def test_a_replay_hears_what_was_recorded_and_touches_nothing(tmp_path: Path) -> None:
    """Though the gateways would open sockets and files, and the deciders ask for clock, ids and chance."""
    url = recorded(tmp_path)
    outside = "    import socket\n\n    socket.create_connection(('127.0.0.1', 9))\n    open('/tmp/nowhere', 'w').close()\n"
    text = Path(bank.__file__).read_text(encoding="utf-8")
    text = text.replace("def rate(account: str) -> int:\n", f"def rate(account: str) -> int:\n{outside}")
    text = text.replace("def tell(account: str, left: int) -> str:\n", f"def tell(account: str, left: int) -> str:\n{outside}")
    assert text.count("create_connection") == 2

    said = replayed(url, tmp_path, text)

    assert said == ["10", "3", "0", "[]", "None"]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("import time; time.time()", "time.time"),
        ("import random; random.random()", "random.random"),
        ("import uuid; uuid.uuid4()", "uuid.uuid4"),
        ("import socket; socket.socket()", "socket.__new__"),
        ("open('/tmp/nowhere', 'w')", "open"),
        ("import os; os.listdir('/')", "os.listdir"),
        ("import sqlite3; sqlite3.connect(':memory:')", "sqlite3.connect"),
        ("import subprocess; subprocess.Popen(['true'])", "subprocess.Popen"),
    ],
)
def test_what_reaches_outside_is_stopped_there(tmp_path: Path, line: str, event: str) -> None:
    """So the test above would have noticed."""
    url = recorded(tmp_path)
    text = Path(bank.__file__).read_text(encoding="utf-8")
    text = text.replace("    fees = world.state(", f"    {line}\n    fees = world.state(")
    assert line in text

    _, _, diverged, blocked, first = replayed(url, tmp_path, text)

    assert diverged == "6"
    assert event in blocked
    assert "is blocked" in first
