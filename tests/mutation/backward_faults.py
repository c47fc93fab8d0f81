"""Faults of the backward pass."""

from functools import partial

from planted import (
    ACCESS,
    BACKWARD_DROPOUT,
    BACKWARD_MODIFIED,
    BLOCKS,
    CONVERT,
    DK,
    DKDV,
    DKDV_ATOMIC,
    DQ,
    DQ_OF,
    DSINK,
    DSLOPES,
    GROUPED,
    MIXED,
    ONE_STAGE,
    PRE,
    RACE,
    RAGGED,
    REDUCE,
    SINKS,
    UNWRITTEN,
    USED,
    WINDOW,
    in_file,
)

SHARED_BWD = "sm80/bwd.cuh"
in_dq, in_dkdv = partial(in_file, "sm80/bwd_dq.cu"), partial(in_file, "sm80/bwd_dkdv.cu")
in_bwd, in_pre = partial(in_file, SHARED_BWD), partial(in_file, "sm80/bwd_preprocess.cu")
in_convert, in_reduce = partial(in_file, "sm80/bwd_convert.cu"), partial(in_file, "sm80/bwd_reduce.cu")
in_queries = partial(in_file, "common/query_tiles.cuh")

WAIT = "      cp_async_wait<0>();\n"
DKDV_TWO_STAGES = (
    WAIT + "      __syncthreads();  // the tiles are there for all; those before are read by none any more\n"
)
DQ_TWO_STAGES = (
    WAIT + "      __syncthreads();  // K and V are there for all; those before are read by none any more\n"
)
K_ROW_IS_READ = "      __syncthreads();  // K is read by none any more\n"

DQ_FAULTS = (
    in_dq(
        "no barrier before the next K and V",
        DQ_TWO_STAGES,
        "      cp_async_wait<0>();\n",
        RACE,
        DQ_OF,
        BLOCKS,
        races=True,
    ),
    in_dq("no wait for K and V", DQ_TWO_STAGES, DQ_TWO_STAGES.partition("\n")[2], UNWRITTEN, DQ_OF, BLOCKS),
    in_dq(
        "K of the other stage",
        "shared.q, shared.k + stage * C::kKBytes",
        "shared.q, shared.k + (stage ^ 1) * C::kKBytes",
        UNWRITTEN,
        DQ_OF,
        BLOCKS,
        races=True,
    ),
    in_dq(
        "dS meets the other stage's K",
        "(dq, dp, shared.k + stage * C::kKBytes",
        "(dq, dp, shared.k + (stage ^ 1) * C::kKBytes",
        UNWRITTEN,
        DQ_OF,
        BLOCKS,
        races=True,
    ),
    in_dq("the stage does not change", "      stage ^= 1;\n", "", DQ, DQ_OF, BLOCKS),
    in_dq(
        "no barrier before the next K, with one stage",
        K_ROW_IS_READ,
        "",
        RACE,
        ONE_STAGE.dq,
        BLOCKS,
        races=True,
    ),
    in_dq(
        "a wait for V that leaves both, with one stage",
        "cp_async_wait<1>();",
        "cp_async_wait<2>();",
        UNWRITTEN,
        ONE_STAGE.dq,
        BLOCKS,
    ),
    in_dq(
        "lse and the row term change places",
        "stats[m][half].lse = p.row_lse[row];\n        stats[m][half].term = p.row_term[row];",
        "stats[m][half].lse = p.row_term[row];\n        stats[m][half].term = p.row_lse[row];",
        DQ,
        DQ_OF,
        BLOCKS,
    ),
    in_dq(
        "dq is not scaled",
        "write_rows<C::kBf16, TileK>(dq, p.softmax_scale,",
        "write_rows<C::kBf16, TileK>(dq, 1.f,",
        DQ,
        DQ_OF,
        BLOCKS,
    ),
    in_dq(
        "unused rows of dq are not written",
        "sequence.stored_q - first_row, chunks);\n}",
        "sequence.seqlen_q - first_row, chunks);\n}",
        DQ,
        DQ_OF,
        USED,
    ),
    in_dq("no mask", "apply_mask(s, mask, lane, first_row, key);", "", DQ, DQ_OF, BLOCKS),
    in_dq(
        "the mask's row is one lower",
        "const int begin = mask.begin(row);",
        "const int begin = mask.begin(row + 1);",
        DQ,
        DQ_OF,
        WINDOW,
    ),
    in_dq(
        "distances do not know the offset",
        "rule, lane, first_row + mask.offset, key",
        "rule, lane, first_row, key",
        DQ,
        BACKWARD_MODIFIED.dq,
        BLOCKS,
    ),
    in_dq(
        "the gradient of slopes has the other sign",
        "p.dslopes_partials[blockIdx.x] = -sum;",
        "p.dslopes_partials[blockIdx.x] = sum;",
        DSLOPES,
        BACKWARD_MODIFIED.dq,
        BLOCKS,
    ),
    in_dq(
        "rows 8 apart have the same dropout",
        "kept[m] >> (n * 4 + e) & 1",
        "kept[m] >> (n * 4 + e % 2) & 1",
        DQ,
        BACKWARD_DROPOUT.dq,
        BLOCKS,
    ),
)
"""The kernel of dq."""

DKDV_FAULTS = (
    in_dkdv(
        "no barrier before the next Q and dO",
        DKDV_TWO_STAGES,
        "      cp_async_wait<0>();\n",
        RACE,
        DKDV,
        RAGGED,
        races=True,
    ),
    in_dkdv(
        "no wait for Q and dO", DKDV_TWO_STAGES, DKDV_TWO_STAGES.partition("\n")[2], UNWRITTEN, DKDV, RAGGED
    ),
    in_dkdv("the stage of Q does not change", "      stage ^= 1;\n", "", DK, DKDV, RAGGED),
    in_dkdv("lse of the other stage", "shared.lse + stage * C::kStatBytes", "shared.lse", DK, DKDV, RAGGED),
    in_dkdv(
        "lse and the row term change places in dk",
        "is_lse ? p.row_lse : p.row_term",
        "is_lse ? p.row_term : p.row_lse",
        DK,
        DKDV,
        RAGGED,
    ),
    in_dkdv("dk is not scaled", "(dk, p.softmax_scale,", "(dk, 1.f,", DK, DKDV, RAGGED),
    in_dkdv("no mask in dk", "apply_mask(s, mask, lane, work.first_key, first_row);", "", DK, DKDV, RAGGED),
    in_dkdv(
        "the first query is one too late", "n * 8 + e < first ||", "n * 8 + e <= first ||", DK, DKDV, RAGGED
    ),
    in_dkdv("the last query is one too early", "n * 8 + e > last)", "n * 8 + e >= last)", DK, DKDV, WINDOW),
    in_queries(
        "sinks are not seen by all later queries",
        "key < mask.sinks ? kUnlimited : key - mask",
        "key - mask",
        DK,
        DKDV,
        SINKS,
    ),
    in_queries(
        "query tiles before the first are left out",
        "max(queries_of(mask, first_key).first, 0) / tile_m",
        "divide_up(max(queries_of(mask, first_key).first, 0), tile_m)",
        DK,
        DKDV,
        RAGGED,
    ),
    in_dkdv(
        "heads of the group but the first are left out",
        "tiles.count * p.problem.gqa_ratio;",
        "tiles.count;",
        DK,
        DKDV,
        GROUPED,
    ),
    in_dkdv(
        "the group's heads are those of its number",
        "first_head = work.head_kv * p.problem.gqa_ratio",
        "first_head = work.head_kv",
        DK,
        DKDV,
        GROUPED,
    ),
    in_dkdv(
        "no barrier before dk leaves through K",
        "  __syncthreads();  // K and V are read by none any more\n",
        "",
        RACE,
        DKDV_ATOMIC,
        BLOCKS,
        races=True,
    ),
    in_dkdv(
        "unused rows of dk are not written",
        "const int rows = sequence.stored_k - work.first_key;",
        "const int rows = sequence.seqlen_k - work.first_key;",
        DK,
        DKDV,
        USED,
    ),
    in_dkdv(
        "no barrier before dS is read",
        "      __syncthreads();  // dS is there for all\n",
        "",
        RACE,
        DKDV_ATOMIC,
        BLOCKS,
        races=True,
    ),
    in_dkdv(
        "dq of another head's rows",
        "p.dq_accumulator + row * C::kHeadDim",
        "p.dq_accumulator + first_row * C::kHeadDim",
        DQ,
        DKDV_ATOMIC,
        RAGGED,
    ),
    in_dkdv(
        "dS is stored without a swizzle",
        "tile + TileDs::lane_offset(lane.row(m, half), 0)",
        "tile + lane.row(m, half) * TileDs::kRowBytes",
        DQ,
        DKDV_ATOMIC,
        BLOCKS,
    ),
    in_bwd(
        "additions to dq are stores",
        "red.global.add.f32",
        "st.global.f32",
        RACE,
        DKDV_ATOMIC,
        RAGGED,
        races=True,
    ),
)
"""The kernel of dk and dv, and where it adds to dq."""

OTHER_FAULTS = (
    in_bwd("dP loses no row term", "dp = s * (dp - term);", "dp = s * dp;", DK, DKDV, RAGGED),
    in_bwd(
        "the softcap has no derivative",
        "dp = ds * (1.f - tanh * tanh);",
        "dp = ds;",
        DQ,
        BACKWARD_MODIFIED.dq,
        BLOCKS,
    ),
    in_bwd(
        "what dropout keeps is not scaled up",
        "kept ? dp * rule.dropout_scale : 0.f",
        "kept ? dp : 0.f",
        DQ,
        BACKWARD_DROPOUT.dq,
        BLOCKS,
    ),
    in_bwd(
        "no __syncwarp before rows are read back",
        "  __syncwarp();\n  constexpr int kSpan = T::kSpan;",
        "  constexpr int kSpan = T::kSpan;",
        RACE,
        DQ_OF,
        BLOCKS,
        races=True,
    ),
    in_bwd(
        "one row too many is written",
        "if (row < rows && chunk + c < chunks)",
        "if (row <= rows && chunk + c < chunks)",
        ACCESS,
        DQ_OF,
        BLOCKS,
    ),
    in_pre(
        "delta of half of the elements",
        "dot2(x.z, y.z) + dot2(x.w, y.w);",
        "dot2(x.z, y.z);",
        DQ,
        PRE,
        BLOCKS,
    ),
    in_pre(
        "delta misses a step of its sum",
        "step = C::kLanesPerRow / 2; step > 0;",
        "step = C::kLanesPerRow / 2; step > 1;",
        DQ,
        PRE,
        BLOCKS,
    ),
    in_pre(
        "no barrier before deltas are read",
        "    __syncthreads();\n\n    const i64 stats",
        "    const i64 stats",
        RACE,
        PRE,
        BLOCKS,
        races=True,
    ),
    in_pre("lse stays in base e", "lse2 = lse * kLog2E;", "lse2 = lse;", DQ, PRE, BLOCKS),
    in_pre("the gradient of lse is added", "term -= dlse", "term += dlse", DQ, PRE, RAGGED),
    in_pre("the sink is not in the weights", "lse2 += sink_excess;", "", DQ, PRE, SINKS),
    in_pre(
        "the sink's gradient has the other sign",
        "dsink = -exp2_approx(gap - sink_excess) * term;",
        "dsink = exp2_approx(gap - sink_excess) * term;",
        DSINK,
        PRE,
        SINKS,
    ),
    in_convert(
        "dq's sums are not scaled",
        "write_rows<C::kBf16, TileQ>(dq, p.softmax_scale,",
        "write_rows<C::kBf16, TileQ>(dq, 1.f,",
        DQ,
        CONVERT,
        BLOCKS,
    ),
    in_convert(
        "fragments of dq change places",
        "dq_fragment(0, n * 8, 0, e)",
        "dq_fragment(0, n * 8, 0, e ^ 1)",
        DQ,
        CONVERT,
        BLOCKS,
    ),
    in_reduce("sums of one sequence", "p.sums_batch == 1 ? p.batch : 1", "1", DSINK, REDUCE, "mixed strides"),
    in_reduce(
        "all heads have the first one's sum",
        "p.heads + head) * p.tiles",
        "p.heads) * p.tiles",
        DSINK,
        REDUCE,
        MIXED,
    ),
)
"""What the kernels share, and the small ones."""

BACKWARD_FAULTS = (*DQ_FAULTS, *DKDV_FAULTS, *OTHER_FAULTS)
