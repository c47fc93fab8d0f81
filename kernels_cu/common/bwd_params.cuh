// What the kernels of the backward pass are told. flashactor/kernels/backward_params.py declares the same
// fields in the same order; a test compares the two, and every kernel asserts the size that Python packed.
//
// All arrays are strided, strides count elements, and the last dimension of what has a head_dim is
// contiguous. Dense arrays are [batch, row, head, dim], packed ones [row, head, dim]: batch stride 0.
#pragma once

#include "common/params.cuh"
#include "common/seqlen.cuh"
#include "common/types.cuh"

namespace flashactor {

struct BwdParams {
  Problem problem;

  const u16* q;
  const u16* k;
  const u16* v;
  const u16* dout;
  const u16* out;
  const float* lse;   // natural log, without the learned sink; -inf where a row sees no key
  const float* dlse;  // likewise shaped, or null
  u16* dq;
  u16* dk;
  u16* dv;

  // Workspace. Rows of a head are padded to whole tiles of kStatRows, see stat_row.
  float* row_lse;         // [batch, heads_q, stat_rows] lse in base 2 with the sink; +inf where P is 0
  float* row_term;        // [batch, heads_q, stat_rows] what dP loses before it becomes dS
  float* dq_accumulator;  // [batch, heads_q, stat_rows, HeadDim], see dq_fragment; null without atomics
  float* dsink_partials;  // [batch, heads_q, tiles] of the first kernel, or null
  float* dslopes_partials;  // [batch, heads_q, tiles] of the kernel that has dS, or null

  i64 q_stride_batch;
  i64 q_stride_row;
  i64 q_stride_head;
  i64 k_stride_batch;
  i64 k_stride_row;
  i64 k_stride_head;
  i64 v_stride_batch;
  i64 v_stride_row;
  i64 v_stride_head;
  i64 dout_stride_batch;
  i64 dout_stride_row;
  i64 dout_stride_head;
  i64 out_stride_batch;
  i64 out_stride_row;
  i64 out_stride_head;
  i64 dq_stride_batch;
  i64 dq_stride_row;
  i64 dq_stride_head;
  i64 dk_stride_batch;
  i64 dk_stride_row;
  i64 dk_stride_head;
  i64 dv_stride_batch;
  i64 dv_stride_row;
  i64 dv_stride_head;
  i64 lse_stride_batch;
  i64 lse_stride_head;
  i64 lse_stride_row;
  i64 dlse_stride_batch;
  i64 dlse_stride_head;
  i64 dlse_stride_row;
  i64 stat_rows;

  int tiles;            // of this launch, in each sequence: of queries or of keys
  int padded_head_dim;  // HeadDim of the kernels that add to dq_accumulator
  float softmax_scale;
  int unused;  // keeps the size a multiple of 8
};

struct ReduceParams {
  const float* partials;  // [batch, heads, tiles]
  float* sums;            // [heads] over the batch, or [batch, heads]
  i64 sums_stride_batch;
  i64 sums_stride_head;
  int batch;
  int heads;
  int tiles;
  int sums_batch;  // 1 to sum over the batch, else `batch`
};

// Rows of the workspace come in tiles of so many, each of one sequence; every kernel's tiles divide it.
constexpr int kStatRows = 128;

// The first row of a head of a sequence in the workspace. Packed sequences begin at multiples of kStatRows,
// and with one more tile for each sequence before they do not overlap.
__device__ __forceinline__ i64 stat_row(const BwdParams& p, const Sequence& s, int batch, int head) {
  const i64 first = p.problem.cu_seqlens_q ? (s.first_q / kStatRows + batch) * kStatRows : 0;
  return (static_cast<i64>(s.entry) * p.problem.heads_q + head) * p.stat_rows + first;
}

}  // namespace flashactor
