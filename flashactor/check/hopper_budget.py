"""A model of the Hopper kernels' steady state: one block of keys, for all consumers of a thread block.

Counts what a consumer's loop issues in its SASS, between which waits, and works out how long each part of
a multiprocessor is busy with it. Nothing is timed: it says what bounds a tile and by how much, not what a
device reaches, whose clock falls under load.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from flashactor.check.sass_flow import best_path, blocks_of, loops_with, unexpected
from flashactor.kernels.sm90 import CONSUMER_ROWS, HopperSpec

KINDS = (
    ("tensor", r"(HGMMA|QGMMA)\..*"),
    ("exp2", r"MUFU\..*"),
    ("max", r"FMNMX(\..*)?"),
    ("float", r"(FADD|FMUL|FFMA)(\..*)?"),
    ("convert", r"(F2FP|F2F|I2F|F2I|I2FP)(\..*)?"),
    ("shuffle", r"SHFL\..*"),
    ("barrier", r"(SYNCS|BAR|WARPGROUP|WARPSYNC|BSSY|BSYNC|DEPBAR|NOP)(\..*)?"),
    ("uniform", r"(U[A-Z0-9]+|R2UR|S2UR|VOTEU)(\..*)?"),
    ("other", r".*"),
)
"""Kinds of instructions. Uniform ones make addresses and descriptors; ``other`` are moves, integer
arithmetic, predicates and jumps."""

_SHAPE = re.compile(r"[HQ]GMMA\.(\d+)x(\d+)x(\d+)\.")
_WAIT = "WARPGROUP.DEPBAR.LE"


@dataclass(frozen=True, slots=True)
class Hopper:
    """What a multiprocessor does in a clock.

    From the H100 whitepaper (dense products: 4096 FLOP of 16 bits, twice as many of 8) and the CUDA C++
    Programming Guide's table of arithmetic throughput for compute capability 9.0; shared memory gives or
    takes 128 bytes. Latencies are estimates.
    """

    products: int = 2048  # of 16 bits; of 8 twice as many
    exp2: int = 16
    half_rate: int = 64  # maxima, conversions, integers
    full_rate: int = 128  # additions and products of float32
    warp_instructions: int = 4
    shared_bytes: int = 128
    softmax_latency: int = 100  # two shuffles, and the depth of what follows each other
    memory_latency: int = 1000  # from a free stage to its tile, out of HBM


H100 = Hopper()


@dataclass(frozen=True, slots=True)
class Segment:
    """What a consumer's warp issues between two waits for products.

    Attributes:
        counts: instructions by kind.
        products: pairs that its tensor instructions multiply, for the whole warpgroup.
    """

    counts: dict[str, int]
    products: int

    @property
    def instructions(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def of(self, *kinds: str) -> int:
        """Instructions of some kinds."""
        return sum(self.counts.get(kind, 0) for kind in kinds)


def consumer_loop(cubin: bytes, spec: HopperSpec) -> tuple[Segment, ...]:
    """A consumer's loop over blocks of keys in which nothing is masked, cut at its waits for products.

    The first segment issues Q Kᵀ and P V and ends with the wait for Q Kᵀ; the second is the softmax, up to
    the wait for P V; those that follow end with waits for P V of further pieces of the head dimension.

    Args:
        cubin: of ``spec``.
        spec: a forward kernel of the family.

    Raises:
        CompileError: the code has no such loop, or its products are not those of a block.
        DeviceUnavailableError: there is no nvdisasm.
    """
    blocks = blocks_of(cubin)
    loop = min(loops_with(blocks, _is_tensor), key=lambda edge: edge[1] - edge[0])
    path = best_path(blocks, loop, _belongs)
    cuts: list[list[str]] = [[]]
    for opcode in (opcode for index in path for opcode in blocks[index].opcodes):
        cuts[-1].append(opcode)
        if opcode.startswith(_WAIT):
            cuts.append([])
    found = tuple(Segment(dict(Counter(map(kind_of, cut))), sum(map(products_of, cut))) for cut in cuts)
    needed = CONSUMER_ROWS * spec.tile.n * (spec.head_dim + spec.head_dim_v)
    if sum(segment.products for segment in found) != needed:
        raise unexpected(f"{[segment.products for segment in found]} products", f"{needed} in all")
    return found


def kind_of(opcode: str) -> str:
    """The kind of an instruction, of KINDS."""
    return next(kind for kind, pattern in KINDS if re.fullmatch(pattern, opcode))


def products_of(opcode: str) -> int:
    """Pairs that an instruction multiplies: 0 if it is no tensor instruction."""
    shape = _SHAPE.match(opcode)
    return int(shape[1]) * int(shape[2]) * int(shape[3]) if shape else 0


def _is_tensor(opcode: str) -> bool:
    return kind_of(opcode) == "tensor"


def _belongs(opcode: str) -> bool:
    """Whether a usual iteration meets it wherever a branch leaves the choice."""
    return _is_tensor(opcode) or opcode.startswith("SYNCS")


@dataclass(frozen=True, slots=True)
class Round:
    """One block of keys for all consumers: clocks for which each part of a multiprocessor is busy with it.

    Attributes:
        tensor: products.
        shared_memory: operands of products, tiles that come, and fp8 values that are transposed.
        exp2: exponentials.
        half_rate: maxima, conversions and integer arithmetic.
        float32: additions and products.
        issue: instructions of all kinds, of the consumers.
        chain: what a consumer does one after the other, alone on its multiprocessor.
        bytes: of keys and values that come.
        stages: blocks that shared memory holds.
        overlapped: part of the exponentials that is issued before the wait for P V.
    """

    tensor: int
    shared_memory: int
    exp2: int
    half_rate: int
    float32: int
    issue: int
    chain: int
    bytes: int
    stages: int
    overlapped: float

    @property
    def clocks(self) -> int:
        """The longest of them, which the others hide under at best."""
        return max(self.busy.values())

    @property
    def busy(self) -> dict[str, int]:
        """Clocks by what is busy."""
        return {
            "products": self.tensor,
            "shared memory": self.shared_memory,
            "exponentials": self.exp2,
            "half-rate arithmetic": self.half_rate,
            "float32": self.float32,
            "issue": self.issue,
            "one consumer": self.chain,
        }

    @property
    def bound(self) -> str:
        """What takes longest; products, where something else takes as long."""
        return max(self.busy, key=lambda name: self.busy[name])

    @property
    def share(self) -> float:
        """Part of the time for which tensor cores are busy at best: the share of their peak."""
        return self.tensor / self.clocks

    @property
    def bytes_per_clock(self) -> float:
        """Bytes a clock that keys and values bring into a multiprocessor."""
        return self.bytes / self.clocks

    @property
    def lead(self) -> int:
        """Clocks from when a stage is free to when its next tile is needed."""
        return (self.stages - 1) * self.clocks


def model(spec: HopperSpec, loop: tuple[Segment, ...], chip: Hopper = H100) -> Round:
    """The steady state of a kernel.

    Args:
        spec: the kernel.
        loop: as ``consumer_loop`` found it.
        chip: what it runs on.
    """
    size = spec.dtype.size_in_bytes
    rate = chip.products * 2 // size
    warps = 4 * spec.consumers
    whole = Counter[str]()
    for segment in loop:
        whole.update(segment.counts)
    issue, softmax, *tail = loop
    qk = CONSUMER_ROWS * spec.tile.n * spec.head_dim
    chain = (
        (qk + sum(segment.products for segment in tail)) // rate
        + max((issue.products - qk) // rate, _softmax_clocks(softmax, chip))
        + sum(map(_tail_clocks, tail))
    )
    block = spec.key_bytes
    return Round(
        tensor=spec.consumers * sum(segment.products for segment in loop) // rate,
        shared_memory=(spec.consumers * _operand_bytes(spec, size) + _arriving_bytes(spec, size, block))
        // chip.shared_bytes,
        exp2=whole["exp2"] * warps * 32 // chip.exp2,
        half_rate=(whole["max"] + whole["convert"] + whole["other"]) * warps * 32 // chip.half_rate,
        float32=whole["float"] * warps * 32 // chip.full_rate,
        issue=whole.total() * warps // chip.warp_instructions,
        chain=chain,
        bytes=block,
        stages=spec.stages,
        overlapped=softmax.of("exp2") / whole["exp2"],
    )


def _softmax_clocks(segment: Segment, chip: Hopper) -> int:
    """Maxima come before exponentials, and additions run under these; no other consumer computes."""
    lanes = 4 * 32
    return (
        segment.of("max") * lanes // chip.half_rate
        + segment.of("exp2") * lanes // chip.exp2
        + chip.softmax_latency
    )


def _tail_clocks(segment: Segment) -> int:
    """Each scheduler has one warp: a clock for an instruction, two for one of half the rate."""
    return segment.instructions + segment.of("max", "convert", "other")


def _operand_bytes(spec: HopperSpec, size: int) -> int:
    """What a consumer's products read from shared memory: Q, K and V; P is in registers."""
    return (CONSUMER_ROWS + spec.tile.n) * spec.head_dim * size + spec.tile.n * spec.head_dim_v * size


def _arriving_bytes(spec: HopperSpec, size: int, block: int) -> int:
    """What TMA writes; 8-bit values are read and written once more, to transpose them."""
    return block + (2 * spec.tile.n * spec.head_dim_v if size == 1 else 0)
