// Sums of partial sums, one thread block each, always in the same order: gradients of sinks and of slopes.
#include "sm80/bwd.cuh"

namespace flashactor {

struct Config {
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kThreads = kWarps * 32;

  static_assert(FA_SHARED_BYTES == 0, "the plan reserves another amount of shared memory");
  static_assert(sizeof(ReduceParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_bwd_reduce_sm80(const __grid_constant__ ReduceParams p) {
  const int head = blockIdx.x % p.heads;
  const int index = blockIdx.x / p.heads;
  const int batches = p.sums_batch == 1 ? p.batch : 1;
  float sum = 0.f;
  for (int batch = index; batch < index + batches; ++batch) {
    const float* partials = p.partials + (static_cast<i64>(batch) * p.heads + head) * p.tiles;
    for (int tile = threadIdx.x; tile < p.tiles; tile += C::kThreads) sum += partials[tile];
  }
  sum = block_sum<C::kWarps>(sum);
  if (threadIdx.x == 0) p.sums[index * p.sums_stride_batch + head * p.sums_stride_head] = sum;
}
