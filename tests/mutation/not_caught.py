"""Changes that no test notices: each says why."""

from number_faults import END, MASKED
from planted import (
    BLOCKS,
    COMBINE,
    FWD,
    LOOP,
    MASK,
    MORE_QUERIES,
    ONE_TILE,
    ORDER,
    OUTPUT,
    PACKED,
    PRE,
    RAGGED,
    ROWS,
    SEQLEN,
    SOFTMAX,
    STEEP,
    STORE,
    TILE,
    Edit,
    Fault,
    at,
)

from flashactor.kernels.spec import KernelSpec


def not_caught(name: str, why: str, spec: KernelSpec, case: str, *edits: Edit, races: bool = False) -> Fault:
    """A row of the table of faults that nothing catches."""
    return Fault(name, edits, "", case, spec, races, why)


NOT_CAUGHT = (
    not_caught(
        "offsets in 32 bits",
        "needs an array of more than 2^31 elements; tests/kernels has such arrays",
        FWD,
        RAGGED,
        at(ROWS, "return i * stride_row +", "return static_cast<int>(i * stride_row) +"),
    ),
    not_caught(
        "the maximum is the last block's",
        "the same but for rounding, unless a maximum falls by 127 / scale_log2",
        FWD,
        STEEP,
        at(SOFTMAX, "row.max = fmaxf(old_max, candidate);", "row.max = candidate;"),
    ),
    not_caught(
        "the first sum is 1",
        "the same: the first rescale is by 0, and log2(1) adds nothing to -inf",
        FWD,
        STEEP,
        at(SOFTMAX, "kEmptyRow{-kInfinity, 0.f}", "kEmptyRow{-kInfinity, 1.f}"),
    ),
    not_caught(
        "lse of a row without a key is computed",
        "the same: log2(0) and the maximum are both -inf",
        FWD,
        RAGGED,
        at(OUTPUT, "total == 0.f ? -kInfinity : (exponent", "(exponent"),
    ),
    not_caught(
        "all four lanes of a row store its lse",
        "the same value, in one instruction",
        FWD,
        BLOCKS,
        at(STORE, "quad_sum(row.sum), lane.lane % 4 == 0);", "quad_sum(row.sum), true);"),
        races=True,
    ),
    not_caught(
        "the diagonal goes on behind the last key",
        "the same: no query of the array sees so far",
        FWD,
        BLOCKS,
        at(MASK, END, "return row + offset + 1 + right;"),
    ),
    not_caught(
        "one key block too many",
        "slower: its keys are not read, and the mask hides it",
        FWD,
        BLOCKS,
        at(LOOP, "min(first_block + share, blocks.count) - 1;", "min(first_block + share, blocks.count);"),
        races=True,
    ),
    not_caught("every block is masked", "slower", FWD, BLOCKS, at(LOOP, MASKED, "{")),
    not_caught(
        "whole tiles are guarded too",
        "slower",
        FWD,
        ONE_TILE,
        at(TILE, "if (!Source::kAlwaysGuarded && rows >= Rows && chunks == kChunks) {", "if (false) {"),
    ),
    not_caught(
        "the longest rows come last",
        "slower: the end of the grid waits for them",
        FWD,
        RAGGED,
        at(ORDER, "(p.q_tiles - 1 - tile) * C::kTileM", "tile * C::kTileM"),
    ),
    not_caught(
        "packed queries have batch entries",
        "the same: the stride of batch entries is 0 where sequences are packed",
        FWD,
        PACKED,
        at(SEQLEN, "    s.entry = 0;\n", ""),
    ),
    not_caught(
        "lse of splits is stored by another thread",
        "the same value",
        COMBINE,
        "two splits",
        at("common/combine.cu", "  if (chunk == 0) {\n", "  if (chunk == 1) {\n"),
    ),
    not_caught(
        "rows without a key have lse 0 in the backward pass",
        "the same: the mask hides every key of such a row",
        PRE,
        MORE_QUERIES,
        at("sm80/bwd_preprocess.cu", "float lse2 = kInfinity;", "float lse2 = 0.f;"),
    ),
)
