// Mask turned around: which queries see a key. What a kernel needs that owns keys and walks over queries.
#pragma once

#include "common/mask.cuh"
#include "common/types.cuh"

namespace flashactor {

struct QuerySpan {
  int first;  // maybe negative
  int last;   // maybe beyond the sequence, and before `first` if no query sees the key
};

__device__ __forceinline__ QuerySpan queries_of(const Mask& mask, int key) {
  if (key >= mask.seqlen_k) return {kUnlimited, -1};
  return {key < mask.free_sinks ? 0 : key - mask.offset - mask.right,
          key < mask.sinks ? kUnlimited : key - mask.offset + mask.left};
}

// The query tiles that see any key of a block: all between the first and the last one.
struct QueryTiles {
  int first;
  int count;

  __device__ __forceinline__ QueryTiles(const Mask& mask, int first_key, int tile_n, int tile_m) {
    const int last_key = min(first_key + tile_n, mask.seqlen_k) - 1;
    const int last = first_key < mask.sinks ? kUnlimited : queries_of(mask, last_key).last;
    const int end = min(last + 1, mask.seqlen_q);
    first = max(queries_of(mask, first_key).first, 0) / tile_m;
    count = last_key < first_key ? 0 : max(divide_up(max(end, 0), tile_m) - first, 0);
  }
};

}  // namespace flashactor
