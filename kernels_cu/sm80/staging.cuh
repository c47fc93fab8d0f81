// 8-bit tiles on their way to 16 bits: they are copied as they are, asynchronously, and expanded in shared
// memory.
#pragma once

#include "common/fp8.cuh"
#include "common/types.cuh"
#include "sm80/ptx.cuh"

namespace flashactor {

template <typename SharedTile, int Threads>
struct Staging {
  static constexpr int kRowBytes = SharedTile::kRowBytes / kElementBytes;  // one byte an element
  static constexpr int kChunks = kRowBytes / kChunkBytes;

  // Copies rows of 8-bit elements to [Rows][HeadDim] without a swizzle: they are read back in the same order.
  // Rows from `rows` on and elements from `columns` on, a multiple of 16, become zeros and are not read.
  template <int Rows, typename Source>
  static __device__ __forceinline__ void load(u32 staged, const Source& source, int rows, int columns) {
#pragma unroll
    for (int i = 0; i < divide_up(Rows * kChunks, Threads); ++i) {
      const int item = i * Threads + threadIdx.x;
      if (Rows * kChunks % Threads != 0 && item >= Rows * kChunks) break;
      const int row = item / kChunks;
      const int chunk = item % kChunks;
      bool valid = row < rows;
      const u8* from = source(row, valid) + chunk * kChunkBytes;
      cp_async_16_or_zero(staged + item * kChunkBytes, from, valid && chunk * kChunkBytes < columns);
    }
  }

  template <bool Bf16, int Rows>
  static __device__ __forceinline__ void expand(u32 tile, u32 staged, bool e5m2) {
#pragma unroll 1  // two chunks at once spill
    for (int item = threadIdx.x; item < Rows * kChunks; item += Threads) {
      const int row = item / kChunks;
      const int chunk = item % kChunks * 2;
      const uint4 x = load_shared_16(staged + item * kChunkBytes);
      uint4 low, high;
      expand_fp8<Bf16>(x.x, e5m2, low.x, low.y);
      expand_fp8<Bf16>(x.y, e5m2, low.z, low.w);
      expand_fp8<Bf16>(x.z, e5m2, high.x, high.y);
      expand_fp8<Bf16>(x.w, e5m2, high.z, high.w);
      store_shared_16(tile + SharedTile::offset(row, chunk), low);
      store_shared_16(tile + SharedTile::offset(row, chunk + 1), high);
    }
  }
};

}  // namespace flashactor
