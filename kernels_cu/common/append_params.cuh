// The one parameter of the append kernel, passed by value; mirrored in flashactor/kernels/append.py.
#pragma once

#include "common/types.cuh"

namespace flashactor {

struct AppendParams {
  // What is new, of every sequence `tokens` rows: [batch, tokens, heads, head_dim] of 16 bits.
  const u16* q;  // null without a rotary embedding: then nothing happens to q
  const u16* k;
  const u16* v;
  u16* q_rotated;  // [batch, tokens, heads_q, head_dim], contiguous
  // Contiguous [batch, capacity, heads_kv, head_dim]; paged: pages of such rows, with the page in place of
  // the batch. Elements of 16 bits, or of 8 where the kernel's Config says so.
  void* k_cache;
  void* v_cache;

  const int* page_table;   // [batch, table_pages]; null where the caches are contiguous
  const int* prefix_lens;  // [batch], keys that each sequence already has; null where all have `prefix`
  const void* rotary_cos;  // [positions, rotary_dim / 2], elements of 16 bits or float32
  const void* rotary_sin;
  const float* k_scale;  // descales of 8-bit caches: null, or one element, or one for each head
  const float* v_scale;

  // Strides in elements. 64 bits: a cache may have more than 2^31 elements.
  i64 q_stride_batch;
  i64 q_stride_row;
  i64 q_stride_head;
  i64 k_stride_batch;
  i64 k_stride_row;
  i64 k_stride_head;
  i64 v_stride_batch;
  i64 v_stride_row;
  i64 v_stride_head;
  i64 k_cache_stride_batch;
  i64 k_cache_stride_row;
  i64 k_cache_stride_head;
  i64 v_cache_stride_batch;
  i64 v_cache_stride_row;
  i64 v_cache_stride_head;
  i64 k_scale_stride;  // 0 where one scale serves all heads
  i64 v_scale_stride;
  i64 page_table_stride;
  i64 cos_stride;
  i64 sin_stride;

  int rows;    // batch * tokens
  int tokens;  // of each sequence
  int heads_q;
  int heads_kv;
  int head_dim;    // of q and k; a multiple of 8
  int head_dim_v;  // likewise
  int prefix;
  int rotary_dim;       // leading elements of a head that are turned; a multiple of 16
  int rotary_float;     // whether cos and sin are float32
  int page_shift;       // log2 of the keys of a page
  int num_pages;        // pages of the pool if nothing is stored in others of the table, else 0
  int table_pages;      // of each sequence
  int rows_per_tile;    // rows that share a block, 1 where a row takes several
  int blocks_per_tile;  // blocks that share a row

  float k_descale;  // factors of the descales that the host knows
  float v_descale;
};

}  // namespace flashactor
