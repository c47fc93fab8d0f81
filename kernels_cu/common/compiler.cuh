// What says something to the compiler and is nothing at run time.
#pragma once

#include "common/types.cuh"

namespace flashactor {

// The compiler knows nothing of the result, so it computes what depends on it where it is used.
__device__ __forceinline__ u32 opaque(u32 x) {
  asm volatile("" : "+r"(x));
  return x;
}

// The compiler may move uses of accumulators across a fence or a wait, which do not name them; it cannot move
// them across this.
template <int Tiles>
__device__ __forceinline__ void pin(float (&x)[Tiles][4]) {
#pragma unroll
  for (int i = 0; i < Tiles; ++i) {
    asm volatile("" : "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])::"memory");
  }
}

}  // namespace flashactor
