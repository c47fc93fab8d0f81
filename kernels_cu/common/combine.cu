// Merges what splits of the keys computed (Dao et al. 2023, "Flash-Decoding"): each row's partial results,
// weighted by their part of the softmax. A thread owns 8 elements of a row; the splits' lse come from L1 after
// the first.
#include "common/combine_params.cuh"
#include "common/memory.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"

namespace flashactor {

// Everything that is fixed at compile time; flashactor/kernels/combine.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr int kThreads = FA_THREADS;

  static_assert(kThreads % 32 == 0);
  static_assert(FA_SHARED_BYTES == 0, "the plan reserves another amount of shared memory");
  static_assert(sizeof(CombineParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_combine(const __grid_constant__ CombineParams p) {
  const int chunks = p.head_dim / kChunkElements;
  const i64 item = static_cast<i64>(blockIdx.x) * C::kThreads + threadIdx.x;
  const i64 row = item / chunks;
  const int chunk = static_cast<int>(item - row * chunks);
  if (row >= p.rows) return;
  const i64 line = row / p.seqlen;
  const int query = static_cast<int>(row - line * p.seqlen);
  const i64 entry = line / p.heads;
  const int head = static_cast<int>(line - entry * p.heads);
  if (p.cu_seqlens_q && query >= p.cu_seqlens_q[p.batch]) return;

  float largest = -kInfinity;
  for (int split = 0; split < p.num_splits; ++split) {
    largest = fmaxf(largest, p.partial_lse[split * p.rows + row]);
  }
  const float origin = largest == -kInfinity ? 0.f : largest;
  float total = 0.f, x[kChunkElements] = {};
#pragma unroll 4  // loads of several splits are under way together
  for (int split = 0; split < p.num_splits; ++split) {
    const float weight = exp2_approx((p.partial_lse[split * p.rows + row] - origin) * kLog2E);
    total += weight;
    float part[kChunkElements];
    const float* from = p.partial_out + (split * p.rows + row) * p.head_dim + chunk * kChunkElements;
    load_constant_floats(from, part);
    load_constant_floats(from + 4, part + 4);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) x[e] += part[e] * weight;
  }
  if (chunk == 0) {
    p.lse[entry * p.lse_stride_batch + head * p.lse_stride_head + query * p.lse_stride_row] =
        total == 0.f ? -kInfinity : origin + log2_approx(total) * kLn2;
  }
  if (p.sink_logits && total != 0.f) total += exp2_approx((p.sink_logits[head] - origin) * kLog2E);
  const float factor = normaliser(total);
  uint4 packed;
  packed.x = pack<C::kBf16>(x[0] * factor, x[1] * factor);
  packed.y = pack<C::kBf16>(x[2] * factor, x[3] * factor);
  packed.z = pack<C::kBf16>(x[4] * factor, x[5] * factor);
  packed.w = pack<C::kBf16>(x[6] * factor, x[7] * factor);
  store_global_16(p.out + entry * p.out_stride_batch + query * p.out_stride_row + head * p.out_stride_head +
                      chunk * kChunkElements,
                  packed);
}
