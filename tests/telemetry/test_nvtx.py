"""NvtxObserver: a range around each launch, closed once whatever happens."""

import sys

import nvtx
import pytest

from flashactor.errors import DeviceUnavailableError, LaunchError
from flashactor.telemetry.nvtx import NvtxObserver


class Domain:
    """Notes the ranges; nvtx's own does nothing without a profiler."""

    def __init__(self):
        self.calls = []

    def get_event_attributes(self, message):
        return message

    def start_range(self, attributes):
        self.calls.append(("start", attributes))
        return len(self.calls)

    def end_range(self, number):
        self.calls.append(("end", number))


@pytest.fixture
def domain(monkeypatch):
    """The domain that observers find."""
    found = Domain()
    monkeypatch.setattr(nvtx, "get_domain", {"flashactor": found}.get)
    return found


def test_a_launch_is_a_range_of_the_kernels_name(event, domain):
    event.go_through(NvtxObserver())
    assert domain.calls == [("start", event.kernel_name), ("end", 1)]


def test_a_request_that_is_settled_while_it_is_launched_ends_its_range_once(event, domain):
    observer = NvtxObserver()
    observer.launching(event)
    event.error = LaunchError("grid", 0, "at least 1", "ask again")
    observer.settled(event)
    observer.launched(event)
    assert domain.calls == [("start", event.kernel_name), ("end", 1)]


def test_a_launch_that_is_taken_back_ends_its_range(event, domain):
    observer = NvtxObserver()
    observer.launching(event)
    event.go_through(observer)
    assert domain.calls == [
        ("start", event.kernel_name),
        ("end", 1),
        ("start", event.kernel_name),
        ("end", 3),
    ]


def test_a_request_that_is_never_launched_has_no_range(event, domain):
    event.error = LaunchError("grid", 0, "at least 1", "ask again")
    NvtxObserver().settled(event)
    assert domain.calls == []


def test_the_librarys_own_domain_takes_the_calls(event):
    event.go_through(NvtxObserver())
    assert event.notes == {}


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(DeviceUnavailableError, match=r"pip install 'flashactor\[nvtx\]'"):
        NvtxObserver()
