"""What all commands share: start, settings, logs, readers that go away, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from warm_tools import BF16, SMALL


def run_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "flashactor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_version_and_help_load_no_heavy_library():
    assert run_process("--version").stdout.startswith("flashactor ")
    assert "exit codes:" in run_process("--help").stdout
    program = (
        "import sys\nfrom flashactor.cli.main import main\nmain(['--version'])\n"
        "assert not {'numpy', 'cuda', 'rich', 'structlog', 'torch'} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "flashactor", "warm", "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0
    process.stderr.close()


def test_ctrl_c_leaves_a_usable_cache(tmp_path):
    environment = {**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-m", "flashactor", "warm", "--arch", "sm_80", "--jobs", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline().startswith("sm80_mma")  # a kernel is there, and others are not
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(30) == 130
        assert time.monotonic() - started < 10
        assert process.stderr.read() == "flashactor: interrupted\n"
    again = run_process("warm", *SMALL, "--json", env=environment)
    assert json.loads(again.stdout)["failed"] == []


def test_verbose_shows_what_happens(flashactor, tmp_path):
    (tmp_path / "cache").mkdir()
    process = run_process(
        "-v", "warm", "--kernel", BF16, env={**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path)}
    )
    assert process.returncode == 0
    bad = run_process("explain", env={**os.environ, "FLASHACTOR_LOG_LEVEL": "loud"})
    assert bad.returncode == 2
    assert "log level" in bad.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("FLASHACTOR_CACHE_MAX_BYTES", "lots"), ("FLASHACTOR_NO_COMPILE", "perhaps")],
    ids=str,
)
def test_a_bad_setting_is_one_line(flashactor, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    run = flashactor("warm", "--dry-run")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert name in run.err
