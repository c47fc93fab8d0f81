// What the backward pass needs of each row before it meets keys: lse in base 2, and the term that dP loses.
//
// With p_j the weights, dS_j = p_j (dP_j - delta), where delta = dO . O (arXiv:2307.08691, section 3.1.2).
// A learned sink is a key with a value of 0: it enters lse, and its own gradient is -p_sink delta. A
// gradient of lse, which is that of the visible keys alone, adds dlse times the softmax over these.
#include "sm80/bwd.cuh"

namespace flashactor {

struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kLanesPerRow = 8;
  static constexpr int kRowStep = kThreads / kLanesPerRow;

  static_assert(kThreads >= kStatRows && kStatRows % kRowStep == 0);
  static_assert(FA_SHARED_BYTES == 0, "the plan reserves another amount of shared memory");
  static_assert(sizeof(BwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;

__device__ __forceinline__ float widen(u16 bits) {
  if constexpr (C::kBf16) return __builtin_bit_cast(float, static_cast<u32>(bits) << 16);
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

__device__ __forceinline__ float dot2(u32 x, u32 y) {
  return widen(static_cast<u16>(x)) * widen(static_cast<u16>(y)) +
         widen(static_cast<u16>(x >> 16)) * widen(static_cast<u16>(y >> 16));
}

// exp2 of more than this times dlse could overflow. Where a sink outweighs the keys so much, their weights
// are nearly 0 in float32, and what dlse adds to the gradients is lost with them.
constexpr float kLargestExponent = 100.f;

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_bwd_preprocess_sm80(const __grid_constant__ BwdParams p) {
  __shared__ float deltas[kStatRows];
  const int sequence_head = blockIdx.x / p.tiles;
  const int first_row = blockIdx.x % p.tiles * kStatRows;
  const int batch = sequence_head / p.problem.heads_q;
  const int head = sequence_head % p.problem.heads_q;
  const Sequence s = find_sequence(p.problem, batch);

  float dsink = 0.f;
  if (first_row < s.stored_q) {
    const int chunks = p.problem.head_dim_v / kChunkElements;
    const int lane = threadIdx.x % C::kLanesPerRow;
    const u16* out = p.out + s.entry * p.out_stride_batch + head * p.out_stride_head;
    const u16* dout = p.dout + s.entry * p.dout_stride_batch + head * p.dout_stride_head;
    for (int r = threadIdx.x / C::kLanesPerRow; r < kStatRows; r += C::kRowStep) {
      const int row = first_row + r;
      float delta = 0.f;
      if (row < s.seqlen_q) {
        const u16* o = out + (s.first_q + row) * p.out_stride_row;
        const u16* d = dout + (s.first_q + row) * p.dout_stride_row;
        for (int chunk = lane; chunk < chunks; chunk += C::kLanesPerRow) {
          const uint4 x = load_global_16(o + chunk * kChunkElements);
          const uint4 y = load_global_16(d + chunk * kChunkElements);
          delta += dot2(x.x, y.x) + dot2(x.y, y.y) + dot2(x.z, y.z) + dot2(x.w, y.w);
        }
      }
#pragma unroll
      for (int step = C::kLanesPerRow / 2; step > 0; step /= 2) {
        delta += __shfl_xor_sync(0xffffffffu, delta, step);
      }
      if (lane == 0) deltas[r] = delta;
    }
    __syncthreads();

    const i64 stats = stat_row(p, s, batch, head) + first_row;
    if (threadIdx.x < kStatRows) {
      const int row = first_row + threadIdx.x;
      const i64 stored = s.first_q + row;
      float lse2 = kInfinity;
      float term = 0.f;
      float lse = -kInfinity;
      if (row < s.seqlen_q) {
        lse = p.lse[s.entry * p.lse_stride_batch + head * p.lse_stride_head + stored * p.lse_stride_row];
      }
      if (lse != -kInfinity) {
        lse2 = lse * kLog2E;
        term = deltas[threadIdx.x];
        float sink_excess = 0.f;  // log2 of what the sink adds to the denominator
        if (p.problem.sink_logits) {
          const float gap = p.problem.sink_logits[head] * kLog2E - lse2;
          sink_excess = fmaxf(gap, 0.f) + log2_approx(1.f + exp2_approx(-fabsf(gap)));
          dsink = -exp2_approx(gap - sink_excess) * term;
        }
        lse2 += sink_excess;
        if (p.dlse) {
          const float* dlse = p.dlse + s.entry * p.dlse_stride_batch + head * p.dlse_stride_head;
          term -= dlse[stored * p.dlse_stride_row] * exp2_approx(fminf(sink_excess, kLargestExponent));
        }
      }
      p.row_lse[stats + threadIdx.x] = lse2;
      p.row_term[stats + threadIdx.x] = term;
    }
    if (p.dq_accumulator) {
      u16* zeros = reinterpret_cast<u16*>(p.dq_accumulator + stats * p.padded_head_dim);
      for (int x = threadIdx.x * 8; x < kStatRows * p.padded_head_dim * 2; x += C::kThreads * 8) {
        store_global_16(zeros + x, uint4{0, 0, 0, 0});
      }
    }
  }
  if (p.dsink_partials) {
    const float sum = block_sum<C::kWarps>(dsink);
    if (threadIdx.x == 0) p.dsink_partials[blockIdx.x] = sum;
  }
}
