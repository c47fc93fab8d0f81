"""Faults of masks, of the softmax, of the products and of stores; and what no test can notice."""

from planted import (
    ACCESS,
    BLOCKS,
    CAUSAL,
    CAUSAL_SEES,
    D72,
    D128,
    FEWER_QUERIES,
    FULL,
    FULL_F16,
    K_LANE,
    KERNEL,
    LESS_24,
    LSE,
    MASK,
    MMA_0,
    MMA_1,
    MORE_QUERIES,
    ONE_KEY,
    ONE_QUERY,
    OUT,
    OUT_GUARD,
    PTX,
    RACE,
    RAGGED,
    RESCALE,
    SOFTMAX,
    SQUARE,
    STAGED,
    STEEP,
    TILE,
    TYPES,
    UNWRITTEN,
    WHOLE,
    at,
    in_file,
    in_kernel,
    not_caught,
)

MASKS = (
    in_file(
        MASK, "the diagonal is one too low", CAUSAL_SEES, "return min(seqlen_k, row + offset);", OUT, CAUSAL
    ),
    in_file(
        MASK,
        "the diagonal is one too high",
        CAUSAL_SEES,
        "return min(seqlen_k, row + offset + 2);",
        OUT,
        CAUSAL,
    ),
    in_file(
        MASK, "the offset is subtracted", CAUSAL_SEES, "return min(seqlen_k, row - offset + 1);", OUT, CAUSAL
    ),
    in_file(MASK, "the diagonal starts top left", CAUSAL_SEES, "return min(seqlen_k, row + 1);", OUT, CAUSAL),
    in_kernel(
        "the offset has the wrong sign", "p.seqlen_k - p.seqlen_q}", "p.seqlen_q - p.seqlen_k}", OUT, CAUSAL
    ),
    in_file(MASK, "one key behind the end is seen", "    return seqlen_k;", "    return seqlen_k + 1;", LSE),
    in_file(MASK, "the last key is not seen", "    return seqlen_k;", "    return seqlen_k - 1;", OUT),
    in_kernel("columns are compared with >", "n * 8 + e >= visible", "n * 8 + e > visible", LSE),
    in_kernel("columns are one off", "n * 8 + e >= visible", "n * 8 + e + 1 >= visible", OUT),
    in_kernel("the lane's column is forgotten", " - first_key - lane.column()", " - first_key", OUT),
    in_kernel("the block's first key is forgotten", " - first_key - lane.column()", " - lane.column()", OUT),
    in_kernel(
        "the tile's first row is forgotten",
        "mask, lane, work.first_row, block",
        "mask, lane, 0, block",
        OUT,
        CAUSAL,
        RAGGED,
    ),
    in_kernel(
        "no mask", "    if (block >= whole_blocks) apply_mask", "    if (false) apply_mask", OUT, CAUSAL
    ),
    in_kernel(
        "the first block with a mask goes without", "block >= whole_blocks", "block > whole_blocks", OUT
    ),
    in_kernel(
        "whole blocks are counted at the last row",
        "mask.whole_blocks(work.first_row",
        "mask.whole_blocks(last_row",
        OUT,
        CAUSAL,
        SQUARE,
    ),
    in_file(
        MASK,
        "whole blocks are rounded up",
        "max(visible(first_row), 0) / tile_n",
        "(max(visible(first_row), 0) + tile_n - 1) / tile_n",
        OUT,
    ),
    in_file(
        MASK,
        "blocks are rounded down",
        "(max(visible(last_row), 0) + tile_n - 1) / tile_n",
        "max(visible(last_row), 0) / tile_n",
        OUT,
    ),
    in_kernel("the last row is one too low", "p.seqlen_q) - 1;", "p.seqlen_q) - 2;", OUT, CAUSAL, ONE_QUERY),
    in_kernel(
        "blocks are counted at the first row",
        "mask.blocks(last_row",
        "mask.blocks(work.first_row",
        OUT,
        CAUSAL,
        SQUARE,
    ),
    in_kernel("the last key block is left out", "C::kTileN) - 1;", "C::kTileN) - 2;", OUT),
    in_kernel("the first key block is left out", "for (; block >= 0;", "for (; block > 0;", OUT),
)
"""Masks and the number of key blocks."""

SOFTMAXES = (
    in_kernel("O is not rescaled", RESCALE, "", OUT),
    in_kernel(
        "every other column of O is not rescaled", "        o[m][n][half * 2 + 1] *= rescale;\n", "", OUT
    ),
    in_file(SOFTMAX, "the sum is not rescaled", "  row.sum *= rescale;\n", "", OUT),
    in_file(
        SOFTMAX,
        "the factor is upside down",
        "exp2_approx(old_max * scale_log2 - exponent)",
        "exp2_approx(exponent - old_max * scale_log2)",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "the old maximum is not scaled",
        "exp2_approx(old_max * scale_log2",
        "exp2_approx(old_max",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "the first maximum is 0",
        "kEmptyRow{-kInfinity, 0.f}",
        "kEmptyRow{0.f, 0.f}",
        OUT,
        FULL,
        ONE_KEY,
    ),
    in_kernel(
        "half of the rows have no first state",
        "rows[m][0] = rows[m][1] = kEmptyRow",
        "rows[m][0] = kEmptyRow",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "rows without a key have exponent -inf",
        "row.max == -kInfinity ? 0.f : row.max * scale_log2",
        "row.max * scale_log2",
        OUT,
        CAUSAL,
        MORE_QUERIES,
    ),
    in_file(SOFTMAX, "the exponent is not scaled", "0.f : row.max * scale_log2", "0.f : row.max", OUT),
    in_kernel("the scores are not scaled", "x * scale_log2 - exponent", "x - exponent", OUT),
    in_kernel(
        "the sum takes half of the columns",
        "          row.sum += x;\n",
        "          if (e == 0) row.sum += x;\n",
        OUT,
    ),
    in_kernel(
        "the maximum ignores odd columns",
        "fmaxf(largest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]))",
        "fmaxf(largest, s[m][n][half * 2])",
        OUT,
        FULL_F16,
        STEEP,
    ),
    in_kernel(
        "the maximum ignores even columns",
        "fmaxf(largest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]))",
        "fmaxf(largest, s[m][n][half * 2 + 1])",
        OUT,
        FULL,
        ONE_KEY,
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
        "the quad's maximum misses its second step",
        "  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));",
        "  return x;",
        OUT,
    ),
    in_file(
        SOFTMAX,
        "the quad's sum misses its first step",
        "  x += __shfl_xor_sync(0xffffffffu, x, 1);\n",
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
    in_file(
        SOFTMAX,
        "the quad's sum takes another quad",
        "x + __shfl_xor_sync(0xffffffffu, x, 2)",
        "x + __shfl_xor_sync(0xffffffffu, x, 4)",
        OUT,
    ),
    in_kernel("the sum is left to one thread", "quad_sum(row.sum)", "row.sum", OUT),
    in_file(
        SOFTMAX,
        "rows without a key are divided by 0",
        "total == 0.f ? 0.f : reciprocal_approx(total)",
        "reciprocal_approx(total)",
        OUT,
        CAUSAL,
        MORE_QUERIES,
    ),
    in_file(
        SOFTMAX,
        "lse in base 2",
        "(row.max * scale_log2 + log2_approx(total)) * kLn2",
        "row.max * scale_log2 + log2_approx(total)",
        LSE,
    ),
    in_file(
        SOFTMAX,
        "lse: ln 2 for the logarithm alone",
        "(row.max * scale_log2 + log2_approx(total)) * kLn2",
        "row.max * scale_log2 + log2_approx(total) * kLn2",
        LSE,
    ),
    in_file(
        SOFTMAX,
        "lse without the maximum",
        "(row.max * scale_log2 + log2_approx(total)) * kLn2",
        "log2_approx(total) * kLn2",
        LSE,
    ),
    in_file(
        SOFTMAX,
        "lse: the maximum is not scaled",
        "(row.max * scale_log2 + log2_approx(total))",
        "(row.max + log2_approx(total))",
        LSE,
    ),
    in_file(TYPES, "ln 2 to four digits", "0.693147180559945309f", "0.6931f", LSE),
    in_file(
        TYPES, "lse: infinity is the largest float", "0x7f800000", "0x7f7fffff", LSE, CAUSAL, MORE_QUERIES
    ),
)
"""The softmax and lse."""

PRODUCTS = (
    in_kernel("V is read without trans", "ldmatrix_x4_trans(b,", "ldmatrix_x4(b,", OUT),
    in_kernel(
        "K is read with trans",
        "ldmatrix_x4(b, SharedTile::at(k",
        "ldmatrix_x4_trans(b, SharedTile::at(k",
        OUT,
    ),
    in_kernel("K's matrices in the order of Q's", K_LANE, "SharedTile::lane_offset(l % 16, l / 16)", OUT),
    in_kernel(
        "V's matrices in the order of K's",
        "shared.v + SharedTile::lane_offset(l % 16, l / 16)",
        "shared.v + " + K_LANE,
        OUT,
    ),
    in_kernel("the halves of B change places in S", "(s" + MMA_0, "(s[m][n], a[m], b[1], b[0]);", OUT),
    in_kernel("the halves of B change places in O", "(o" + MMA_0, "(o[m][n], a[m], b[1], b[0]);", OUT),
    in_kernel(
        "the second product of S takes the first's keys",
        "(s" + MMA_1,
        "(s[m][n + 1], a[m], b[0], b[1]);",
        OUT,
    ),
    in_kernel("the second product of O goes to the first", "(o" + MMA_1, "(o[m][n], a[m], b[2], b[3]);", OUT),
    in_kernel(
        "two registers of P change places",
        "a[m][1] = pack<C::kBf16>(left[2], left[3]);\n      a[m][2] = pack<C::kBf16>(right[0], right[1]);",
        "a[m][2] = pack<C::kBf16>(left[2], left[3]);\n      a[m][1] = pack<C::kBf16>(right[0], right[1]);",
        OUT,
    ),
    in_file(
        PTX,
        "pairs are packed the other way round",
        '"f"(high), "f"(low)',
        '"f"(low), "f"(high)',
        OUT,
        times=2,
    ),
    in_kernel("P is packed as the other type", "a[m][0] = pack<C::kBf16>", "a[m][0] = pack<!C::kBf16>", OUT),
    in_kernel(
        "S is multiplied as the other type",
        "mma_m16n8k16<C::kBf16>(s[m][n],",
        "mma_m16n8k16<!C::kBf16>(s[m][n],",
        OUT,
        FULL_F16,
    ),
    in_kernel("S does not start at 0", "s[m][n][e] = 0.f;", "s[m][n][e] = 1.f;", LSE),
    in_kernel(
        "O does not start at 0",
        "float o[C::kMTiles][C::kDimTiles][4] = {};",
        "float o[C::kMTiles][C::kDimTiles][4];",
        OUT,
    ),
    in_kernel(
        "S misses the last step of head_dim", "step < C::kHeadDim / 16;", "step < C::kHeadDim / 16 - 1;", OUT
    ),
    in_kernel(
        "O misses the last keys of each block",
        "step < C::kTileN / 16;",
        "step < C::kTileN / 16 - 1;",
        OUT,
        FULL,
        WHOLE,
    ),
    in_kernel("O misses its last columns", "n < C::kDimTiles; n += 2", "n < C::kDimTiles - 2; n += 2", OUT),
    in_kernel(
        "S misses its last columns",
        "n < C::kKeyTiles; n += 2",
        "n < C::kKeyTiles - 2; n += 2",
        OUT,
        FULL,
        WHOLE,
    ),
    in_kernel(
        "a row of the accumulator lies in eight lanes",
        "half * 8 + lane / 4;",
        "half * 8 + lane / 8;",
        UNWRITTEN,
    ),
    in_kernel(
        "the second half is four rows below", "half * 8 + lane / 4;", "half * 4 + lane / 4;", UNWRITTEN
    ),
    in_kernel("a lane holds every fourth column", "lane % 4 * 2;", "lane % 4;", ACCESS),
    in_kernel(
        "a warp owns 16 rows",
        "threadIdx.x / 32 * C::kRowsPerWarp",
        "threadIdx.x / 32 * 16",
        UNWRITTEN,
        FULL,
        RAGGED,
    ),
)
"""ldmatrix and mma."""

STORES = (
    in_kernel("out is not normalised", STAGED, STAGED.replace(" * normalise", ""), OUT),
    in_kernel("every other column is not normalised", STAGED, STAGED.replace(" * normalise)", ")"), OUT),
    in_kernel("out of the other half", STAGED, STAGED.replace("half * 2", "(1 - half) * 2"), OUT),
    in_kernel(
        "rows of out are stored unguarded",
        OUT_GUARD,
        "if ((chunk + c) * kChunkElements < p.head_dim) {",
        ACCESS,
    ),
    in_kernel(
        "chunks of out are stored unguarded", OUT_GUARD, "if (query < p.seqlen_q) {", ACCESS, D72, LESS_24
    ),
    in_kernel("one row of out too many", OUT_GUARD, OUT_GUARD.replace("query < ", "query <= "), ACCESS),
    in_kernel(
        "one chunk of out too many",
        OUT_GUARD,
        OUT_GUARD.replace("< p.head_dim", "<= p.head_dim"),
        ACCESS,
        D72,
        LESS_24,
    ),
    in_kernel(
        "the last row of out is not stored",
        OUT_GUARD,
        OUT_GUARD.replace("p.seqlen_q", "p.seqlen_q - 1"),
        UNWRITTEN,
    ),
    in_kernel(
        "the last chunk of out is not stored",
        OUT_GUARD,
        OUT_GUARD.replace("p.head_dim", "p.head_dim - 8"),
        UNWRITTEN,
    ),
    in_kernel(
        "half of out is not stored",
        "r < C::kRowsPerWarp; r += 32 / kSpan",
        "r < C::kRowsPerWarp; r += 64 / kSpan",
        UNWRITTEN,
    ),
    in_kernel(
        "lse is stored unguarded", "lane.lane % 4 == 0 && query < p.seqlen_q", "lane.lane % 4 == 0", ACCESS
    ),
    in_kernel(
        "one row of lse too many",
        "lane.lane % 4 == 0 && query < p.seqlen_q",
        "lane.lane % 4 == 0 && query <= p.seqlen_q",
        ACCESS,
    ),
    in_kernel(
        "lse is stored by one lane of eight", "lane.lane % 4 == 0 &&", "lane.lane % 8 == 0 &&", UNWRITTEN
    ),
    in_kernel(
        "a chunk of out is misaligned",
        "p.out_stride_row + (chunk + c) * kChunkElements",
        "p.out_stride_row + (chunk + c) * kChunkElements + 1",
        ACCESS,
    ),
    in_kernel(
        "out is read back without the swizzle",
        "SharedTile::lane_offset(tile_row, chunk);",
        "tile_row * SharedTile::kRowBytes + chunk * kChunkBytes;",
        OUT,
    ),
    in_kernel(
        "out is read back from the first chunks",
        "load_shared_16(from + c * kChunkBytes)",
        "load_shared_16(from)",
        OUT,
        D128,
    ),
    in_kernel(
        "the last columns of out are not staged",
        "for (int n = 0; n < C::kDimTiles; ++n) {\n        store_shared",
        "for (int n = 0; n < C::kDimTiles - 1; ++n) {\n        store_shared",
        OUT,
    ),
    in_kernel(
        "a warp stores the next one's rows",
        "lane.first_row + r + lane.lane / kSpan",
        "(lane.first_row + 32) % C::kTileM + r + lane.lane / kSpan",
        RACE,
        races=True,
    ),
)
"""Out and lse on their way to global memory."""

NUMBER_FAULTS = (*MASKS, *SOFTMAXES, *PRODUCTS, *STORES)

NOT_CAUGHT = (
    not_caught(
        "offsets in 32 bits",
        "needs an array of more than 2^31 elements",
        FULL,
        RAGGED,
        at(
            KERNEL,
            "q + work.first_row * p.q_stride_row,",
            "q + static_cast<int>(work.first_row * p.q_stride_row),",
        ),
    ),
    not_caught(
        "the maximum is the last block's",
        "the same but for rounding, unless a maximum falls by 127 / scale_log2",
        CAUSAL,
        STEEP,
        at(SOFTMAX, "row.max = fmaxf(old_max, candidate);", "row.max = candidate;"),
    ),
    not_caught(
        "the first sum is 1",
        "the same: the first rescale is by 0, and log2(1) adds nothing to -inf",
        CAUSAL,
        MORE_QUERIES,
        at(SOFTMAX, "kEmptyRow{-kInfinity, 0.f}", "kEmptyRow{-kInfinity, 1.f}"),
    ),
    not_caught(
        "lse of a row without a key is computed",
        "the same: log2(0) and the maximum are both -inf",
        CAUSAL,
        MORE_QUERIES,
        at(SOFTMAX, "total == 0.f ? -kInfinity : (row.max", "(row.max"),
    ),
    not_caught(
        "all four lanes of a row store its lse",
        "the same value, in one instruction",
        FULL,
        BLOCKS,
        at(KERNEL, "lane.lane % 4 == 0 && query < p.seqlen_q", "query < p.seqlen_q"),
        races=True,
    ),
    not_caught(
        "the diagonal goes on behind the last key",
        "the same: no query of the array sees so far",
        CAUSAL,
        SQUARE,
        at(MASK, "return min(seqlen_k, row + offset + 1);", "return row + offset + 1;"),
    ),
    not_caught(
        "a negative number of keys is divided",
        "the same: the quotient is at most 0, and no block follows",
        CAUSAL,
        MORE_QUERIES,
        at(MASK, "(max(visible(last_row), 0) + tile_n - 1)", "(visible(last_row) + tile_n - 1)"),
    ),
    not_caught(
        "the last row is one too high",
        "slower: a block more, which the mask hides",
        CAUSAL,
        FEWER_QUERIES,
        at(KERNEL, "p.seqlen_q) - 1;", "p.seqlen_q);"),
    ),
    not_caught(
        "one key block too many",
        "slower: its keys are not read, and the mask hides it",
        FULL,
        BLOCKS,
        at(KERNEL, "C::kTileN) - 1;", "C::kTileN);"),
        races=True,
    ),
    not_caught(
        "every block is masked",
        "slower",
        CAUSAL,
        SQUARE,
        at(KERNEL, "if (block >= whole_blocks) apply", "apply"),
    ),
    not_caught(
        "whole tiles are guarded too",
        "slower",
        FULL,
        WHOLE,
        at(TILE, "if (rows >= Rows && chunks == kChunks) {", "if (false) {"),
    ),
    not_caught(
        "the longest rows come last",
        "slower: the end of the grid waits for them",
        CAUSAL,
        RAGGED,
        at(KERNEL, "(C::kCausal ? p.q_tiles - 1 - tile : tile)", "tile"),
    ),
)
"""Changes that no test notices: each says why."""
