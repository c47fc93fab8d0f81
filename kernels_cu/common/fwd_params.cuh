// The one parameter of a forward kernel, passed by value; mirrored in flashactor/kernels/params.py.
#pragma once

#include "common/params.cuh"
#include "common/types.cuh"

namespace flashactor {

struct FwdParams {
  Problem problem;

  // Dense [batch, seqlen, heads, head_dim]; packed [total, heads, head_dim]; paged k and v: pages of such rows,
  // with the page in place of the batch. Elements of 16 bits, or of 8 where the kernel's Config says so.
  const void* q;
  const void* k;
  const void* v;
  void* out;   // like q, with head_dim_v
  float* lse;  // [batch, heads_q, seqlen_q]; packed [heads_q, total_q]

  // Unnormalised results of splits, [split][row]: a row is a query of a head, in the order of a contiguous lse.
  float* partial_out;  // [num_splits, rows, head_dim_v], null where num_splits is 1
  float* partial_lse;  // [num_splits, rows]

  const int* page_table;  // [batch, pages]; null where k and v are not paged
  const float* q_scale;   // descales of 8-bit tensors: null, or one element, or one for each head
  const float* k_scale;
  const float* v_scale;

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
  i64 page_table_stride;
  i64 partial_rows;  // of one split
  i64 partial_stride_batch;
  i64 partial_stride_head;

  int q_tiles;           // ceil(seqlen_q * pack / TileM)
  int pack;              // query heads that share a tile (those of one key/value head), or 1
  u32 pack_multiplier;   // row / pack == (2 * row * pack_multiplier >> 32) >> pack_shift
  int pack_shift;
  int num_splits;        // thread blocks that share the keys of a tile
  int blocks_per_split;  // key blocks of a split; 0 for equal parts
  int page_shift;        // log2 of the keys of a page
  int num_pages;         // pages of the pool if others in the table are to read as zeros, else 0
  int table_pages;       // of a row of the table
  int q_scale_stride;    // between heads; 0 where one scale serves all of them
  int k_scale_stride;
  int v_scale_stride;
  int kv_e5m2;           // whether 8-bit keys and values are e5m2 rather than e4m3

  float q_descale;  // factors of 8-bit tensors that the host knows
  float k_descale;
  float v_descale;
  int reserved_fwd;  // keeps the size a multiple of 8
  int out_bf16;  // whether a kernel of 8-bit queries writes bf16 rather than f16
};

}  // namespace flashactor
