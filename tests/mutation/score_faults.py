"""Faults of softcap, ALiBi, dropout and fp8 operands."""

from functools import partial

from planted import (
    DROPOUT,
    FP8,
    GROUPED,
    LSE,
    MODIFIED,
    ONE_TILE,
    OUT,
    PHILOX,
    RAGGED,
    SCORES,
    SOFTMAX,
    WORK,
    in_file,
    in_loop,
    in_output,
)

in_philox, in_scores = partial(in_file, PHILOX), partial(in_file, SCORES)

SCORE_FAULTS = (
    in_scores("the softcap is left out", "p.softcap_log2 > 0.f ?", "false ?", OUT, MODIFIED),
    in_file(SOFTMAX, "tanh of half the number", "x * (2.f * kLog2E)", "x * kLog2E", OUT, MODIFIED),
    in_scores(
        "ALiBi comes before the softcap",
        "x -= scale.slopes[m][half] *",
        "x += scale.slopes[m][half] *",
        OUT,
        MODIFIED,
        ONE_TILE,
    ),
    in_scores(
        "distances are not absolute",
        "fabsf(distance - static_cast<float>(n * 8 + e))",
        "(distance - static_cast<float>(n * 8 + e))",
        OUT,
        MODIFIED,
        ONE_TILE,
    ),
    in_scores(
        "distances start top left",
        "static_cast<float>(query + mask.offset - first_key",
        "static_cast<float>(query - first_key",
        OUT,
        MODIFIED,
        GROUPED,
    ),
    in_file(
        WORK,
        "all heads have one slope",
        "slopes[packed.head(work.first_row + lane.row(m, half))]",
        "slopes[0]",
        OUT,
        MODIFIED,
        GROUPED,
    ),
    in_file(WORK, "slopes are not in base two", "= kLog2E * slopes[", "= slopes[", OUT, MODIFIED, GROUPED),
    in_loop(
        "modified scores are scaled again",
        "if constexpr (C::kModified) modify(",
        "if constexpr (false) modify(",
        OUT,
        MODIFIED,
    ),
    in_scores(
        "dropped and kept change places",
        "if (random.word[e] < p.dropout_threshold)",
        "if (random.word[e] >= p.dropout_threshold)",
        OUT,
        DROPOUT,
    ),
    in_loop(
        "dropout comes before the sums",
        "update_softmax(s, o, rows, scale);\n"
        "    if constexpr (C::kScores == Scores::kDropout) drop(s, p.problem, work, lane, warp_key);",
        "if constexpr (C::kScores == Scores::kDropout) drop(s, p.problem, work, lane, warp_key);\n"
        "    update_softmax(s, o, rows, scale);",
        OUT,
        DROPOUT,
    ),
    in_output(
        "kept weights are not scaled up",
        "v_descale * p.problem.dropout_scale : v_descale",
        "v_descale : v_descale",
        OUT,
        DROPOUT,
    ),
    in_philox("all heads have one mask", "batch * p.heads_q + head,", "batch,", OUT, DROPOUT, RAGGED),
    in_philox(
        "rows 8 apart have the same words",
        "(row >> 4 << 3) | (row & 7)",
        "(row >> 3 << 3) | (row & 7)",
        OUT,
        DROPOUT,
    ),
    in_philox(
        "the seed's halves change places",
        "p.dropout_seed_low, p.dropout_seed_high)",
        "p.dropout_seed_high, p.dropout_seed_low)",
        OUT,
        DROPOUT,
    ),
    in_philox("no offset", "p.dropout_offset,", "0,", OUT, DROPOUT),
)
"""Softcap, ALiBi and dropout."""

FP8_OPERANDS = (
    in_file(
        "sm80/fwd_fp8.cu", "V is read as e4m3", "mma_m16n8k32<C::kVE5m2>(o", "mma_m16n8k32<false>(o", OUT, FP8
    ),
    in_file(
        "sm80/fwd_fp8.cu",
        "the halves of B change places in S of fp8",
        "(s[m][n], a[m], b[0], b[1]);",
        "(s[m][n], a[m], b[1], b[0]);",
        OUT,
        FP8,
    ),
    in_output(
        "the exponent of the weights stays in lse",
        "max * scale_of_max(tile_row) - C::kWeightsExponent",
        "max * scale_of_max(tile_row)",
        LSE,
        FP8,
    ),
    in_file(
        WORK, "queries are not descaled", "C::kFp8 ? factor * rows[m][half] : factor", "factor", OUT, FP8
    ),
)
"""fp8 operands."""

SCORE_AND_FP8_FAULTS = (*SCORE_FAULTS, *FP8_OPERANDS)
