"""The monitor: one line of JSON for each that connects, of this process, for its user, until it ends."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from fake_actors import FakeActor, some_stats

from flashactor import FlashAttnActor, FlashAttnProps
from flashactor.errors import RequestError
from flashactor.settings import Settings
from flashactor.telemetry import endpoints, monitor, process_report
from flashactor.telemetry.process_report import ActorReport, Unreadable, parse_report, read_reports
from flashactor.telemetry.socket_folder import SocketFolder

PROGRAM = """
import sys
from flashactor import FlashAttnActor, FlashAttnProps
actor = FlashAttnActor.start(FlashAttnProps("served"), executor="mock")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def sockets(tmp_path, monkeypatch):
    """The folder of sockets, of this test alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    endpoints.stop_started()
    yield tmp_path / "flashactor"
    endpoints.stop_started()


@pytest.fixture
def process(sockets):
    """A process that shows its actor."""
    environment = {**os.environ, "FLASHACTOR_MONITOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as running:
        assert running.stdout.readline() == b"ready\n"
        yield running
        running.kill()


def serve(*actors):
    return monitor.MonitorServer(SocketFolder(create=True), lambda: list(actors))


def test_a_process_tells_all_of_its_actors():
    one, two = FakeActor(), FakeActor("prefill", "cuda", errors={}, phases={})
    with serve(one, two):
        (report,), unreadable = read_reports()
    assert unreadable == []
    assert report.pid == os.getpid()
    assert report.actors == (
        ActorReport(id(one), "decode", "mock", some_stats()),
        ActorReport(id(two), "prefill", "cuda", some_stats(errors={}, phases={})),
    )


def test_the_documents_fields():
    with serve(FakeActor()):
        (report,), _ = read_reports(os.getpid())
    document = report.document
    assert set(document) == {"format", "pid", "command", "time", "actors", "left_out"}
    assert (document["format"], document["pid"], document["left_out"]) == (1, os.getpid(), 0)
    (actor,) = document["actors"]
    assert set(actor) == {
        *("id", "label", "executor", "max_in_flight", "mailbox_size", "received", "completed", "failed"),
        *("pending", "queued", "waiting", "in_flight", "restarts", "generation", "errors", "phases"),
    }
    assert actor["errors"] == {"LaunchError": 1}
    assert set(actor["phases"]["total"]) == {"bounds", "counts", "sum"}


def test_it_is_one_line_and_then_the_end(sockets):
    with serve(FakeActor()) as server, socket.socket(socket.AF_UNIX) as connection:
        assert server.path == sockets / f"{os.getpid()}.sock"
        connection.connect(str(server.path))
        with connection.makefile("rb") as received:
            lines = received.read().splitlines()
    assert [json.loads(line)["pid"] for line in lines] == [os.getpid()]


def test_closing_removes_the_socket_and_the_thread(sockets):
    threads = threading.active_count()
    server = serve()
    assert threading.active_count() == threads + 1
    server.close()
    server.close()
    assert threading.active_count() == threads
    assert list(sockets.iterdir()) == []
    assert read_reports() == ([], [])


def test_without_a_folder_nobody_is_there():
    assert read_reports() == ([], [])


def test_of_very_many_actors_those_that_fit(monkeypatch):
    monkeypatch.setattr(monitor, "MAX_BYTES", 20_000)
    with serve(*(FakeActor(f"actor {number}") for number in range(100))):
        (report,), _ = read_reports()
    assert report.actors[0].label == "actor 0"
    assert 0 < len(report.actors) < 100
    assert len(report.actors) + report.document["left_out"] == 100


def test_another_user_gets_nothing(monkeypatch):
    with serve(FakeActor()):
        monkeypatch.setattr(monitor, "_user_of", lambda connection: os.geteuid() + 1)
        reports, (refused,) = read_reports()
    assert reports == []
    assert refused.reason.startswith("no report")


def test_the_peers_user_is_the_kernels_word():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert monitor._user_of(ours) == os.geteuid()


def test_a_reader_that_does_not_read_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(monitor, "SECONDS", 0.05)
    many = [FakeActor(f"actor {number}") for number in range(300)]  # more than a socket's buffer
    with serve(*many) as server, socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(server.path))
        (report,), _ = read_reports()
        assert len(report.actors) == 300


def test_an_actor_that_cannot_be_asked_costs_one_answer(caplog):
    actor = FakeActor()
    good, actor.now = actor.now, None
    with serve(actor):
        _, (refused,) = read_reports()
        actor.now = good
        (report,), _ = read_reports()
    assert refused.reason.startswith("no report")
    assert len(report.actors) == 1
    assert [record.event for record in caplog.records] == ["monitor.failed"]


def test_a_process_that_hangs_is_named(monkeypatch):
    monkeypatch.setattr(process_report, "SECONDS", 0.05)
    with SocketFolder(create=True) as folder, folder.listen(123):
        assert read_reports() == ([], [Unreadable(123, "no answer within 0.05 s")])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "no report: "),
        (b"\xff\xfe\n", "no report: "),
        (b"[]\n", "no report of this format: TypeError"),
        (b"{}\n", "no report of this format: KeyError: 'format'"),
        (b'{"format": 2}\n', "a report of format 2; this flashactor reads 1"),
        (b'{"format": 1, "pid": 1, "actors": [{"id": 1}]}', "no report of this format: KeyError"),
        (b"[" * 100_000, "no report: "),
    ],
)
def test_what_is_no_report(line, reason):
    with pytest.raises(ValueError, match=reason):
        parse_report(line)


def test_a_report_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(process_report, "MAX_BYTES", 1000)
    with serve(FakeActor()):
        _, (refused,) = read_reports()
    assert refused.reason == "more than 1000 bytes"


def test_a_real_actor_is_there_from_its_start_to_its_stop():
    with monitor.serve():
        with FlashAttnActor.start(FlashAttnProps("mine"), executor="mock"):
            (report,), _ = read_reports()
            assert "mine" in [actor.label for actor in report.actors]
        (report,), _ = read_reports()
        assert "mine" not in [actor.label for actor in report.actors]


def test_the_setting_starts_one(sockets, tmp_path):
    monitor.serve_once(Settings(tmp_path))
    assert not sockets.exists()
    for _ in range(2):
        monitor.serve_once(Settings(tmp_path, monitor=True))
    assert [path.name for path in sockets.iterdir()] == [f"{os.getpid()}.sock"]


def test_a_folder_that_is_not_ours_is_a_warning(sockets, tmp_path, caplog):
    sockets.symlink_to(tmp_path)
    monitor.serve_once(Settings(tmp_path, monitor=True))
    (record,) = caplog.records
    assert (record.event, record.endpoint) == ("endpoint.refused", "monitor")
    with pytest.raises(RequestError, match="folder of sockets"):
        monitor.serve()


def test_a_folder_that_takes_no_socket(monkeypatch):
    def refuse(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SocketFolder, "listen", refuse)
    with pytest.raises(RequestError, match=r"monitor: got .*Permission denied"):
        monitor.serve()


def test_a_process_shows_itself_and_leaves_nothing(process, sockets):
    (report,), _ = read_reports()
    assert report.pid == process.pid
    assert [actor.label for actor in report.actors] == ["served"]
    assert "-c" in report.document["command"]
    process.stdin.close()
    assert process.wait(60.0) == 0
    assert list(sockets.iterdir()) == []


def test_a_process_that_was_killed_leaves_what_the_next_reader_removes(process, sockets):
    process.send_signal(signal.SIGKILL)
    process.wait(60.0)
    assert len(list(sockets.iterdir())) == 1
    assert read_reports() == ([], [])
    assert list(sockets.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_socket_and_leaves_its_parents(sockets):
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with serve(FakeActor()) as server:
        child = context.Process(target=_look_around, args=(server, answers))
        child.start()
        child.join(60.0)
        assert child.exitcode == 0
        assert answers.get() == [os.getpid()]
        assert [report.pid for report in read_reports()[0]] == [os.getpid()]
    answers.close()


def _look_around(inherited, answers):
    inherited.close()
    reports, _ = read_reports()
    answers.put([report.pid for report in reports])
