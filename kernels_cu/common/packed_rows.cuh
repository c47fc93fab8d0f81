// Which query and head a row of a query tile is.
#pragma once

#include "common/fwd_params.cuh"
#include "common/types.cuh"

namespace flashactor {

// The rows of a query tile: queries, or queries by the heads of a group, which share keys and values ("pack
// GQA").
struct PackedRows {
  int pack;
  u32 multiplier;
  int shift;

  __device__ __forceinline__ explicit PackedRows(const FwdParams& p)
      : pack(p.pack), multiplier(p.pack_multiplier), shift(p.pack_shift) {}

  __device__ __forceinline__ int query(int row) const {
    return pack == 1 ? row : static_cast<int>(__umulhi(row, multiplier) >> shift);
  }
  __device__ __forceinline__ int head(int row) const { return row - query(row) * pack; }
  __device__ __forceinline__ i64 offset(int row, i64 stride_row, i64 stride_head) const {
    const int i = query(row);
    return i * stride_row + (row - i * pack) * stride_head;
  }
};

}  // namespace flashactor
