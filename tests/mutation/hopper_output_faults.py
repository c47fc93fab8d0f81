"""Faults of work and results in the Hopper kernels: which tile, which split, which rows, who stores them."""

from functools import partial

from planted import (
    ACCESS,
    ASYNC,
    ATTEND,
    BARRIER,
    BLOCKS,
    DEADLOCK,
    GROUPED,
    HOPPER_DECODE,
    HOPPER_WIDE,
    MIXED,
    MORE_QUERIES,
    ODD,
    ONE_RESIDENT,
    OUT,
    PACKED,
    RACE,
    RAGGED,
    RESIDENT,
    SPLITS,
    TILE_ORDER,
    TILE_STORE,
    UNWRITTEN,
    USED,
    at,
    fault,
    in_file,
    in_hopper,
    in_hopper_decode,
)

in_store, in_order, in_attend = (
    partial(in_hopper_decode, TILE_STORE),
    partial(in_hopper_decode, TILE_ORDER),
    partial(in_hopper_decode, ATTEND),
)

READ = "  named_sync(barrier, 128);  // all warps have read the queries\n"
WRITTEN = "  fence_async_shared();\n  named_sync(barrier, 128);  // all warps have written their rows\n"
WHOLE = "if (!p.fwd.problem.cu_seqlens_q || last < sequence.stored_q) {"
WAIT_READ = "      tma_store_wait_read();\n"
LEAVE_QUERIES = "    q_ring.leave(q_at);\n"
STEP = "index += gridDim.x"

STORES = (
    in_store("results come over queries that are read", READ, "", RACE, races=True),
    in_store("no barrier before the tile is stored", WRITTEN, "  fence_async_shared();\n", RACE, races=True),
    in_store(
        "TMA does not see the results",
        WRITTEN,
        WRITTEN.replace("  fence_async_shared();\n", ""),
        ASYNC,
        races=True,
    ),
    in_hopper(
        TILE_STORE,
        "consumers share a barrier",
        "barrier = kOwnBarrier + me.number;",
        "barrier = kOwnBarrier;",
        BARRIER,
    ),
    in_store("a barrier of the consumer counts a warp too many", READ, READ.replace("128", "160"), DEADLOCK),
    in_store("a thread leaves before its results are read", WAIT_READ, "", ASYNC),
    in_store("the store is not committed", "      tma_store_commit();\n", "", ASYNC),
    in_store(
        "every warp stores the tile",
        "if (threadIdx.x % 128 == 0) {",
        "if (threadIdx.x % 32 == 0) {",
        RACE,
        races=True,
    ),
    in_hopper(
        TILE_STORE,
        "all consumers store the first one's rows",
        "+ me.first_query, sequence.entry",
        ", sequence.entry",
        UNWRITTEN,
    ),
    in_hopper(
        TILE_STORE,
        "tiles of all sequences are stored at the first",
        "static_cast<int>(sequence.first_q) + me.first_query",
        "me.first_query",
        RACE,
        PACKED,
        races=True,
    ),
    in_store(
        "a tile is stored at the first head", "kPerSlab, me.work.head,", "kPerSlab, 0,", UNWRITTEN, GROUPED
    ),
    in_store(
        "a tile is stored at the first entry",
        "me.first_query, sequence.entry);",
        "me.first_query, 0);",
        UNWRITTEN,
        RAGGED,
    ),
    in_store("a ragged tile is stored whole", WHOLE, "if (true) {", RACE, PACKED, races=True),
    in_store(
        "chunks of ragged tiles are stored unguarded",
        "if (output.exists(tile_row) && dim <",
        "if (dim <",
        ACCESS,
        PACKED,
    ),
    in_store(
        "chunks are read back without the swizzle",
        "tile_row, dim % TileOut::kPerSlab / kChunkElements);\n      store_global_16",
        "0, dim % TileOut::kPerSlab / kChunkElements);\n      store_global_16",
        OUT,
        PACKED,
    ),
    in_file(
        TILE_STORE,
        "all slabs of results are stored as the first one",
        "slab * TileOut::kPerSlab, me",
        "0, me",
        UNWRITTEN,
        HOPPER_WIDE,
        BLOCKS,
    ),
    in_file(
        TILE_STORE,
        "one slab of results is stored",
        "slab < TileOut::kSlabs",
        "slab < 1",
        UNWRITTEN,
        HOPPER_WIDE,
        BLOCKS,
    ),
    in_store("half of the rows lie over the others", "half * TileOut::kPatternBytes", "0", OUT),
    in_hopper(
        TILE_STORE,
        "rows that no query fills have an lse",
        " && tile_row < p.consumer_rows;",
        ";",
        RACE,
        ODD,
        races=True,
    ),
    in_store(
        "partial rows that do not exist are stored",
        "tile_row < p.consumer_rows && output.exists(tile_row) ? p.fwd.problem.head_dim_v : 0;",
        "p.fwd.problem.head_dim_v;",
        ACCESS,
        SPLITS,
    ),
    in_store(
        "partial chunks are stored to the padded head",
        "r * Runs::kDims < dims, to",
        "dims > 0, to",
        RACE,
        SPLITS,
        races=True,
    ),
    in_hopper(
        TILE_STORE,
        "nothing is stored for rows that see no key",
        "    } else {\n      store_global_16(output.out(tile_row) + dim, {0, 0, 0, 0});\n",
        "",
        UNWRITTEN,
        MORE_QUERIES,
    ),
    in_hopper(
        TILE_STORE,
        "rows that see no key have no lse",
        "    if (dim == 0) output.finish_row(tile_row, -kInfinity, 0.f, true);\n",
        "",
        UNWRITTEN,
        MORE_QUERIES,
    ),
    in_store(
        "rows behind the last are stored as zeros",
        "    if (!output.exists(tile_row)) break;\n",
        "",
        ACCESS,
        PACKED,
    ),
    in_attend("queries are never left", LEAVE_QUERIES, "", DEADLOCK, ONE_RESIDENT),
    fault(
        "queries are left before results are stored",
        ASYNC,
        HOPPER_DECODE,
        ONE_RESIDENT,
        at(ATTEND, LEAVE_QUERIES, ""),
        at(ATTEND, "    store(o, rows,", LEAVE_QUERIES + "    store(o, rows,"),
        races=True,
    ),
)
"""Results on their way to global memory."""

WORK_ITEMS = (
    in_order(
        "a line's head and batch change places",
        "sequence_head / heads), static_cast<int>(sequence_head % heads) * p.fwd.pack,",
        "sequence_head % heads), static_cast<int>(sequence_head / heads) * p.fwd.pack,",
        ACCESS,
        GROUPED,
    ),
    in_order(
        "a group begins at its number",
        "sequence_head % heads) * p.fwd.pack,",
        "sequence_head % heads),",
        UNWRITTEN,
        GROUPED,
    ),
    in_order(
        "groups are as many as heads",
        "p.fwd.problem.heads_q / p.fwd.pack",
        "p.fwd.problem.heads_q",
        UNWRITTEN,
        MIXED,
    ),
    in_hopper(
        TILE_ORDER,
        "the reversed order of tiles is one off",
        "p.fwd.q_tiles - 1 - tile",
        "p.fwd.q_tiles - tile",
        UNWRITTEN,
        RAGGED,
    ),
    in_hopper(
        TILE_ORDER,
        "a tile is its line",
        "static_cast<int>(within / lines)",
        "static_cast<int>(within % lines)",
        UNWRITTEN,
        MORE_QUERIES,
    ),
    in_order(
        "all splits are the first", "static_cast<int>(line % p.fwd.num_splits)", "0", RACE, SPLITS, races=True
    ),
    in_order(
        "lines are sequences and heads",
        "sequence_head = line / p.fwd.num_splits",
        "sequence_head = line",
        ACCESS,
        SPLITS,
    ),
    in_hopper(
        TILE_ORDER,
        "tiles have 64 rows a consumer",
        "* C::kConsumers * p.consumer_rows};",
        "* C::kConsumers * C::kRows};",
        UNWRITTEN,
        "pairs of odd groups",
    ),
    in_hopper(
        TILE_ORDER,
        "a tile's keys are those of its first consumer",
        "w.first_row + C::kConsumers * p.consumer_rows - 1",
        "w.first_row + p.consumer_rows - 1",
        OUT,
        RAGGED,
    ),
    in_order(
        "splits share a block", "first = w.split * share;", "first = w.split * (share - 1);", OUT, SPLITS
    ),
    in_order(
        "a split reaches to the end", "min(first + share, blocks.count) - 1", "blocks.count - 1", OUT, SPLITS
    ),
    in_order(
        "the last block of keys is left out",
        "min(first + share, blocks.count) - 1",
        "min(first + share, blocks.count) - 2",
        OUT,
    ),
    in_order(
        "a split's share is rounded down",
        "divide_up(blocks.count, p.fwd.num_splits)",
        "blocks.count / p.fwd.num_splits",
        OUT,
        SPLITS,
    ),
    in_order(
        "tiles of queries that do not count are left out",
        "< sequence.stored_q;",
        "< sequence.seqlen_q;",
        OUT,
        USED,
    ),
    in_hopper(
        ATTEND,
        "consumers are 64 rows apart",
        "unit.work.first_row + consumer * p.consumer_rows",
        "unit.work.first_row + consumer * C::kRows",
        UNWRITTEN,
        ODD,
    ),
    fault(
        "resident blocks take the next tile",
        RACE,
        HOPPER_DECODE,
        RESIDENT,
        at(ATTEND, STEP, "++index"),
        at("sm90/fwd_load.cuh", STEP, "++index"),
        races=True,
    ),
    in_attend("a consumer takes the next tile", STEP, "++index", DEADLOCK, RESIDENT),
    in_attend("a resident block takes one tile", "index < p.tiles", "index < gridDim.x", UNWRITTEN, RESIDENT),
)
"""Tiles, splits and resident blocks."""

HOPPER_OUTPUT_FAULTS = (*STORES, *WORK_ITEMS)
