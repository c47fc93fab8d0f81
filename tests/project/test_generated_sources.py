"""Sources that a program writes are what it writes today."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_products_of_a_warpgroup_are_current():
    command = [sys.executable, "tools/generate_wgmma.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
