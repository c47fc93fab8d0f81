"""What a fault planted into the kernel sources is, and what the tables of faults are written with.

An entry says what is wrong, where to write it, and on which kernel and case it shows. The entries are in the
files ``*_faults.py``; ``test_mutation.py`` proves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flashactor.kernels.append import Pairs, append_specs
from flashactor.kernels.backward_spec import backward_specs
from flashactor.kernels.combine import combine_spec
from flashactor.kernels.merge import merge_spec
from flashactor.kernels.sm80 import ForwardSpec, forward_spec
from flashactor.kernels.sm80_fp8 import fp8_forward_spec
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.sm90_fp8 import hopper_fp8_spec
from flashactor.kernels.spec import KernelSpec, Scores
from flashactor.types import DType, SmArch

RACE, UNWRITTEN, ACCESS = "DataRaceError", "UninitializedReadError", "MemoryAccessError"
DIVERGENCE, DEADLOCK, BARRIER = "DivergenceError", "DeadlockError", "BarrierError"
ASYNC, LAUNCH, COMPILE = "AsyncHazardError", "LaunchError", "CompileError"
CONFLICTS, DISAGREE = "bank conflicts", "schedules disagree"
SPILLS = "spills"
OUT, LSE = "wrong out", "wrong lse"
DQ, DK, DV = "wrong dq", "wrong dk", "wrong dv"
DSINK, DSLOPES = "wrong dsink_logits", "wrong dalibi_slopes"

A80, B16, F16 = SmArch.SM80, DType.BF16, DType.F16


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
        case: name of one of ``flashactor.check.cases.cases_of(spec)``.
        spec: the kernel.
        races: whether to look for races.
        why: for a fault that nothing catches, the reason.
    """

    name: str
    edits: tuple[Edit, ...]
    caught: str
    case: str
    spec: KernelSpec
    races: bool = False
    why: str = ""


class ShortOfSharedMemory(ForwardSpec):
    """A kernel whose plan reserves half a tile too little."""

    __slots__ = ()

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return (self.tile.m + self.tile.n + self.tile.n // 2) * self.head_dim * 2


def short(spec: ForwardSpec) -> ForwardSpec:
    """The same kernel with a plan that is wrong."""
    return ShortOfSharedMemory(**{name: getattr(spec, name) for name in _FIELDS})


_FIELDS = ("family", "arch", "dtype", "head_dim", "head_dim_v", "scores", "paged", "fp8_kv", "tile")

FWD, FWD_F16 = forward_spec(A80, B16, 64), forward_spec(A80, F16, 64)
D96, D128 = forward_spec(A80, B16, 96), forward_spec(A80, B16, 128)
DECODE, PAGED = forward_spec(A80, B16, 64, decode=True), forward_spec(A80, B16, 64, paged=True)
MODIFIED = forward_spec(A80, F16, 64, scores=Scores.MODIFIED)
DROPOUT = forward_spec(A80, F16, 64, scores=Scores.DROPOUT)
FP8_KV = forward_spec(A80, B16, 64, fp8_kv=True, decode=True)
FP8_KV_F16 = forward_spec(A80, F16, 64, fp8_kv=True, decode=True)
FP8 = fp8_forward_spec(SmArch.SM89, 64, decode=True, v_dtype=DType.F8E5M2)
HOPPER, HOPPER_WIDE = hopper_spec(B16, 64), hopper_spec(B16, 128)
HOPPER_NARROW = hopper_spec(B16, 96, decode=True)
HOPPER_FULL = hopper_spec(B16, 128, full=True)
HOPPER_DECODE = hopper_spec(B16, 64, decode=True)
HOPPER_FP8 = hopper_fp8_spec(64, v_dtype=DType.F8E5M2, decode=True)
COMBINE, MERGE = combine_spec(A80, B16), merge_spec(A80, F16)
_APPEND = {(spec.dtype, spec.fp8, spec.pairs): spec for spec in append_specs(A80)}
APPEND = _APPEND[F16, None, Pairs.NONE]
APPEND_FP8 = _APPEND[B16, DType.F8E4M3, Pairs.NONE]
ROTARY, INTERLEAVED = _APPEND[F16, None, Pairs.HALVES], _APPEND[B16, None, Pairs.INTERLEAVED]
BACKWARD = backward_specs(A80, F16, 64, 64, Scores.PLAIN, deterministic=True)
ATOMIC = backward_specs(A80, F16, 64, 64, Scores.PLAIN, deterministic=False)
BACKWARD_MODIFIED = backward_specs(A80, F16, 64, 64, Scores.MODIFIED, deterministic=True)
BACKWARD_DROPOUT = backward_specs(A80, F16, 64, 64, Scores.DROPOUT, deterministic=True)
PRE, (DKDV,), DQ_OF, REDUCE = BACKWARD.preprocess, BACKWARD.dkdv, BACKWARD.dq, BACKWARD.reduce
(DKDV_ATOMIC,), CONVERT = ATOMIC.dkdv, ATOMIC.dq
ONE_STAGE = backward_specs(SmArch.SM86, F16, 128, 128, Scores.PLAIN, deterministic=True)

ONE_TILE, RAGGED, MORE_QUERIES = "one tile", "ragged ends", "more queries than keys"
GROUPED, ONE_KEY_HEAD, ONE_KEY = "grouped heads", "one key head", "one key"
WINDOW, SINKS, AHEAD = "window", "window and sinks", "sinks ahead"
MIXED, HEADS_FIRST, SMALLER, STEEP = "mixed strides", "heads first", "smaller heads", "steep softmax"
PACKED, USED, SPLITS = "packed", "used lengths", "splits"
BLOCKS, APPENDED = "several key blocks", "appended keys"
PHASES, RESIDENT, ONE_RESIDENT = "phases", "resident blocks", "one resident block"
ODD, SMALL_PAGES, LARGE_PAGES = "odd groups", "small pages", "large pages"


def at(file: str, old: str, new: str, times: int = 1) -> Edit:
    """An edit of a file."""
    return Edit(file, old, new, times)


def fault(
    name: str, caught: str, spec: KernelSpec, case: str, *edits: Edit, races: bool = False, why: str = ""
) -> Fault:
    """A row of the table."""
    return Fault(name, edits, caught, case, spec, races, why)


def in_file(
    file: str,
    name: str,
    old: str,
    new: str,
    caught: str,
    spec: KernelSpec = FWD,
    case: str = BLOCKS,
    *,
    times: int = 1,
    races: bool = False,
) -> Fault:
    """A fault of one edit."""
    return Fault(name, (Edit(file, old, new, times),), caught, case, spec, races)


KERNEL, LOOP, ORDER = "sm80/fwd.cu", "sm80/fwd_loop.cuh", "sm80/fwd_work.cuh"
STORE, KEY_ROWS, STAGING = "sm80/fwd_output.cuh", "sm80/rows.cuh", "sm80/staging.cuh"
TILE, PTX = "sm80/tile.cuh", "sm80/ptx.cuh"
WORK, SCORES = "common/fwd_work.cuh", "common/fwd_scores.cuh"
OUTPUT, ROWS = "common/fwd_output.cuh", "common/packed_rows.cuh"
MASK, SOFTMAX, SEQLEN = "common/mask.cuh", "common/softmax.cuh", "common/seqlen.cuh"
COMPILER = "common/compiler.cuh"
MEMORY, TYPES, PHILOX = "common/memory.cuh", "common/types.cuh", "common/philox.cuh"
HOPPER_KERNEL, ATTEND, LOAD = "sm90/fwd.cu", "sm90/fwd_attend.cuh", "sm90/fwd_load.cuh"
CONFIG, RING, HOPPER_PTX = "sm90/fwd_config.cuh", "sm90/pipeline.cuh", "sm90/ptx.cuh"
SLABS, TILE_STORE, TILE_ORDER = "sm90/tile.cuh", "sm90/fwd_store.cuh", "sm90/fwd_work.cuh"
FP8_KERNEL, TRANSPOSE, ROLES = "sm90/fwd_fp8.cu", "sm90/fwd_transpose.cuh", "sm90/fwd_roles.cuh"


def in_hopper(
    file: str, name: str, old: str, new: str, caught: str, case: str = BLOCKS, **options: bool
) -> Fault:
    """A fault that several consumers show."""
    return in_file(file, name, old, new, caught, HOPPER, case, **options)


def in_hopper_decode(
    file: str, name: str, old: str, new: str, caught: str, case: str = PHASES, **options: bool
) -> Fault:
    """A fault that one consumer shows."""
    return in_file(file, name, old, new, caught, HOPPER_DECODE, case, **options)


in_kernel, in_loop = partial(in_file, KERNEL), partial(in_file, LOOP)
in_store, in_tile = partial(in_file, STORE), partial(in_file, TILE)
in_output = partial(in_file, OUTPUT)
