"""The tables of docs/mutations.md.

python tests/mutation/page.py     # make docs
"""

from __future__ import annotations

from pathlib import Path

from backward_faults import BACKWARD_FAULTS
from cache_faults import CACHE_FAULTS
from hopper_fp8_faults import HOPPER_FP8_FAULTS
from hopper_order_faults import HOPPER_ORDER_FAULTS
from hopper_output_faults import HOPPER_OUTPUT_FAULTS
from hopper_tile_faults import HOPPER_TILE_FAULTS
from memory_faults import MEMORY_FAULTS
from not_caught import NOT_CAUGHT
from number_faults import NUMBER_FAULTS
from planted import Fault
from score_faults import SCORE_AND_FP8_FAULTS
from sharing_faults import SHARING_FAULTS

MMA_FAULTS = (
    *MEMORY_FAULTS,
    *NUMBER_FAULTS,
    *SHARING_FAULTS,
    *CACHE_FAULTS,
    *SCORE_AND_FP8_FAULTS,
    *BACKWARD_FAULTS,
)
HOPPER_FAULTS = (*HOPPER_ORDER_FAULTS, *HOPPER_TILE_FAULTS, *HOPPER_OUTPUT_FAULTS, *HOPPER_FP8_FAULTS)
FAULTS = (*MMA_FAULTS, *HOPPER_FAULTS)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "mutations.md"


def fault_table() -> str:
    """What catches each fault, in Markdown."""
    lines = [
        f"{len(FAULTS)} faults are planted, and all are caught:",
        "",
        "| fault | file | caught by | kernel | case |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fault in FAULTS:
        caught = f"`{fault.caught}`" if fault.caught.endswith("Error") else fault.caught
        races = ", races" if fault.races else ""
        lines.append(
            f"| {fault.name} | {_files(fault)} | {caught} | {_kernel(fault)} | {fault.case}{races} |"
        )
    return "\n".join(lines)


def _files(fault: Fault) -> str:
    return ", ".join(f"`{edit.file}`" for edit in fault.edits) or "the plan"


def _kernel(fault: Fault) -> str:
    """The kernel's label without family and architecture."""
    return fault.spec.label.partition(".")[2].rpartition(".")[0]


def not_caught_table() -> str:
    """The changes that nothing notices, in Markdown."""
    lines = ["| change | file | why |", "| --- | --- | --- |"]
    for fault in NOT_CAUGHT:
        lines.append(f"| {fault.name} | {_files(fault)} | {fault.why} |")
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
