// Which keys a query sees. Query i is aligned with key i + seqlen_k - seqlen_q (bottom right).
#pragma once

#include "common/types.cuh"

namespace flashactor {

template <bool Causal>
struct Mask {
  int seqlen_k;
  int offset;  // seqlen_k - seqlen_q

  // Number of leading keys that a query row sees; 0 or less means none.
  __device__ __forceinline__ int visible(int row) const {
    if constexpr (Causal) return min(seqlen_k, row + offset + 1);
    return seqlen_k;
  }

  // Key blocks that any row of a tile sees, and those among them that every row sees completely.
  __device__ __forceinline__ int blocks(int last_row, int tile_n) const {
    return (max(visible(last_row), 0) + tile_n - 1) / tile_n;
  }
  __device__ __forceinline__ int whole_blocks(int first_row, int tile_n) const {
    return max(visible(first_row), 0) / tile_n;
  }
};

}  // namespace flashactor
