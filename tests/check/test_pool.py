"""Checks in processes: reports as they come, and nothing that stays behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from flashactor.check.pool import check_kernels
from flashactor.check.report import Halves
from flashactor.errors import CachePermissionError, OutOfMemoryError
from flashactor.kernels.catalog import all_specs
from flashactor.settings import Settings
from flashactor.types import SmArch

SPECS = all_specs(SmArch.SM80)[:3]
STATIC = Halves(emulated=False)


def running(group_of):
    """The processes of a session that are not dead."""
    listed = subprocess.run(
        ["ps", "-o", "stat=,args=", "-s", str(group_of)], capture_output=True, text=True, check=False
    ).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


def test_every_kernel_has_its_report(cache):
    reports = list(check_kernels(SPECS, Settings(cache.path), STATIC, jobs=2))
    assert {report.spec for report in reports} == set(SPECS)
    assert all(report.static and not report.failures and not report.emulated for report in reports)
    assert all(report.registers > 0 and report.spill_bytes == 0 and report.seconds > 0 for report in reports)
    assert multiprocessing.active_children() == []


def test_whoever_stops_reading_leaves_no_process(cache):
    checks = check_kernels(SPECS * 20, Settings(cache.path), STATIC, jobs=2)
    next(checks)
    assert len(multiprocessing.active_children()) == 2
    start = time.monotonic()
    checks.close()
    assert time.monotonic() - start < 5
    assert multiprocessing.active_children() == []


def test_an_error_of_the_machine_ends_the_checks(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CachePermissionError):
        list(check_kernels(SPECS, Settings(tmp_path / "file" / "cache"), STATIC, jobs=2))
    assert multiprocessing.active_children() == []


def test_a_process_that_the_system_ends_is_a_typed_error(cache):
    checks = check_kernels(SPECS * 20, Settings(cache.path), STATIC, jobs=2)
    next(checks)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(OutOfMemoryError, match="use fewer --jobs"):
        list(checks)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_no_process_outlives_the_command(how, tmp_path):
    environment = {**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "flashactor", "check", "--static-only", "--arch", "sm_80", "--jobs", "2"]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline().startswith("sm80_mma")
        assert len(running(process.pid)) >= 3
        process.send_signal(how)
        assert process.wait(10) == (130 if how is signal.SIGINT else -how)
        errors = process.stderr.read()
        assert how is signal.SIGKILL or errors == "flashactor: interrupted\n"
        until = time.monotonic() + 5
        while running(process.pid) and time.monotonic() < until:
            time.sleep(0.02)
        assert running(process.pid) == []
