// What is fixed at compile time in the forward kernels of this folder, and where a block's tiles are.
#pragma once

#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm90/params.cuh"
#include "sm90/pipeline.cuh"
#include "sm90/tile.cuh"

namespace flashactor {

// The part of a kernel's Config that does not depend on how it multiplies. The specifications of
// flashactor/kernels pass the macros. Fp8: q, k and v are 8-bit and are multiplied as such.
template <bool Fp8>
struct ForwardConfig {
  static constexpr bool kFp8 = Fp8;
  static constexpr bool kFp8Kv = false;  // 8-bit keys under 16-bit queries are the other family's
  static constexpr Scores kScores = static_cast<Scores>(FA_SCORES);
  static constexpr bool kModified = kScores != Scores::kPlain;
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kHeadDimV = FA_HEAD_DIM_V;
  static constexpr int kTileN = FA_TILE_N;
  static constexpr int kStages = FA_STAGES;

  static constexpr int kConsumers = FA_TILE_M / 64;  // warpgroups that compute; one more loads
  static constexpr int kWarpgroups = kConsumers + 1;
  static constexpr int kThreads = kWarpgroups * 128;
  static constexpr int kConsumerThreads = kConsumers * 128;
  static_assert(kWarpgroups * 4 == FA_WARPS);

  // A multiprocessor's 65536 registers, in units of 8 a thread, as far as consumers can use them. With one
  // consumer every thread may have all that an instruction can name.
  static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 24;
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 240;

  // A consumer's tile: 64 rows, of which each of its four warps has 16.
  static constexpr int kRows = 64;
  static constexpr int kMTiles = 1;
  static constexpr int kKeyWarps = 1;
  static constexpr int kRowsPerWarp = 16;
  static constexpr int kKeysPerWarp = kTileN;
  static constexpr int kKeyTiles = kTileN / 8;
  static constexpr int kDimTiles = kHeadDimV / 8;

  static constexpr int kRun = 2;                               // see struct Run in common/fwd_output.cuh
  static constexpr float kWeightsExponent = Fp8 ? 8.f : 0.f;  // weights are 2 to this power times too large

  using ScoreTile = float[kMTiles][kKeyTiles][4];
  using OutTile = float[kMTiles][kDimTiles][4];
  using RowStates = RowState[kMTiles][2];

  static constexpr int kElementSize = Fp8 ? 1 : kElementBytes;
  static constexpr int kSlabRowBytes = FA_SLAB_BYTES;
  using TileQ = SlabTile<kRows, kHeadDim, kElementSize, kSlabRowBytes>;  // of one consumer
  using TileK = SlabTile<kTileN, kHeadDim, kElementSize, kSlabRowBytes>;
  using TileV = SlabTile<kTileN, kHeadDimV, kElementSize, kSlabRowBytes>;
  using TileVt = SlabTile<kHeadDimV, kTileN, kElementSize, kSlabRowBytes>;  // 8-bit values as products want them
  using TileOut = SlabTile<kRows, kHeadDimV, kElementBytes, kSlabRowBytes>;  // over the consumer's queries
  static constexpr int kQBytes = TileQ::kBytes > TileOut::kBytes ? TileQ::kBytes : TileOut::kBytes;

  // 8-bit values are transposed by warps of the producer (fwd_transpose.cuh): consumers read those.
  static constexpr int kTransposers = Fp8 ? 3 : 0;
  static constexpr int kTransposedStages = Fp8 ? 2 : 0;
  static constexpr int kValueStages = Fp8 ? kTransposedStages : kStages;

  static constexpr int kTileBytes = kConsumers * kQBytes + kStages * (TileK::kBytes + TileV::kBytes) +
                                    kTransposedStages * TileVt::kBytes;

  static_assert(sizeof(HopperParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

// Named barriers. 0 is that of all threads.
enum Barrier {
  kTurnBarrier = 1,   // and the next ones, one for each consumer: its turn to issue products
  kConsumersBarrier = 4,
  kOwnBarrier = 5,    // and the next ones: a consumer's own threads
};

// Addresses in shared memory.
template <typename C>
struct Shared {
  u32 q;  // [Consumers] tiles; in the end those of out
  u32 k;  // [Stages] tiles
  u32 v;  // [Stages] tiles
  u32 vt;  // [TransposedStages] tiles
  Ring<1> q_rings;  // the first of one for each consumer: its queries
  Ring<C::kStages> k_ring, v_ring;
  Ring<C::kValueStages> value_ring;  // what consumers read: that of v, or of vt

  static constexpr int kBarrierBytes = C::kConsumers * Ring<1>::kBytes + 2 * Ring<C::kStages>::kBytes +
                                       Ring<C::kTransposedStages>::kBytes;

  __device__ __forceinline__ explicit Shared(u32 base)
      : q(base),
        k(q + C::kConsumers * C::kQBytes),
        v(k + C::kStages * C::TileK::kBytes),
        vt(v + C::kStages * C::TileV::kBytes),
        q_rings{base + C::kTileBytes},
        k_ring{q_rings.full + C::kConsumers * Ring<1>::kBytes},
        v_ring{k_ring.full + Ring<C::kStages>::kBytes},
        value_ring{C::kFp8 ? v_ring.full + Ring<C::kStages>::kBytes : v_ring.full} {}

  // By all threads, before their roles part.
  __device__ __forceinline__ void set_up(const HopperParams& p) const {
    if (threadIdx.x == 0) {
      for (int consumer = 0; consumer < C::kConsumers; ++consumer) q_ring_of(consumer).init(1, 4);
      k_ring.init(1, C::kConsumers * 4);  // a departure for each warp
      v_ring.init(1, C::kFp8 ? C::kTransposers : C::kConsumers * 4);
      if constexpr (C::kFp8) value_ring.init(C::kTransposers, C::kConsumers * 4);
      fence_mbarrier_init();
      tma_prefetch_map(&p.q);
      tma_prefetch_map(&p.k);
      tma_prefetch_map(&p.v);
    }
    // Rows of a consumer that no query fills are multiplied, too.
    const int unused = (C::kRows - p.consumer_rows) * C::kSlabRowBytes / kChunkBytes;  // chunks of a slab
    for (int i = threadIdx.x; i < C::kConsumers * C::TileQ::kSlabs * unused; i += C::kThreads) {
      const u32 slab = q + i / unused % C::TileQ::kSlabs * C::TileQ::kSlabBytes +
                       i / unused / C::TileQ::kSlabs * C::kQBytes;
      store_shared_16(slab + p.consumer_rows * C::kSlabRowBytes + i % unused * kChunkBytes, {0, 0, 0, 0});
    }
    fence_async_shared();
    __syncthreads();
  }

  __device__ __forceinline__ u32 q_of(int consumer) const { return q + consumer * C::kQBytes; }
  __device__ __forceinline__ Ring<1> q_ring_of(int consumer) const {
    return {q_rings.full + consumer * Ring<1>::kBytes};
  }
  __device__ __forceinline__ u32 k_of(const Place<C::kStages>& at) const {
    return k + at.stage * C::TileK::kBytes;
  }
  __device__ __forceinline__ u32 v_of(const Place<C::kStages>& at) const {
    return v + at.stage * C::TileV::kBytes;
  }
  __device__ __forceinline__ u32 values_of(const Place<C::kValueStages>& at) const {
    return C::kFp8 ? vt + at.stage * C::TileVt::kBytes : v + at.stage * C::TileV::kBytes;
  }
};

}  // namespace flashactor
