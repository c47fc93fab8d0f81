"""Which instructions a kernel must hold and which it must not, in one table, each with its reason.

The opcodes are those that NVRTC 13.5 emits for sm_80 to sm_120a. A pattern matches a whole opcode.
"""

from __future__ import annotations

from flashactor.check.expectation import Expectation, none
from flashactor.check.hopper_expectations import hopper_rows
from flashactor.kernels.append import AppendSpec, Pairs
from flashactor.kernels.backward_spec import DkdvSpec
from flashactor.kernels.sm80_fp8 import Fp8ForwardSpec
from flashactor.kernels.sm90 import HopperSpec
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType

_TILES = (
    Expectation("ldmatrix", r"LDSM\.16\.M88\.4", "fragments of a product, four 8x8 matrices a load"),
    Expectation("ldmatrix.trans", r"LDSM\.16\.MT88\.4", "fragments that are transposed on the way"),
    Expectation(
        "cp.async.cg", r"LDGSTS\.E\.BYPASS\.128", "tiles go from L2 to shared memory, 16 bytes a thread"
    ),
    Expectation("cp.async.commit_group", r"LDGDEPBAR", "each tile's copies are a group"),
    Expectation("cp.async.wait_group", r"DEPBAR\.LE", "a tile is read after its group has come"),
    Expectation("bar.sync", r"BAR\.SYNC.*", "all warps read the tiles that all warps have copied"),
)
_SOFTMAX = (Expectation("ex2", r"MUFU\.EX2", "the softmax is in powers of two"),)
_LOG = (Expectation("lg2", r"MUFU\.LG2", "the log-sum-exp is in base two until the end"),)
_QUADS = (Expectation("shfl.bfly", r"SHFL\.BFLY", "lanes share what they know of a row"),)
_WIDE_LOADS = (Expectation("16-byte loads", r"LDG\.E\.128(\.CONSTANT)?", "rows are read in whole sectors"),)
_WIDE_STORES = (Expectation("16-byte stores", r"STG\.E\.128", "results leave in whole sectors"),)
_BYTES = (Expectation("8-byte stores", r"STG\.E\.64", "what a thread has of a row leaves together"),)

_PRODUCTS = {
    # sm_100a and sm_120a, too, run mma.sync as HMMA.
    DType.BF16: (
        Expectation("products", r"HMMA\.16816\.F32\.BF16", "mma.sync m16n8k16 of bf16 with sums in f32"),
        none(
            "other products", r"HMMA\.(?!16816\.F32\.BF16$).*", "smaller at half the rate, or of another type"
        ),
    ),
    DType.F16: (
        Expectation("products", r"HMMA\.16816\.F32", "mma.sync m16n8k16 of f16 with sums in f32"),
        none(
            "other products",
            r"HMMA\.(?!16816\.F32$).*",
            "smaller at half the rate, of another type or sum",
        ),
    ),
}
_ROUNDING = {
    DType.BF16: (
        Expectation("packed rounding", r"F2FP\.BF16\.(F32\.)?PACK_AB", "results become bf16 two at a time"),
    ),
    DType.F16: (
        Expectation("packed rounding", r"F2FP\.(F16\.F32\.)?PACK_AB", "results become f16 two at a time"),
    ),
}
_NO_PRODUCTS = (none("any products", r"[HQ]MMA\..*", "a kernel that moves memory multiplies no matrices"),)
_ATOMICS = r"(RED|REDG|ATOM|ATOMG|ATOMS)(\..*)?"
_ADDS = (Expectation("atomics", _ATOMICS, "dq is summed by all blocks of keys"),)
_NO_ATOMICS = (none("atomics", _ATOMICS, "sums in no fixed order: equal inputs would give other bits"),)

_EVERY_KERNEL = (
    none("cp.async.ca", r"LDGSTS\.(?!E\.BYPASS).*", "it fills L1 with tiles that no one reads from there"),
    none("local memory", r"(LDL|STL)(\..*)?", "a value left the registers: a spill, or an indexed array"),
    none(
        "64-bit floats",
        r"D(ADD|MUL|FMA|SETP|MNMX|MMA)(\..*)?|.*\.F64(\..*)?|MUFU\..*64H",
        "a constant without its f; down to 1/64 of the rate of f32",
    ),
    none("generic addresses", r"(LD|ST|QSPC)(\..*)?", "the compiler lost track of shared or global memory"),
    none("traps", r"BPT(\..*)?", "an assertion or a __trap() from debugging"),
)

_ATTENTION = (*_TILES, *_SOFTMAX)
_FP8_PRODUCTS = (
    Expectation("products", r"QMMA\.16832\..*|HMMA\.16816\.F32", "mma.sync m16n8k32 of fp8 with sums in f32"),
    none("other products", r"HMMA\.(?!16816\.F32$).*", "elsewhere than on sm_89 and sm_120 they are of f16"),
)
_FP8_ROUNDING = (
    Expectation("fp8 rounding", r"F2FP\.SATFINITE\.E4M3\..*", "P becomes e4m3, saturated"),
    Expectation("packed rounding", r"F2FP\.(BF16|F16)\.F32\.PACK_AB", "results become 16-bit two at a time"),
)
_KINDS = {
    "fwd": (*_ATTENTION, *_LOG, *_QUADS, *_WIDE_STORES),
    "fwd_fp8": (*_ATTENTION, *_LOG, *_QUADS, *_WIDE_STORES, *_FP8_PRODUCTS, *_FP8_ROUNDING),
    "combine": (*_SOFTMAX, *_LOG, *_WIDE_LOADS, *_WIDE_STORES, *_NO_PRODUCTS),
    "append": (*_WIDE_LOADS, *_NO_PRODUCTS),
    "merge": (*_SOFTMAX, *_LOG, *_WIDE_LOADS, *_WIDE_STORES, *_NO_PRODUCTS),
    "bwd_preprocess": (*_SOFTMAX, *_LOG, *_QUADS, *_WIDE_LOADS, *_WIDE_STORES, *_NO_PRODUCTS),
    "bwd_dkdv": (*_ATTENTION, *_WIDE_STORES),
    "bwd_dq": (*_ATTENTION, *_WIDE_STORES),
    "bwd_convert": (*_WIDE_STORES, *_NO_PRODUCTS),
    "bwd_reduce": (*_QUADS, *_NO_PRODUCTS),
}
"""What kernels of a kind hold, whatever their type is; a new kind brings its row."""

_MULTIPLY = ("fwd", "bwd_dkdv", "bwd_dq")
_ROUND = (*_MULTIPLY, "combine", "merge", "bwd_convert")

# Up to sm_89, ptxas leaves loops with CALL.REL.NOINC, to code that never returns: a jump. A subroutine has a
# RET.
_SUBROUTINES = r"RET(\..*)?|CALL\.ABS.*"
_NO_SUBROUTINE = "no inlining, or the slow path of an exact division"
_ONE_SUBROUTINE = {
    "combine": "one, of the division of a 64-bit row, once a thread",
    "append": "one, of the true division by a descale: a product is not always rounded to the nearest fp8",
    "bwd_preprocess": "one, up to sm_89, of a shuffle that only some warps reach",
    "bwd_dkdv": "one, of the exact reciprocal of a softcap, once a thread",
    "bwd_dq": "one, of the exact reciprocal of a softcap, once a thread",
}


def expectations(spec: KernelSpec) -> tuple[Expectation, ...]:
    """The rows that are for a kernel.

    Raises:
        KeyError: of a kind, or of a type, that has no rows.
    """
    rows = list(hopper_rows(spec) if isinstance(spec, HopperSpec) else _rows_of_kind(spec))
    rows += _ADDS if isinstance(spec, DkdvSpec) and spec.adds_dq else _NO_ATOMICS
    one = _ONE_SUBROUTINE.get(spec.kind)
    rows.append(Expectation("subroutines", _SUBROUTINES, one or _NO_SUBROUTINE, most=1 if one else 0))
    return (*rows, *_EVERY_KERNEL)


def _rows_of_kind(spec: KernelSpec) -> list[Expectation]:
    rows = list(_KINDS[spec.kind])
    if spec.kind in _MULTIPLY:
        rows += _PRODUCTS[spec.dtype]
    if spec.kind in _ROUND:
        rows += _ROUNDING[spec.dtype]
    if isinstance(spec, Fp8ForwardSpec) and spec.tile.key_warps == 1:
        rows += _BYTES
    if isinstance(spec, AppendSpec):
        rows += _WIDE_STORES if spec.fp8 is None else _BYTES
        rows += () if spec.pairs is Pairs.NONE else _ROUNDING[spec.dtype]
    return rows
