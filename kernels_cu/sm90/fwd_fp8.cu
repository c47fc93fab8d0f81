// FlashAttention-3 forward of fp8 queries, keys and values: the roles and the loop of 16-bit operands, and
// warps that transpose values. Each tensor has a descale, P is rounded to e4m3, out has 16 bits.
//
// Tensor cores of sm_90 add up 8-bit products with some 14 bits (DeepSeek-V3, arXiv:2412.19437, section
// 3.3.2). So the products of a block's values start from zero, and are added to O in float32: by the FMA that
// rescales O.
#include "common/compiler.cuh"
#include "common/fp8.cuh"
#include "common/memory.cuh"
#include "common/types.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/fwd_roles.cuh"
#include "sm90/ptx.cuh"
#include "sm90/wgmma.cuh"

namespace flashactor {

struct Config : ForwardConfig<true> {
  static constexpr Product kQkProduct = Product::kE4m3;
  static constexpr Product kPvProduct = FA_V_E5M2 ? Product::kE4m3E5m2 : Product::kE4m3;
  static constexpr int kPieceDims = FA_PIECE_DIMS;  // of values that are multiplied at a time
};

using C = Config;

struct Products {
  static constexpr int kSteps = C::kTileN / 32;  // of P V
  static constexpr int kPieces = C::kHeadDimV / C::kPieceDims;
  static constexpr int kPieceTiles = C::kPieceDims / 8;
  struct Weights {
    u32 a[kSteps][4];
  };

  // P V of one block, as many dims as registers hold beside O.
  using Piece = float[kPieceTiles][4];
  struct Sums {
    Piece piece;
    float rescale[2];  // brings O up to the maxima of these weights

    __device__ __forceinline__ Sums() : rescale{0.f, 0.f} {}
  };

  // The order of keys that this gives to a step's A operand is that of the transposed values.
  static __device__ __forceinline__ void round(Weights& weights, const C::ScoreTile& p) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto& left = p[0][4 * step + i / 2 * 2];
        const auto& right = p[0][4 * step + i / 2 * 2 + 1];
        const int half = i % 2 * 2;
        weights.a[step][i] = pack_e4m3(left[half], left[half + 1], right[half], right[half + 1]);
      }
  }

  static __device__ __forceinline__ void issue_pv(C::OutTile& o, Sums& sums, const Weights& weights, u32 v) {
    issue_piece(sums.piece, weights, v);
  }
  static __device__ __forceinline__ void wait_pv(C::OutTile&, Sums& sums) {
    wgmma_wait<0>();
    pin(sums.piece);
  }
  // O = O * rescale + P V, [64][HeadDimV]. While a piece is added, the next one is multiplied.
  static __device__ __forceinline__ void add_pv(C::OutTile& o, Sums& sums, const Weights& weights, u32 v) {
    Piece other;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      Piece& sum = piece % 2 ? other : sums.piece;
      Piece& next = piece % 2 ? sums.piece : other;
      const bool last = piece == kPieces - 1;
      if (!last) issue_piece(next, weights, v + (piece + 1) * C::kPieceDims * C::kSlabRowBytes);
#pragma unroll
      for (int n = 0; n < kPieceTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = o[0][piece * kPieceTiles + n][e];
          x = x * sums.rescale[e / 2] + sum[n][e];
        }
      if (!last) {
        wgmma_wait<0>();
        pin(next);
      }
    }
  }
  static __device__ __forceinline__ void rescale(C::OutTile& o, Sums& sums, const float (&factor)[2]) {
    sums.rescale[0] = factor[0];
    sums.rescale[1] = factor[1];
  }

 private:
  // [64][PieceDims] = P V.
  static __device__ __forceinline__ void issue_piece(Piece& sum, const Weights& weights, u32 v) {
    pin(sum);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      wgmma_registers<C::kPvProduct>(sum, weights.a[step], C::TileVt::along_columns(v, step), step > 0);
    }
    wgmma_commit();
  }
};

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads, 1)
    flash_fwd_fp8_sm90(const __grid_constant__ HopperParams p) {
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  forward<C, Products>(p, shared_address(shared_memory));
}
