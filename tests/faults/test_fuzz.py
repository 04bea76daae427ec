"""Bad and hostile input: whatever is given, there is a clear error of `happened` or a right answer, and nothing is recorded where that is said.

`HAPPENED_FUZZ` says how many examples each test tries.
"""

import argparse
import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: that is what is given

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as some

import happened as h
from happened.edge.main import main, the_parser
from tests.faults.hostile import PASSWORD, anything, fuzzed, plain, seconds, texts, urls, whole
from tests.semantics.model import Balance, Deposit, Deposited, Seat, Take, bank

ROOT = Path(__file__).parents[2]


def said(call: Callable[[], object]) -> h.Error | None:
    """Return the error that comes, if one does: any other exception is the test's."""
    said: h.Error | None = None
    try:
        found: Any = call()
        if isinstance(found, Generator):
            list(found)  # pyright: ignore[reportUnknownArgumentType]  # of whatever kind
    except h.Error as error:
        said = error
    if said is not None:
        assert str(said).strip()
        assert PASSWORD not in f"{said} {said.facts}"
    return said


class Part(h.Value):
    name: str
    inner: tuple[tuple[int, ...], ...] = ()


class Anything(h.Event):
    key: Annotated[str, h.Tag("key")]
    number: int = 0
    amount: Decimal = Decimal(0)
    ratio: float = 0.0
    many: tuple[Annotated[str, h.Tag("many")], ...] = ()
    by_name: Mapping[str, int] = {}
    part: Part | None = None


class Say(h.Command):
    said: Anything


class Saying(h.State):
    key: Annotated[str, h.Tag("key")]
    count: int = 0

    def evolve(self, event: Anything) -> "Saying":
        return self.but(count=self.count + 1)


def say(command: Say, saying: Saying) -> Iterator[Anything]:
    """Say it."""
    yield command.said


sayings = h.App("sayings", records=[Anything], deciders=[say], views=[Saying])


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[h.Running]:
    """Return a log that is open while many examples are tried."""
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path_factory.mktemp('fuzz')}/log.db"
    with sayings.open(url) as running:
        running.record(Anything("first"))
        yield running
        running.log.verify()


def keeps(running: h.Running, call: Callable[[], h.Receipt]) -> None:
    """See that what is accepted is read back as it was given, and that nothing is there of what is not."""
    before = running.log.head
    receipts: list[h.Receipt] = []
    error = said(lambda: receipts.append(call()))
    if error is not None and error.recorded is False:
        assert running.log.head == before
    for receipt in receipts:
        if not receipt.repeated:
            [record] = [one for one in running.log.read(after=before) if isinstance(one.body, Anything)]
            assert [msgspec.to_builtins(one) for one in receipt.events] == [msgspec.to_builtins(record.body)]
            assert record.body.key in [value for tag, value in record.tags if tag == "key"]
            state = running.state(Saying, record.body.key)
            assert state is not None
            assert state.count >= 1
            found = running.view(Saying).get(record.body.key, since=receipt, wait_seconds_max=30)
            assert found == state


@fuzzed
@given(
    fields=some.fixed_dictionaries(
        {"key": anything}, optional=dict.fromkeys(["number", "amount", "ratio", "many", "by_name", "part"], anything)
    ),
    command=some.booleans(),
)
def test_whatever_a_body_holds_is_kept_as_it_is_or_refused(log: h.Running, fields: dict[str, Any], command: bool) -> None:
    """Classes check nothing when they are made: what is sent is checked, in every field."""
    body = Anything(**fields)
    keeps(log, lambda: log.dispatch(Say(body)) if command else log.record(body))


@fuzzed
@given(
    envelope=some.fixed_dictionaries(
        {},
        optional={"id": anything, "actor": anything, "correlation": anything, "wait_seconds_max": seconds, "occurred": anything},
    ),
    key=texts,
)
def test_whatever_an_envelope_says_is_kept_or_refused(log: h.Running, envelope: dict[str, Any], key: str) -> None:
    """Ids, actors, correlations, times, and how long to wait."""
    keeps(log, lambda: log.record(Anything(key), **envelope))


@fuzzed
@given(bodies=some.lists(anything, max_size=3))
def test_whatever_is_sent_in_bulk_is_kept_or_refused(log: h.Running, bodies: list[Any]) -> None:
    """What stands where a message should."""
    before = log.log.head
    for call in (log.dispatch_all, log.record_all, log.dispatch_together, log.log.append):
        said(lambda call=call: call(bodies))  # type: ignore[misc]  # it takes none
    for body in bodies:
        for one in (log.dispatch, log.record, log.enqueue, log.would):
            assert isinstance(said(lambda one=one, body=body: one(body)), h.Invalid)  # type: ignore[misc]  # as above
    assert log.log.head == before


since = texts | whole
classes = some.sampled_from([Deposit, Seat, int, str, None, h.State])
QUESTIONS: dict[str, tuple[Callable[[h.Running, Sequence[Any]], object], Sequence[some.SearchStrategy[Any]]]] = {
    "state": (lambda running, given: running.state(Saying, given[0]), [plain]),
    "state since": (lambda running, given: running.state(Saying, "first", since=given[0], wait_seconds_max=0), [since]),
    "state named": (lambda running, given: running.state(Saying, **{given[0]: given[1]}), [texts, plain]),
    "states of": (lambda running, given: running.state(given[0], "x"), [classes]),
    "view of": (lambda running, given: running.view(given[0]), [classes]),
    "view find": (lambda running, given: running.view(Saying).find(given[0]), [plain]),
    "view since": (lambda running, given: running.view(Saying).find("first", since=given[0], wait_seconds_max=0), [since]),
    "view waits": (lambda running, given: running.view(Saying).find("first", since=1, wait_seconds_max=given[0]), [seconds]),
    "view where": (lambda running, given: running.view(Saying).where(given[0], given[1]).rows(limit=3), [texts, plain]),
    "view equal": (lambda running, given: running.view(Saying).where(**{given[0]: given[1]}).rows(limit=3), [texts, plain]),
    "view order": (lambda running, given: running.view(Saying).order_by(given[0]).rows(limit=3), [texts]),
    "view limit": (lambda running, given: running.view(Saying).rows(limit=given[0]), [plain]),
    "find": (lambda running, given: running.log.find(given[0]), [texts]),
    "read": (lambda running, given: list(running.log.read(after=given[0], until=given[1])), [whole, whole]),
    "query": (lambda _, given: h.query(names=[given[0]], **{given[1]: given[2]}), [texts, texts, plain]),
    "boundary": (lambda _, given: h.Boundary(h.query(key=given[0]), after=given[1]), [plain, since]),
    "at": (lambda running, given: running.at(given[0]).state(Saying, "first"), [since]),
    "trace": (lambda running, given: running.trace(given[0]), [since]),
    "why": (lambda running, given: running.why(Saying, given[0], wait_seconds_max=0), [plain]),
    "outcome": (lambda running, given: running.outcome(given[0], wait_seconds_max=0), [texts]),
    "settled": (lambda running, given: running.settled(given[0], wait_seconds_max=0), [since]),
    "catch up": (lambda running, given: running.catch_up(given[0], wait_seconds_max=0), [since]),
    "decide about": (lambda running, given: running.decide_about(given[0], given[1], given[2]), [texts, texts, whole]),
    "flow": (lambda running, given: running.flow(after=given[0], until=given[1]), [whole, whole]),
    "branch": (lambda running, given: running.branch(at=given[0]).close(), [whole]),
    "erase": (lambda running, given: running.erase(given[0], actor="a", reason="r", dry_run=True), [texts]),
    "erase tag": (lambda running, given: running.erase((given[0], given[1]), actor="a", reason="r", dry_run=True), [texts, texts]),
    "copy until": (lambda running, given: running.copy("no/such/folder/x", until=given[0]), [whole]),
    "verify": (lambda running, given: running.log.verify(noted=given[0]), [texts]),
}
"""What can be asked, and of which kind what is given may be: what is of another type than is annotated, type checkers tell."""


@fuzzed
@given(question=some.sampled_from(sorted(QUESTIONS)), data=some.data())
def test_whatever_is_asked_is_answered_or_refused(log: h.Running, question: str, data: Any) -> None:
    """And nothing is recorded by asking."""
    ask, kinds = QUESTIONS[question]
    asked = [data.draw(kind) for kind in kinds]
    before = log.log.head
    said(lambda: ask(log, asked))
    assert log.log.head == before


@fuzzed
@given(url=urls)
@example(url="sqlite:///\0")
@example(url="sqlite:///\ud800")
@example(url="sqlite:///" + "x" * 5000)
@example(url=f"mysql://u:{PASSWORD}@127.0.0.1/x")
@example(url=f"postgresql+psycopg://127.0.0.1/x?password={PASSWORD}")
@example(url=f"postgresql://u:{PASSWORD}@127.0.0.1:1/x?connect_timeout=x")
@example(url=f"postgresql://u:{PASSWORD}@127.0.0.1:1/\ud800")
def test_a_url_of_no_log_is_said_to_be_none(url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By whoever takes one, without a word of the password in it, and nothing is made where none should be."""
    with contextlib.chdir(tmp_path_factory.mktemp("urls")):
        Path("text.txt").write_text("this is no log")
        Path("folder").mkdir()
        for call in (
            lambda: h.open_log(url).close(),
            lambda: h.adopt(url, actor="a", reason="r"),
            lambda: h.erase(url, "x", actor="a", reason="r", dry_run=True),
            lambda: h.copy_log(url, "copy.db"),
            lambda: h.export_log(url, "out.jsonl"),
            lambda: h.import_log("text.txt", url),
        ):
            assert said(call) is not None or url in ("memory:", "memory://")
        for call in (
            lambda: bank.open(url, run=False).close(),
            lambda: bank.open("memory:", views=url).close(),
        ):
            said(call)
        assert Path("text.txt").read_text() == "this is no log"
        assert not list(Path("folder").iterdir())


def test_half_a_character_is_no_tag_that_could_be_erased(log: h.Running) -> None:
    """No text that is recorded holds one."""
    for what in ("\ud800", ("a", "\ud800"), ("\ud800", "a")):
        with pytest.raises(h.Invalid, match="what is to be erased"):
            log.erase(what, actor="a", reason="r", dry_run=True)


# --- the command line


def test_a_log_that_no_file_can_be_is_said_by_the_command_line(tmp_path: Path) -> None:
    """Too long a name is one line, as all else."""
    with contextlib.chdir(tmp_path):
        code, out, err = ran(["stats", "--log", "sqlite:///" + "x" * 5000])
    assert (code, out) == (2, "")
    assert err.startswith("error: no file can be called xxx")


NOT_RUN = {"run", "demo", "debug"}
"""They go on until they are stopped, or talk to a person."""


def arguments_of(parser: argparse.ArgumentParser) -> some.SearchStrategy[list[str]]:
    """Draw arguments for a command: those that it names, with values that are mostly bad."""
    options = [
        action for action in parser._actions if action.option_strings and action.dest not in ("help", "follow", "version", "log", "app")
    ]
    named = some.sampled_from(options) if options else some.nothing()

    def one(action: argparse.Action) -> some.SearchStrategy[list[str]]:
        count: int = action.nargs if isinstance(action.nargs, int) else 1
        values = some.lists(values_of, min_size=count, max_size=count)
        return values.map(lambda values: [action.option_strings[0], *values])

    given_options = some.lists(named.flatmap(one), max_size=3).map(lambda found: [word for words in found for word in words])
    return some.tuples(some.lists(values_of, max_size=4), given_options).map(lambda found: [*found[0], *found[1]])


values_of = texts | some.sampled_from(
    [
        "Balance",
        "Seat",
        "a",
        "s1",
        "1",
        "2",
        "5",
        "account=a",
        "state",
        "view",
        "d-1",
        "amount",
        "amount > 1",
        "new",
        "list",
        "diff",
        "copy.db",
        "retry",
        "deposit",
    ]
)
[of_parser] = [vars(action)["choices"] for action in the_parser()._actions if action.dest == "command"]
COMMANDS: dict[str, argparse.ArgumentParser] = {name: parser for name, parser in of_parser.items() if name not in NOT_RUN}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small log."""
    folder = tmp_path_factory.mktemp("template")
    with bank.open(f"sqlite:///{folder}/shop.db") as running:
        running.record(Deposited("a", 5), id="d-1")
        running.dispatch(Deposit("b", 5))
        running.dispatch(Take("s1", "me"))
        with pytest.raises(h.Refused):
            running.dispatch(Take("s1", "you"))
        running.view(Balance).rows(since=running.log.head)
        running.view(Seat).rows(since=running.log.head)
    return folder


def ran(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run the command line in this process; return its code and what it printed."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "stdin", io.StringIO(""))
        try:
            code = main(arguments)
        except SystemExit as left:  # help and version leave by themselves
            code = int(left.code or 0)
        out.flush()
        err.flush()
    printed = [buffer.buffer.getvalue().decode() for buffer in (out, err)]
    return code, printed[0], printed[1]


def check_told(arguments: Sequence[str], code: int, out: str, err: str) -> None:
    """See that a command has said what is wrong, in a way that a person can act on."""
    assert code in (0, 1, 2), arguments
    assert "Traceback" not in err
    assert PASSWORD not in out + err
    if code == 2 and "--json" not in arguments:
        assert "error: " in err


@fuzzed
@given(command=some.sampled_from(sorted(COMMANDS)), data=some.data())
def test_whatever_the_command_line_is_given_it_says_what_is_wrong(
    command: str, data: Any, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With exit code 2 nothing was done: the log is as it was."""
    arguments = [command, *data.draw(arguments_of(COMMANDS[command])), "--log", "sqlite:///shop.db"]
    if any(action.dest == "app" for action in COMMANDS[command]._actions):
        arguments += ["--app", "tests.semantics.model:bank"]
    folder = tmp_path_factory.mktemp("cli") / "here"
    shutil.copytree(template, folder)
    try:
        with contextlib.chdir(folder):
            before = h.open_log("sqlite:///shop.db")
            head = before.head
            before.close()
            check_told(arguments, *(found := ran(arguments)))
            if command != "import":
                with h.open_log("sqlite:///shop.db") as after:
                    after.verify()
                    assert found[0] != 2 or after.head == head
    finally:
        shutil.rmtree(folder)


@fuzzed
@given(
    command=some.sampled_from(sorted(COMMANDS)) | texts,
    url=urls,
    app=some.none() | texts,
    as_json=some.booleans(),
    more=some.lists(texts, max_size=2),
)
def test_a_log_and_an_app_that_are_none_are_said_by_every_command(
    command: str, url: str, app: str | None, as_json: bool, more: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever the arguments stand."""
    with contextlib.chdir(tmp_path_factory.mktemp("cli")):
        Path("text.txt").write_text("this is no log")
        Path("folder").mkdir()
        arguments = ["--log", url, *(["--app", app] if app is not None else []), *(["--json"] if as_json else []), command, *more]
        check_told(arguments, *ran(arguments))
        assert Path("text.txt").read_text() == "this is no log"
