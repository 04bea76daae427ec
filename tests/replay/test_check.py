"""`happened check --decide` and `--fold`: every recorded input and run decided again, every row folded again."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any  # Any: what a command prints

import pytest

import happened as h
from happened.checking.decisions import ERASED, NO_DECIDER, NOT_DECIDED, SKIPPED, Checked, decide_again
from happened.checking.differences import NOTHING, Difference
from happened.checking.reactions import NO_REACTION
from happened.checking.views import fold_views_again, load_states_again
from happened.edge.main import main
from happened.edge.replaying import folded_as_text
from happened.opening import beside, look_at_rows
from tests.replay import bank
from tests.replay.made import imported, recorded

CODE = Path(bank.__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Record the history that all tests look at; return the URL of its log."""
    return recorded(tmp_path_factory.mktemp("bank"))


def changed(folder: Path, *changes: tuple[str, str]) -> ModuleType:
    """Return the code with these changes in it."""
    text = CODE
    for old, new in changes:
        assert text.count(old) == 1, f"`{old}` stands there once"
        text = text.replace(old, new)
    return imported(folder, text)


def again(history: str, model: ModuleType, **given: Any) -> Checked:
    """Decide the history again."""
    with h.open_log(history) as log:
        return decide_again(model.app, log, **given)


def test_the_same_code_comes_to_the_same(history: str, tmp_path: Path) -> None:
    """Answers, failures of the outside, refusals, ids, chance, clock, states asked by key, enqueued inputs, reactions, later commands."""
    checked = again(history, changed(tmp_path))

    assert (checked.inputs, checked.runs, checked.diverged) == (10, 3, 0)
    assert checked.same == 13
    assert checked.unchecked == {}


@pytest.mark.parametrize(
    ("change", "handler", "difference"),
    [
        (("spent.cents + command.cents > spent.limit", "spent.cents + command.cents > 200"), "pay", ("outcome", "refused: too much", "failed")),
        (('h.Refused("too much", left', 'h.Refused("too  much", left'), "pay", ("refused", "too much", "too  much")),
        (("left=spent.limit - spent.cents", "left=0"), "pay", ("refused.left", 30, 0)),
        (("asked + fees.cents", "asked - fees.cents"), "pay", ("Paid.rate", 2, 0)),
        (("        asked = -1", "        asked = -2"), "pay", ("Paid.rate", -1, -2)),
        (("world.random()", "world.random() / 2"), "pay", ("Paid.lot", None, None)),
        (("str(world.new_id())", "''"), "pay", ("Paid.number", None, "")),
        (("world.now)", "world.now.replace(year=2000))"), "pay", ("Paid.at", None, None)),
        (("world.ask(rate, command.account)", "world.ask(rate, command.account + '!')"), "pay", ("outcome", "accepted", "failed: Unanswered")),
        (("    if warnings.count < 2:\n", "    if warnings.count < 1:\n"), "warn", ("Warned", None, NOTHING)),
        (("    yield Reminded(command.account)", "    raise ValueError('no')"), None, None),
        (("        yield Warned(command.account, command.left)", "        yield Warned(command.account, command.left)\n        yield Warned(command.account, 0)"), "warn", ("Warned", NOTHING, None)),
        (("self.but(cents=self.cents + event.cents)", "self.but(cents=self.cents + 2 * event.cents)"), "pay", None),
        (("    if left < 50:\n", "    if left < 10:\n"), "watch", ("Warn", None, NOTHING)),
        (("yield Warn(event.account, left)", "yield Warn(event.account, left + 1)"), "watch", ("Warn.left", 40, 41)),
        (("timedelta(days=1))", "timedelta(days=2))"), "watch", ("Remind.(due)", None, None)),
        (("world.ask(tell, event.account, left)", "world.ask(tell, event.account, 0)"), "watch", ("outcome", "accepted", "failed: Unanswered")),
        (("account: Account\n    count: int = 0", "account: Account\n    count: int = 5"), "warn", ("Warned", None, NOTHING)),
    ],
)  # fmt: skip
def test_a_change_of_behaviour_is_found(
    history: str, tmp_path: Path, change: tuple[str, str], handler: str | None, difference: tuple[str, Any, Any] | None
) -> None:
    """By event and field, and with the code then and now; code that this history never came to is not found."""
    checked = again(history, changed(tmp_path, change))

    if handler is None:
        assert checked.diverged == 0
        return
    assert set(checked.by_handler) == {handler} or handler in checked.by_handler
    first = checked.divergences[0]
    assert first.handler == handler
    assert first.fingerprint_then
    if difference is not None:
        path, then, now = difference
        found = first.differences[0]
        assert found.path == path
        assert then is None or found.then == then
        assert now is None or (found.now == now if not isinstance(now, str) or now == NOTHING else str(found.now).startswith(now))


def test_the_first_divergence_says_where_it_is_and_the_rest_are_counted(history: str, tmp_path: Path) -> None:
    """A change that makes all differ is told once in full where no more is asked for."""
    checked = again(history, changed(tmp_path, ("str(world.new_id())", "str(world.new_id())[1:]")), shown_max=1)

    [first] = checked.divergences
    assert (first.id, first.handler, first.heard, [one.path for one in first.differences]) == ("pay-0", "pay", "Pay", ["Paid.number"])
    assert first.fingerprint_then != first.fingerprint_now
    assert (checked.diverged, checked.hidden, checked.by_handler) == (6, 5, {"pay": 6})
    assert checked.same == 13 - 6


def test_what_a_decision_differs_in_makes_no_other_differ(history: str, tmp_path: Path) -> None:
    """States are folded from what was recorded: twice the amount is one difference in each event, and refuses nothing more."""
    checked = again(history, changed(tmp_path, ("Paid(command.account, command.cents,", "Paid(command.account, 2 * command.cents,")))

    assert {one.path for divergence in checked.divergences for one in divergence.differences} == {"Paid.cents"}


def test_declared_differences_are_let_pass(history: str, tmp_path: Path) -> None:
    """The fields that are named, in events as in commands, and no others."""
    model = changed(
        tmp_path,
        ("asked + fees.cents, str(world.new_id())", "0, str(world.new_id())[1:]"),
        ("yield Warn(event.account, left)", "yield Warn(event.account, 0)"),
    )

    some = again(history, model, may_differ=["Paid.rate"])
    all_of_them = again(history, model, may_differ=["Paid.rate", "Paid.number", "Warn.left"])

    assert {one.path for divergence in some.divergences for one in divergence.differences} == {"Paid.number", "Warn.left"}
    assert (all_of_them.diverged, all_of_them.declared) == (0, 9)
    with pytest.raises(h.Invalid, match="no event or command called `Payd`"):
        again(history, model, may_differ=["Payd.rate"])
    with pytest.raises(h.Invalid, match="`Paid` has the fields account, at, cents, lot, number, rate"):
        again(history, model, may_differ=["Paid.rat"])


def test_what_a_refusal_says_may_be_declared_and_that_there_is_one_not(history: str, tmp_path: Path) -> None:
    """Its text with its facts, or one fact."""
    model = changed(tmp_path, ('h.Refused("too much", left=spent.limit - spent.cents)', 'h.Refused("far too much", left=0)'))
    accepting = changed(tmp_path / "accepting", ("if spent.cents + command.cents > spent.limit:", "if False:"))

    def left(model: ModuleType, *may_differ: str) -> set[str]:
        checked = again(history, model, may_differ=may_differ)
        return {one.path for divergence in checked.divergences for one in divergence.differences}

    assert left(model) == {"refused", "refused.left"}
    assert left(model, "refused.left") == {"refused"}
    assert left(model, "refused") == set()
    assert "outcome" in left(accepting, "refused")


def test_what_can_not_be_decided_again_is_counted_and_said(history: str, tmp_path: Path) -> None:
    """No decider, no reaction: neither is passed over in silence, and neither fails the check."""
    model = changed(
        tmp_path,
        ("deciders=[pay, warn, remind], gateways=[rate, tell], reactions=[watch]", "deciders=[warn], gateways=[]"),
        ("records=[Opened]", "records=[Opened, Paid]"),
    )

    checked = again(history, model)

    assert (checked.inputs, checked.runs, checked.diverged) == (3, 0, 0)
    assert checked.unchecked == {NO_DECIDER: 7, f"{NO_REACTION} (a reaction's run)": 3}


def test_pending_skipped_and_failed_inputs_are_counted(tmp_path: Path) -> None:
    """What is not decided yet, what somebody skipped, what failed and left nothing."""
    model = changed(
        tmp_path, ("    if warnings.count < 2:\n", "    if command.left < 0:\n        raise ValueError('no')\n    if warnings.count < 2:\n")
    )
    url = f"sqlite:///{tmp_path}/bank.db"
    with model.app.open(url) as running:
        with pytest.raises(ValueError, match="no"):
            running.dispatch(model.Warn("a", -1))
        kept = running.enqueue(model.Warn("a", -1), id="w-1")
        with pytest.raises(h.Stuck):
            running.outcome(kept)
        running.decide_about("skip", "Warn", kept.position)
        while len(running.log.find("w-1")) == 1:
            running.log.wait(running.log.head, 1)
        stays = running.enqueue(model.Warn("b", -1), id="w-2")
        with pytest.raises(h.Stuck):
            running.outcome(stays)

    checked = again(url, model)

    failed = checked.unchecked.pop("its run failed, and nothing of it was recorded")
    assert failed >= 3
    assert checked.unchecked == {NOT_DECIDED: 1, SKIPPED: 1}
    assert (checked.inputs, checked.diverged) == (0, 0)


def test_an_erased_input_is_counted(history: str, tmp_path: Path) -> None:
    """Nothing can be decided of nothing."""
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(history.removeprefix("sqlite:///"))) as one, closing(sqlite3.connect(copy)) as other:
        one.backup(other)
        column = next(name for _, name, *_ in other.execute("pragma table_info(log)") if name == "input")
        changed_rows = other.execute(
            f"update log set {column} = '[' || substr({column}, 2, instr({column}, ',') - 2) || ',null]' where head like '%\"i\":\"pay-0\"%'"
        ).rowcount
        other.commit()
        assert changed_rows == 1

    checked = again(f"sqlite:///{copy}", changed(tmp_path))

    assert checked.unchecked == {ERASED: 1}
    assert checked.inputs == 9


# --- fold


def folded(history: str, model: ModuleType) -> dict[str, Any]:
    """Fold the history again."""
    with h.open_log(history) as log, look_at_rows(beside(history)) as there:
        return {one.name: one for one in fold_views_again(model.app, log, there)} | {
            f"state {one.name}": one for one in load_states_again(model.app, log)
        }


def test_views_and_states_are_equal_to_a_fold_from_the_beginning(history: str, tmp_path: Path) -> None:
    """Each row, as of where its table has come to."""
    found = folded(history, changed(tmp_path))

    assert {name: (one.rows, one.wrong, one.behind, one.why) for name, one in found.items()} == {
        "Spent": (3, 0, 0, ""),
        "Warnings": (2, 0, 0, ""),
        "state Spent": (3, 0, 0, ""),
        "state Warnings": (2, 0, 0, ""),
    }


def test_a_change_of_evolve_is_found_in_the_rows_of_the_code_before(history: str, tmp_path: Path) -> None:
    """The table of the code that made it is compared, so a change is seen before it is deployed."""
    found = folded(history, changed(tmp_path, ("return self.but(count=self.count + 1)", "return self.but(count=self.count + 2)")))

    assert (found["Spent"].wrong, found["Warnings"].wrong) == (0, 2)
    assert (
        found["Warnings"].differences[0] == Difference("Warnings[a].count", 2, 4)
        or found["Warnings"].differences[0].path == "Warnings[a].count"
    )
    assert found["Warnings"].fingerprint_then != found["Warnings"].fingerprint_now


def test_rows_that_were_tampered_with_missing_and_surplus_are_named(tmp_path: Path) -> None:
    """By key and field."""
    history = recorded(tmp_path)
    views = tmp_path / "bank.views.db"
    with closing(sqlite3.connect(views)) as file:
        [table] = [name for (name,) in file.execute("select name from sqlite_master where type = 'table' and name like '_Spent_%'")]
        file.execute(f"update {table} set cents = cents + 1 where account = 'a'")
        file.execute(f"delete from {table} where account = 'bb'")
        file.execute(f"insert into {table} select 'zz', \"limit\", cents, _position from {table} where account = 'a'")
        file.commit()

    spent = folded(history, changed(tmp_path))["Spent"]

    assert spent.wrong == 3
    assert [(one.path, one.then == NOTHING, one.now == NOTHING) for one in spent.differences] == [
        ("Spent[a].cents", False, False),
        ("Spent[bb]", True, False),
        ("Spent[zz]", False, True),
    ]


def test_a_view_that_is_behind_or_was_never_built_is_said_so(tmp_path: Path) -> None:
    """It is compared as of where it is."""
    history = recorded(tmp_path)
    model = changed(tmp_path)
    with model.app.open(history, run=False) as running:
        running.record(model.Opened("new", 5))
    found = folded(history, model)
    (tmp_path / "bank.views.db").unlink()

    assert (found["Spent"].wrong, found["Spent"].behind) == (0, 1)
    assert all("there are none yet" in one.why for name, one in folded(history, model).items() if not name.startswith("state"))


# --- the command


@pytest.fixture
def project(history: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Any]]:
    """Write a project around the history; return what runs `happened check` there."""

    def run(*arguments: str, change: tuple[str, str] | None = None, settings: str = "") -> tuple[int, Any]:
        model = changed(tmp_path, *([change] if change is not None else []))
        (tmp_path / "pyproject.toml").write_text(f'[tool.happened]\nlog = "{history}"\n{settings}\n', encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return main(["check", *arguments, "--app", f"{model.__name__}:app"]), model

    return run


def test_the_exit_code_says_whether_it_is_the_same(project: Callable[..., tuple[int, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """0 for the same, 1 for another, and what is another is told by event and field."""
    same, _ = project("--decide", "--fold")
    told = capsys.readouterr().out
    other, _ = project("--decide", change=("        asked = -1", "        asked = -2"))
    said = capsys.readouterr().out

    assert same == 0
    assert "10 inputs and 3 runs of reactions; 13 of 13 come to the same" in told
    assert "view Spent: 3 rows equal" in told
    assert other == 1
    assert "2 come to something else: 2 of pay\n\nthe first:\n" in said
    assert "  Paid.rate\n    then  -1\n    now   -2\n" in said


def test_the_settings_may_declare_what_may_differ(project: Callable[..., tuple[int, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the option."""
    change = ("        asked = -1", "        asked = -2")
    by_settings, _ = project("--decide", "--json", change=change, settings='may-differ = ["Paid.rate"]')
    told = json.loads(capsys.readouterr().out)
    by_option, _ = project("--decide", "--may-differ", "Paid.rate", change=change)

    assert (by_settings, by_option) == (0, 0)
    assert (told["decide"]["declared"], told["decide"]["diverged"], told["decide"]["hidden"]) == (2, 0, 0)


def test_differences_that_are_not_shown_are_counted(project: Callable[..., tuple[int, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """A history of a million that all differ is still read by a person."""
    code, _ = project("--decide", "--fold", "--show", "1", change=("world.random()", "0.0"))

    said = capsys.readouterr().out
    assert code == 1
    assert "and 5 more, not shown (--show COUNT)" in said
    assert said.count("Paid.lot") == 1


def test_an_app_of_which_nothing_is_folded_says_so(tmp_path: Path) -> None:
    """Not nothing at all."""
    url = f"sqlite:///{tmp_path}/log.db"
    with h.App("bare").open(url):
        pass

    with h.open_log(url) as log, look_at_rows(beside(url)) as there:
        app = h.App("bare")
        views, states = fold_views_again(app, log, there), load_states_again(app, log)

    assert list(folded_as_text(views, states, 20)) == ["nothing to fold: the app has no views, and reads no states"]
