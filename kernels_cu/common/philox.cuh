// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11): random
// words from a counter, so that the backward pass and the host find the same mask without storing it.
#pragma once

#include "common/params.cuh"
#include "common/types.cuh"

namespace flashactor {

struct Random4 {
  u32 word[4];
};

__device__ __forceinline__ Random4 philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 key0, u32 key1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const u64 first = static_cast<u64>(c0) * 0xD2511F53u;
    const u64 second = static_cast<u64>(c2) * 0xCD9E8D57u;
    c0 = static_cast<u32>(second >> 32) ^ c1 ^ key0;
    c1 = static_cast<u32>(second);
    c2 = static_cast<u32>(first >> 32) ^ c3 ^ key1;
    c3 = static_cast<u32>(first);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The words of queries `row` and `row + 8` (row % 16 < 8) at keys `key` and `key + 1` (key even), in the order
// (row, key), (row, key + 1), (row + 8, key), (row + 8, key + 1): an m16n8 fragment's elements of one lane.
__device__ __forceinline__ Random4 dropout_words(const Problem& p, int batch, int head, int row, int key) {
  return philox(key >> 1, (row >> 4 << 3) | (row & 7), batch * p.heads_q + head, p.dropout_offset,
                p.dropout_seed_low, p.dropout_seed_high);
}

}  // namespace flashactor
