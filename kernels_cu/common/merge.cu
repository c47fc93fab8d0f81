// Two attention states over the same queries become one (FlashInfer, arXiv:2501.01005, section 2.2).
//
// A thread computes one chunk of 8 elements of a row, which is a query of a head. All of a row's chunks
// belong to one warp, which reads before it writes: the result may take the place of either state.
#include "common/convert.cuh"
#include "common/memory.cuh"
#include "common/merge_params.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"

namespace flashactor {

// Everything that is fixed at compile time; flashactor/kernels/merge.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr int kThreads = FA_THREADS;
  static constexpr int kWarps = kThreads / 32;

  static_assert(kThreads % 32 == 0);
  static_assert(FA_SHARED_BYTES == 0, "the plan reserves another amount of shared memory");
  static_assert(sizeof(MergeParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;

// Adds `weight` times a state's chunk. A state without a key has the weight 0 and counts nothing, whatever it
// holds.
__device__ __forceinline__ void add_chunk(float (&sum)[kChunkElements], uint4 chunk, float weight) {
  float x[kChunkElements];
  unpack_chunk<C::kBf16>(chunk, x);
#pragma unroll
  for (int i = 0; i < kChunkElements; ++i) sum[i] += weight == 0.f ? 0.f : weight * x[i];
}

// exp(lse - max). Without a key it is 0 also where the other state has none either, and max is -inf.
__device__ __forceinline__ float weight_of(float lse, float max) {
  return lse == -kInfinity ? 0.f : exp2_approx((lse - max) * kLog2E);
}

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads) flash_merge(const __grid_constant__ MergeParams p) {
  const int chunks = p.head_dim / kChunkElements;
  const int rows_per_warp = 32 / chunks;
  const int lane = threadIdx.x % 32;
  const int row_of_warp = lane / chunks;
  const int element = (lane - row_of_warp * chunks) * kChunkElements;
  const u32 index = (blockIdx.x * C::kWarps + threadIdx.x / 32) * rows_per_warp + row_of_warp;
  const bool active = row_of_warp < rows_per_warp && index < p.rows;

  // Queries of a head follow each other: so do their lse in memory.
  const int sequence_head = index / p.seqlen;
  const int row = index - sequence_head * p.seqlen;
  const int batch = sequence_head / p.heads;
  const int head = sequence_head - batch * p.heads;

  uint4 chunk_a{}, chunk_b{};
  float lse_a = 0.f;
  float lse_b = 0.f;
  if (active) {
    lse_a = p.lse_a[batch * p.lse_a_stride_batch + head * p.lse_a_stride_head + row * p.lse_a_stride_row];
    lse_b = p.lse_b[batch * p.lse_b_stride_batch + head * p.lse_b_stride_head + row * p.lse_b_stride_row];
    chunk_a = load_global_16(p.out_a + batch * p.out_a_stride_batch + row * p.out_a_stride_row +
                             head * p.out_a_stride_head + element);
    chunk_b = load_global_16(p.out_b + batch * p.out_b_stride_batch + row * p.out_b_stride_row +
                             head * p.out_b_stride_head + element);
  }
  __syncwarp();  // all lanes of a row have its lse
  if (!active) return;

  const float max = fmaxf(lse_a, lse_b);
  const float weight_a = weight_of(lse_a, max);
  const float weight_b = weight_of(lse_b, max);
  const float total = weight_a + weight_b;
  const float factor = normaliser(total);
  float sum[kChunkElements] = {};
  add_chunk(sum, chunk_a, weight_a * factor);
  add_chunk(sum, chunk_b, weight_b * factor);
  u16* out = p.out + batch * p.out_stride_batch + row * p.out_stride_row + head * p.out_stride_head;
  store_global_16(out + element, pack_chunk<C::kBf16>(sum));
  if (element == 0) {
    p.lse[batch * p.lse_stride_batch + head * p.lse_stride_head + row * p.lse_stride_row] =
        total == 0.f ? -kInfinity : max + log2_approx(total) * kLn2;
  }
}
