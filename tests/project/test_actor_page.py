"""docs/actor.md: its examples run, and each row of its failure table names tests that exist."""

import asyncio
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

from flashactor import FlashAttnMsg, PagedAttentionRequest

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


def example_with(text):
    (found,) = (each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if text in each)
    return found


def test_the_example_of_supervision_runs():
    exec(example_with("RestartPolicy"), {})


def test_the_example_of_pools_runs():
    q, cache = np.ones((1, 1, 2, 64), np.float16), np.ones((4, 16, 2, 64), np.float16)
    pages, lengths = np.zeros((1, 4), np.int32), np.array([10], np.int32)
    request = PagedAttentionRequest.from_arrays(q, cache, cache, pages, lengths)
    names = {
        "request": request,
        "messages": [FlashAttnMsg.paged_forward(request)] * 2,
        "conversation_id": "a",
        "conversation_ids": ["a", "b"],
    }
    coroutine = (
        f"async def main():\n{textwrap.indent(example_with('FlashAttnPool.start'), '    ')}    return replies"
    )
    exec(f"from flashactor import *\n{coroutine}", names)
    assert [reply.out.shape for reply in asyncio.run(names["main"]())] == [q.shape] * 2


def test_every_row_of_the_failure_table_has_a_test():
    found = rows()
    assert len(found) > 30
    for row in found:
        assert len(row) == 5, row
        for path, function in named_in(row[-1]):
            assert f"def {function}(" in path.read_text(), f"{path.name}::{function}"
