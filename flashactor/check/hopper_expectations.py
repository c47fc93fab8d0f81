"""Which instructions a kernel of the wgmma family must hold and which it must not, each with its reason."""

from __future__ import annotations

from flashactor.check.expectation import Expectation, none
from flashactor.kernels.sm90 import HopperSpec
from flashactor.types import DType

SPLITS = {2: (24, 240), 3: (32, 160)}
"""Registers of a thread of the producer and of a consumer, by the number of consumers: together what the
block is launched with. Beside a single consumer each thread may have all that an instruction can name."""

_TILES = (
    Expectation("TMA loads", r"UTMALDG\.4D", "tiles of q, k and v come in boxes, by one instruction each"),
    Expectation("TMA stores", r"UTMASTG\.4D", "tiles of results whose rows all exist leave in boxes"),
    Expectation("cp.async.bulk.commit_group", r"UTMACMDFLUSH", "the boxes of a tile are a group"),
    Expectation("cp.async.bulk.wait_group", r"DEPBAR\.LE", "queries come where results lay that have left"),
    Expectation("prefetch.tensormap", r"UTMACCTL\.PF", "maps are there when the first box is asked for"),
    Expectation("8-byte stores", r"STG\.E\.64", "partial results leave as a thread has them"),
    Expectation("16-byte stores", r"STG\.E\.128", "rows that TMA must not store leave in whole sectors"),
    Expectation("16-byte loads of rows", r"LDS\.128", "rows that TMA must not store are read in chunks"),
    Expectation("zeros", r"STS\.128", "rows that no query fills are zeros, and values behind the last key"),
    none("cp.async", r"LDGSTS\..*", "it costs each thread an instruction for 16 bytes"),
)
_ORDER = (
    Expectation("mbarrier.init", r"SYNCS\.EXCH\.64", "a ring has a full and an empty barrier for each stage"),
    Expectation("mbarrier.try_wait", r"SYNCS\.PHASECHK\.TRANS64\.TRYWAIT", "a stage is full, or empty again"),
    Expectation(
        "mbarrier.expect_tx", r"SYNCS\.ARRIVE\.TRANS64", "a stage is full when all its bytes are there"
    ),
    Expectation(
        "mbarrier.arrive", r"SYNCS\.ARRIVE\.TRANS64\.A1T0", "a stage is empty when all warps left it"
    ),
    Expectation("fence.proxy.async", r"FENCE\.VIEW\.ASYNC\.S", "TMA and wgmma see what threads have stored"),
    Expectation("wgmma.fence", r"WARPGROUP\.ARRIVE", "registers are written before a product adds to them"),
    Expectation("wgmma.wait_group", r"WARPGROUP\.DEPBAR\.LE", "sums are read when their product is complete"),
    Expectation("bar.sync", r"BAR\.SYNC.*", "all see the barriers, and a consumer's warps each other's rows"),
)
_SOFTMAX = (
    Expectation("ex2", r"MUFU\.EX2", "the softmax is in powers of two"),
    Expectation("lg2", r"MUFU\.LG2", "the log-sum-exp is in base two until the end"),
    Expectation("shfl.bfly", r"SHFL\.BFLY", "lanes share what they know of a row"),
)


# ptxas makes a commit of no product the smallest product there is, of nothing.
_EMPTY_GROUP = r"HGMMA\.64x8x16\.F16"


def _products(opcode: str, what: str) -> tuple[Expectation, ...]:
    others = rf"(?!({opcode}|{_EMPTY_GROUP})$)[A-Z]+MMA\..*"
    return (
        Expectation("products", opcode, what),
        none("other products", others, "of another type, or not at wgmma's rate"),
    )


_PRODUCTS = {
    DType.BF16: _products(r"HGMMA\.64x\d+x16\.F32\.BF16", "wgmma of bf16 with sums in f32"),
    DType.F16: _products(r"HGMMA\.64x\d+x16\.F32", "wgmma of f16 with sums in f32"),
    DType.F8E4M3: _products(r"QGMMA\.64x\d+x32\.F32\.E4M3\.E[45]M[32]", "wgmma of fp8 with sums in f32"),
}
_ROUNDING = {
    DType.BF16: (
        Expectation("packed rounding", r"F2FP\.BF16\.F32\.PACK_AB", "results become bf16 two at a time"),
    ),
    DType.F16: (
        Expectation("packed rounding", r"F2FP\.F16\.F32\.PACK_AB", "results become f16 two at a time"),
    ),
    DType.F8E4M3: (
        Expectation("fp8 rounding", r"F2FP\.SATFINITE\.E4M3\..*", "P becomes e4m3, saturated"),
        Expectation(
            "packed rounding", r"F2FP\.(BF16|F16)\.F32\.PACK_AB", "results become 16-bit, two at a time"
        ),
    ),
}
_TRANSPOSED = (
    Expectation("ldmatrix.trans", r"LDSM\.16\.MT88\.4", "8-bit wgmma wants the keys of a value side by side"),
    Expectation("stmatrix", r"STSM\.16\.M88\.4", "transposed values are stored four 8x8 matrices at a time"),
)
_TURNS = (Expectation("bar.arrive", r"BAR\.ARV", "who has issued its products passes the turn on"),)


def _split(consumers: int) -> tuple[Expectation, ...]:
    """How a block's registers are shared out."""
    if consumers not in SPLITS:
        return (none("setmaxnreg", r"USETMAXREG.*", "the registers of the launch are enough for each role"),)
    producer, consumer = SPLITS[consumers]
    released = rf"USETMAXREG\.DEALLOC\.CTAPOOL\({producer}\)"
    claimed = rf"USETMAXREG\.TRY_ALLOC\.CTAPOOL\({consumer}\)"
    return (
        Expectation("setmaxnreg.dec", released, f"the producer gives back all but {producer} registers"),
        Expectation("setmaxnreg.inc", claimed, f"S, P and O of a consumer take {consumer} registers"),
        none("setmaxnreg", rf"(?!({released}|{claimed})$)USETMAXREG.*", "they do not add up to the block's"),
    )


def hopper_rows(spec: HopperSpec) -> tuple[Expectation, ...]:
    """The rows that are for a kernel of this family alone."""
    return (
        *_TILES,
        *_ORDER,
        *_SOFTMAX,
        *_PRODUCTS[spec.dtype],
        *_ROUNDING[spec.dtype],
        *(_TURNS if spec.consumers > 1 else ()),
        *(_TRANSPOSED if spec.dtype.is_fp8 else ()),
        *_split(spec.consumers),
    )
