"""docs/actor.md: its example runs, and each row of its failure table names tests that exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "actor.md").read_text()


def rows():
    table = PAGE.split("## Failures\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named_in(cell):
    """(file, function) of every test in a cell; a file that is left out is the one before."""
    file = None
    for name in cell.split(", "):
        path, _, function = name.partition("::")
        file = path or file
        yield ROOT / "tests" / (file if "/" in file else f"actor/{file}"), function


def test_the_example_runs():
    program = re.search(r"```python\n(import asyncio.*?)```", PAGE, re.DOTALL)[1]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "flashactor::fa3::fwd<bf16, 128, full> 3 4\n"


def test_every_row_of_the_failure_table_has_a_test():
    found = rows()
    assert len(found) > 30
    for row in found:
        assert len(row) == 5, row
        for path, function in named_in(row[-1]):
            assert f"def {function}(" in path.read_text(), f"{path.name}::{function}"
