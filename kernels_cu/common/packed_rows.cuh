// Which query and head a row of a query tile is.
#pragma once

#include "common/compiler.cuh"
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

  // Worked out anew at each use: the compiler would keep the queries of a lane's rows over the loop, which needs
  // the registers.
  __device__ __forceinline__ int query(int row) const {
    return static_cast<int>(__umulhi(opaque(2u * row), multiplier) >> shift);
  }
  __device__ __forceinline__ int head(int row) const { return row - query(row) * pack; }
  __device__ __forceinline__ i64 offset(int row, i64 stride_row, i64 stride_head) const {
    const int i = query(row);
    return i * stride_row + (row - i * pack) * stride_head;
  }
};

}  // namespace flashactor
