// FlashAttention-2 forward of fp8 queries, keys and values: fwd_loop.cuh with the products of mma.sync
// m16n8k32, which sm_89 was the first to have. Each tensor has a descale, P is rounded to e4m3, out has 16
// bits.
#include "common/fp8.cuh"
#include "common/types.cuh"
#include "sm80/fwd_config.cuh"
#include "sm80/fwd_loop.cuh"
#include "sm80/fwd_output.cuh"
#include "sm80/fwd_work.cuh"
#include "sm80/ptx.cuh"
#include "sm80/ptx_fp8.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

struct Config : ForwardConfig<true> {
  static constexpr bool kKE5m2 = FA_K_E5M2;  // rather than e4m3, which q always is
  static constexpr bool kVE5m2 = FA_V_E5M2;
  static constexpr bool kPaged = false;
  static constexpr bool kFp8Kv = false;  // nothing becomes 16-bit

  static constexpr int kQBytes = kTileM * kHeadDim;
  static constexpr int kKBytes = kTileN * kHeadDim;
  static constexpr int kVBytes = kTileN * kHeadDimV;
  static constexpr int kTileBytes = kQBytes + kKBytes + kVBytes;
  static constexpr int kMergeBytes = MergeSpace<ForwardConfig<true>>::kBytes;
  static constexpr int kSharedBytes = kTileBytes > kMergeBytes ? kTileBytes : kMergeBytes;

  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");
};

using C = Config;

struct Products {
  // What mma.sync of fp8 is where the tensor cores of mma.sync do not multiply it: conversions to f16, two
  // products. The converted fragments are many registers more, and loads that run far ahead make the kernel
  // spill.
#if __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000
  static constexpr bool kConverts = true;
#else
  static constexpr bool kConverts = false;
#endif
  static constexpr int kUnroll = kConverts ? 1 : 2;

  using TileK = Tile<C::kHeadDim, C::kThreads, u8>;  // of Q, too
  using TileV = Tile<C::kHeadDimV, C::kThreads, u8>;

  // S = Q K^T, [RowsPerWarp][KeysPerWarp]. What ldmatrix takes for a pair of 16 bits is two elements of fp8,
  // and four of them in a register are what m16n8k32 wants.
  static __device__ __forceinline__ void multiply_qk(C::ScoreTile& s, const Shared& shared,
                                                     const Lane<C>& lane) {
    const int l = lane.lane;
    const u32 q = shared.q + TileK::lane_offset(lane.first_row + l % 16, l / 16);
    const u32 k = shared.k + TileK::lane_offset(lane.first_key + l % 8 + l / 16 * 8, l / 8 % 2);
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] = 0.f;
#pragma unroll kUnroll
    for (int step = 0; step < C::kHeadDim / 32; ++step) {
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
          mma_m16n8k32<C::kKE5m2>(s[m][n], a[m], b[0], b[1]);
          mma_m16n8k32<C::kKE5m2>(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // O += P V, [RowsPerWarp][HeadDimV]. V lies by keys, and B wants four keys of a dim in a register. There is
  // no transposition of bytes, but ldmatrix.trans of pairs of dims, over 32 keys: lane l gets dims 2 * (l /
  // 4) and the next, of keys 2j and 2j + 1 (j = l % 4) of each of four times eight keys. Two permutations of
  // two such registers part the dims: keys {2j, 2j + 1, 8 + 2j, 9 + 2j} of the even dim, and of the odd one.
  // That is an order of keys of its own, and the one that P has when the accumulators of two n8 tiles of S
  // become four bytes of A. Even dims of a chunk of 16 make one n8 tile of O, odd ones the next: Run puts
  // them in order.
  static __device__ __forceinline__ void multiply_pv(C::OutTile& o, const C::ScoreTile& p,
                                                     const Shared& shared, const Lane<C>& lane) {
    const u32 v = shared.v + TileV::lane_offset(lane.first_key + lane.lane, 0);
    constexpr int kSteps = C::kKeysPerWarp / 32;
    u32 a[kSteps][C::kMTiles][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const auto& left = p[m][4 * step + i / 2 * 2];
          const auto& right = p[m][4 * step + i / 2 * 2 + 1];
          const int half = i % 2 * 2;
          a[step][m][i] = pack_e4m3(left[half], left[half + 1], right[half], right[half + 1]);
        }
#pragma unroll
    for (int n = 0; n < C::kDimTiles; n += 2) {
      if (kConverts) __syncwarp();  // what stands behind it is not moved before it
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        u32 pairs[4];
        ldmatrix_x4_trans(pairs, TileV::at(v, n / 2) + step * 32 * TileV::kRowBytes);
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const u32 bytes = odd ? 0x7531 : 0x6420;
          const u32 b0 = __byte_perm(pairs[0], pairs[1], bytes);
          const u32 b1 = __byte_perm(pairs[2], pairs[3], bytes);
#pragma unroll
          for (int m = 0; m < C::kMTiles; ++m) {
            mma_m16n8k32<C::kVE5m2>(o[m][n + odd], a[step][m], b0, b1);
          }
        }
      }
    }
  }
};

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_fwd_fp8_sm80(const __grid_constant__ FwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  forward<C, Products>(p, shared_address(shared_memory));
}
