"""Every row of the table of instructions can fail: a kernel without them, or with them."""

import pytest

from flashactor.check.expectations import expectations
from flashactor.check.sass import Sass, disassemble
from flashactor.check.static import sass_findings
from flashactor.kernels.append import append_specs
from flashactor.kernels.backward_spec import backward_specs
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.combine import combine_spec
from flashactor.kernels.merge import MergeSpec, merge_spec
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.sm90_fp8 import hopper_fp8_spec
from flashactor.kernels.spec import Scores
from flashactor.types import DType, SmArch

PRELUDE = "using u32 = unsigned;\n"
SOURCES = {
    "local memory": """extern "C" __global__ void small(int* x, int n) {
  volatile int v[100];
  for (int i = 0; i < 100; ++i) v[i] = x[i];
  x[0] = v[n];
}""",
    "subroutines": """__device__ __noinline__ float f(float x) {
  for (int i = 0; i < 9; ++i) x = x * x + 1;
  return x;
}
extern "C" __global__ void small(float* x) { x[0] = f(x[0]) + f(x[1]); }""",
    "64-bit floats": """extern "C" __global__ void small(float* x) { x[0] = x[0] * 3.1; }""",
    "generic addresses": """extern "C" __global__ void small(float* x, int n) {
  __shared__ float s[64];
  s[threadIdx.x] = 1;
  __syncthreads();
  float* p = n > threadIdx.x ? x : s;
  p[n + 1] = 2 * p[n];
}""",
    "traps": """extern "C" __global__ void small(float* x) { if (x[0] < 0) __trap(); }""",
    "cp.async.ca": """extern "C" __global__ void small(float* x) {
  __shared__ float s[64];
  u32 to = static_cast<u32>(__cvta_generic_to_shared(s + 4 * threadIdx.x));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x));
  asm volatile("cp.async.wait_all;");
  __syncthreads();
  x[1] = s[3];
}""",
    "atomics": """extern "C" __global__ void small(float* x) { atomicAdd(x, 1.f); }""",
    "other products": """extern "C" __global__ void small(u32* x) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%2,%2,%2}, {%2,%2}, {%0,%1};"
               : "+r"(x[0]), "+r"(x[1]) : "r"(x[2]));
}""",
}


ANY_PRODUCT = SOURCES["other products"]
ON_HOPPER = {
    "other products": ANY_PRODUCT,
    "cp.async": SOURCES["cp.async.ca"].replace("cp.async.ca", "cp.async.cg"),
    "setmaxnreg": """extern "C" __global__ void __launch_bounds__(384, 1) small(float* x) {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  x[threadIdx.x] = 1;
}""",
}
FORBIDDEN = {**SOURCES, **ON_HOPPER, "any products": ANY_PRODUCT}
"""Kernels that break each row that forbids."""

HOPPER = (
    hopper_spec(DType.BF16, 64),
    hopper_spec(DType.F16, 128, full=True),
    hopper_spec(DType.BF16, 64, decode=True),
    hopper_fp8_spec(64, v_dtype=DType.F8E5M2),
)
"""Of three consumers, of two and of one; and of fp8."""
BACKWARD = backward_specs(SmArch.SM80, DType.BF16, 64, 64, Scores.PLAIN, deterministic=False).all
OTHERS = (
    combine_spec(SmArch.SM80, DType.BF16),
    merge_spec(SmArch.SM80, DType.F16),
    append_specs(SmArch.SM80)[4],
    append_specs(SmArch.SM80)[10],
    *BACKWARD,
    backward_specs(SmArch.SM80, DType.F16, 64, 64, Scores.PLAIN, deterministic=True).dq,
    *HOPPER,
)
"""One kernel of every kind but fwd of sm80_mma."""


@pytest.mark.parametrize("arch", [SmArch.SM80, SmArch.SM90A, SmArch.SM120], ids=lambda arch: arch.target)
@pytest.mark.parametrize("what", SOURCES)
def test_an_instruction_that_must_not_be_there_is_found(what, arch, small_cubin, real, dtype):
    spec, _, code = real(dtype)
    (small,) = disassemble(small_cubin(PRELUDE + SOURCES[what], arch))
    mixed = Sass(spec.entry, code[0].opcodes + small.opcodes)
    failed = {finding.check: finding for finding in sass_findings(spec, (mixed,)) if not finding.ok}
    assert what in failed
    assert "expected none: " in failed[what].detail


def test_a_kernel_that_moves_memory_multiplies_no_matrices(small_cubin, code_of):
    spec = OTHERS[0]
    _, code = code_of(spec)
    (small,) = disassemble(small_cubin(PRELUDE + ANY_PRODUCT))
    mixed = Sass(spec.entry, code[0].opcodes + small.opcodes)
    assert [f.check for f in sass_findings(spec, (mixed,)) if not f.ok] == ["any products"]


@pytest.mark.parametrize("what", ON_HOPPER)
def test_what_other_kernels_may_do_and_wgmma_kernels_must_not_is_found(what, small_cubin, code_of):
    for spec in HOPPER:
        _, code = code_of(spec)
        (small,) = disassemble(small_cubin(PRELUDE + ON_HOPPER[what], SmArch.SM90A))
        mixed = Sass(spec.entry, code[0].opcodes + small.opcodes)
        assert [f.check for f in sass_findings(spec, (mixed,)) if not f.ok] == [what]


def test_every_row_that_forbids_has_a_kernel_here():
    rows = {row.what for spec in all_specs() for row in expectations(spec) if not row.present}
    assert rows == set(FORBIDDEN)


@pytest.mark.parametrize("spec", OTHERS, ids=lambda spec: spec.label)
def test_kernels_of_every_kind_hold_what_they_must(spec, code_of):
    _, code = code_of(spec)
    assert [finding for finding in sass_findings(spec, code) if not finding.ok] == []
    expect_missed(spec, code)


def test_an_instruction_that_must_be_there_is_missed(real, dtype):
    spec, _, code = real(dtype)
    expect_missed(spec, code)


def expect_missed(spec, code):
    for row in [row for row in expectations(spec) if row.present]:
        (found,) = [finding for finding in sass_findings(spec, code) if finding.check == row.what]
        opcodes = {word for word in found.detail.replace(",", "").split() if not word.isdigit()}
        without = Sass(spec.entry, tuple(o for o in code[0].opcodes if o not in opcodes))
        failed = [finding for finding in sass_findings(spec, (without,)) if not finding.ok]
        assert [finding.check for finding in failed] == [row.what]
        assert failed[0].detail == f"none; expected some: {row.reason}"


def test_a_second_subroutine_is_one_too_many(code_of):
    spec = OTHERS[0]
    _, (code,) = code_of(spec)
    assert code.opcodes.count("RET.REL.NODEC") == 1
    more = Sass(spec.entry, (*code.opcodes, "RET.REL.NODEC"))
    (failed,) = [finding for finding in sass_findings(spec, (more,)) if not finding.ok]
    assert failed.detail.startswith("2 RET.REL.NODEC; expected 1: one, of the division")


def test_a_kernel_claims_the_registers_of_its_own_split_and_no_others(code_of):
    three, two = HOPPER[:2]
    for spec, other in ((three, two), (two, three)):
        _, (code,) = code_of(spec)
        _, (wrong,) = code_of(other)
        splits = [opcode for opcode in wrong.opcodes if opcode.startswith("USETMAXREG")]
        kept = [opcode for opcode in code.opcodes if not opcode.startswith("USETMAXREG")]
        failed = [f.check for f in sass_findings(spec, (Sass(spec.entry, (*kept, *splits)),)) if not f.ok]
        assert failed == ["setmaxnreg.dec", "setmaxnreg.inc", "setmaxnreg"]


def test_the_products_of_the_other_type_are_no_substitute(real):
    f16, bf16 = real(DType.F16), real(DType.BF16)
    for (spec, _, _), (_, _, code) in ((f16, bf16), (bf16, f16)):
        failed = {finding.check for finding in sass_findings(spec, code) if not finding.ok}
        assert failed == {"products", "other products", "packed rounding"}


def test_a_jump_that_is_spelled_as_a_call_is_no_subroutine(real):
    spec, _, code = real(DType.BF16)
    assert "CALL.REL.NOINC" in code[0].opcodes
    assert all(finding.ok for finding in sass_findings(spec, code))


class NewKind(MergeSpec):
    """A kernel of a kind that has no rows."""

    __slots__ = ()

    @property
    def kind(self):
        return "new"


def test_a_kind_without_rows_is_not_taken_for_checked(real):
    _, _, code = real(DType.BF16)
    with pytest.raises(KeyError, match="new"):
        sass_findings(NewKind("common", SmArch.SM80, DType.F16), code)


def test_every_row_has_a_reason_and_a_name_of_its_own():
    for spec in (*all_specs(SmArch.SM80), *all_specs(SmArch.SM90A)):
        rows = expectations(spec)
        assert len({row.what for row in rows}) == len(rows)
        assert all(row.reason for row in rows)
