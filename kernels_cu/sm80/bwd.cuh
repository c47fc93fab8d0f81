// What the kernels of the backward pass share: products of tiles, the derivative of one weight, and writing
// accumulators in whole chunks (Dao 2023, arXiv:2307.08691, algorithm 2).
#pragma once

#include "common/bwd_params.cuh"
#include "common/memory.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm80/ptx.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

__device__ __forceinline__ void load_shared_8(float (&x)[2], u32 address) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(address) : "memory");
}

__device__ __forceinline__ void add_global(float* pointer, float x) {
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(pointer), "f"(x) : "memory");
}

// Where a thread's elements of an m16n8 accumulator are: rows lane / 4 and lane / 4 + 8, columns
// 2 * (lane % 4) and the next.
struct Lane {
  int lane;
  int first_row;  // of the warp, within the tile

  __device__ __forceinline__ explicit Lane(int rows_per_warp)
      : lane(threadIdx.x % 32), first_row(threadIdx.x / 32 * rows_per_warp) {}

  __device__ __forceinline__ int row(int m, int half) const {
    return first_row + m * 16 + half * 8 + lane / 4;
  }
  __device__ __forceinline__ int column() const { return lane % 4 * 2; }
};

// C = A B^T of two tiles of rows: the warp's own rows of A, all rows of B.
template <bool Bf16, typename T, int MTiles, int NTiles>
__device__ __forceinline__ void multiply_transposed(float (&c)[MTiles][NTiles][4], u32 a_tile, u32 b_tile,
                                                    const Lane& lane) {
  // ldmatrix takes the address of row `lane % 8` of matrix `lane / 8`. For A the four matrices are rows
  // 0-7 and 8-15 of the first chunk, then of the second; for B the two chunks of rows 0-7, then of 8-15.
  const int l = lane.lane;
  const u32 from_a = a_tile + T::lane_offset(lane.first_row + l % 16, l / 16);
  const u32 from_b = b_tile + T::lane_offset(l % 8 + l / 16 * 8, l / 8 % 2);
#pragma unroll
  for (int m = 0; m < MTiles; ++m)
#pragma unroll
    for (int n = 0; n < NTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[m][n][e] = 0.f;
// Not unrolled further: more loads hoisted means more registers.
#pragma unroll 2
  for (int step = 0; step < T::kChunks / 2; ++step) {
    u32 a[MTiles][4];
#pragma unroll
    for (int m = 0; m < MTiles; ++m) ldmatrix_x4(a[m], T::at(from_a, step * 2) + m * 16 * T::kRowBytes);
#pragma unroll
    for (int n = 0; n < NTiles; n += 2) {
      u32 b[4];
      ldmatrix_x4(b, T::at(from_b, step * 2) + n * 8 * T::kRowBytes);
#pragma unroll
      for (int m = 0; m < MTiles; ++m) {
        mma_m16n8k16<Bf16>(c[m][n], a[m], b[0], b[1]);
        mma_m16n8k16<Bf16>(c[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// C += A B. The accumulator layout of A is the layout of the operand, so A stays in registers; B is a tile.
template <bool Bf16, typename T, int MTiles, int KTiles, int NTiles>
__device__ __forceinline__ void multiply_add(float (&c)[MTiles][NTiles][4],
                                             const float (&x)[MTiles][KTiles][4], u32 b_tile,
                                             const Lane& lane) {
  const int l = lane.lane;
  const u32 from = b_tile + T::lane_offset(l % 16, l / 16);
#pragma unroll
  for (int step = 0; step < KTiles / 2; ++step) {
    u32 a[MTiles][4];
#pragma unroll
    for (int m = 0; m < MTiles; ++m) {
      const auto& left = x[m][2 * step];
      const auto& right = x[m][2 * step + 1];
      a[m][0] = pack<Bf16>(left[0], left[1]);
      a[m][1] = pack<Bf16>(left[2], left[3]);
      a[m][2] = pack<Bf16>(right[0], right[1]);
      a[m][3] = pack<Bf16>(right[2], right[3]);
    }
#pragma unroll
    for (int n = 0; n < NTiles; n += 2) {
      u32 b[4];
      ldmatrix_x4_trans(b, T::at(from, n) + step * 16 * T::kRowBytes);
#pragma unroll
      for (int m = 0; m < MTiles; ++m) {
        mma_m16n8k16<Bf16>(c[m][n], a[m], b[0], b[1]);
        mma_m16n8k16<Bf16>(c[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Writes the warp's own rows through those of a tile that no other warp reads any more, so that global
// memory is written in whole 16-byte chunks. `to` is the address of the tile's first row; `rows` of them
// exist.
template <bool Bf16, typename T, int MTiles, int NTiles>
__device__ __forceinline__ void write_rows(const float (&c)[MTiles][NTiles][4], float scale, u32 tile,
                                           const Lane& lane, u16* to, i64 stride, int rows, int chunks) {
  __syncwarp();  // what the rows held before is read by no lane any more
#pragma unroll
  for (int m = 0; m < MTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const u32 own = tile + T::lane_offset(lane.row(m, half), 0) + lane.column() * kElementBytes;
#pragma unroll
      for (int n = 0; n < NTiles; ++n) {
        store_shared(T::at(own, n), pack<Bf16>(c[m][n][half * 2] * scale, c[m][n][half * 2 + 1] * scale));
      }
    }
  __syncwarp();
  constexpr int kSpan = T::kSpan;
  const int chunk = lane.lane % kSpan;
#pragma unroll
  for (int r = 0; r < MTiles * 16; r += 32 / kSpan) {
    const int row = lane.first_row + r + lane.lane / kSpan;
    const u32 from = tile + T::lane_offset(row, chunk);
#pragma unroll
    for (int c = 0; c < T::kChunks; c += kSpan) {
      if (row < rows && chunk + c < chunks) {
        store_global_16(to + row * stride + (chunk + c) * kChunkElements,
                        load_shared_16(from + c * kChunkBytes));
      }
    }
  }
}

// How scores of one head become weights.
struct ScoreRule {
  float scale_log2;
  float softcap_log2;          // 0 without
  float softcap_inverse;       // of the raw score
  float softcap_log2_inverse;  // 0 without
  float slope_log2;            // 0 without
  float dropout_scale;

  __device__ __forceinline__ explicit ScoreRule(const Problem& p)
      : scale_log2(p.scale_log2),
        softcap_log2(p.softcap_log2),
        softcap_inverse(p.softcap_inverse),
        softcap_log2_inverse(p.softcap_log2 != 0.f ? 1.f / p.softcap_log2 : 0.f),
        slope_log2(0.f),
        dropout_scale(p.dropout_scale) {}

  __device__ __forceinline__ void set_head(const Problem& p, int batch, int head) {
    if (p.alibi_slopes) slope_log2 = p.alibi_slopes[batch * p.alibi_stride_batch + head] * kLog2E;
  }
};

// Raw scores become exponents of two, but for ALiBi.
template <int MTiles, int NTiles>
__device__ __forceinline__ void cap_scores(float (&s)[MTiles][NTiles][4], const ScoreRule& rule) {
  if (rule.softcap_log2 != 0.f) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m)
#pragma unroll
      for (int n = 0; n < NTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[m][n][e] = rule.softcap_log2 * tanh_exp(s[m][n][e] * rule.softcap_inverse);
        }
  } else {
#pragma unroll
    for (int m = 0; m < MTiles; ++m)
#pragma unroll
      for (int n = 0; n < NTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] *= rule.scale_log2;
  }
}

// One score becomes its weight in dV, and one element of dP becomes that of dS, but for the softmax scale.
// Scores are raw if plain, else from cap_scores; -inf where hidden.
template <Scores kScores>
__device__ __forceinline__ void differentiate(float& s, float& dp, float lse, float term, bool kept,
                                              float distance, const ScoreRule& rule, float& slope_sum) {
  if constexpr (kScores == Scores::kPlain) {
    s = exp2_approx(s * rule.scale_log2 - lse);
    dp = s * (dp - term);
  } else {
    // A hidden score of -inf becomes -1 here, or NaN without a softcap, which fmaxf drops: P = 0 meets none.
    const float tanh = fmaxf(s * rule.softcap_log2_inverse, -1.f);
    const float weight = exp2_approx(s - rule.slope_log2 * distance - lse);
    if constexpr (kScores == Scores::kDropout) dp = kept ? dp * rule.dropout_scale : 0.f;
    const float ds = weight * (dp - term);
    slope_sum += ds * distance;
    s = kept ? weight : 0.f;
    dp = ds * (1.f - tanh * tanh);
  }
}

// The block's sum of one value of each thread, in a fixed order; valid in thread 0. The next call must be
// behind a barrier.
template <int Warps>
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float of_warp[Warps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.f;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 0; warp < Warps; ++warp) sum += of_warp[warp];
  }
  return sum;
}

// Where lane 0's element e of the m16n8 fragment at a multiple of 16 rows and of 8 dimensions lies in
// dq_accumulator, relative to its row 0: a warp's addition is 128 consecutive bytes.
__device__ __forceinline__ i64 dq_fragment(int row, int dim, int head_dim, int e) {
  return static_cast<i64>(row) * head_dim + dim * 16 + e * 32;
}

}  // namespace flashactor
