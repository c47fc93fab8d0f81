// Rings of tiles in shared memory between a producer and its consumers: which stage is next, and in which
// phase its barriers are.
#pragma once

#include "common/types.cuh"
#include "sm90/ptx.cuh"

namespace flashactor {

// A place in a ring of `Stages` stages.
template <int Stages>
struct Place {
  int stage = 0;
  u32 phase = 0;  // changes each time round

  __device__ __forceinline__ void advance() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// A ring's barriers: `full` ends a phase when a tile has come, `empty` when all consumers have left it.
template <int Stages>
struct Ring {
  u32 full;

  static constexpr int kBytes = 2 * Stages * 8;

  __device__ __forceinline__ void init(int arrivals, int departures) const {
    for (int stage = 0; stage < Stages; ++stage) {
      mbarrier_init(full + stage * 8, arrivals);
      mbarrier_init(empty() + stage * 8, departures);
    }
  }
  __device__ __forceinline__ u32 empty() const { return full + Stages * 8; }
  __device__ __forceinline__ u32 full_of(const Place<Stages>& at) const { return full + at.stage * 8; }

  // The producer finds every stage empty at first: it waits for the end of the phase before.
  __device__ __forceinline__ void wait_empty(const Place<Stages>& at) const {
    mbarrier_wait(empty() + at.stage * 8, at.phase ^ 1);
  }
  __device__ __forceinline__ void wait_full(const Place<Stages>& at) const {
    mbarrier_wait(full_of(at), at.phase);
  }
  // By each warp that has written a part of the tile: one of its threads says so for all. TMA says it by
  // itself.
  __device__ __forceinline__ void fill(const Place<Stages>& at) const {
    fence_async_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(full_of(at));
  }
  // By each warp that has read the tile: one of its threads says so for all.
  __device__ __forceinline__ void leave(const Place<Stages>& at) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty() + at.stage * 8);
  }
};

}  // namespace flashactor
