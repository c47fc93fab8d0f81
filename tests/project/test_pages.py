"""What the pages say is what the code does."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import flashactor
from flashactor.cli.selection import feature_names
from flashactor.cli.tables import FEATURES, refreshed, support_table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


@pytest.mark.parametrize("page", ["README.md", "docs/kernels.md", "docs/emulator.md"])
def test_generated_tables_are_current(page):
    text = (ROOT / page).read_text()
    assert refreshed(text) == text, "run make docs"


def test_the_support_table_has_a_row_for_every_feature():
    assert len(support_table().splitlines()) == len(FEATURES) + 2


@pytest.mark.parametrize("feature", feature_names())
def test_the_command_lines_page_has_every_feature(feature):
    table = (ROOT / "docs/cli.md").read_text().partition("| feature | kernels |")[2].partition("\n\n")[0]
    assert f"`{feature}`" in table


def test_a_page_without_markers_is_an_error():
    with pytest.raises(ValueError, match="support-table"):
        refreshed("# nothing here")


def test_readmes_twenty_lines_run():
    program = re.search(r"## In twenty lines\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    small = program.replace("1000, 32, 128", "10, 8, 128").replace("1000, 8, 128", "10, 2, 128")
    assert small != program
    run = subprocess.run([sys.executable, "-c", small], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "flashactor::fa2::fwd<bf16, 128, causal>_gqa4" in run.stdout


BEFORE_THE_SERVICE = """
import asyncio, numpy as np
from flashactor import *

q = np.ones((1, 4, 2, 64), np.float16)
decode, tenant = FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, q, q)), "a"
more = [decode, decode]

async def main():
"""
BEHIND_THE_SERVICE = """
    print((await first).kernel_name, len(replies))
    await pool.aclose()
    await device.aclose()

asyncio.run(main())
"""


def test_readmes_service_runs():
    section = README.read_text().split("## A service that survives\n")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].replace("timeout=0.05", "timeout=60.0")
    program = BEFORE_THE_SERVICE + textwrap.indent(example, "    ") + BEHIND_THE_SERVICE
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "flashactor::fa2::fwd<f16, 64, full> 2\n"


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_version_is_the_packages():
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert flashactor.__version__ == declared


def test_all_public_names_exist_and_are_documented():
    for name in flashactor.__all__:
        assert getattr(flashactor, name).__doc__ or name in ("__version__", "DISPATCH_TABLE"), name


def test_nothing_outside_the_repository_is_mentioned():
    own = Path(__file__).name
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        if name.endswith(
            (".py", ".md", ".cu", ".cuh", ".toml", ".yml", "Makefile", "run")
        ) and not name.endswith(own):
            text = (ROOT / name).read_text()
            assert "../shared" not in text, name
