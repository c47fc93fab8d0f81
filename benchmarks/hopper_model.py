"""The table of docs/hopper.md: what bounds each tile of the Hopper kernels, from counts of instructions.

``python -m benchmarks.sass_budget`` counts them and writes the table; this module only computes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS
from flashactor.check.hopper_budget import Round, Segment, model
from flashactor.kernels.sm90 import HopperSpec, hopper_specs
from flashactor.kernels.sm90_fp8 import HopperFp8Spec, hopper_fp8_specs
from flashactor.kernels.spec import Scores
from flashactor.types import DType, SmArch

PAGE = Path(__file__).resolve().parent.parent / "docs/hopper.md"
COUNTS = RESULTS / "sass_budget.json"
BEGIN, END = "<!-- hopper-model:begin -->", "<!-- hopper-model:end -->"
HEADINGS = (
    "kernel",
    "tile, consumers",
    "products",
    "shared memory",
    "exponentials",
    "half rate",
    "float32",
    "issue",
    "one consumer",
    "bound",
    "share of peak",
    "bytes a clock",
    "lead",
)


def kernels() -> tuple[HopperSpec, ...]:
    """Those of plain scores, of one type of 16 bits and one of 8: each tile once."""
    specs = (*hopper_specs(SmArch.SM90A), *hopper_fp8_specs(SmArch.SM90A))
    return tuple(
        spec
        for spec in specs
        if spec.scores is Scores.PLAIN
        and spec.dtype is not DType.F16
        and not (isinstance(spec, HopperFp8Spec) and spec.v_dtype is not DType.F8E4M3)
    )


def as_json(loop: tuple[Segment, ...]) -> list[dict[str, Any]]:
    """A consumer's loop as results keep it."""
    return [asdict(segment) for segment in loop]


def rounds(results: Mapping[str, Any]) -> dict[HopperSpec, Round]:
    """The model of each kernel whose loop the results hold, by label."""
    return {
        spec: model(spec, tuple(Segment(**segment) for segment in results[spec.label]))
        for spec in kernels()
        if spec.label in results
    }


def table(results: Mapping[str, Any]) -> str:
    """In Markdown: clocks of a block of keys for all consumers."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- " * len(HEADINGS) + "|"]
    lines += [_row(spec, found) for spec, found in rounds(results).items()]
    return "\n".join(lines)


def _row(spec: HopperSpec, found: Round) -> str:
    dims = str(spec.head_dim) if spec.head_dim == spec.head_dim_v else f"{spec.head_dim}, v {spec.head_dim_v}"
    words = [spec.dtype.tag, dims, *(word for word, on in spec.flags if on)]
    cells = (
        " ".join(words),
        f"{spec.tile.m} x {spec.tile.n}, {spec.consumers}",
        *(f"{clocks}" for clocks in found.busy.values()),
        found.bound,
        f"{found.share:.0%}",
        f"{found.bytes_per_clock:.0f}",
        f"{found.lead}",
    )
    return "| " + " | ".join(cells) + " |"


def refreshed(page: str) -> str:
    """A page with the table between its markers made of the last results.

    Raises:
        ValueError: the page has no markers.
    """
    before, begins, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        raise ValueError(f"no {BEGIN} and {END} in the page")
    found = json.loads(COUNTS.read_text())["hopper"]
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"
