"""Faults of masks, of the softmax, of the products and of stores in the forward kernel."""

from memory_faults import K_LANE
from planted import (
    ACCESS,
    AHEAD,
    D128,
    FWD,
    FWD_F16,
    HOPPER_FULL,
    LSE,
    MASK,
    MEMORY,
    MORE_QUERIES,
    ONE_KEY,
    ONE_KEY_HEAD,
    OUT,
    PACKED,
    RACE,
    RAGGED,
    SCORES,
    SINKS,
    SMALLER,
    SOFTMAX,
    STEEP,
    TYPES,
    UNWRITTEN,
    USED,
    WINDOW,
    WORK,
    in_file,
    in_kernel,
    in_loop,
    in_output,
    in_store,
)

MMA_0, MMA_1 = "[m][n], a[m], b[0], b[1]);", "[m][n + 1], a[m], b[2], b[3]);"
RESCALE = "        o[m][n][half * 2] *= rescale;\n        o[m][n][half * 2 + 1] *= rescale;\n"
END = "return min(seqlen_k, row + offset + 1 + right);"
LARGEST = "fmaxf(largest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]))"
OUT_GUARD = "if (exists && (chunk + c) * kChunkElements < p.problem.head_dim_v) {"
LSE_OF_ROW = "(exponent + log2_approx(total)) * kLn2"
MASKED = "if (mask.cuts_right(first_query, first_key, C::kTileN) || mask.cuts_left(last_query, first_key)) {"
VISIBLE = "max(divide_up(max(mask.end(last_row), 0), tile_n) - window, 0)"

MASKS = (
    in_file(MASK, "the diagonal is one too low", END, END.replace(" + 1", ""), OUT),
    in_file(MASK, "the diagonal is one too high", END, END.replace(" + 1", " + 2"), OUT),
    in_file(
        MASK,
        "the offset has the wrong sign",
        "offset(s.seqlen_k - s.seqlen_q)",
        "offset(s.seqlen_q - s.seqlen_k)",
        OUT,
    ),
    in_file(
        MASK,
        "the window begins one key late",
        "return row + offset - left;",
        "return row + offset - left + 1;",
        OUT,
        FWD,
        WINDOW,
    ),
    in_file(
        MASK,
        "the window begins one key early",
        "return row + offset - left;",
        "return row + offset - left - 1;",
        OUT,
        FWD,
        SINKS,
    ),
    in_file(
        MASK,
        "the window's sides change places",
        "left(p.window_left),\n        right(p.window_right)",
        "left(p.window_right),\n        right(p.window_left)",
        OUT,
        FWD,
        WINDOW,
    ),
    in_file(
        MASK,
        "one sink too many",
        "sinks(min(p.sink_tokens, s.seqlen_k))",
        "sinks(min(p.sink_tokens + 1, s.seqlen_k))",
        OUT,
        FWD,
        SINKS,
    ),
    in_file(MASK, "no sinks", "sinks(min(p.sink_tokens, s.seqlen_k))", "sinks(0)", OUT, FWD, SINKS),
    in_file(
        MASK, "sinks are hidden ahead of the window", "p.window_right == 0 ? 0 : sinks", "0", OUT, FWD, AHEAD
    ),
    in_file(
        MASK, "sinks are seen against causality", "p.window_right == 0 ? 0 : sinks", "sinks", OUT, FWD, PACKED
    ),
    in_file(
        MASK,
        "the blocks of the sinks are left out",
        "sink_blocks = min(divide_up(mask.sinks, tile_n), end);",
        "sink_blocks = 0;",
        OUT,
        FWD,
        SINKS,
    ),
    in_file(
        MASK,
        "blocks of sinks are counted twice",
        "index < sink_blocks ? index : index - sink_blocks + window",
        "index < sink_blocks ? index : index - sink_blocks",
        OUT,
        FWD,
        SINKS,
    ),
    in_file(
        MASK,
        "the window's first block is rounded up",
        "max(mask.begin(first_row), 0) / tile_n",
        "divide_up(max(mask.begin(first_row), 0), tile_n)",
        OUT,
        FWD,
        WINDOW,
    ),
    in_file(
        MASK,
        "the window begins at the last row",
        "max(mask.begin(first_row), 0) / tile_n",
        "max(mask.begin(last_row), 0) / tile_n",
        OUT,
        FWD,
        WINDOW,
    ),
    in_file(
        MASK,
        "blocks are rounded down",
        VISIBLE,
        VISIBLE.replace(
            "divide_up(max(mask.end(last_row), 0), tile_n)", "max(mask.end(last_row), 0) / tile_n"
        ),
        OUT,
    ),
    in_file(
        MASK,
        "blocks are counted at the first row",
        VISIBLE,
        VISIBLE.replace("last_row", "first_row"),
        OUT,
        FWD,
        RAGGED,
    ),
    in_file(
        MASK,
        "the mask is looked up one key late",
        "return key + count > end(first);",
        "return key + count > end(first) + 1;",
        LSE,
        FWD,
        ONE_KEY_HEAD,
    ),
    in_file(
        MASK,
        "a block counts as whole if its first key is seen",
        "return key + count > end(first);",
        "return key > end(first);",
        OUT,
    ),
    in_loop("no mask to the right", "mask.cuts_right(first_query, first_key, C::kTileN) ||", "", OUT),
    in_loop("no mask to the left", " || mask.cuts_left(last_query, first_key)", "", OUT, FWD, WINDOW),
    in_loop(
        "the left end is looked up at the first row",
        "mask.cuts_left(last_query, first_key)",
        "mask.cuts_left(first_query, first_key)",
        OUT,
        FWD,
        WINDOW,
    ),
    in_file(
        SCORES,
        "masks are counted from the first column",
        "const int origin = first_key + lane.column();",
        "const int origin = first_key;",
        OUT,
    ),
    in_file(
        SCORES,
        "half of the rows take the others' mask",
        "rows.query(tile_row + lane.row(m, half));\n      const int end",
        "rows.query(tile_row + lane.row(m, 0));\n      const int end",
        OUT,
    ),
    in_file(SCORES, "no column lies behind the first end", "max(count, 0)", "32", OUT),
    in_file(
        SCORES,
        "of a pair of columns both are seen or none",
        "+ min(end & 7, 2)",
        "+ (end & 7 ? 2 : 0)",
        OUT,
    ),
    in_file(
        SCORES,
        "columns before the window are seen",
        "(~columns_before(begin - column) | columns_before(sinks - column))",
        "0xffffffffu",
        OUT,
        FWD,
        WINDOW,
    ),
    in_file(
        SCORES,
        "sinks before the window are hidden",
        " | columns_before(sinks - column)",
        "",
        OUT,
        FWD,
        SINKS,
    ),
    in_file(
        SCORES,
        "columns behind 128 have the mask of the first ones",
        "const int column = first * 8;",
        "const int column = 0;",
        OUT,
        HOPPER_FULL,
    ),
    in_file(
        SCORES,
        "hidden keys count as 0",
        "s[m][n][half * 2 + e] = -kInfinity;",
        "s[m][n][half * 2 + e] = 0.f;",
        OUT,
    ),
    in_loop(
        "the last key block is left out",
        "min(first_block + share, blocks.count) - 1;",
        "min(first_block + share, blocks.count) - 2;",
        OUT,
    ),
    in_loop(
        "the first key block is left out", "for (; index >= first_block;", "for (; index > first_block;", OUT
    ),
)
"""Masks and the number of key blocks."""

SOFTMAXES = (
    in_loop("O is not rescaled", RESCALE, "", OUT),
    in_file(SOFTMAX, "the sum is not rescaled", "  row.sum *= rescale;\n", "", OUT),
    in_file(
        SOFTMAX,
        "the factor is upside down",
        "__fsub_rn(__fmul_rn(old_max, scale_log2), exponent)",
        "__fsub_rn(exponent, __fmul_rn(old_max, scale_log2))",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "the first maximum is 0",
        "kEmptyRow{-kInfinity, 0.f}",
        "kEmptyRow{0.f, 0.f}",
        OUT,
        FWD,
        ONE_KEY,
    ),
    in_loop(
        "half of the rows have no first state",
        "rows[m][0] = rows[m][1] = kEmptyRow",
        "rows[m][0] = kEmptyRow",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "rows without a key have exponent -inf",
        "row.max == -kInfinity ? 0.f : __fmul_rn(row.max, scale_log2)",
        "__fmul_rn(row.max, scale_log2)",
        OUT,
        FWD,
        RAGGED,
    ),
    in_file(
        SOFTMAX, "the exponent is not scaled", "0.f : __fmul_rn(row.max, scale_log2)", "0.f : row.max", OUT
    ),
    in_file(SCORES, "the scores are not scaled", "x * scale_log2 - exponent", "x - exponent", OUT),
    in_file(
        SCORES,
        "the sum takes half of the columns",
        "      row.sum += x;\n",
        "      if (e == 0) row.sum += x;\n",
        OUT,
    ),
    in_file(
        SCORES,
        "the maximum ignores odd columns",
        LARGEST,
        "fmaxf(largest, s[m][n][half * 2])",
        OUT,
        FWD_F16,
        STEEP,
    ),
    in_file(
        SOFTMAX,
        "the quad's maximum misses its first step",
        "  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));\n",
        "",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "the quad's sum misses its second step",
        "  return x + __shfl_xor_sync(0xffffffffu, x, 2);",
        "  return x;",
        OUT,
    ),
    in_store("the sum is left to one thread", "quad_sum(row.sum), lane.lane", "row.sum, lane.lane", OUT),
    in_file(
        SOFTMAX,
        "rows without a key are divided by 0",
        "total == 0.f ? 0.f : reciprocal_approx(total)",
        "reciprocal_approx(total)",
        OUT,
        FWD,
        MORE_QUERIES,
    ),
    in_output("lse in base 2", LSE_OF_ROW, LSE_OF_ROW.replace(" * kLn2", ""), LSE),
    in_output("lse without the maximum", LSE_OF_ROW, "log2_approx(total) * kLn2", LSE),
    in_output(
        "a learned sink counts in lse",
        "if (p.problem.sink_logits && total != 0.f) {",
        "if (false) {",
        OUT,
        FWD,
        SINKS,
    ),
    in_output(
        "the sink's logit is in base two already",
        "p.problem.sink_logits[head(tile_row)] * kLog2E",
        "p.problem.sink_logits[head(tile_row)]",
        OUT,
        FWD,
        SINKS,
    ),
    in_output(
        "all heads have one sink",
        "p.problem.sink_logits[head(tile_row)]",
        "p.problem.sink_logits[work.head]",
        OUT,
        FWD,
        SINKS,
    ),
    in_file(TYPES, "ln 2 to four digits", "0.693147180559945309f", "0.6931f", LSE),
    in_file(TYPES, "lse: infinity is the largest float", "0x7f800000", "0x7f7fffff", LSE, FWD, MORE_QUERIES),
)
"""The softmax and lse."""

PRODUCTS = (
    in_kernel("V is read without trans", "ldmatrix_x4_trans(b,", "ldmatrix_x4(b,", OUT),
    in_kernel("K is read with trans", "ldmatrix_x4(b, TileK::at(k", "ldmatrix_x4_trans(b, TileK::at(k", OUT),
    in_kernel(
        "K's matrices in the order of Q's", K_LANE, "TileK::lane_offset(lane.first_key + l % 16, l / 16)", OUT
    ),
    in_kernel("the halves of B change places in S", "(s" + MMA_0, "(s[m][n], a[m], b[1], b[0]);", OUT),
    in_kernel("the second product of O goes to the first", "(o" + MMA_1, "(o[m][n], a[m], b[2], b[3]);", OUT),
    in_kernel(
        "two registers of P change places",
        "a[m][1] = pack<C::kBf16>(left[2], left[3]);\n        a[m][2] = pack<C::kBf16>(right[0], right[1]);",
        "a[m][2] = pack<C::kBf16>(left[2], left[3]);\n        a[m][1] = pack<C::kBf16>(right[0], right[1]);",
        OUT,
    ),
    in_file(
        MEMORY,
        "pairs are packed the other way round",
        '"f"(high), "f"(low)',
        '"f"(low), "f"(high)',
        OUT,
        times=2,
    ),
    in_kernel(
        "S is multiplied as the other type",
        "mma_m16n8k16<C::kBf16>(s[m][n],",
        "mma_m16n8k16<!C::kBf16>(s[m][n],",
        OUT,
        FWD_F16,
    ),
    in_kernel("S does not start at 0", "s[m][n][e] = 0.f;", "s[m][n][e] = 1.f;", LSE),
    in_loop("O does not start at 0", "typename C::OutTile o = {};", "typename C::OutTile o;", OUT),
    in_kernel(
        "S misses the last step of head_dim", "step < C::kHeadDim / 16;", "step < C::kHeadDim / 16 - 1;", OUT
    ),
    in_kernel(
        "O misses the last keys of each block",
        "step < C::kKeysPerWarp / 16;",
        "step < C::kKeysPerWarp / 16 - 1;",
        OUT,
    ),
    in_file(
        WORK,
        "a row of the accumulator lies in eight lanes",
        "half * 8 + lane / 4;",
        "half * 8 + lane / 8;",
        UNWRITTEN,
    ),
    in_file(
        WORK, "a warp owns 16 rows", "warp * C::kRowsPerWarp : 0", "warp * 16 : 0", UNWRITTEN, FWD, RAGGED
    ),
)
"""ldmatrix and mma."""

STORES = (
    in_output("out is not normalised", "return normaliser(total) * factor;", "return factor;", OUT),
    in_store("rows of out are stored unguarded", OUT_GUARD, OUT_GUARD.replace("exists && ", ""), ACCESS),
    in_store("chunks of out are stored unguarded", OUT_GUARD, "if (exists) {", ACCESS, FWD, SMALLER),
    in_output(
        "one row of out too many",
        "return query(tile_row) < sequence.stored_q;",
        "return query(tile_row) <= sequence.stored_q;",
        ACCESS,
    ),
    in_store(
        "a chunk of out is misaligned",
        "store_global_16(out + (chunk + c) * kChunkElements,",
        "store_global_16(out + (chunk + c) * kChunkElements + 1,",
        ACCESS,
    ),
    in_store(
        "out is read back without the swizzle",
        "shared.q + TileOut::lane_offset(tile_row, chunk);",
        "shared.q + tile_row * TileOut::kRowBytes + chunk * kChunkBytes;",
        OUT,
    ),
    in_store(
        "out is read back from the first chunks",
        "load_shared_16(from + c * kChunkBytes)",
        "load_shared_16(from)",
        OUT,
        D128,
    ),
    in_store(
        "a warp stores the next one's rows",
        "lane.first_row + r + lane.lane / kSpan",
        "(lane.first_row + 32) % C::kTileM + r + lane.lane / kSpan",
        RACE,
        races=True,
    ),
    in_output(
        "rows that are not used keep their values",
        "if (i >= sequence.seqlen_q) total = 0.f;",
        "",
        OUT,
        FWD,
        USED,
    ),
)
"""Out and lse on their way to global memory."""

NUMBER_FAULTS = (*MASKS, *SOFTMAXES, *PRODUCTS, *STORES)
