// Which rows a thread block of a forward kernel computes.
#pragma once

#include "common/fwd_work.cuh"
#include "common/types.cuh"

namespace flashactor {

// Blocks of one head follow each other, so that its keys and values are read from L2 after the first; so do
// the heads that share them. The rows with most keys under a causal mask come first, which leaves short work
// for the end of the grid.
template <typename C>
__device__ __forceinline__ Work find_work(const FwdParams& p, u32 block = blockIdx.x) {
  const u32 tiled = block / p.q_tiles;
  const int tile = block % p.q_tiles;
  const u32 sequence_head = tiled / p.num_splits;
  const int heads = p.problem.heads_q / p.pack;
  return {static_cast<int>(sequence_head / heads), static_cast<int>(sequence_head % heads) * p.pack,
          static_cast<int>(tiled % p.num_splits), (p.q_tiles - 1 - tile) * C::kTileM};
}

// The same, found anew: the compiler keeps nothing of it in registers until here.
template <typename C>
__device__ __forceinline__ Work find_work_again(const FwdParams& p) {
  u32 block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return find_work<C>(p, block);
}

}  // namespace flashactor
