// The one parameter of the combine kernel, passed by value; mirrored in flashactor/kernels/params.py.
#pragma once

#include "common/types.cuh"

namespace flashactor {

struct CombineParams {
  const float* partial_out;  // [num_splits, rows, head_dim]
  const float* partial_lse;  // [num_splits, rows]
  u16* out;                  // [batch, seqlen, heads, head_dim]; packed: batch 1, seqlen total_q
  float* lse;                // [batch, heads, seqlen]
  const float* sink_logits;  // [heads], or null
  const int* cu_seqlens_q;   // of packed sequences: rows after the last offset are of none; null for others

  i64 rows;  // batch * heads * seqlen
  i64 out_stride_batch;
  i64 out_stride_row;
  i64 out_stride_head;
  i64 lse_stride_batch;
  i64 lse_stride_head;
  i64 lse_stride_row;

  int num_splits;
  int batch;  // sequences, also of a packed batch
  int seqlen;
  int heads;
  int head_dim;
  int reserved;  // keeps the size a multiple of 8
};

}  // namespace flashactor
