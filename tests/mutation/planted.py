"""What a fault planted into the kernel sources is, and what the tables of faults are written with.

An entry says what is wrong, where to write it, and on which kernel and shape it shows. The entries are in
``memory_faults.py`` and ``number_faults.py``; ``test_mutation.py`` proves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType, SmArch

KERNEL, TILE, PTX = "sm80/fwd.cu", "sm80/tile.cuh", "sm80/ptx.cuh"
MASK, SOFTMAX = "common/mask.cuh", "common/softmax.cuh"
PARAMS, TYPES = "common/params.cuh", "common/types.cuh"

RACE, UNWRITTEN, ACCESS = "DataRaceError", "UninitializedReadError", "MemoryAccessError"
DIVERGENCE, DEADLOCK = "DivergenceError", "DeadlockError"
ASYNC, LAUNCH, COMPILE = "AsyncHazardError", "LaunchError", "CompileError"
OUT, LSE, CONFLICTS = "wrong out", "wrong lse", "bank conflicts"

B16, F16 = DType.BF16, DType.F16


@dataclass(frozen=True)
class Edit:
    """``old`` becomes ``new`` in ``file``, where it must occur ``times`` times."""

    file: str
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: what is wrong, in a few words.
        edits: how to write it.
        caught: the error, or what is wrong with the result; "" for a fault that nothing catches.
        shape: of ``flashactor.check.cases.shapes``.
        spec: the kernel.
        races: whether to look for races.
        why: for a fault that nothing catches, the reason.
    """

    name: str
    edits: tuple[Edit, ...]
    caught: str
    shape: str
    spec: KernelSpec
    races: bool = False
    why: str = ""


class ShortOfSharedMemory(KernelSpec):
    """A kernel whose plan reserves half a tile too little."""

    __slots__ = ()

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return (self.tile_m + self.tile_n + self.tile_n // 2) * self.head_dim * 2


def kernel(head_dim: int, *, causal: bool = False, dtype: DType = B16) -> KernelSpec:
    """The kernel that sm_80 uses."""
    return forward_spec(SmArch.SM80, dtype, head_dim, causal)


def short(spec: KernelSpec) -> KernelSpec:
    """The same kernel with a plan that is wrong."""
    fields = {name: getattr(spec, name) for name in KernelSpec.__slots__}
    return ShortOfSharedMemory(**fields)


FULL, CAUSAL = kernel(64), kernel(64, causal=True)
FULL_F16, CAUSAL_F16 = kernel(64, dtype=F16), kernel(64, causal=True, dtype=F16)
D72, D128, D224 = kernel(72), kernel(128, causal=True), kernel(224, dtype=F16)

BLOCKS, RAGGED, SQUARE = "several key blocks", "ragged ends", "square"
WHOLE, GROUPED, MIXED = "whole tiles", "grouped heads", "mixed strides"
MORE_QUERIES, FEWER_QUERIES = "more queries than keys", "fewer queries than keys"
ONE_QUERY, ONE_KEY, STEEP = "one query", "one key", "steep softmax"
LESS_8, LESS_24, ONE_TILE = "head_dim of 8 less", "head_dim of 24 less", "one tile"

WAIT = "    cp_async_wait<0>();\n"
K_IS_THERE = "    __syncthreads();  // K is there for all; V of the block before is read by none any more\n"
V_IS_THERE = "    __syncthreads();  // V is there for all; K is read by none any more\n"
LOAD_V = "    load_kv(shared.v, v, p.v_stride_row, block);\n"
LOAD_NEXT_K = "    if (block > 0) load_kv(shared.k, k, p.k_stride_row, block - 1);\n"
OUT_GUARD = "if (query < p.seqlen_q && (chunk + c) * kChunkElements < p.head_dim) {"
RESCALE = "        o[m][n][half * 2] *= rescale;\n        o[m][n][half * 2 + 1] *= rescale;\n"
STAGED = "pack<C::kBf16>(o[m][n][half * 2] * normalise, o[m][n][half * 2 + 1] * normalise)"
LOAD_Q = """    SharedTile::load<C::kTileM>(shared.q, q + work.first_row * p.q_stride_row, p.q_stride_row,
                                p.seqlen_q - work.first_row, chunks);
"""
CAUSAL_SEES = "return min(seqlen_k, row + offset + 1);"
K_LANE = "SharedTile::lane_offset(l % 8 + l / 16 * 8, l / 8 % 2)"
ASSERT_SHARED = (
    '  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");\n'
)
MMA_0, MMA_1 = "[m][n], a[m], b[0], b[1]);", "[m][n + 1], a[m], b[2], b[3]);"


def at(file: str, old: str, new: str, times: int = 1) -> Edit:
    """An edit of a file."""
    return Edit(file, old, new, times)


def fault(
    name: str, caught: str, spec: KernelSpec, shape: str, *edits: Edit, races: bool = False, why: str = ""
) -> Fault:
    """A row of the table."""
    return Fault(name, edits, caught, shape, spec, races, why)


def not_caught(name: str, why: str, spec: KernelSpec, shape: str, *edits: Edit, races: bool = False) -> Fault:
    """A row of the table of faults that nothing catches."""
    return Fault(name, edits, "", shape, spec, races, why)


def in_file(
    file: str,
    name: str,
    old: str,
    new: str,
    caught: str,
    spec: KernelSpec = FULL,
    shape: str = BLOCKS,
    *,
    times: int = 1,
    races: bool = False,
) -> Fault:
    """A fault of one edit."""
    return Fault(name, (Edit(file, old, new, times),), caught, shape, spec, races)


in_kernel = partial(in_file, KERNEL)
