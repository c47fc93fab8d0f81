"""docs/testing.md: what it shows runs as it is shown."""

import re
from pathlib import Path

from test_plugin import run_pytest

from flashactor.testing import FaultKind

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text()


def test_the_pages_tests_pass(tmp_path):
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```python")
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    code, output = run_pytest(tmp_path, "-W", "error")
    assert code == 0, output
    wanted = sum(text.count("\ndef test_") for _, text in blocks)
    assert f"{wanted} passed" in output


def test_the_page_has_a_row_for_every_fault():
    assert set(re.findall(r"^\| `Fault\.(\w+)\(", PAGE, re.MULTILINE)) == {
        *(kind.value for kind in FaultKind),
        "randomly",
    }
