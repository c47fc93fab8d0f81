// The producer's other warps: they transpose 8-bit values. A wgmma of 8 bits reads its operands along the
// depth only, and values come with their dims, not their keys, next to each other.
#pragma once

#include "common/memory.cuh"
#include "common/types.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/fwd_work.cuh"
#include "sm90/ptx.cuh"

namespace flashactor {

constexpr int kKeysTogether = 32;  // of an ldmatrix
constexpr int kDimsTogether = 32;  // of two, whose latencies overlap

// A tile [keys][dims] to [dims][keys], as far as this warp does it. There is no transposition of bytes, but
// ldmatrix.trans of pairs of dims, over 32 keys: lane l gets dims 2 * (l / 4) and the next, of keys 2j and
// 2j + 1 (j = l % 4) of each of four times eight keys. Two permutations of two such registers part the dims:
// keys {2j, 2j + 1, 8 + 2j, 9 + 2j} of the even dim, and of the odd one, which stmatrix makes bytes 4j to
// 4j + 3 of its row. That is an order of keys of its own, and the one that P has when the accumulators of two
// n8 tiles of S become four bytes of A. Even dims of a chunk of 16 make eight rows, and so one n8 tile of O,
// odd ones the next; those of its halves take turns, so that a lane has pairs of dims at the end (Run). No
// bank is asked for twice.
template <typename C>
__device__ __forceinline__ void transpose_values(u32 from, u32 to, u32 warp) {
  using TileV = typename C::TileV;
  using TileVt = typename C::TileVt;
  constexpr u32 kColumns = C::kHeadDimV / kDimsTogether;
  const u32 lane = threadIdx.x % 32;
  // Of the chunks and rows that a lane names, what is the same for every part of the tile.
  const u32 read = TileV::chunk(from, 0, lane, 0);
  const u32 row = lane / 16 * 8 + lane % 4 * 2 + lane / 4 % 2;
  const u32 write = TileVt::chunk(to, 0, row, lane / 8 % 2);
#pragma unroll 1
  for (u32 item = warp; item < kColumns * (C::kTileN / kKeysTogether); item += C::kTransposers) {
    const u32 first_key = item / kColumns * kKeysTogether;
    const u32 first_dim = item % kColumns * kDimsTogether;
    const u32 slab = read + first_dim / TileV::kPerSlab * TileV::kSlabBytes + first_key * C::kSlabRowBytes;
    const u32 source = slab ^ first_dim % TileV::kPerSlab;
    u32 pairs[2][4];
    ldmatrix_x4_trans(pairs[0], source);
    ldmatrix_x4_trans(pairs[1], source ^ kChunkBytes);
    const u32 rows = write + first_key / TileVt::kPerSlab * TileVt::kSlabBytes + first_dim * C::kSlabRowBytes;
    const u32 target = rows ^ first_key % TileVt::kPerSlab;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto& x = pairs[i];
      const u32 parted[4] = {__byte_perm(x[0], x[1], 0x6420), __byte_perm(x[2], x[3], 0x6420),
                             __byte_perm(x[0], x[1], 0x7531), __byte_perm(x[2], x[3], 0x7531)};
      stmatrix_x4(target + i * 16 * C::kSlabRowBytes, parted);
    }
  }
}

// The blocks of values in the order in which load() brings them. Requests of 8 bits are dense, so all that
// lies behind the last key is outside of the tensor, and has come as zeros.
template <typename C>
__device__ __forceinline__ void transpose(const HopperParams& p, const Shared<C>& shared, u32 warp) {
  Place<C::kStages> at;
  Place<C::kTransposedStages> to;
#pragma unroll 1
  for (u32 index = blockIdx.x; index < p.tiles; index += gridDim.x) {
    const Unit<C> unit(p, index);
    if (!unit.exists) continue;
#pragma unroll 1
    for (int block = unit.last; block >= unit.first; --block) {
      shared.v_ring.wait_full(at);
      shared.value_ring.wait_empty(to);
      transpose_values<C>(shared.v_of(at), shared.values_of(to), warp);
      shared.value_ring.fill(to);
      shared.v_ring.leave(at);
      at.advance();
      to.advance();
    }
  }
}

}  // namespace flashactor
