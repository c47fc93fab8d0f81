"""Faults where heads, warps or thread blocks share work: packed rows, decode tiles, splits."""

from functools import partial

from planted import (
    ACCESS,
    COMBINE,
    DECODE,
    FWD,
    GROUPED,
    LSE,
    MORE_QUERIES,
    ONE_KEY_HEAD,
    ORDER,
    OUT,
    RACE,
    ROWS,
    SCORES,
    SMALLER,
    SPLITS,
    UNWRITTEN,
    WORK,
    in_file,
    in_loop,
    in_output,
    in_store,
)

in_rows, in_scores = partial(in_file, ROWS), partial(in_file, SCORES)
in_combine = partial(in_file, "common/combine.cu")

PACKING = (
    in_rows(
        "a packed row is a query",
        "return static_cast<int>(__umulhi(opaque(2u * row), multiplier) >> shift);",
        "return row;",
        ACCESS,
        FWD,
        GROUPED,
    ),
    in_rows("the head is the row", "return row - query(row) * pack;", "return row;", ACCESS, FWD, GROUPED),
    in_rows(
        "packed queries are all of the first head", "(row - i * pack) * stride_head", "0", OUT, FWD, GROUPED
    ),
    in_loop(
        "the first query is the first row",
        "first_query = packed.query(work.first_row)",
        "first_query = work.first_row",
        UNWRITTEN,
        FWD,
        ONE_KEY_HEAD,
    ),
    in_scores(
        "rows of a packed tile have masks of their own",
        "const int query = rows.query(tile_row + lane.row(m, half));\n      const int end",
        "const int query = tile_row + lane.row(m, half);\n      const int end",
        OUT,
        FWD,
        GROUPED,
    ),
)
"""Heads that share a tile."""

DECODING = (
    in_file(WORK, "every warp has the first keys", "0 : warp * C::kKeysPerWarp", "0 : 0", OUT, DECODE),
    in_loop(
        "masks are those of the first warp",
        "const int warp_key = first_key + lane.first_key;",
        "const int warp_key = first_key;",
        OUT,
        DECODE,
    ),
    in_store(
        "no barrier before the parts are stored",
        "  __syncthreads();\n#pragma unroll\n  for (int m = 0; m < C::kMTiles; ++m)\n"
        "#pragma unroll\n    for (int half = 0; half < 2; ++half) {\n      const int row = at",
        "#pragma unroll\n  for (int m = 0; m < C::kMTiles; ++m)\n#pragma unroll\n"
        "    for (int half = 0; half < 2; ++half) {\n      const int row = at",
        RACE,
        DECODE,
        races=True,
    ),
    in_store(
        "no barrier before the parts are merged",
        "  __syncthreads();\n  const int chunks",
        "  const int chunks",
        RACE,
        DECODE,
        races=True,
    ),
    in_store(
        "parts of warps lie over each other",
        "return warp * C::kTileM + row;",
        "return row;",
        RACE,
        DECODE,
        races=True,
    ),
    in_store(
        "a warp's part counts in full",
        "const float weight = exp2_approx(__fsub_rn(__fmul_rn(maxima[w], scale_log2), exponent));",
        "const float weight = 1.f;",
        OUT,
        DECODE,
    ),
    in_store(
        "the last warp's part is left out",
        "    for (int w = 0; w < C::kKeyWarps; ++w) {\n      const float weight",
        "    for (int w = 0; w < C::kKeyWarps - 1; ++w) {\n      const float weight",
        OUT,
        DECODE,
    ),
    in_store(
        "rows of warps without a key are divided by 0",
        "largest == -kInfinity ? 0.f : __fmul_rn(largest, scale_log2)",
        "__fmul_rn(largest, scale_log2)",
        OUT,
        DECODE,
        MORE_QUERIES,
    ),
    in_store(
        "chunks of nobody are stored",
        "if (!output.exists(tile_row) || chunk >= chunks) continue;",
        "if (!output.exists(tile_row)) continue;",
        ACCESS,
        DECODE,
        SMALLER,
    ),
)
"""Decode tiles, whose warps share the keys."""

SPLITTING = (
    in_loop(
        "splits overlap",
        "const int first_block = work.split * share;",
        "const int first_block = work.split * (share - 1);",
        OUT,
        DECODE,
        SPLITS,
    ),
    in_loop(
        "each split reaches to the end",
        "min(first_block + share, blocks.count) - 1",
        "blocks.count - 1",
        OUT,
        DECODE,
        SPLITS,
    ),
    in_loop(
        "the share is rounded down",
        "divide_up(blocks.count, p.num_splits)",
        "blocks.count / p.num_splits",
        OUT,
        DECODE,
        SPLITS,
    ),
    in_output(
        "splits write over each other",
        "work.split * p.partial_rows +",
        "0 +",
        RACE,
        DECODE,
        SPLITS,
        races=True,
    ),
    in_output(
        "partial rows of all heads are one",
        "head(tile_row) * p.partial_stride_head + sequence.first_q",
        "sequence.first_q",
        RACE,
        DECODE,
        SPLITS,
        races=True,
    ),
    in_file(
        ORDER,
        "the split is the head",
        "static_cast<int>(tiled % p.num_splits)",
        "static_cast<int>(sequence_head % p.num_splits)",
        RACE,
        DECODE,
        SPLITS,
        races=True,
    ),
    in_store(
        "partial rows of a prefill are stored unguarded",
        "if (output.exists(tile_row) && r * Runs::kDims < p.problem.head_dim_v) {\n"
        "            run.store_partial",
        "if (r * Runs::kDims < p.problem.head_dim_v) {\n            run.store_partial",
        ACCESS,
        FWD,
        SPLITS,
        races=True,
    ),
    in_combine(
        "weights are not in base two",
        "- origin) * kLog2E);\n    total",
        "- origin));\n    total",
        OUT,
        COMBINE,
        "many splits",
    ),
    in_combine(
        "rows without a key are subtracted from infinity",
        "largest == -kInfinity ? 0.f : largest",
        "largest",
        OUT,
        COMBINE,
        "rows without keys",
    ),
    in_combine(
        "merged splits are not normalised",
        "const float factor = normaliser(total);",
        "const float factor = 1.f;",
        OUT,
        COMBINE,
        "two splits",
    ),
    in_combine(
        "the sink is forgotten",
        "if (p.sink_logits && total != 0.f)",
        "if (false)",
        OUT,
        COMBINE,
        "many splits",
    ),
    in_combine(
        "the sink is in lse",
        "  if (chunk == 0) {\n",
        "  if (p.sink_logits && total != 0.f) total += exp2_approx((p.sink_logits[head] - origin) "
        "* kLog2E);\n  if (chunk == 0) {\n",
        OUT,
        COMBINE,
        "many splits",
    ),
    in_combine(
        "lse of splits in base two",
        "origin + log2_approx(total) * kLn2",
        "origin + log2_approx(total)",
        LSE,
        COMBINE,
        "two splits",
    ),
    in_combine(
        "rows of no sequence are merged",
        "if (p.cu_seqlens_q && query >= p.cu_seqlens_q[p.batch]) return;",
        "",
        UNWRITTEN,
        COMBINE,
        "empty splits",
    ),
    in_combine(
        "splits of rows behind the last are merged",
        "if (row >= p.rows) return;",
        "",
        UNWRITTEN,
        COMBINE,
        "two splits",
    ),
    in_combine(
        "out's head stride is its row stride",
        "head * p.out_stride_head",
        "head * p.out_stride_row",
        ACCESS,
        COMBINE,
        "mixed strides",
    ),
)
"""Splits of the keys, and what merges them."""

SHARING_FAULTS = (*PACKING, *DECODING, *SPLITTING)
