"""The pytest plugin, in a pytest of its own: its fixtures, and what a test may not leave behind."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from kit_tools import SMALL

from flashactor import FlashAttnMsg

ROOT = Path(__file__).resolve().parents[2]

IMPORTS = """
import asyncio
import threading

import pytest

from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps, SmArch
from flashactor.errors import *
from flashactor.executors.base import Executor
from flashactor.testing import *

MESSAGE = FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, 64))

"""


def run_pytest(folder, *arguments):
    """(exit code, output) of a pytest that loads this plugin and no other."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "flashactor.testing.plugin",
            "-p",
            "no:cacheprovider",
            *arguments,
        ],
        cwd=folder,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def run_test(tmp_path):
    """Runs the functions of a test module; gives what pytest printed."""

    def run(body, **expected):
        (tmp_path / "test_it.py").write_text(IMPORTS + body)
        code, output = run_pytest(tmp_path, "-W", "error")
        assert code == (1 if expected.keys() & {"failed", "error", "errors"} else 0), output
        for name, count in expected.items():
            assert f"{count} {name}" in output, output
        return output

    return run


def test_the_fixtures_work_together(run_test):
    run_test(
        """
def test_script_and_recorder(flash_actor, flash_script, flash_recorder):
    flash_script.reply(out="o")
    assert flash_actor.ask(MESSAGE).result(5).out == "o"
    assert flash_recorder.only.request is MESSAGE.request

def test_nothing_is_left_of_it(flash_actor, flash_recorder):
    assert len(flash_recorder) == 0
    with pytest.raises(MockModeError):
        flash_actor.ask(MESSAGE).result(5)

def test_faults(flash_faults, flash_script, flash_recorder):
    flash_script.reply(out="o")
    actor = flash_faults(Fault.fail_launch(1))
    with pytest.raises(LaunchError):
        actor.ask(MESSAGE).result(5)
    assert actor.ask(MESSAGE).result(5).out == "o"
    flash_recorder.assert_asked(times=2)

def test_several_actors_and_props(flash_faults, flash_script):
    flash_script.reply()
    actors = [flash_faults(props=FlashAttnProps(label=label)) for label in ("a", "b")]
    assert [actor.props.label for actor in actors] == ["a", "b"]
    assert all(actor.ask(MESSAGE).result(5) for actor in actors)

def test_inner(flash_faults):
    actor = flash_faults(Fault.fail_launch(2), inner=lambda: ScriptedExecutor().reply(out="inner"))
    assert actor.ask(MESSAGE).result(5).out == "inner"
    with pytest.raises(LaunchError):
        actor.ask(MESSAGE).result(5)
""",
        passed=5,
    )


def test_a_test_may_stop_its_actor(run_test):
    run_test(
        """
def test_stopped(flash_actor, flash_script):
    flash_script.reply()
    flash_actor.ask(MESSAGE).result(5)
    flash_actor.stop()
    with pytest.raises(ActorStoppedError):
        flash_actor.ask(MESSAGE).result(5)
""",
        passed=1,
    )


def test_what_is_told_may_go_on_after_the_test(run_test):
    run_test(
        """
def test_tells(flash_actor, flash_script):
    flash_script.reply(delay=0.05)
    flash_actor.tell(MESSAGE)
""",
        passed=1,
    )


def test_an_unanswered_ask_is_an_error(run_test):
    output = run_test(
        SHORT_DRAIN
        + """
def test_leaves_asks(flash_actor, flash_script):
    flash_script.reply()
    gate = flash_script.hold()
    pending = flash_actor.ask(MESSAGE), flash_actor.ask(MESSAGE)
    gate.wait(held=2)

def test_the_next_one_is_not_concerned(flash_actor, flash_script):
    flash_script.reply(out="o")
    assert flash_actor.ask(MESSAGE).result(5).out == "o"
""",
        passed=2,
        error=1,
    )
    assert "the test left behind:\n  2 unanswered of 2 asks of actor 'flashattn'" in output
    assert "Traceback" not in output


def test_an_actor_that_does_not_stop_is_an_error(run_test):
    output = run_test(
        SHORT_DRAIN
        + """
class Stuck(Executor):
    name = "stuck"

    def submit(self, work, done):
        raise AssertionError("nothing is asked")

    def close(self):
        threading.Event().wait()

def test_stuck(flash_faults):
    flash_faults(inner=Stuck)
""",
        passed=1,
        error=1,
    )
    assert "actor 'flashattn', which did not stop within 0.2 s" in output


def test_a_hang_that_was_answered_is_none(run_test):
    run_test(
        """
from time import monotonic

def test_deadline(flash_faults, flash_script):
    flash_script.reply()
    actor = flash_faults(Fault.hang(1))
    with pytest.raises(AskTimeoutError) as caught:
        actor.ask(MESSAGE, timeout=0.05).result(5)
    assert not caught.value.retry_safe
""",
        passed=1,
    )


SHORT_DRAIN = """
@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr("flashactor.testing.cleanup.DRAIN_SECONDS", 0.2)

"""


def test_pytest_finds_the_plugin_by_itself():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entries == {"pytest11": {"flashactor": "flashactor.testing.plugin"}}


def modules_after(statement):
    program = f"import json, sys, pytest\nbefore = set(sys.modules)\n{statement}\n"
    program += "print(json.dumps(sorted(set(sys.modules) - before)))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(run.stdout))


def test_loading_the_plugin_loads_nothing_but_the_package():
    added = modules_after("import flashactor.testing.plugin") - modules_after("import flashactor")
    assert added == {"flashactor.testing", "flashactor.testing.plugin"}


def test_the_kits_names_are_there_without_heavy_libraries():
    import flashactor.testing

    assert set(flashactor.testing._HOMES) == set(flashactor.testing.__all__) <= set(dir(flashactor.testing))
    for name in flashactor.testing.__all__:
        assert getattr(flashactor.testing, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = flashactor.testing.nothing
    added = modules_after("from flashactor.testing import *")
    assert not {name.partition(".")[0] for name in added} & {"cuda", "numpy", "torch", "rich", "structlog"}


def test_this_run_of_pytest_has_found_it(flash_actor, flash_script):
    flash_script.reply(out="o")
    assert flash_actor.ask(FlashAttnMsg.forward(SMALL)).result(5).out == "o"
