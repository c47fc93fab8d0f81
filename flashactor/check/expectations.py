"""Which instructions a kernel must hold and which it must not, in one table, each with its reason.

The opcodes are those that NVRTC 13.5 emits for sm_80 to sm_120a. A pattern matches a whole opcode.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashactor.kernels import sm80
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType


@dataclass(frozen=True, slots=True)
class Expectation:
    """A row of the table.

    Attributes:
        what: what people call it.
        pattern: regular expression of whole opcodes.
        reason: why such an instruction must be there, or must not.
        present: which of the two.
    """

    what: str
    pattern: str
    reason: str
    present: bool


def _some(what: str, pattern: str, reason: str) -> Expectation:
    return Expectation(what, pattern, reason, present=True)


def _none(what: str, pattern: str, reason: str) -> Expectation:
    return Expectation(what, pattern, reason, present=False)


_MMA_SYNC = (
    _some("ldmatrix", r"LDSM\.16\.M88\.4", "fragments of q and k, four 8x8 matrices a load"),
    _some("ldmatrix.trans", r"LDSM\.16\.MT88\.4", "fragments of v, transposed on the way"),
    _some("cp.async.cg", r"LDGSTS\.E\.BYPASS\.128", "tiles go from L2 to shared memory, 16 bytes a thread"),
    _none("cp.async.ca", r"LDGSTS\.(?!E\.BYPASS).*", "it fills L1 with tiles that no one reads from there"),
    _some("cp.async.commit_group", r"LDGDEPBAR", "each tile's copies are a group"),
    _some("cp.async.wait_group", r"DEPBAR\.LE", "a tile is read after its group has come"),
    _some("bar.sync", r"BAR\.SYNC.*", "all warps read the tiles that all warps have copied"),
    _some("ex2", r"MUFU\.EX2", "the softmax is in powers of two"),
    _some("lg2", r"MUFU\.LG2", "the log-sum-exp is in base two until the end"),
    _some("shfl.bfly", r"SHFL\.BFLY", "four lanes share a row's maximum and sum"),
    _some("16-byte stores", r"STG\.E\.128", "out leaves in whole sectors"),
)
_MMA_SYNC_BF16 = (
    # sm_100a and sm_120a, too, run mma.sync as HMMA.
    _some("products", r"HMMA\.16816\.F32\.BF16", "mma.sync m16n8k16 of bf16 with sums in f32"),
    _none("other products", r"HMMA\.(?!16816\.F32\.BF16$).*", "smaller at half the rate, or of another type"),
    _some("packed rounding", r"F2FP\.BF16\.(F32\.)?PACK_AB", "P and out become bf16 two at a time"),
)
_MMA_SYNC_F16 = (
    _some("products", r"HMMA\.16816\.F32", "mma.sync m16n8k16 of f16 with sums in f32"),
    _none("other products", r"HMMA\.(?!16816\.F32$).*", "smaller at half the rate, of another type or sum"),
    _some("packed rounding", r"F2FP\.(F16\.F32\.)?PACK_AB", "P and out become f16 two at a time"),
)
_EVERY_KERNEL = (
    _none("local memory", r"(LDL|STL)(\..*)?", "a value left the registers: a spill, or an indexed array"),
    # Up to sm_89, ptxas leaves the key loop with CALL.REL.NOINC, to code that never returns: a jump. A
    # subroutine has a RET.
    _none("subroutines", r"RET(\..*)?|CALL\.ABS.*", "no inlining, or the slow path of an exact division"),
    _none(
        "64-bit floats",
        r"D(ADD|MUL|FMA|SETP|MNMX|MMA)(\..*)?|.*\.F64(\..*)?|MUFU\..*64H",
        "a constant without its f; down to 1/64 of the rate of f32",
    ),
    _none("generic addresses", r"(LD|ST|QSPC)(\..*)?", "the compiler lost track of shared or global memory"),
    _none("traps", r"BPT(\..*)?", "an assertion or a __trap() from debugging"),
)

_FAMILIES = {
    (sm80.FAMILY, DType.BF16): (*_MMA_SYNC, *_MMA_SYNC_BF16),
    (sm80.FAMILY, DType.F16): (*_MMA_SYNC, *_MMA_SYNC_F16),
}
"""What a family's kernels of a type must and must not hold; a new family brings its rows."""


def expectations(spec: KernelSpec) -> tuple[Expectation, ...]:
    """The rows that are for a kernel."""
    return (*_FAMILIES[spec.family, spec.dtype], *_EVERY_KERNEL)
