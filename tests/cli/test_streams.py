"""Readers that go away, terminals without Unicode, full disks and Ctrl-C: printing never changes the work."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from flashactor.cache import CubinCache
from flashactor.cli.output import print_json

COMMAND = (sys.executable, "-m", "flashactor")
SMALL = ("warm", "--arch", "sm_80", "--feature", "combine", "--jobs", "1")


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path / "cache")}


def run_without_reader(*arguments, env):
    """Run a command whose stdout and stderr are one pipe that nobody reads; its exit code."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [*COMMAND, *arguments], stdout=writer, stderr=writer, env=env, timeout=60, check=False
        ).returncode
    finally:
        os.close(writer)


def test_without_a_reader_the_work_is_done_to_the_end(environment, tmp_path):
    assert run_without_reader(*SMALL, env=environment) == 0
    assert len(CubinCache(tmp_path / "cache").records()) == 2


def test_without_a_reader_the_verdict_stays(environment, tmp_path):
    assert run_without_reader(*SMALL, env=environment) == 0
    for record in (tmp_path / "cache" / "records").iterdir():
        record.write_text("damaged")
    assert run_without_reader("cache", "verify", env=environment) == 1
    assert run_without_reader("warm", "--arch", "sm_75", env=environment) == 2
    assert run_without_reader("--help", env=environment) == 0


def test_stdout_on_a_full_disk_is_a_failure_in_one_line(environment):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*COMMAND, "cache", "path"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert run.returncode == 1
        assert run.stderr.count("\n") == 1
        assert "No space left" in run.stderr
        run = subprocess.run([*COMMAND, "explain", "--head-dim", "7"], stderr=full, env=environment)
        assert run.returncode == 2


def test_names_that_are_no_text_are_printed(environment):
    folder = b"/tmp/flash\xffactor"
    environment = {**environment, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    environment["FLASHACTOR_CACHE_DIR"] = os.fsdecode(folder)
    run = subprocess.run([*COMMAND, "cache", "path"], capture_output=True, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.startswith(b"/tmp/flash\\udcff")
    document = subprocess.run([*COMMAND, "cache", "path", "--json"], capture_output=True, env=environment)
    assert json.loads(document.stdout)["folder"] == os.fsdecode(folder)


def test_json_has_no_number_that_json_does_not_know(capsys):
    print_json({"a": [math.nan, 1.5], "b": (math.inf,)})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, 1.5], "b": [None]}


def test_closed_streams_are_no_error(environment):
    line = f"{' '.join(COMMAND)} cache verify >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], env=environment, check=False).returncode == 0


INTERRUPTED_WHILE = {
    "parsing": "import argparse\nargparse.ArgumentParser.parse_args = stop",
    "running": "import flashactor.cli.doctor as m\nm.run = stop",
}


@pytest.mark.parametrize("moment", INTERRUPTED_WHILE)
def test_ctrl_c_is_one_line_from_the_beginning(moment, environment):
    program = (
        "import os, signal, sys\n"
        "def stop(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        f"{INTERRUPTED_WHILE[moment]}\n"
        "from flashactor.cli.main import main\nsys.exit(main(['doctor']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "flashactor: interrupted\n")


def test_a_second_ctrl_c_ends_at_once_and_shows_no_traceback(environment):
    program = (
        "import sys, time\nimport flashactor.cli.doctor as doctor\n"
        "def run(options):\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('tidying', flush=True)\n        time.sleep(60)\n"
        "doctor.run = run\n"
        "from flashactor.cli.main import main\nsys.exit(main(['doctor']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        for said in ("ready\n", "tidying\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(30) == 130
        assert time.monotonic() - started < 10
        assert process.stderr.read() == "flashactor: interrupted\n"
