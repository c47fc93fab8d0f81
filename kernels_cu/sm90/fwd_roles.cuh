// What the warps of a forward kernel are there for: the first warpgroup produces, the others consume.
#pragma once

#include "sm90/fwd_attend.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/fwd_load.cuh"
#include "sm90/fwd_transpose.cuh"
#include "sm90/ptx.cuh"

namespace flashactor {

// The kernel, but for how P V is computed (Products; see attend).
template <typename C, typename Products>
__device__ __forceinline__ void forward(const HopperParams& p, u32 shared_memory) {
  static_assert(C::kTileBytes + Shared<C>::kBarrierBytes == FA_SHARED_BYTES,
                "the plan reserves another amount of shared memory");
  const Shared<C> shared(shared_memory);
  shared.set_up(p);
  // Uniform in the warp, and the compiler knows it.
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp < 4) {
    if constexpr (C::kConsumers > 1) release_registers<C::kProducerRegisters>();
    if (warp == 0) {
      load(p, shared);
    } else if constexpr (C::kTransposers > 0) {
      transpose(p, shared, warp - 1);
    }
  } else {
    if constexpr (C::kConsumers > 1) claim_registers<C::kConsumerRegisters>();
    attend<C, Products>(p, shared, warp / 4 - 1);
  }
}

}  // namespace flashactor
