"""The checks of a kernel's figures, each with figures that fail it."""

import re
import shutil
from dataclasses import replace

import pytest
from small_kernel import SmallSpec, write_sources

from flashactor.cache import CubinCache
from flashactor.check.sass import Sass, resource_usage
from flashactor.check.static import (
    record_findings,
    sass_findings,
    split_findings,
    static_findings,
    usage_finding,
)
from flashactor.compiler.source import sources_root
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm90 import hopper_spec
from flashactor.types import DType, SmArch

SHARED = forward_spec(SmArch.SM80, DType.BF16, 64).shared_bytes

CROWDED = """
extern "C" __global__ void __launch_bounds__(1024) small(float* x, int n) {
  float v[200];
  #pragma unroll
  for (int i = 0; i < 200; ++i) v[i] = x[i * n + threadIdx.x];
  __syncthreads();
  #pragma unroll
  for (int i = 0; i < 200; ++i) x[i * n + threadIdx.x] = v[199 - i] * v[i];
}
"""


def failed(findings):
    return [finding.check for finding in findings if not finding.ok]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"registers": 0}, "registers"),
        ({"registers": 256}, "registers"),
        ({"spill_bytes": 4}, "spills"),
        ({"stack_bytes": 8}, "stack"),
        ({"shared_bytes": 163 * 1024 - SHARED + 1}, "shared memory"),
        ({"log": "ptxas info : (C7510) Potential Performance Loss"}, "compiler's log"),
    ],
    ids=str,
)
def test_a_figure_out_of_range_fails(real, change, check):
    spec, kernel, _ = real(DType.BF16)
    assert spec.shared_bytes == SHARED
    assert failed(record_findings(spec, kernel.record)) == []
    assert failed(record_findings(spec, replace(kernel.record, **change))) == [check]


def test_registers_are_counted_as_they_are_allocated(real):
    _, kernel, _ = real(DType.BF16)
    spec = forward_spec(SmArch.SM80, DType.BF16, 64)
    wide = replace(spec, tile=replace(spec.tile, warps=16))  # 512 threads
    assert failed(record_findings(wide, replace(kernel.record, registers=128))) == []
    assert failed(record_findings(wide, replace(kernel.record, registers=129))) == ["registers"]


def test_shared_memory_may_reach_the_limit_of_the_architecture(real):
    spec, kernel, _ = real(DType.BF16)
    to_the_brim = replace(kernel.record, shared_bytes=99 * 1024 - SHARED)
    assert failed(record_findings(replace(spec, arch=SmArch.SM86), to_the_brim)) == []
    over = replace(kernel.record, shared_bytes=99 * 1024 - SHARED + 1)
    assert failed(record_findings(replace(spec, arch=SmArch.SM86), over)) == ["shared memory"]


@pytest.mark.parametrize("field", ["registers", "stack_bytes", "shared_bytes"])
def test_a_record_of_another_kernel_fails(real, field):
    spec, kernel, _ = real(DType.BF16)
    doctored = replace(kernel.record, **{field: getattr(kernel.record, field) + 8})
    findings = static_findings(spec, replace(kernel, record=doctored))
    assert "cubin's header" in failed(findings)


def test_local_memory_in_the_header_fails(real):
    spec, kernel, _ = real(DType.BF16)

    (usage,) = resource_usage(kernel.cubin)
    assert usage_finding(spec, kernel.record, (usage,)).ok
    found = usage_finding(spec, kernel.record, (replace(usage, local_bytes=16),))
    assert not found.ok
    assert "16 local" in found.detail


def test_a_second_function_fails(real):
    spec, _, code = real(DType.BF16)
    assert failed(sass_findings(spec, (*code, Sass("helper", ("RET.REL.NODEC",))))) == [
        "one function",
        "subroutines",
    ]
    assert failed(sass_findings(spec, (Sass("another", code[0].opcodes),))) == ["one function"]


def test_a_kernel_that_spills_fails_in_every_way_that_shows_it(real, tmp_path):
    spec, _, _ = real(DType.BF16)
    sources = write_sources(tmp_path / "sources", CROWDED)
    crowded = CubinCache(tmp_path / "cache", root=sources).get_or_compile(SmallSpec())
    found = failed(static_findings(spec, crowded))
    assert {"spills", "stack", "local memory", "one function", "products"} <= set(found)
    assert not {"registers", "shared memory", "traps"} & set(found)


HOPPER = hopper_spec(DType.BF16, 64)


@pytest.mark.parametrize(
    ("registers", "released", "claimed", "ok"),
    [
        (128, 32, 160, True),
        (121, 32, 160, True),  # allocated as 128
        (120, 32, 160, False),
        (128, 40, 160, False),
        (128, 24, 160, True),
        (128, 32, 168, False),
        (128, 0, 160, False),
        (128, 128, 128, False),
    ],
)
def test_registers_that_are_claimed_must_have_been_given_back(real, registers, released, claimed, ok):
    _, kernel, _ = real(DType.BF16)
    opcodes = [f"USETMAXREG.TRY_ALLOC.CTAPOOL({claimed})"]
    if released:
        opcodes.append(f"USETMAXREG.DEALLOC.CTAPOOL({released})")
    record = replace(kernel.record, registers=registers)
    (found,) = split_findings(HOPPER, record, (Sass(HOPPER.entry, tuple(opcodes)),))
    assert found.check == "register split"
    assert found.ok is ok
    assert f"3 x {claimed} registers" in found.detail


def test_only_a_block_that_shares_registers_out_anew_has_a_split(real):
    spec, kernel, code = real(DType.BF16)
    assert split_findings(spec, kernel.record, code) == ()
    assert split_findings(hopper_spec(DType.BF16, 64, decode=True), kernel.record, code) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [("wgmma_wait<1>();", ""), ("__forceinline__ void attend", "__noinline__ void attend")],
    ids=["scores read in flight", "call"],
)
def test_products_that_ptxas_serialises_fail(old, new, tmp_path):
    root = shutil.copytree(sources_root(), tmp_path / "kernels")
    file = root / "sm90" / "fwd_attend.cuh"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    kernel = CubinCache(tmp_path / "cache", root=root).get_or_compile(HOPPER)
    findings = {finding.check: finding for finding in record_findings(HOPPER, kernel.record)}
    assert not findings["compiler's log"].ok
    assert re.search(r"\(C75(08|1[0479])\)", findings["compiler's log"].detail)


def test_every_finding_says_what_was_found(real, dtype):
    spec, kernel, _ = real(dtype)
    findings = static_findings(spec, kernel)
    assert all(finding.ok and finding.detail for finding in findings)
    assert len({finding.check for finding in findings}) == len(findings)
