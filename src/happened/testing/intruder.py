"""A second process on the same data: it appends a row whenever it is told, so that a test has company between any two of its steps.

`python -m happened.testing.intruder` reads one JSON line for each thing to do, and answers each with one. `Intruder` is how a test talks to it.
"""

import importlib
import subprocess
import sys
from typing import Any, Self  # Any: a store of any class, and JSON

import msgspec

from happened.core.store import Engine, Packs
from happened.testing.rows import INTRUDER, Fact, Scribe, read_by, terms_of

Order = tuple[str, str, int]
"""What to do, on the data at which place, how often."""
PACKED_AT_ONCE = 50
"""Positions that are packed in a step: soon the first rows of a test are, and never all that it reads."""


def opened(opener: str, place: str) -> Engine:
    """Open a store by the name of what opens it, `module:name`, which is called with the place of its data."""
    module, _, name = opener.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(place)
    return engine


class Intruder:
    """The process, as a test sees it. One serves any number of tests, one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - it starts this module, and takes nothing from outside
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._packing = False
        self._steps = 0

    def open(self, opener: str, place: str, *, packing: bool = False) -> None:
        """Open the data of a test there; `packing` says that a step packs rows, too."""
        self._packing = packing
        self._tell(("open " + opener, place, 0))
        self._hear()

    def append(self, count: int = 1) -> int:
        """Have so many rows appended, one commit each; return the position that was reached."""
        self.begin(count)
        return self.finish()

    def step(self) -> None:
        """Have a row appended; where it packs, then the next rows packed away, the next time the last of them put back, and then nothing."""
        self.append()
        self._steps += 1
        if self._packing and self._steps % 3:
            self._tell(("pack" if self._steps % 3 == 1 else "unpack", "", 0))
            self._hear()

    def begin(self, count: int) -> None:
        """Have rows appended while the test goes on. Call `finish` before anything else."""
        self._tell(("append", "", count))

    def finish(self) -> int:
        """Wait until what was begun is done; return the position that was reached."""
        return self._hear()

    def close(self) -> None:
        """Close the data there."""
        self._tell(("close", "", 0))
        self._hear()

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the process end."""
        self.end()

    def _tell(self, order: Order) -> None:
        pipe = self._process.stdin
        assert pipe is not None, "the process was started with pipes"
        pipe.write(msgspec.json.encode(order) + b"\n")
        pipe.flush()

    def _hear(self) -> int:
        pipe = self._process.stdout
        assert pipe is not None, "the process was started with pipes"
        answer: Any = msgspec.json.decode(pipe.readline() or b'"it has ended"')
        assert isinstance(answer, int), f"the second process failed: {answer}"
        return answer


def serve() -> None:
    """Do what comes in, line by line, until nothing comes any more."""
    scribe: Scribe | None = None
    for line in sys.stdin.buffer:
        what, place, count = msgspec.json.decode(line, type=Order)
        try:
            if what.startswith("open "):
                scribe = Scribe(opened(what.removeprefix("open "), place), actor=INTRUDER)
                scribe.store.index(read_by("today"), terms_of, lambda _done, _all: None)
            assert scribe is not None, "data is opened first"
            for _ in range(count):
                scribe.append(Fact(tags=("who=" + INTRUDER,), name=17))
            if what in ("pack", "unpack"):
                store = scribe.store
                assert isinstance(store, Packs), "only a store that can pack is asked to"
                cold = store.parts().cold
                if what == "pack":
                    store.compact(min(cold + PACKED_AT_ONCE, scribe.seen), lambda _done, _all: None)
                else:
                    store.unpack(max(cold - PACKED_AT_ONCE, 0), lambda _done, _all: None)
            if what == "close":
                scribe.store.close()
            answer: int | str = scribe.seen
        except Exception as error:  # noqa: BLE001 - it is shown in the test
            answer = f"{type(error).__name__}: {error}"
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
