"""A school: places in courses, an e-mail address that one student has, and invoice numbers without a gap."""

from collections.abc import Iterator
from typing import Annotated

import happened as h

CourseNo = Annotated[str, h.Tag("course")]
StudentNo = Annotated[str, h.Tag("student")]
Email = Annotated[str, h.Tag("email")]
Year = Annotated[int, h.Tag("year")]


class CourseOpened(h.Event):
    course: CourseNo
    capacity: int


class Enrolled(h.Event):
    course: CourseNo
    student: StudentNo


class Withdrew(h.Event):
    course: CourseNo
    student: StudentNo


class Enrol(h.Command):
    course: CourseNo
    student: StudentNo


class Course(h.State):
    course: CourseNo
    capacity: int = 0
    taken: int = 0

    def evolve(self, event: CourseOpened | Enrolled | Withdrew) -> "Course":
        match event:
            case CourseOpened():
                return self.but(capacity=event.capacity)
            case Enrolled():
                return self.but(taken=self.taken + 1)
            case Withdrew():
                return self.but(taken=self.taken - 1)


class Student(h.State):
    student: StudentNo
    open: frozenset[str] = frozenset()

    def evolve(self, event: Enrolled | Withdrew) -> "Student":
        match event:
            case Enrolled():
                return self.but(open=self.open | {event.course})
            case Withdrew():
                return self.but(open=self.open - {event.course})


def enrol(open_max: int) -> h.Decider:
    def enrol(command: Enrol, course: Course | None, student: Student) -> Iterator[Enrolled]:
        if course is None:
            raise h.Refused("no such course")
        if command.course in student.open:
            return  # already so: nothing happens
        if course.taken >= course.capacity:
            raise h.Refused("full", capacity=course.capacity)
        if len(student.open) >= open_max:
            raise h.Refused("too many open courses", open_max=open_max)
        yield Enrolled(command.course, command.student)

    return enrol


class Register(h.Command):
    student: StudentNo
    email: Email


class Registered(h.Event):
    student: StudentNo
    email: Email


class Left(h.Event):
    student: StudentNo
    email: Email


class Claim(h.State):
    email: Email
    student: StudentNo = ""

    def evolve(self, event: Registered | Left) -> "Claim | None":
        match event:
            case Registered():
                return self.but(student=event.student)
            case Left():
                return None


def register(command: Register, claim: Claim | None) -> Iterator[Registered]:
    if claim is not None and claim.student != command.student:
        raise h.Refused("e-mail taken")
    if claim is None:
        yield Registered(command.student, command.email)


class IssueInvoice(h.Command):
    order: str


class InvoiceIssued(h.Event):
    number: int
    order: str


class Invoices(h.State):
    last: int = 0

    def evolve(self, event: InvoiceIssued) -> "Invoices":
        return self.but(last=event.number)


def issue(command: IssueInvoice, invoices: Invoices) -> Iterator[InvoiceIssued]:
    yield InvoiceIssued(invoices.last + 1, command.order)


school = h.App("school", records=[CourseOpened, Withdrew, Left], deciders=[enrol(open_max=1), register, issue])
