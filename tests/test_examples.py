"""The examples run as their users run them."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

EXPECTED = {
    "async_forward.py": "flashactor::fa2::fwd<bf16, 64, causal>_gqa4 on ",
    "varlen_batch.py": "sentence 3: 22 tokens, max difference from the model",
    "mock_in_a_unit_test.py": "both tests passed",
    "emulate_your_kernel.py": "without the barrier: DataRaceError",
    "plan_and_explain.py": "sm90_wgmma chosen: best that accepts it",
    "warm_while_serving.py": "6 asks, 5 kernels, 1 ask shared another's compile",
    "pool.py": "replies for [300, 8, 16, 24] tokens, in the order of the prompts",
    "run_sample.py": "sm90_wgmma",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize(("script", "output"), EXPECTED.items(), ids=EXPECTED)
def test_example(script, output):
    run = subprocess.run(
        [sys.executable, EXAMPLES / script], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert output in run.stdout
    assert run.stderr == ""


def test_the_varlen_example_agrees_with_the_model():
    run = subprocess.run(
        [sys.executable, EXAMPLES / "varlen_batch.py"], capture_output=True, text=True, check=True
    )
    errors = [float(line.rsplit(" ", 1)[1]) for line in run.stdout.splitlines() if "max difference" in line]
    assert len(errors) == 4
    assert max(errors) < 2e-3
