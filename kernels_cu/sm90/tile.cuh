// Tiles in shared memory as TMA writes and wgmma reads them: slabs of 128 or 64 bytes by some rows, in which the
// 16-byte chunks of a row are permuted (the swizzles of 128 and 64 bytes; PTX ISA, "Shared memory matrix layout").
#pragma once

#include "common/compiler.cuh"
#include "common/types.cuh"

namespace flashactor {

constexpr int kPatternRows = 8;  // after which a swizzle repeats
constexpr int kStepBytes = 32;   // that one wgmma takes of its operands' depth

// [Rows][Columns] of elements of some bytes, in slabs of SlabRowBytes a row. Columns are padded to whole slabs.
template <int Rows, int Columns, int ElementBytes, int SlabRowBytes>
struct SlabTile {
  static constexpr int kSlabRowBytes = SlabRowBytes;
  static constexpr int kPerSlab = SlabRowBytes / ElementBytes;  // columns
  static constexpr int kSlabs = divide_up(Columns, kPerSlab);
  static constexpr int kPatternBytes = kPatternRows * SlabRowBytes;  // slabs begin at multiples of it
  static constexpr int kSlabBytes = Rows * SlabRowBytes;
  static constexpr int kBytes = kSlabs * kSlabBytes;
  static_assert(SlabRowBytes == 128 || SlabRowBytes == 64);
  static_assert(Rows % kPatternRows == 0);

  // The operand of step `step` of a product whose depth runs along the columns.
  static __device__ __forceinline__ u64 along_columns(u32 tile, int step) {
    constexpr int kSteps = SlabRowBytes / kStepBytes;  // of a slab
    return descriptor(tile, step / kSteps * kSlabBytes + step % kSteps * kStepBytes);
  }
  // That of a product whose depth runs along the rows, 16 rows of 16-bit elements a step, and whose N begins
  // at column 0 and ends with a slab.
  static __device__ __forceinline__ u64 along_rows(u32 tile, int step) {
    static_assert(ElementBytes == 2, "8-bit operands are always contiguous along the depth");
    static_assert(Columns % kPerSlab == 0, "no operand ends within a pattern");
    return descriptor(tile, step * 16 * SlabRowBytes, kSlabBytes);
  }
  // Address of a 16-byte chunk of a slab.
  static __device__ __forceinline__ u32 chunk(u32 tile, u32 slab, u32 row, u32 chunk) {
    const u32 permuted = chunk ^ row % kPatternRows * SlabRowBytes / 128;
    return tile + slab * kSlabBytes + row * SlabRowBytes + permuted * kChunkBytes;
  }

 private:
  // What a wgmma reads: the matrix that begins at a shared address (PTX ISA, "Matrix descriptor"), `offset`
  // bytes on. `leading` is the distance of slabs where a row of the operand (M or N) runs over several of them,
  // and is ignored else. Only the lower half varies, and it is computed anew for each product by one addition:
  // kept from one block to the next, the descriptors of a tile of queries would take two dozen registers.
  static __device__ __forceinline__ u64 descriptor(u32 address, u32 offset, u32 leading = 16) {
    const u32 low = opaque((address & 0x3ffff) >> 4 | leading >> 4 << 16) + offset / 16;
    constexpr u32 kSwizzle = 128 / SlabRowBytes;  // 1 is that of 128 bytes, 2 that of 64
    constexpr u32 kHigh = kPatternBytes >> 4 | kSwizzle << 30;
    return static_cast<u64>(kHigh) << 32 | low;
  }
};

}  // namespace flashactor
