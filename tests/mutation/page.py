"""The tables of docs/mutations.md.

python tests/mutation/page.py     # make docs
"""

from __future__ import annotations

from pathlib import Path

from memory_faults import MEMORY_FAULTS
from number_faults import NOT_CAUGHT, NUMBER_FAULTS

FAULTS = (*MEMORY_FAULTS, *NUMBER_FAULTS)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "mutations.md"


def fault_table() -> str:
    """What catches each fault, in Markdown."""
    lines = [
        f"{len(FAULTS)} faults are planted, and all are caught:",
        "",
        "| fault | file | caught by | kernel | shape |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fault in FAULTS:
        files = ", ".join(f"`{edit.file}`" for edit in fault.edits) or "the plan"
        caught = f"`{fault.caught}`" if fault.caught.endswith("Error") else fault.caught
        races = ", races" if fault.races else ""
        spec = fault.spec
        kernel = f"{spec.dtype.tag} d{spec.head_dim} {spec.features[0]}"
        lines.append(f"| {fault.name} | {files} | {caught} | {kernel} | {fault.shape}{races} |")
    return "\n".join(lines)


def not_caught_table() -> str:
    """The changes that nothing notices, in Markdown."""
    lines = ["| change | file | why |", "| --- | --- | --- |"]
    for fault in NOT_CAUGHT:
        lines.append(f"| {fault.name} | {', '.join(f'`{e.file}`' for e in fault.edits)} | {fault.why} |")
    return "\n".join(lines)


def refreshed(page: str) -> str:
    """The page with both tables brought up to date."""
    for name, table in (("faults", fault_table()), ("not-caught", not_caught_table())):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"the page has no {begin} and {end}"
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text()))
