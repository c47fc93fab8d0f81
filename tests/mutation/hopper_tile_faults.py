"""Faults of tiles in the Hopper kernels: descriptors, boxes of TMA, the ends of sequences, scores, sums."""

from functools import partial

from planted import (
    ACCESS,
    ASYNC,
    ATTEND,
    BARRIER,
    BLOCKS,
    CONFIG,
    DEADLOCK,
    GROUPED,
    HOPPER,
    HOPPER_KERNEL,
    HOPPER_NARROW,
    HOPPER_WIDE,
    LARGE_PAGES,
    LAUNCH,
    LOAD,
    LSE,
    ODD,
    ONE_KEY,
    OUT,
    PACKED,
    RACE,
    RAGGED,
    SLABS,
    SMALL_PAGES,
    UNWRITTEN,
    Fault,
    in_file,
    in_hopper_decode,
)


def _wide(
    file: str, name: str, old: str, new: str, caught: str, case: str = BLOCKS, **options: bool
) -> Fault:
    """A fault that rows of several slabs show."""
    return in_file(file, name, old, new, caught, HOPPER_WIDE, case, **options)


def _narrow(file: str, name: str, old: str, new: str, caught: str) -> Fault:
    """A fault that slabs of 64 bytes show."""
    return in_file(file, name, old, new, caught, HOPPER_NARROW, BLOCKS)


in_slabs, in_wide_slabs = partial(in_hopper_decode, SLABS), partial(_wide, SLABS)
in_narrow_slabs = partial(_narrow, SLABS)
in_load, in_wide_load = partial(in_hopper_decode, LOAD), partial(_wide, LOAD)
in_attend, in_wide_attend = partial(in_hopper_decode, ATTEND), partial(_wide, ATTEND)
in_products, in_config = partial(in_hopper_decode, HOPPER_KERNEL), partial(in_hopper_decode, CONFIG)

DESCRIPTORS = (
    in_slabs("descriptors begin at bytes", "(address & 0x3ffff) >> 4", "(address & 0x3ffff)", ACCESS),
    in_wide_slabs(
        "columns of V are as far apart as chunks",
        "16 * SlabRowBytes, kSlabBytes",
        "16 * SlabRowBytes, 16",
        OUT,
    ),
    in_slabs("patterns are as far apart as rows", "kPatternBytes >> 4", "SlabRowBytes >> 4", OUT),
    in_slabs("products read with the swizzle of 64 bytes", "| kSwizzle << 30", "| 2u << 30", UNWRITTEN),
    in_narrow_slabs(
        "products read with the swizzle of 128 bytes", "| kSwizzle << 30", "| 1u << 30", UNWRITTEN
    ),
    in_slabs("products read without a swizzle", "| kSwizzle << 30", "", UNWRITTEN),
    in_slabs(
        "a step along the columns is 64 bytes",
        "step % kSteps * kStepBytes",
        "step % kSteps * 64",
        UNWRITTEN,
    ),
    in_wide_slabs("all steps are in the first slab", "step / kSteps * kSlabBytes", "0", OUT),
    in_wide_slabs("slabs hold twice the steps", "step / kSteps * kSlabBytes", "step / 8 * kSlabBytes", OUT),
    in_slabs("a step along the rows is 8 rows", "step * 16 * SlabRowBytes", "step * 8 * SlabRowBytes", OUT),
    in_slabs(
        "results lie without the swizzle", "chunk ^ row % kPatternRows * SlabRowBytes / 128", "chunk", OUT
    ),
    in_narrow_slabs("rows of 64 bytes are permuted as those of 128", " * SlabRowBytes / 128", "", OUT),
)
"""What products and TMA see of shared memory."""

BOXES = (
    in_load("all keys are of the first head", "source.head, from, entry", "0, from, entry", OUT, GROUPED),
    in_load(
        "a key head is its query head",
        "unit.work.head / p.fwd.problem.gqa_ratio, static",
        "unit.work.head, static",
        OUT,
        GROUPED,
    ),
    in_load("keys of all sequences begin at the first", "source.first_row + key", "key", OUT, PACKED),
    in_load(
        "all keys are of the first entry", "source.head, from, entry", "source.head, from, 0", OUT, RAGGED
    ),
    in_wide_load("all slabs are the first one", "slab * Tile::kPerSlab,\n", "0,\n", OUT),
    in_wide_load("all slabs of queries are the first one", "lane * C::TileQ::kPerSlab", "0", OUT),
    in_wide_load("queries have one slab", "lane < C::TileQ::kSlabs", "lane < 1", DEADLOCK),
    in_load(
        "a key's box is at its row of the block",
        "int from = source.first_row + key;",
        "int from = source.first_row + row;",
        OUT,
    ),
    in_file(
        LOAD,
        "all consumers are sent the first queries",
        "+ query,",
        "+ packed.query(unit.work.first_row),",
        OUT,
        HOPPER,
        BLOCKS,
    ),
    in_load(
        "queries of all sequences begin at the first",
        "static_cast<int>(unit.sequence.first_q) + query",
        "query",
        OUT,
        PACKED,
    ),
    in_load("all queries are of the first entry", "unit.sequence.entry);", "0);", OUT, RAGGED),
    in_load("all queries are of the first head", "kPerSlab, unit.work.head,", "kPerSlab, 0,", OUT, GROUPED),
    in_load(
        "one box of a block of pages is read",
        "boxes = C::kTileN / p.box_rows",
        "boxes = 1",
        DEADLOCK,
        SMALL_PAGES,
    ),
    in_load(
        "boxes of a block lie over each other",
        "+ row * Tile::kSlabRowBytes, &map",
        ", &map",
        ASYNC,
        SMALL_PAGES,
    ),
    in_load(
        "a page is that of the block's first key",
        "key >> p.fwd.page_shift",
        "first_key >> p.fwd.page_shift",
        OUT,
        SMALL_PAGES,
    ),
    in_load(
        "a slot is its key", "from = key & ((1 << p.fwd.page_shift) - 1);", "from = key;", OUT, SMALL_PAGES
    ),
    in_load(
        "every block of a page begins at its first key",
        "from = key & ((1 << p.fwd.page_shift) - 1);",
        "from = row & ((1 << p.fwd.page_shift) - 1);",
        OUT,
        LARGE_PAGES,
    ),
    in_file(
        LOAD,
        "pages behind the sequence are looked up",
        "key < source.seqlen && (",
        "(",
        ACCESS,
        HOPPER,
        ONE_KEY,
    ),
    in_load(
        "pages of all sequences are the first one's",
        "unit.work.batch * p.fwd.page_table_stride",
        "0",
        OUT,
        SMALL_PAGES,
    ),
)
"""Coordinates of boxes."""

CLEARED = "if (!C::kFp8 && first_key + C::kTileN > unit.mask.seqlen_k) {"
CLEAR_ENDS = "  fence_async_shared();\n  named_sync(kConsumersBarrier, C::kConsumerThreads);\n"

ENDS = (
    in_attend("values behind the last key are multiplied", CLEARED, "if (false) {", OUT, SMALL_PAGES),
    in_attend(
        "a value behind the last key is left",
        "+ keys * C::kSlabRowBytes;",
        "+ (keys + 1) * C::kSlabRowBytes;",
        ASYNC,
        SMALL_PAGES,
    ),
    in_attend(
        "the last value is cleared",
        "+ keys * C::kSlabRowBytes;",
        "+ (keys - 1) * C::kSlabRowBytes;",
        OUT,
        SMALL_PAGES,
    ),
    in_wide_attend("values of one slab are cleared", "slab < C::TileV::kSlabs", "slab < 1", OUT, SMALL_PAGES),
    in_attend(
        "values of the first warpgroup's share are left",
        "threadIdx.x - 128; i < chunks",
        "threadIdx.x; i < chunks",
        OUT,
        SMALL_PAGES,
    ),
    in_attend(
        "cleared values are not shown to products",
        CLEAR_ENDS,
        CLEAR_ENDS.replace("  fence_async_shared();\n", ""),
        ASYNC,
        SMALL_PAGES,
        races=True,
    ),
    in_attend(
        "no barrier behind clearing", CLEAR_ENDS, "  fence_async_shared();\n", RACE, SMALL_PAGES, races=True
    ),
    in_file(
        ATTEND,
        "the barrier behind clearing is one consumer's",
        "named_sync(kConsumersBarrier, C::kConsumerThreads)",
        "named_sync(kConsumersBarrier, 128)",
        BARRIER,
        HOPPER,
        SMALL_PAGES,
    ),
    in_config(
        "rows that no query fills are not cleared",
        "i < C::kConsumers * C::TileQ::kSlabs * unused",
        "i < 0",
        UNWRITTEN,
        ODD,
    ),
    in_file(
        CONFIG,
        "unused rows of one consumer are cleared",
        "i < C::kConsumers * C::TileQ::kSlabs * unused",
        "i < C::TileQ::kSlabs * unused",
        UNWRITTEN,
        HOPPER,
        ODD,
    ),
    in_config(
        "cleared rows are not shown to products",
        "    fence_async_shared();\n    __syncthreads();\n",
        "    __syncthreads();\n",
        ASYNC,
        ODD,
        races=True,
    ),
)
"""What lies behind the last key, and in rows without a query."""

SCORES_AND_SUMS = (
    in_attend("O keeps its old maxima", "      Products::rescale(o, sums, rescale);\n", "", OUT),
    in_attend("rows take each other's factors", "factor[e / 2]", "factor[e % 2]", OUT),
    in_attend(
        "the last P V is left out",
        "    Products::issue_pv(o, sums, weights, shared.values_of(v_at));\n    Products::wait",
        "    Products::wait",
        OUT,
    ),
    in_attend(
        "P V takes the values of the next block",
        "        Products::issue_pv(o, sums, weights, shared.values_of(v_at));\n",
        "        Products::issue_pv(o, sums, weights, shared.values_of(k_at));\n",
        UNWRITTEN,
    ),
    in_attend(
        "masks are those of the block before",
        "unit.mask, first_key);",
        "unit.mask, first_key + C::kTileN);",
        OUT,
    ),
    in_attend("scores are not masked", "apply_mask(s, mask,", "if (false) apply_mask(s, mask,", LSE),
    in_file(
        ATTEND,
        "all consumers multiply the first one's queries",
        "const u32 q = shared.q_of(consumer);",
        "const u32 q = shared.q_of(0);",
        OUT,
        HOPPER,
        BLOCKS,
    ),
    in_file(
        ATTEND,
        "all consumers have the first one's rows",
        "unit.work.first_row + consumer * p.consumer_rows",
        "unit.work.first_row",
        UNWRITTEN,
        HOPPER,
        BLOCKS,
    ),
    in_attend(
        "half of a warp's rows have no first state",
        "rows[0][0] = rows[0][1] = kEmptyRow",
        "rows[0][0] = kEmptyRow",
        OUT,
        GROUPED,
    ),
    in_attend("scores are added to the block before's", "step > 0);", "true);", OUT),
    in_products(
        "each step of P V begins anew",
        "TileV::along_rows(v, step), true)",
        "TileV::along_rows(v, step), step > 0)",
        OUT,
    ),
    in_attend("the last step of Q K^T is left out", "/ kStepBytes;", "/ kStepBytes - 1;", OUT),
    in_products(
        "two weights change places",
        "pack<C::kBf16>(left[0], left[1])",
        "pack<C::kBf16>(left[1], left[0])",
        OUT,
    ),
    in_products(
        "a Hopper launch bound below the block",
        "__launch_bounds__(C::kThreads, 1)",
        "__launch_bounds__(C::kThreads / 2, 1)",
        LAUNCH,
    ),
)
"""Products, masks and the softmax."""

HOPPER_TILE_FAULTS = (*DESCRIPTORS, *BOXES, *ENDS, *SCORES_AND_SUMS)
