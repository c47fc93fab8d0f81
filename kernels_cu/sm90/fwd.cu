// FlashAttention-3 forward of 16-bit operands (Shah et al. 2024, arXiv:2407.08608): one warpgroup loads by
// TMA, one to three multiply by wgmma.
#include "common/compiler.cuh"
#include "common/memory.cuh"
#include "common/types.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/fwd_roles.cuh"
#include "sm90/ptx.cuh"
#include "sm90/wgmma.cuh"

namespace flashactor {

struct Config : ForwardConfig<false> {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr Product kQkProduct = kBf16 ? Product::kBf16 : Product::kF16;
  static constexpr Product kPvProduct = kQkProduct;
};

using C = Config;

struct Products {
  static constexpr int kSteps = C::kTileN / 16;  // of P V
  struct Weights {
    u32 a[kSteps][4];
  };
  struct Sums {};  // O alone

  // The accumulator layout of S is the layout of the A operand, so P goes from one product to the other in
  // registers.
  static __device__ __forceinline__ void round(Weights& weights, const C::ScoreTile& p) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const auto& left = p[0][2 * step];
      const auto& right = p[0][2 * step + 1];
      weights.a[step][0] = pack<C::kBf16>(left[0], left[1]);
      weights.a[step][1] = pack<C::kBf16>(left[2], left[3]);
      weights.a[step][2] = pack<C::kBf16>(right[0], right[1]);
      weights.a[step][3] = pack<C::kBf16>(right[2], right[3]);
    }
  }

  // O += P V, [64][HeadDimV].
  static __device__ __forceinline__ void issue_pv(C::OutTile& o, Sums&, const Weights& weights, u32 v) {
    pin(o[0]);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      wgmma_registers<C::kPvProduct>(o[0], weights.a[step], C::TileV::along_rows(v, step), true);
    }
    wgmma_commit();
  }
  static __device__ __forceinline__ void wait_pv(C::OutTile& o, Sums&) {
    wgmma_wait<0>();
    pin(o[0]);
  }
  static __device__ __forceinline__ void add_pv(C::OutTile&, Sums&, const Weights&, u32) {}
  static __device__ __forceinline__ void rescale(C::OutTile& o, Sums&, const float (&factor)[2]) {
    rescale_out<C>(o, factor);
  }
};

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads, 1)
    flash_fwd_sm90(const __grid_constant__ HopperParams p) {
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  forward<C, Products>(p, shared_address(shared_memory));
}
