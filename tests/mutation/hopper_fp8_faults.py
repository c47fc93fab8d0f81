"""Faults of the Hopper kernels of fp8 operands: values that warps transpose, sums in two levels, descales."""

from functools import partial

from planted import (
    ACCESS,
    ASYNC,
    ATTEND,
    BARRIER,
    CONFIG,
    DEADLOCK,
    FP8_KERNEL,
    GROUPED,
    HOPPER_FP8,
    MIXED,
    OUT,
    PHASES,
    RACE,
    RING,
    TRANSPOSE,
    UNWRITTEN,
    Fault,
    in_file,
)


def _fp8(file: str, name: str, old: str, new: str, caught: str, case: str = PHASES, **options: bool) -> Fault:
    return in_file(file, name, old, new, caught, HOPPER_FP8, case, **options)


in_transpose, in_products = partial(_fp8, TRANSPOSE), partial(_fp8, FP8_KERNEL)
in_config, in_ring = partial(_fp8, CONFIG), partial(_fp8, RING)

FILL = "    fence_async_shared();\n    __syncwarp();\n"
EVEN = "__byte_perm(x[0], x[1], 0x6420), __byte_perm(x[2], x[3], 0x6420)"
LEFT, RIGHT = "left[half], left[half + 1]", "right[half], right[half + 1]"

TRANSPOSITION = (
    in_transpose("even dims are odd ones", EVEN, EVEN.replace("0x6420", "0x7531"), OUT),
    in_transpose(
        "keys of the second half are those of the first", EVEN, EVEN.replace("x[2], x[3]", "x[0], x[1]"), OUT
    ),
    in_transpose("the second chunk of dims is the first", "source ^ kChunkBytes", "source", OUT),
    in_transpose(
        "rows of both chunks lie over each other", "target + i * 16 * C::kSlabRowBytes", "target", UNWRITTEN
    ),
    in_transpose(
        "transposed keys lie without the swizzle",
        "rows ^ first_key % TileVt::kPerSlab",
        "rows + first_key % TileVt::kPerSlab",
        UNWRITTEN,
    ),
    in_transpose("all dims are the first ones", "rows = write +", "rows = to +", UNWRITTEN),
    in_transpose(
        "a part is left out", "item = warp; item <", "item = warp + C::kTransposers; item <", UNWRITTEN
    ),
    in_transpose("all warps transpose the same", "item = warp;", "item = 0;", RACE, races=True),
    in_transpose(
        "values are transposed before they have come", "      shared.v_ring.wait_full(at);\n", "", UNWRITTEN
    ),
    in_transpose(
        "values are transposed over others", "      shared.value_ring.wait_empty(to);\n", "", RACE, races=True
    ),
    in_transpose(
        "values are left before they are transposed", "      shared.v_ring.leave(at);\n", "", DEADLOCK
    ),
    in_transpose("the transposers stay at their stage", "      to.advance();\n", "", DEADLOCK),
    in_ring(
        "products do not see transposed values",
        FILL,
        FILL.replace("    fence_async_shared();\n", ""),
        ASYNC,
        races=True,
    ),
    in_ring(
        "a warp tells of its part before all lanes have written",
        FILL,
        FILL.replace("    __syncwarp();\n", ""),
        RACE,
        races=True,
    ),
    in_config(
        "one transposer fills a stage", "value_ring.init(C::kTransposers,", "value_ring.init(1,", BARRIER
    ),
    in_config(
        "four transposers leave a stage",
        "C::kFp8 ? C::kTransposers :",
        "C::kFp8 ? C::kTransposers + 1 :",
        DEADLOCK,
    ),
)
"""From values as TMA brings them to values as products want them."""

FP8_SUMS = (
    in_products("weights are in the order of accumulators", f"{LEFT}, {RIGHT}", f"{RIGHT}, {LEFT}", OUT),
    in_products(
        "e5m2 values are read as e4m3",
        "FA_V_E5M2 ? Product::kE4m3E5m2 :",
        "false ? Product::kE4m3E5m2 :",
        OUT,
    ),
    in_products(
        "a block's products are added to the last one's",
        "TileVt::along_columns(v, step), step > 0)",
        "TileVt::along_columns(v, step), true)",
        OUT,
    ),
    in_products("O is added up without its factors", "x = x * sums.rescale[e / 2] +", "x = x +", OUT),
    in_products(
        "factors of O are the other row's", "x * sums.rescale[e / 2]", "x * sums.rescale[e % 2]", OUT
    ),
    in_products(
        "a block's products are not added to O",
        "x = x * sums.rescale[e / 2] +",
        "x = x * sums.rescale[e / 2] + 0.f *",
        OUT,
    ),
    in_products(
        "the products of a block are added while they run",
        "    wgmma_wait<0>();\n    pin(sums.piece);\n",
        "    pin(sums.piece);\n",
        ASYNC,
    ),
    _fp8(
        ATTEND,
        "values of all heads are not descaled",
        "C::kFp8 ? find_descale(",
        "false ? find_descale(",
        OUT,
        GROUPED,
    ),
    _fp8(
        ATTEND,
        "values have the descale of the query head",
        "kv_head = me.work.head / p.fwd.problem.gqa_ratio",
        "kv_head = me.work.head",
        ACCESS,
        MIXED,
    ),
)
"""Weights, products and descales."""

HOPPER_FP8_FAULTS = (*TRANSPOSITION, *FP8_SUMS)
