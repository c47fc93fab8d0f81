// Tiles in shared memory: [rows][HeadDim] of 16-bit or 8-bit elements, 16-byte chunks swizzled within each
// row.
//
// ldmatrix reads one chunk of each of eight consecutive rows at once, so these must lie in different banks.
// With rows of a multiple of 128 bytes they would all lie in the same four banks; the xor spreads them.
#pragma once

#include "common/types.cuh"
#include "sm80/ptx.cuh"

namespace flashactor {

template <int HeadDim, int Threads, typename Element = u16>
struct Tile {
  static constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(Element));
  static constexpr int kChunks = HeadDim / kPerChunk;  // of a row
  static constexpr int kRowBytes = kChunks * kChunkBytes;
  // Chunks that the swizzle permutes among themselves. Rows of 64, 192, ... bytes alternate between the two
  // halves of the banks by themselves, so there four chunks and every other row are enough. Rows of 32, 96,
  // ... bytes take turns at the four quarters: two chunks and every fourth row.
  static constexpr int kSpan = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : 2;
  static_assert(HeadDim % 32 == 0);

  static __device__ __forceinline__ int swizzle(int row) {
    return kSpan == 8 ? row & 7 : kSpan == 4 ? (row >> 1) & 3 : (row >> 2) & 1;
  }

  // Byte offset of a chunk. `chunk_of_lane` < kSpan varies by lane, `chunk` is even and known at compile
  // time: the xor with a constant is all that a loop over chunks costs.
  static __device__ __forceinline__ u32 lane_offset(int row, int chunk_of_lane) {
    return row * kRowBytes + ((chunk_of_lane ^ swizzle(row)) * kChunkBytes);
  }
  static __device__ __forceinline__ u32 at(u32 lane_address, int chunk) {
    return (lane_address ^ ((chunk & (kSpan - 1)) * kChunkBytes)) + (chunk & ~(kSpan - 1)) * kChunkBytes;
  }

  static __device__ __forceinline__ u32 offset(int row, int chunk) {
    return at(lane_offset(row, chunk & (kSpan - 1)), chunk & ~(kSpan - 1));
  }

  // Copies `Rows` rows from global memory with all threads of the block, asynchronously. `source(row, valid)`
  // is the address of a row, and may make `valid` false. Rows from `rows` on, invalid ones and chunks from
  // `chunks` on become zeros and are not read.
  template <int Rows, typename Source>
  static __device__ __forceinline__ void load(u32 tile, const Source& source, int rows, int chunks) {
    if (!Source::kAlwaysGuarded && rows >= Rows && chunks == kChunks) {
      copy<Rows, false>(tile, source, rows, chunks);
    } else {
      copy<Rows, true>(tile, source, rows, chunks);
    }
  }

 private:
  template <int Rows, bool Guarded, typename Source>
  static __device__ __forceinline__ void copy(u32 tile, const Source& source, int rows, int chunks) {
    constexpr int kRowStep = Threads / kSpan;
    // The swizzle repeats every 8 rows, so one offset serves all of a thread's rows.
    static_assert(kRowStep % 8 == 0);
    const int row = threadIdx.x / kSpan;
    const int chunk = threadIdx.x % kSpan;
    const u32 destination = tile + lane_offset(row, chunk);
#pragma unroll
    for (int r = 0; r < Rows; r += kRowStep) {
      if (Rows % kRowStep != 0 && row + r >= Rows) break;
      bool valid = !Guarded || row + r < rows;
      const Element* from = source(row + r, valid) + chunk * kPerChunk;
#pragma unroll
      for (int c = 0; c < kChunks; c += kSpan) {
        const u32 to = destination + r * kRowBytes + c * kChunkBytes;
        if constexpr (Guarded) {
          cp_async_16_or_zero(to, from + c * kPerChunk, valid && chunk + c < chunks);
        } else {
          cp_async_16(to, from + c * kPerChunk);
        }
      }
    }
  }
};

// Rows at equal distances.
template <typename Element>
struct StridedRows {
  const Element* first;
  i64 stride;  // in elements

  static constexpr bool kAlwaysGuarded = false;
  __device__ __forceinline__ const Element* operator()(int row, bool&) const { return first + row * stride; }
};

}  // namespace flashactor
