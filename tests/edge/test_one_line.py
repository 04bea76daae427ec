"""What people, users' code and other systems wrote is shown in its line: it neither ends that nor gives a terminal commands."""

import json
from collections.abc import Iterator
from typing import Annotated

import pytest

import happened as h
from happened.edge.main import main
from happened.edge.words import one_line

BAD = "one\ntwo\x1b[2Jthree\r"
SHOWN = r"one\ntwo\x1b[2Jthree\r"


class Ordered(h.Event):
    sku: Annotated[str, h.Tag("sku")]


class Order(h.Command):
    sku: str


class Send(h.Command):
    sku: str


def order(command: Order) -> Iterator[Ordered]:
    if command.sku == "none":
        raise h.Refused(BAD)
    yield Ordered(command.sku)


def send(command: Send) -> Iterator[Ordered]:
    raise ValueError(BAD)


def follow(event: Ordered) -> Iterator[Send]:
    yield Send(event.sku)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a log with ids, actors, refusals and errors of any text."""
    url = f"sqlite:///{tmp_path_factory.mktemp('lines')}/log.db"
    with h.App("shop", deciders=[order, send], reactions=[follow]).open(url) as running:
        running.dispatch(Order("nut"), id=BAD, actor=BAD)
        with pytest.raises(h.Refused):
            running.dispatch(Order("none"), id="no")
        while not running.stuck():
            running.log.wait(running.log.head, 0.01)
    return url


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (("tail",), 5),
        (("trace", "no"), 4),
        (("trace", BAD), 6),
        (("stuck",), 2),
        (("stats",), None),
        (("show", "no"), None),
        (("flow",), None),
        (("workers",), None),
    ],
    ids=["tail", "trace of a refusal", "trace", "stuck", "stats", "show", "flow", "workers"],
)
def test_a_text_stays_in_its_line(url: str, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], lines: int | None) -> None:
    """As many lines as there are records; with --json nothing is changed."""
    main([*command, "--log", url])
    text = capsys.readouterr().out
    main([*command, "--log", url, "--json"])
    told = capsys.readouterr().out

    assert lines is None or len(text.splitlines()) == lines
    assert all(sign.isprintable() for line in text.split("\n") for sign in line)
    assert all(json.loads(line) is not None for line in told.splitlines())
    if command[0] in ("tail", "trace", "stuck", "stats"):
        assert SHOWN in text
        assert json.dumps(BAD)[1:-1] in told


def test_what_a_run_raised_is_told_without_its_traceback(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it was, and what was raised; JSON has all of it."""
    main(["stats", "--log", url])
    text = capsys.readouterr().out
    main(["stats", "--log", url, "--json"])
    [told] = [one["latest"] for one in json.loads(capsys.readouterr().out)["executions"]]

    [line] = [line for line in text.splitlines() if line.startswith("send ")]
    assert line.endswith(f"ValueError: {SHOWN}")
    assert "Traceback" not in text
    assert "Traceback" in told


@pytest.mark.parametrize(
    "command", [("show", f"no {BAD}"), ("tail", "--log", f"sqlite:///{BAD}"), ("tail", BAD)], ids=["asked", "log", "argument"]
)
def test_an_error_is_one_line(url: str, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    """Whatever was given comes back in it. How the command is used may stand before it."""
    assert main(["--log", url, *command])

    lines = capsys.readouterr().err.split("\n")
    assert [line.startswith("error: ") for line in lines[-2:]] == [True, False]
    assert SHOWN in lines[-2]
    assert not lines[-1]


def test_what_can_be_seen_is_shown_as_it_is() -> None:
    """Letters of any language, and what is put together of several."""
    for text in ("Ordered", "ключ☃", "全角　スペース", "👨‍👩‍👧", "a b"):
        assert one_line(text) == text
