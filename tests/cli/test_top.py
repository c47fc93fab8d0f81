"""``flashactor top``: the actors of running processes."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest

from flashactor.actor.meter import ActorStats, Histogram
from flashactor.cli import top
from flashactor.cli.top import Look
from flashactor.telemetry import process_report
from flashactor.telemetry.monitor import MonitorServer
from flashactor.telemetry.process_report import ActorReport, ProcessReport
from flashactor.telemetry.socket_folder import SocketFolder

PROGRAM = """
import sys
from flashactor import *
from flashactor.errors import MockModeError
actor = FlashAttnActor.start(FlashAttnProps(sys.argv[1]), executor="mock")
msg = FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, 64))
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        try:
            actor.ask(msg).result(10.0)
        except MockModeError:
            pass
    print("asked", flush=True)
actor.stop()
"""
TOP = [sys.executable, "-m", "flashactor", "top"]


@pytest.fixture(autouse=True)
def sockets(tmp_path, monkeypatch):
    """The folder of sockets, of this test alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "flashactor"


class Served:
    """A process with an actor that shows it."""

    def __init__(self, label):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, label],
            env={**os.environ, "FLASHACTOR_MONITOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "asked\n"

    def stop(self):
        self.process.stdin.close()
        code = self.process.wait(60.0)
        self.process.stdout.close()
        return code


@pytest.fixture
def start():
    """A function that starts a process with an actor of a label."""
    running = []

    def started(label="decode"):
        running.append(Served(label))
        return running[-1]

    yield started
    for each in running:
        assert each.stop() == 0


def row_of(out, label):
    """A row's cells by column."""
    line = next(line for line in reversed(out.splitlines()) if label in line)
    return dict(zip(top.COLUMNS, re.split(r"\s{2,}", line.strip()), strict=True))


def test_one_look(flashactor, start):
    one, two = start(), start("prefill")
    one.ask(5)
    run = flashactor("top", "--once")
    assert (run.code, run.err) == (0, "")
    row = row_of(run.out, "decode")
    assert {name: row[name] for name in ("pid", "executor", "gen", "queued", "in flight")} == {
        "pid": str(one.pid),
        "executor": "mock",
        "gen": "1",
        "queued": "0",
        "in flight": "0",
    }
    assert (row["requests"], row["errors"], row["requests/s"], row["restarts"]) == ("5", "5", "-", "0")
    assert row_of(run.out, "prefill")["pid"] == str(two.pid)


def test_one_process(flashactor, start):
    start()
    two = start("prefill")
    run = flashactor("top", "--once", "--pid", two.pid)
    assert "prefill" in run.out
    assert "decode" not in run.out


def test_json(flashactor, start):
    one = start()
    one.ask(3)
    document = json.loads(flashactor("top", "--json").out)
    assert document["unreadable"] == []
    (process,) = document["processes"]
    assert (process["format"], process["pid"]) == (1, one.pid)
    assert process["actors"][0]["errors"] == {"MockModeError": 3}


def test_nobody_shows_itself(flashactor, start):
    run = flashactor("top")
    assert (run.code, run.out) == (2, "")
    assert run.err.count("\n") == 1
    assert "FLASHACTOR_MONITOR=1" in run.err
    start()
    run = flashactor("top", "--pid", 1)
    assert run.code == 2
    assert "--pid: got 1;" in run.err


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_an_interval_that_is_none(flashactor, interval):
    run = flashactor("top", "--interval", interval)
    assert run.code == 2
    assert "--interval" in run.err


def test_a_process_that_cannot_be_read_is_named(flashactor, start):
    start()

    def broken():
        raise ValueError("no actors")

    with MonitorServer(SocketFolder(create=True), broken):
        run = flashactor("top", "--once")
    assert run.code == 0
    assert "decode" in run.out
    assert f"flashactor: error: process {os.getpid()}: no report" in run.err


def test_actors_that_were_left_out_are_counted(flashactor, monkeypatch):
    report = ProcessReport(4, (), {"left_out": 3})
    monkeypatch.setattr(process_report, "read_reports", lambda pid: ([report], []))
    assert "process 4: 3 more actors" in flashactor("top", "--once").err


def actor(completed, durations):
    """A report of an actor, with counts of durations up to 10 ms, up to 20 ms, and longer."""
    phases = {"total": Histogram((0.01, 0.02), durations, 1.0)}
    return ActorReport(7, "decode", "mock", ActorStats(received=9, completed=completed, phases=phases))


def test_rates_and_percentiles_are_those_of_the_interval():
    before = Look(100.0, [ProcessReport(4, (actor(10, (10, 0, 0)),), {})], [])
    after = Look(102.0, [ProcessReport(4, (actor(14, (10, 4, 0)),), {})], [])
    (row,) = top._rows(after, before)
    shown = dict(zip(top.COLUMNS, row, strict=True))
    assert (shown["requests/s"], shown["p50 ms"], shown["p99 ms"]) == ("2.0", "15", "19.9")
    (quiet,) = top._rows(after._replace(at=103.0), after)
    shown = dict(zip(top.COLUMNS, quiet, strict=True))
    assert (shown["requests/s"], shown["p50 ms"], shown["p99 ms"]) == ("0.0", "-", "-")


def test_an_actor_that_is_new_has_no_rate_yet():
    before = Look(100.0, [], [])
    after = Look(102.0, [ProcessReport(4, (actor(14, (10, 4, 0)),), {})], [])
    (row,) = top._rows(after, before)
    assert dict(zip(top.COLUMNS, row, strict=True))["requests/s"] == "-"


def test_in_a_pipe_a_table_follows_the_other_until_ctrl_c(start):
    one = start()
    with subprocess.Popen(
        [*TOP, "--interval", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        rows = (line for line in running.stdout if "decode" in line)
        assert next(rows).split()[7] == "-"
        one.ask(20)
        assert any(float(row.split()[7]) > 0.0 for row in rows)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60.0)
    assert (running.returncode, err) == (0, "")
    assert "\x1b" not in out


def test_in_a_pipe_it_ends_with_its_reader(start):
    start()
    with subprocess.Popen(
        [*TOP, "--interval", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdout.readline()
        running.stdout.close()
        try:
            assert (running.wait(10.0), running.stderr.read()) == (0, "")
        finally:
            running.kill()


def test_on_a_terminal_the_table_changes_in_its_place_until_ctrl_c(start):
    one = start()
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "20"}
    with subprocess.Popen(
        [*TOP, "--interval", "0.1"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as running:
        os.close(theirs)
        shown = Screen(ours)
        shown.read_until("1 actor of 1 process")
        one.ask(20)
        shown.read_until(" 20 ")
        running.send_signal(signal.SIGINT)
        shown.read_to_the_end()
        assert running.wait(60.0) == 0
    os.close(ours)
    assert "decode" in shown.text
    assert shown.text.endswith("\x1b[?25h\x1b[?1049l")  # the screen as it was, with its cursor
    assert "Traceback" not in shown.text


class Screen:
    """What a terminal gets."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.text = ""

    def read_until(self, wanted):
        while wanted not in self.text:
            self.text += self._read().decode()

    def read_to_the_end(self):
        while part := self._read():
            self.text += part.decode()

    def _read(self):
        readable, _, _ = select.select([self.descriptor], [], [], 60.0)
        assert readable, self.text
        try:
            return os.read(self.descriptor, 1 << 16)
        except OSError:  # the other end is closed
            return b""
