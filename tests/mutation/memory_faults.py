"""Faults of synchronisation, of copies and of addresses in the forward kernel."""

from planted import (
    ACCESS,
    ASYNC,
    BLOCKS,
    COMPILE,
    CONFLICTS,
    D96,
    D128,
    DEADLOCK,
    DIVERGENCE,
    FWD,
    GROUPED,
    LAUNCH,
    LOOP,
    MIXED,
    MORE_QUERIES,
    ONE_TILE,
    ORDER,
    OUT,
    OUTPUT,
    PTX,
    RACE,
    RAGGED,
    SMALLER,
    UNWRITTEN,
    USED,
    at,
    fault,
    in_file,
    in_kernel,
    in_loop,
    in_output,
    in_store,
    in_tile,
    short,
)

WAIT = "    cp_async_wait<0>();\n"
K_IS_THERE = "    __syncthreads();  // K is there for all; V of the block before is read by none any more\n"
V_IS_THERE = "    __syncthreads();  // V is there for all; K is read by none any more\n"
K_LANE = "TileK::lane_offset(lane.first_key + l % 8 + l / 16 * 8, l / 8 % 2)"
LOOP_BEGINS = "  for (; index >= first_block; --index) {\n"
BEFORE_Q = "  if (index >= first_block) {\n    const auto* q"

SYNCHRONISATION = (
    in_loop("no barrier before V is loaded", K_IS_THERE, "", RACE, races=True),
    in_loop("no barrier before the next K is loaded", V_IS_THERE, "", RACE, races=True),
    in_loop("the wait for K is behind the barrier", WAIT + K_IS_THERE, K_IS_THERE + WAIT, RACE, races=True),
    in_loop("the wait for V is behind the barrier", WAIT + V_IS_THERE, V_IS_THERE + WAIT, RACE, races=True),
    in_store("no __syncwarp before out is read back", "  __syncwarp();\n", "", RACE, races=True),
    in_loop(
        "a wait for K that leaves one group",
        WAIT + K_IS_THERE,
        WAIT.replace("0", "1") + K_IS_THERE,
        UNWRITTEN,
    ),
    in_loop("no wait for K", WAIT + K_IS_THERE, K_IS_THERE, UNWRITTEN),
    in_loop("no commit", "    cp_async_commit();\n", "", UNWRITTEN),
    in_loop(
        "a barrier that half of the lanes reach",
        V_IS_THERE,
        "    if (lane.lane < 16) __syncthreads();\n",
        DIVERGENCE,
    ),
    in_store(
        "a __syncwarp that half of the lanes reach",
        "  __syncwarp();\n",
        "  if (lane.lane < 16) __syncwarp();\n",
        DIVERGENCE,
    ),
    in_loop(
        "a barrier that counts a warp too many",
        V_IS_THERE,
        '    asm volatile("bar.sync 0, %0;" ::"n"(C::kThreads + 32) : "memory");\n',
        DEADLOCK,
    ),
    in_store(
        "a shuffle of valid rows alone",
        "      const float factor = output.finish_row(tile_row, row.max, quad_sum(row.sum), "
        "lane.lane % 4 == 0);\n",
        "      float total = 0.f;\n      if (output.exists(tile_row)) total = quad_sum(row.sum);\n"
        "      const float factor = output.finish_row(tile_row, row.max, total, lane.lane % 4 == 0);\n",
        DIVERGENCE,
    ),
    in_loop(
        "a thread that leaves the loop early",
        "    typename C::ScoreTile s;\n",
        "    if (index == first_block && threadIdx.x == 0) break;\n    typename C::ScoreTile s;\n",
        DIVERGENCE,
    ),
    in_loop("a loop that does not end", LOOP_BEGINS, LOOP_BEGINS.replace("--index", ""), DEADLOCK),
    in_loop(
        "tiles are loaded although no block is visible",
        BEFORE_Q,
        BEFORE_Q.replace("if (index >= first_block) ", ""),
        ACCESS,
        FWD,
        MORE_QUERIES,
    ),
    in_loop(
        "a row of blocks ends with the queries that count",
        "first_query >= sequence.stored_q",
        "first_query >= sequence.seqlen_q",
        OUT,
        FWD,
        USED,
    ),
)
"""Barriers, waits and commits."""

TILES = (
    in_loop(
        "V is loaded over K", "? shared.staged_v : shared.v;", "? shared.staged_v : shared.k;", UNWRITTEN
    ),
    in_loop(
        "V is read from K's array",
        "key_value(TileV{}, p.v, p.v_stride_batch",
        "key_value(TileV{}, p.k, p.v_stride_batch",
        OUT,
    ),
    in_kernel("S is computed with V", "shared.k + " + K_LANE, "shared.v + " + K_LANE, UNWRITTEN),
    in_loop("the next K is this one", "blocks.block(index - 1)", "blocks.block(index)", OUT),
    in_loop("a K before the first one is loaded", "if (index > first_block) k.load", "k.load", ACCESS),
    in_loop(
        "V's tile begins inside K's",
        "shared.v = shared.k + C::kKBytes;",
        "shared.v = shared.k + C::kKBytes / 2;",
        UNWRITTEN,
    ),
    in_loop(
        "K's tile begins inside Q's",
        "shared.k = shared.q + C::kQBytes;",
        "shared.k = shared.q + C::kQBytes - 128;",
        ASYNC,
    ),
    in_loop(
        "V's tile ends outside of shared memory",
        "shared.v = shared.k + C::kKBytes;",
        "shared.v = shared.k + C::kKBytes + 128;",
        ACCESS,
    ),
    in_store(
        "out is staged over V",
        "shared.q + TileOut::lane_offset(tile_row,",
        "shared.v + TileOut::lane_offset(tile_row,",
        ACCESS,
        times=2,
        races=True,
    ),
    fault("the plan has too little shared memory", COMPILE, short(FWD), BLOCKS),
    fault(
        "two fields of the parameters change places",
        OUT,
        FWD,
        MIXED,
        at(
            "common/fwd_params.cuh",
            "  i64 k_stride_row;\n  i64 k_stride_head;\n",
            "  i64 k_stride_head;\n  i64 k_stride_row;\n",
        ),
    ),
    fault(
        "the parameters lack a field",
        COMPILE,
        FWD,
        BLOCKS,
        at("common/fwd_params.cuh", "  i64 page_table_stride;\n", ""),
        at(LOOP, "work.batch * p.page_table_stride", "work.batch"),
    ),
    in_file(
        "common/params.cuh",
        "two lengths of the problem change places",
        "  int seqlen_q;  // of the longest sequence\n  int seqlen_k;  // of the longest sequence\n",
        "  int seqlen_k;\n  int seqlen_q;\n",
        ACCESS,
    ),
    in_kernel(
        "a launch bound below the block",
        "__launch_bounds__(C::kThreads)",
        "__launch_bounds__(C::kThreads / 2)",
        LAUNCH,
    ),
)
"""Which tile is where, and what the plan reserves."""

LOADS = (
    in_tile(
        "rows are loaded unguarded", "bool valid = !Guarded || row + r < rows;", "bool valid = true;", ACCESS
    ),
    in_tile("chunks are loaded unguarded", "valid && chunk + c < chunks", "valid", ACCESS, FWD, SMALLER),
    in_tile("one row too many is loaded", "row + r < rows;", "row + r <= rows;", ACCESS),
    in_tile("ragged tiles count as whole", "rows >= Rows && chunks == kChunks", "chunks == kChunks", ACCESS),
    in_tile(
        "narrow tiles count as whole",
        "rows >= Rows && chunks == kChunks",
        "rows >= Rows",
        ACCESS,
        FWD,
        SMALLER,
    ),
    in_tile(
        "the last chunks are not loaded",
        "c < kChunks; c += kSpan",
        "c < kChunks - kSpan; c += kSpan",
        UNWRITTEN,
        D128,
    ),
    in_file(PTX, "a guarded copy that reads in any case", '"r"(valid ? 16 : 0)', '"r"(16)', ACCESS),
    in_loop(
        "all rows of K count as valid",
        "const int rows = seqlen - first_key;",
        "const int rows = seqlen;",
        ACCESS,
    ),
    in_loop(
        "all rows of Q count as valid",
        "sequence.seqlen_q * p.pack - work.first_row",
        "sequence.seqlen_q * p.pack",
        ACCESS,
        FWD,
        RAGGED,
    ),
    in_loop(
        "rows of a packed tile count as queries",
        "sequence.seqlen_q * p.pack - work.first_row",
        "sequence.seqlen_q - work.first_row",
        OUT,
        FWD,
        GROUPED,
    ),
    in_tile(
        "no swizzle",
        "return kSpan == 8 ? row & 7 : kSpan == 4 ? (row >> 1) & 3 : (row >> 2) & 1;",
        "return 0;",
        CONFLICTS,
        FWD,
        ONE_TILE,
    ),
    in_tile(
        "the swizzle of short rows takes every row", "(row >> 1) & 3", "row & 3", CONFLICTS, D96, ONE_TILE
    ),
    in_tile(
        "copies without the swizzle",
        "tile + lane_offset(row, chunk)",
        "tile + row * kRowBytes + chunk * kChunkBytes",
        OUT,
    ),
    in_tile(
        "reads with another swizzle",
        "(lane_address ^ ((chunk & (kSpan - 1)) * kChunkBytes))",
        "(lane_address + (chunk & (kSpan - 1)) * kChunkBytes)",
        UNWRITTEN,
    ),
    in_tile(
        "chunks behind the swizzle's span are not reached",
        " + (chunk & ~(kSpan - 1)) * kChunkBytes",
        "",
        OUT,
        D128,
    ),
    in_kernel(
        "the Q tile is read with K's rows", "m * 16 * TileK::kRowBytes", "m * 8 * TileK::kRowBytes", OUT
    ),
)
"""Copies from global to shared memory, and the swizzle."""

STRIDES = tuple(
    in_file(
        file,
        f"{name}'s {a} stride is that of the {b}",
        f"p.{name}_stride_{a}",
        f"p.{name}_stride_{b}",
        caught,
        FWD,
        MIXED,
    )
    for file, name, a, b, caught in (
        (LOOP, "k", "head", "row", ACCESS),
        (LOOP, "v", "head", "row", ACCESS),
        (LOOP, "k", "batch", "row", OUT),
        (LOOP, "v", "batch", "head", OUT),
        (LOOP, "q", "batch", "row", OUT),
        (OUTPUT, "out", "head", "row", ACCESS),
        (OUTPUT, "out", "batch", "head", UNWRITTEN),
        (OUTPUT, "lse", "head", "row", ACCESS),
        (OUTPUT, "lse", "batch", "head", UNWRITTEN),
    )
)

ADDRESSES = (
    *STRIDES,
    in_loop(
        "q's rows are as far apart as its heads",
        "work.first_row, p.q_stride_row, p.q_stride_head}",
        "work.first_row, p.q_stride_head, p.q_stride_row}",
        ACCESS,
        FWD,
        MIXED,
    ),
    in_loop(
        "k's row stride is v's",
        "p.k, p.k_stride_batch, p.k_stride_row",
        "p.k, p.k_stride_batch, p.v_stride_row",
        ACCESS,
        FWD,
        MIXED,
    ),
    in_output(
        "lse's row stride is 1",
        "(sequence.first_q + i) * p.lse_stride_row",
        "sequence.first_q + i",
        UNWRITTEN,
        FWD,
        MIXED,
    ),
    in_loop("no batch in q's address", "sequence.entry * p.q_stride_batch +", "0 +", OUT, FWD, RAGGED),
    in_loop(
        "the key head is the query head",
        "kv_head = work.head / p.problem.gqa_ratio",
        "kv_head = work.head",
        ACCESS,
        FWD,
        GROUPED,
    ),
    in_file(
        ORDER,
        "head and batch change places",
        "return {static_cast<int>(sequence_head / heads), static_cast<int>(sequence_head % heads) * p.pack,",
        "return {static_cast<int>(sequence_head % heads), static_cast<int>(sequence_head / heads) * p.pack,",
        ACCESS,
        FWD,
        GROUPED,
    ),
    in_file(
        ORDER,
        "the reversed order is one off",
        "p.q_tiles - 1 - tile",
        "p.q_tiles - tile",
        UNWRITTEN,
        FWD,
        RAGGED,
    ),
    in_file(
        ORDER,
        "tiles of queries are as far apart as those of keys",
        "tile) * C::kTileM",
        "tile) * C::kTileN",
        RACE,
        FWD,
        RAGGED,
        races=True,
    ),
    in_file(
        ORDER,
        "a tile of packed heads begins at its number",
        "sequence_head % heads) * p.pack,",
        "sequence_head % heads),",
        UNWRITTEN,
        FWD,
        GROUPED,
    ),
)
"""Strides, heads and the order of blocks."""

MEMORY_FAULTS = (*SYNCHRONISATION, *TILES, *LOADS, *ADDRESSES)
