// Tiles in shared memory as TMA writes and wgmma reads them: slabs of 128 bytes by some rows, in which
// 16-byte chunk `c` of row `r` lies at chunk `c ^ r % 8` (the 128-byte swizzle; PTX ISA, "Shared memory
// matrix layout").
#pragma once

#include "common/compiler.cuh"
#include "common/types.cuh"

namespace flashactor {

constexpr int kSlabRowBytes = 128;
constexpr int kPatternRows = 8;  // after which the swizzle repeats: slabs begin at multiples of 1024 bytes
constexpr int kPatternBytes = kPatternRows * kSlabRowBytes;
constexpr int kStepBytes = 32;  // that one wgmma takes of its operands' depth

// What a wgmma reads: the matrix that begins at a shared address (PTX ISA, "Matrix descriptor"), `offset`
// bytes on. `leading` is the distance of slabs where a row of the operand (M or N) runs over several of them,
// and is ignored else. Only the lower half varies, and it is computed anew for each product by one addition:
// kept from one block to the next, the descriptors of a tile of queries would take two dozen registers.
__device__ __forceinline__ u64 matrix_descriptor(u32 address, u32 offset, u32 leading = 16) {
  const u32 low = opaque((address & 0x3ffff) >> 4 | leading >> 4 << 16) + offset / 16;
  constexpr u32 kHigh = kPatternBytes >> 4 | 1u << 30;
  return static_cast<u64>(kHigh) << 32 | low;
}

// [Rows][Columns] of elements of some bytes. Columns are padded to whole slabs.
template <int Rows, int Columns, int ElementBytes>
struct SlabTile {
  static constexpr int kPerSlab = kSlabRowBytes / ElementBytes;  // columns
  static constexpr int kSlabs = divide_up(Columns, kPerSlab);
  static constexpr int kSlabBytes = Rows * kSlabRowBytes;
  static constexpr int kBytes = kSlabs * kSlabBytes;
  static_assert(Rows % kPatternRows == 0);

  // The operand of step `step` of a product whose depth runs along the columns.
  static __device__ __forceinline__ u64 along_columns(u32 tile, int step) {
    return matrix_descriptor(tile, step / 4 * kSlabBytes + step % 4 * kStepBytes);
  }
  // That of a product whose depth runs along the rows, 16 rows of 16-bit elements a step, and whose N begins
  // at column 0.
  static __device__ __forceinline__ u64 along_rows(u32 tile, int step) {
    static_assert(ElementBytes == 2, "8-bit operands are always contiguous along the depth");
    return matrix_descriptor(tile, step * 16 * kSlabRowBytes, kSlabBytes);
  }
  // Address of a 16-byte chunk of a slab.
  static __device__ __forceinline__ u32 chunk(u32 tile, u32 slab, u32 row, u32 chunk) {
    return tile + slab * kSlabBytes + row * kSlabRowBytes + (chunk ^ row % kPatternRows) * kChunkBytes;
  }
};

}  // namespace flashactor
