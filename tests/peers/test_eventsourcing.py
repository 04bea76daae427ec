"""The test cases that `eventsourcing` ships for recorders of events, run on logs of ours, on both databases.

Two have a log open, and take turns at every call.
"""

from pathlib import Path
from unittest import TestCase, defaultTestLoader

import pytest
from eventsourcing.dcb import tests as theirs_of_dcb
from eventsourcing.tests import persistence as theirs
from typing_extensions import override

import happened as h
from tests.peers import dcb, sourcing
from tests.servers import fresh


class Case(TestCase):
    """A case of theirs, and where its log is to be."""

    __test__ = False  # it is run below
    url: str

    def opened(self, app: h.App | None) -> list[h.Log]:
        """Open a log twice, with the classes of an app or without any. At its end it is verified."""
        opened = [h.open_log(self.url, create=True) if app is None else app.open(self.url, run=False) for _ in range(2)]
        for one in opened:
            self.addCleanup(one.close)
        logs = [one if isinstance(one, h.Log) else one.log for one in opened]
        self.addCleanup(logs[0].verify)
        return logs


class Dcb(Case, theirs_of_dcb.DCBRecorderTestCase):
    """Types and tags, conditions, subscriptions."""

    def test_append_read_of_classes(self) -> None:
        self._test_append_read(dcb.begun(self.opened(dcb.app), dcb.OfClasses))

    def test_append_read_of_loose(self) -> None:
        self._test_append_read(dcb.begun(self.opened(None), dcb.OfLoose))

    def test_append_subscribe_of_classes(self) -> None:
        recorder = dcb.begun(self.opened(dcb.app), dcb.OfClasses)
        self._test_append_subscribe(recorder)
        self._test_append_subscribe(recorder, initial_position=2)

    def test_append_subscribe_of_loose(self) -> None:
        self._test_append_subscribe(dcb.begun(self.opened(None), dcb.OfLoose))


class Aggregates(Case, theirs.AggregateRecorderTestCase):
    """The events of aggregates, by version."""

    @override
    def create_recorder(self) -> sourcing.OfAggregates:
        return sourcing.begun(self.opened(sourcing.app), sourcing.OfAggregates)


class Applications(Case, theirs.ApplicationRecorderTestCase[sourcing.Recorder]):
    """And in the order of the log, by many threads at once, and as they come."""

    @override
    def create_recorder(self) -> sourcing.Recorder:
        return sourcing.begun(self.opened(sourcing.app), sourcing.Recorder)

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class Order(Case, theirs.NonInterleavingNotificationIDsBaseCase):
    """Of two who record many events each, all of one stand before all of the other."""

    @override
    def create_recorder(self) -> sourcing.Recorder:
        return sourcing.begun(self.opened(sourcing.app), sourcing.Recorder)


class Tracking(Case, theirs.TrackingRecorderTestCase):
    """How far another application was heard, which never falls."""

    @override
    def create_recorder(self) -> sourcing.Recorder:
        return sourcing.begun(self.opened(sourcing.app), sourcing.Recorder)


class Processes(Case, theirs.ProcessRecorderTestCase):
    """And in one commit with what came of it."""

    @override
    def create_recorder(self) -> sourcing.Recorder:
        return sourcing.begun(self.opened(sourcing.app), sourcing.Recorder)


CASES: tuple[type[Case], ...] = (Dcb, Aggregates, Applications, Order, Tracking, Processes)


@pytest.mark.parametrize("place", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.__name__}-{name}") for case in CASES for name in defaultTestLoader.getTestCaseNames(case)],
)
def test_a_log_passes_as_a_recorder_of_theirs(case: type[Case], name: str, place: str, tmp_path: Path) -> None:
    """Their tests know nothing of us."""
    test = case(name)
    test.url = fresh() if place == "postgres" else f"sqlite:///{tmp_path}/log.db"

    test.debug()  # what fails is raised
