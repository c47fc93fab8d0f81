// FlashAttention-2 forward of 16-bit queries: fwd_loop.cuh with the products of mma.sync m16n8k16.
#include "common/types.cuh"
#include "sm80/fwd_config.cuh"
#include "sm80/fwd_loop.cuh"
#include "sm80/fwd_work.cuh"
#include "sm80/ptx.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

struct Config : ForwardConfig<false> {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr bool kPaged = FA_PAGED;
  static constexpr bool kFp8Kv = FA_FP8_KV;  // 8-bit keys and values, which become 16-bit on the way in

  static constexpr int kQBytes = kTileM * (kHeadDim > kHeadDimV ? kHeadDim : kHeadDimV) * kElementBytes;
  static constexpr int kKBytes = kTileN * kHeadDim * kElementBytes;
  static constexpr int kVBytes = kTileN * kHeadDimV * kElementBytes;
  static constexpr int kStagingBytes = kFp8Kv ? kTileN * (kHeadDim + kHeadDimV) : 0;
  static constexpr int kSharedBytes = kQBytes + kKBytes + kVBytes + kStagingBytes;

  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");
};

using C = Config;

struct Products {
  using TileK = Tile<C::kHeadDim, C::kThreads>;  // of Q, too
  using TileV = Tile<C::kHeadDimV, C::kThreads>;

  // S = Q K^T, [RowsPerWarp][KeysPerWarp].
  static __device__ __forceinline__ void multiply_qk(C::ScoreTile& s, const Shared& shared,
                                                     const Lane<C>& lane) {
    // ldmatrix takes the address of row `lane % 8` of matrix `lane / 8`. For A the four matrices are rows
    // 0-7 and 8-15 of the first chunk, then of the second; for B the two chunks of keys 0-7, then of 8-15.
    const int l = lane.lane;
    const u32 q = shared.q + TileK::lane_offset(lane.first_row + l % 16, l / 16);
    const u32 k = shared.k + TileK::lane_offset(lane.first_key + l % 8 + l / 16 * 8, l / 8 % 2);
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] = 0.f;
// Not unrolled further: more loads hoisted means more registers, and at head_dim 128 that spills.
#pragma unroll 2
    for (int step = 0; step < C::kHeadDim / 16; ++step) {
      u32 a[C::kMTiles][4];
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        ldmatrix_x4(a[m], TileK::at(q, step * 2) + m * 16 * TileK::kRowBytes);
      }
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; n += 2) {
        u32 b[4];
        ldmatrix_x4(b, TileK::at(k, step * 2) + n * 8 * TileK::kRowBytes);
#pragma unroll
        for (int m = 0; m < C::kMTiles; ++m) {
          mma_m16n8k16<C::kBf16>(s[m][n], a[m], b[0], b[1]);
          mma_m16n8k16<C::kBf16>(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // O += P V, [RowsPerWarp][HeadDimV]. The accumulator layout of S is the layout of the A operand, so P goes
  // from one product to the other in registers.
  static __device__ __forceinline__ void multiply_pv(C::OutTile& o, const C::ScoreTile& p,
                                                     const Shared& shared, const Lane<C>& lane) {
    const int l = lane.lane;
    const u32 v = shared.v + TileV::lane_offset(lane.first_key + l % 16, l / 16);
#pragma unroll
    for (int step = 0; step < C::kKeysPerWarp / 16; ++step) {
      u32 a[C::kMTiles][4];
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        const auto& left = p[m][2 * step];
        const auto& right = p[m][2 * step + 1];
        a[m][0] = pack<C::kBf16>(left[0], left[1]);
        a[m][1] = pack<C::kBf16>(left[2], left[3]);
        a[m][2] = pack<C::kBf16>(right[0], right[1]);
        a[m][3] = pack<C::kBf16>(right[2], right[3]);
      }
#pragma unroll
      for (int n = 0; n < C::kDimTiles; n += 2) {
        u32 b[4];
        ldmatrix_x4_trans(b, TileV::at(v, n) + step * 16 * TileV::kRowBytes);
#pragma unroll
        for (int m = 0; m < C::kMTiles; ++m) {
          mma_m16n8k16<C::kBf16>(o[m][n], a[m], b[0], b[1]);
          mma_m16n8k16<C::kBf16>(o[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
};

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_fwd_sm80(const __grid_constant__ FwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  forward<C, Products>(p, shared_address(shared_memory));
}
