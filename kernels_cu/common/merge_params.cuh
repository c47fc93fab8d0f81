// The one parameter of the merge kernel, passed by value; mirrored in flashactor/kernels/merge.py.
#pragma once

#include "common/types.cuh"

namespace flashactor {

struct MergeParams {
  // Dense [batch, row, head, head_dim]; packed [row, head, head_dim] with a batch of 1.
  const u16* out_a;
  const u16* out_b;
  u16* out;
  const float* lse_a;  // [batch, head, row], natural log
  const float* lse_b;
  float* lse;

  // Strides in elements. 64 bits: a tensor may have more than 2^31 elements.
  i64 out_a_stride_batch;
  i64 out_a_stride_row;
  i64 out_a_stride_head;
  i64 out_b_stride_batch;
  i64 out_b_stride_row;
  i64 out_b_stride_head;
  i64 out_stride_batch;
  i64 out_stride_row;
  i64 out_stride_head;
  i64 lse_a_stride_batch;
  i64 lse_a_stride_head;
  i64 lse_a_stride_row;
  i64 lse_b_stride_batch;
  i64 lse_b_stride_head;
  i64 lse_b_stride_row;
  i64 lse_stride_batch;
  i64 lse_stride_head;
  i64 lse_stride_row;

  u32 rows;  // batch * heads * seqlen
  int seqlen;
  int heads;
  int head_dim;  // a multiple of 8 up to 256
};

}  // namespace flashactor
