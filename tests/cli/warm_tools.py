"""What tests of ``flashactor warm`` share: kernels that take little to compile, and what a run lists."""

import json

SMALL = ("--arch", "sm_80", "--feature", "combine")
"""Selects two kernels that take little to compile."""
BF16, F16 = "common.combine.bf16.sm_80", "common.combine.f16.sm_80"


def listed(run):
    return json.loads(run.out)["kernels"]
