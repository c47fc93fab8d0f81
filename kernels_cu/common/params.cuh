// The one parameter of a forward kernel, passed by value. flashactor/kernels/params.py declares the same
// fields in the same order; a test compares the two, and the kernel asserts the size that Python packed.
#pragma once

#include "common/types.cuh"

namespace flashactor {

struct FwdParams {
  const u16* q;  // [batch, seqlen_q, heads_q, head_dim]
  const u16* k;  // [batch, seqlen_k, heads_kv, head_dim]
  const u16* v;  // [batch, seqlen_k, heads_kv, head_dim]
  u16* out;      // [batch, seqlen_q, heads_q, head_dim]
  float* lse;    // [batch, heads_q, seqlen_q]

  // Strides in elements. 64 bits: a tensor may have more than 2^31 elements.
  i64 q_stride_batch;
  i64 q_stride_row;
  i64 q_stride_head;
  i64 k_stride_batch;
  i64 k_stride_row;
  i64 k_stride_head;
  i64 v_stride_batch;
  i64 v_stride_row;
  i64 v_stride_head;
  i64 out_stride_batch;
  i64 out_stride_row;
  i64 out_stride_head;
  i64 lse_stride_batch;
  i64 lse_stride_head;
  i64 lse_stride_row;

  int seqlen_q;
  int seqlen_k;
  int heads_q;
  int gqa_ratio;  // query heads for each key/value head
  int head_dim;   // <= the kernel's padded HeadDim, a multiple of 8
  int q_tiles;    // ceil(seqlen_q / TileM)

  float scale_log2;  // softmax_scale * log2(e): scores become exponents of two
  int reserved;      // keeps the size a multiple of 8
};

}  // namespace flashactor
