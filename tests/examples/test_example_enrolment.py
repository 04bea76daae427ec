"""The enrolment admits whom a plain script admits, for any limits, on the sample and on the real file."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import happened as h
from examples.enrolment.__main__ import enrol
from examples.enrolment.model import (
    Limits,
    Presentation,
    Register,
    Registered,
    Registration,
    Student,
    Submissions,
    Unregister,
    Unregistered,
    enrolment,
    register,
    unregister,
)
from examples.enrolment.read import Row, read_rows, sample

Run = Callable[..., subprocess.CompletedProcess[str]]
Real = Callable[[str], Path]


# --- the same decisions as a plain script -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "max_open"), [(1500, 1), (50, 1), (120, 2), (30, 100), (0, 1), (100, 0)])
def test_the_sample_is_decided_as_by_a_plain_script(run: Run, capacity: int, max_open: int) -> None:
    """Whatever the limits: a full presentation refuses first, then the student's own limit."""
    expected, _, _ = plain(sample(), capacity, max_open)

    told = counts(run("examples.enrolment", "--capacity", capacity, "--max-open", max_open, "--json"))

    assert told == expected


def test_the_sample_has_what_makes_the_real_file_a_test() -> None:
    """Refusals of both kinds, and submissions by students who are not registered."""
    expected, still_open, outside = plain(sample(), 60, 1)

    assert min(expected.values()) > 20
    assert min(still_open.values()) > 20
    assert sum(outside.values()) > 20
    assert list(sample()) == list(sample())


def test_a_file_gives_the_same_as_its_rows(run: Run, tmp_path: Path) -> None:
    """A row of the file is a JSON object; what doesn't concern the enrolment is left alone."""
    rows = list(sample(500))
    write(tmp_path / "rows.jsonl", rows)

    told = counts(run("examples.enrolment", "--data", tmp_path / "rows.jsonl", "--capacity", 20, "--max-open", 1, "--json"))

    assert told == plain(rows, 20, 1)[0]


def test_views_say_who_is_still_there_and_what_was_handed_in() -> None:
    """What is still open, and which submissions came from students not registered then, are rows of views."""
    expected, still_open, outside = plain(sample(), 100, 2)

    with enrolment.open() as running:
        told = enrol(running, sample(), 100, 2)
        last = running.dispatch(Unregister("none", "none"))
        presentations = running.view(Presentation).rows(since=last)
        submissions = running.view(Submissions).rows(since=last)

    assert told == expected
    assert {row.presentation: row.open for row in presentations} == still_open
    assert {row.presentation: row.unregistered for row in submissions} == outside
    assert sum(row.count for row in submissions) == sum(row.type == "AssessmentSubmitted" for row in sample())


def test_people_are_told_the_same_in_sentences(run: Run) -> None:
    """Without --json the counts are text for people, with a table of the presentations."""
    expected, still_open, _ = plain(sample(), 50, 1)

    told = run("examples.enrolment", "--capacity", 50)

    assert told.returncode == 0, told.stderr
    assert f"{expected['accepted']:,} registrations were accepted" in told.stdout
    assert all(presentation in told.stdout for presentation in still_open)


# --- done again -------------------------------------------------------------------------------------------------------------


def test_an_enrolment_done_twice_comes_to_the_same(run: Run, tmp_path: Path) -> None:
    """A command that is known is not decided again: it gets its first receipt, or its first refusal."""
    same = ("examples.enrolment", "--log", f"sqlite:///{tmp_path}/school.db", "--capacity", 50, "--json")
    first = counts(run(*same))

    second = counts(run(*same))

    assert second == first


def test_a_log_keeps_its_limits(run: Run, tmp_path: Path) -> None:
    """The limits stand in the log: other ones need another log, and the error says so."""
    log = ("examples.enrolment", "--log", f"sqlite:///{tmp_path}/school.db", "--json")
    counts(run(*log, "--capacity", 50))

    told = run(*log, "--capacity", 51)

    assert (told.returncode, told.stdout) == (2, "")
    assert "other limits" in told.stderr


# --- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"seq": 1}\n', "row 1"),
        ("no JSON\n", "row 1"),
        ('{"seq":1,"date":"2012-03-28","type":"StudentVanished","module":"DDD","presentation":"2013B","student":1}\n', "row 1"),
        ('{"seq":1,"date":"one day","type":"StudentRegistered","module":"DDD","presentation":"2013B","student":1}\n', "row 1"),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong_in_it(run: Run, tmp_path: Path, content: str, complaint: str) -> None:
    """The error says which file and which row; the exit code is 2, and there is no traceback."""
    (tmp_path / "bad.jsonl").write_text(content)

    told = run("examples.enrolment", "--data", tmp_path / "bad.jsonl", "--json")

    assert (told.returncode, told.stdout) == (2, "")
    assert complaint in told.stderr
    assert "bad.jsonl" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("arguments", [("--data", "nowhere.jsonl"), ("--capacity", "many"), ("--max-open", "-1")])
def test_bad_arguments_are_an_error(run: Run, arguments: tuple[str, str]) -> None:
    """What can't be done is said, with exit code 2."""
    told = run("examples.enrolment", *arguments)

    assert told.returncode == 2
    assert arguments[1] in told.stderr
    assert "Traceback" not in told.stderr


# --- the rules, by themselves -----------------------------------------------------------------------------------------------


def test_a_full_presentation_is_the_first_reason() -> None:
    """Where both limits forbid it, the presentation is what is named."""
    with pytest.raises(h.Refused) as refused:
        list(register(Register("AAA/2013J", "1"), None, Presentation("AAA/2013J", open=5), Student("1", open=1), Limits(5, 1)))

    assert refused.value.facts["reason"] == "full"


def test_a_student_holds_only_so_many_registrations() -> None:
    """Where there is a place, the student's own limit decides."""
    with pytest.raises(h.Refused) as refused:
        list(register(Register("AAA/2013J", "1"), None, Presentation("AAA/2013J", open=4), Student("1", open=1), Limits(5, 1)))

    assert refused.value.facts["reason"] == "student"


def test_who_is_registered_is_not_registered_again() -> None:
    """Nothing happens, and nothing is refused."""
    there = Registration("AAA/2013J", "1")

    decided = list(register(Register("AAA/2013J", "1"), there, Presentation("AAA/2013J", open=5), Student("1", open=1), Limits(5, 1)))

    assert decided == []


def test_only_an_open_registration_can_be_closed() -> None:
    """An end without a beginning changes nothing."""
    ended = list(unregister(Unregister("AAA/2013J", "1"), Registration("AAA/2013J", "1")))
    ignored = list(unregister(Unregister("AAA/2013J", "1"), None))

    assert ended == [Unregistered("AAA/2013J", "1")]
    assert ignored == []


def test_a_registration_is_gone_when_it_is_closed() -> None:
    """And begins anew with the next admission."""
    registration = Registration("AAA/2013J", "1")

    assert registration.evolve(Registered("AAA/2013J", "1")) == registration
    assert registration.evolve(Unregistered("AAA/2013J", "1")) is None


# --- the real file ----------------------------------------------------------------------------------------------------------


def test_the_real_file_is_decided_as_expected(run: Run, real: Real) -> None:
    """1,500 places and one registration at a time: 27,209 accepted, 2,922 refused as full, 2,417 for the student."""
    [expected] = json.loads(real("oulad_expected.json").read_text())["decisions"]
    limits = ("--capacity", expected["capacity"], "--max-open", expected["max_open_per_student"])

    told = counts(run("examples.enrolment", "--data", real("oulad_registrations.jsonl.gz"), *limits, "--json"))

    assert told == {"accepted": 27209, "refused_full": 2922, "refused_student": 2417}
    assert told["accepted"] == expected["accepted"]
    assert told["refused_full"] == expected["rejected_full"]
    assert told["refused_student"] == expected["rejected_student_limit"]


def test_the_real_file_without_limits_leaves_open_what_is_expected(real: Real) -> None:
    """Where all are admitted, 716 submissions come from students not registered then, and what stays open is known."""
    expected = json.loads(real("oulad_expected.json").read_text())
    rows = read_rows(real("oulad_registrations.jsonl.gz"))

    with enrolment.open() as running:
        told = enrol(running, rows, 10**6, 10**6)
        last = running.dispatch(Unregister("none", "none"))
        presentations = running.view(Presentation).rows(since=last)
        submissions = running.view(Submissions).rows(since=last)

    assert told == {"accepted": 32548, "refused_full": 0, "refused_student": 0}
    assert {row.presentation: row.open for row in presentations} == expected["final_open"]
    assert sum(row.unregistered for row in submissions) == expected["submissions_while_not_registered"] == 716


# --- means ------------------------------------------------------------------------------------------------------------------


def counts(told: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the counts that a run printed."""
    assert told.returncode == 0, told.stderr
    found: dict[str, int] = json.loads(told.stdout)
    return found


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a file, with a field that nobody reads."""
    with path.open("w") as file:
        for row in rows:
            body = {"seq": row.seq, "date": str(row.date), "type": row.type, "module": row.module, "presentation": row.presentation}
            body |= {"student": row.student, "banked": 0} | ({} if row.assessment is None else {"assessment": row.assessment})
            file.write(json.dumps(body) + "\n")


def plain(rows: Iterable[Row], capacity: int, max_open: int) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Decide without a log; return the counts, what stays open, and the submissions from outside, the latter two by presentation."""
    decided = Counter(accepted=0, refused_full=0, refused_student=0)
    registered: set[tuple[str, int]] = set()
    by_course: Counter[str] = Counter()
    by_student: Counter[int] = Counter()
    outside: dict[str, int] = {}
    for row in rows:
        place = (row.course, row.student)
        match row.type:
            case "StudentRegistered":
                if by_course[row.course] >= capacity:
                    decided["refused_full"] += 1
                elif by_student[row.student] >= max_open:
                    decided["refused_student"] += 1
                else:
                    decided["accepted"] += 1
                    registered.add(place)
                    by_course[row.course] += 1
                    by_student[row.student] += 1
            case "StudentUnregistered":
                if place in registered:
                    registered.remove(place)
                    by_course[row.course] -= 1
                    by_student[row.student] -= 1
            case "AssessmentSubmitted":
                outside[row.course] = outside.get(row.course, 0) + (place not in registered)
    return dict(decided), {course: by_course[course] for course in by_course if course}, outside
