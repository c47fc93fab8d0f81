// What the forward and the backward kernels are told of one attention problem; the first member of each
// kernel's parameter struct. flashactor/kernels/params.py declares the same fields in the same order; a test
// compares the two, and every kernel asserts the size that Python packed.
#pragma once

#include "common/types.cuh"

namespace flashactor {

struct Problem {
  // Packed sequences: sequence b is rows cu_seqlens[b] to cu_seqlens[b + 1]. Null where every sequence has
  // seqlen rows of its own batch entry. `seqused`, if not null, says how many of them count.
  const int* cu_seqlens_q;  // [batch + 1]
  const int* cu_seqlens_k;  // [batch + 1]
  const int* seqused_q;     // [batch]
  const int* seqused_k;     // [batch]

  const float* alibi_slopes;  // [batch, heads_q] with the stride below, or null
  const float* sink_logits;   // [heads_q], or null
  i64 alibi_stride_batch;     // 0 where all sequences share one row of slopes

  int batch;
  int appended;  // keys of each sequence that seqused_k does not count: those that were written just now
  int seqlen_q;  // of the longest sequence
  int seqlen_k;  // of the longest sequence
  int heads_q;
  int gqa_ratio;    // query heads for each key/value head
  int head_dim;     // of q and k; at most the kernel's padded HeadDim, a multiple of 8
  int head_dim_v;   // of v and out; likewise
  int window_left;  // keys to the left of the aligned one that a query sees; kUnlimited for all
  int window_right;
  int sink_tokens;  // leading keys that are visible outside of the window

  float scale_log2;       // softmax_scale * log2(e): scores become exponents of two
  float softcap_log2;     // softcap * log2(e); 0 without
  float softcap_inverse;  // softmax_scale / softcap; 0 without

  u32 dropout_threshold;  // a weight is kept if its random word is at least this
  float dropout_scale;    // 1 / (1 - p)
  u32 dropout_seed_low;
  u32 dropout_seed_high;
  u32 dropout_offset;
  int reserved;  // keeps the size a multiple of 8
};

// Small enough that sums of two lengths and this do not overflow.
constexpr int kUnlimited = 0x3fffffff;

}  // namespace flashactor
