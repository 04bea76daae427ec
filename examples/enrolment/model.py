"""The rules: a presentation of a course has places, and a student may hold only so many registrations at a time.

Neither the course nor the student alone can decide on a registration, so neither is "the aggregate". `register` simply takes both as parameters,
and what it depends on follows: the events of this presentation, and the events of this student.

What each state holds is a number, not the set of those who registered: a set of 2,000 students would be copied for each of them. Who is registered
where has a key of its own instead, the student and the presentation, and so a decision about one pair depends on that pair.

The limits are a fact in the log, recorded once, and not constants of the code: then the log says by itself why a decision fell as it did.
"""

from collections.abc import Iterator
from typing import Annotated

import happened as h

PresentationNo = Annotated[str, h.Tag("presentation")]
StudentNo = Annotated[str, h.Tag("student")]


class LimitsSet(h.Event):
    """How many places each presentation has, and how many registrations a student may hold open."""

    capacity: int
    max_open: int


class Register(h.Command):
    """Admit the student to the presentation."""

    presentation: PresentationNo
    student: StudentNo


class Registered(h.Event):
    """The student was admitted."""

    presentation: PresentationNo
    student: StudentNo


class Unregister(h.Command):
    """End the student's registration."""

    presentation: PresentationNo
    student: StudentNo


class Unregistered(h.Event):
    """The registration was open, and is no more."""

    presentation: PresentationNo
    student: StudentNo


class AssessmentSubmitted(h.Event):
    """The student handed something in. That is a fact and can't be refused, even where the student isn't registered."""

    presentation: PresentationNo
    student: StudentNo
    assessment: str


class Limits(h.State):
    """The limits in force. No key: there is one for the log. That is harmless here, as it changes once; a busy state without a key is a bottleneck."""

    capacity: int = 0
    max_open: int = 0

    def evolve(self, event: LimitsSet) -> "Limits":
        """Take the limits over."""
        return Limits(event.capacity, event.max_open)


class Presentation(h.State):
    """How many registrations a presentation holds open."""

    presentation: PresentationNo
    open: int = 0

    def evolve(self, event: Registered | Unregistered) -> "Presentation":
        """Count."""
        match event:
            case Registered():
                return self.but(open=self.open + 1)
            case Unregistered():
                return self.but(open=self.open - 1)


class Student(h.State):
    """How many registrations a student holds open."""

    student: StudentNo
    open: int = 0

    def evolve(self, event: Registered | Unregistered) -> "Student":
        """Count."""
        match event:
            case Registered():
                return self.but(open=self.open + 1)
            case Unregistered():
                return self.but(open=self.open - 1)


class Registration(h.State):
    """A registration that is open. It is gone when it is closed, so whether it is open is a question of whether it is there."""

    presentation: PresentationNo
    student: StudentNo

    def evolve(self, event: Registered | Unregistered) -> "Registration | None":
        """Begin with the admission and end with the withdrawal."""
        match event:
            case Registered():
                return self
            case Unregistered():
                return None


class Submissions(h.State):
    """What was handed in for a presentation, and how much of it by students who were not registered then."""

    presentation: PresentationNo
    count: int = 0
    unregistered: int = 0

    def evolve(self, event: AssessmentSubmitted, registration: Registration | None) -> "Submissions":
        """Count, looking at the registration as it was then."""
        return self.but(count=self.count + 1, unregistered=self.unregistered + (registration is None))


def register(
    command: Register,
    registration: Registration | None,
    presentation: Presentation,
    student: Student,
    limits: Limits,
) -> Iterator[Registered]:
    """Admit a student as long as there are places and the student holds no other registrations than allowed."""
    if registration is not None:
        return  # already so: nothing happens
    if presentation.open >= limits.capacity:
        raise h.Refused("no place left", reason="full", capacity=limits.capacity)
    if student.open >= limits.max_open:
        raise h.Refused("too many open registrations", reason="student", max_open=limits.max_open)
    yield Registered(command.presentation, command.student)


def unregister(command: Unregister, registration: Registration | None) -> Iterator[Unregistered]:
    """Close a registration that is open; one that was refused, or is closed already, stays as it is."""
    if registration is not None:
        yield Unregistered(command.presentation, command.student)


enrolment = h.App(
    "enrolment",
    records=[LimitsSet, AssessmentSubmitted],
    deciders=[register, unregister],
    views=[Presentation, Submissions],
)
