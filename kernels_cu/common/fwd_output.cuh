// Where a forward kernel writes the results of a row: O and lse, or the partial results of a split.
#pragma once

#include "common/fwd_params.cuh"
#include "common/fwd_work.cuh"
#include "common/memory.cuh"
#include "common/packed_rows.cuh"
#include "common/seqlen.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"

namespace flashactor {

// Where the results of a row go.
template <typename C>
struct Output {
  const FwdParams& p;
  const Work& work;
  const Sequence& sequence;
  const PackedRows& rows;
  int kv_head;
  float scale_log2;  // as in Scale
  float v_descale;

  __device__ __forceinline__ int query(int tile_row) const { return rows.query(work.first_row + tile_row); }
  __device__ __forceinline__ int head(int tile_row) const {
    return work.head + rows.head(work.first_row + tile_row);
  }
  __device__ __forceinline__ bool exists(int tile_row) const { return query(tile_row) < sequence.stored_q; }
  __device__ __forceinline__ u16* out(int tile_row) const {
    return static_cast<u16*>(p.out) + sequence.entry * p.out_stride_batch +
           (sequence.first_q + query(tile_row)) * p.out_stride_row + head(tile_row) * p.out_stride_head;
  }
  __device__ __forceinline__ i64 partial_row(int tile_row) const {
    return work.split * p.partial_rows + sequence.entry * p.partial_stride_batch +
           head(tile_row) * p.partial_stride_head + sequence.first_q + query(tile_row);
  }
  __device__ __forceinline__ float* partial(int tile_row, int dim) const {
    return p.partial_out + partial_row(tile_row) * p.problem.head_dim_v + dim;
  }
  // As Scale::of_maxima.
  __device__ __forceinline__ float scale_of_max(int tile_row) const {
    if constexpr (C::kModified) return 1.f;
    return C::kFp8 ? scale_log2 * qk_descale(p, head(tile_row), kv_head) : scale_log2;
  }

  // Two elements of out. What 8-bit kernels write is known at run time.
  __device__ __forceinline__ u32 packed(float low, float high) const {
    if constexpr (C::kFp8) {
      return p.out_bf16 ? pack<true>(low, high) : pack<false>(low, high);
    } else {
      return pack<C::kBf16>(low, high);
    }
  }

  // Writes a row's lse and returns the factor that its part of O takes. `first` in one thread of the row.
  __device__ __forceinline__ float finish_row(int tile_row, float max, float total, bool first) const {
    const int i = query(tile_row);
    if (i >= sequence.seqlen_q) total = 0.f;  // a stored row that does not count sees nothing
    const float exponent = max * scale_of_max(tile_row) - C::kWeightsExponent;
    const float lse = total == 0.f ? -kInfinity : (exponent + log2_approx(total)) * kLn2;
    if (p.num_splits > 1) {
      if (first && exists(tile_row)) p.partial_lse[partial_row(tile_row)] = lse;
    } else {
      if (first && exists(tile_row)) {
        p.lse[sequence.entry * p.lse_stride_batch + head(tile_row) * p.lse_stride_head +
              (sequence.first_q + i) * p.lse_stride_row] = lse;
      }
      if (p.problem.sink_logits && total != 0.f) {
        total += exp2_approx(p.problem.sink_logits[head(tile_row)] * kLog2E - exponent);
      }
    }
    const float factor = C::kScores == Scores::kDropout ? v_descale * p.problem.dropout_scale : v_descale;
    return normaliser(total) * factor;
  }
};

// A row that does not count must be zero even if a value that it should not see is not a number.
__device__ __forceinline__ float normalised(float x, float factor) {
  return factor == 0.f ? 0.f : x * factor;
}

// Consecutive elements of a row of O that a lane holds: run `r` begins at dim (r * 4 + lane % 4) * kRun. In
// 16-bit kernels they are a pair of an n8 tile; in 8-bit ones the even dims of a chunk of 16 are one tile,
// the odd ones the next. Within it they follow each other, or, where runs are pairs, those of the chunk's
// halves take turns.
template <typename C>
struct Run {
  static constexpr int kCount = C::kHeadDimV / (4 * C::kRun);
  static constexpr int kDims = 4 * C::kRun;  // of the four lanes of a row

  float x[C::kRun];

  __device__ __forceinline__ Run(const typename C::OutTile& o, int m, int half, int r) {
    if constexpr (!C::kFp8) {
      x[0] = o[m][r][half * 2];
      x[1] = o[m][r][half * 2 + 1];
    } else if constexpr (C::kRun == 2) {
      x[0] = o[m][r / 2 * 2][half * 2 + r % 2];
      x[1] = o[m][r / 2 * 2 + 1][half * 2 + r % 2];
    } else {
      x[0] = o[m][2 * r][half * 2];
      x[1] = o[m][2 * r + 1][half * 2];
      x[2] = o[m][2 * r][half * 2 + 1];
      x[3] = o[m][2 * r + 1][half * 2 + 1];
    }
  }
  __device__ __forceinline__ void normalise(float factor) {
#pragma unroll
    for (int e = 0; e < C::kRun; ++e) x[e] = normalised(x[e], factor);
  }
  __device__ __forceinline__ void store_partial(float* to) const {
    if constexpr (C::kRun == 2) {
      store_global_8(to, x[0], x[1]);
    } else {
      store_global_floats(to, x);
    }
  }
  __device__ __forceinline__ void store_in_shared(u32 to) const {
    if constexpr (C::kRun == 2) {
      store_shared_8(to, x[0], x[1]);
    } else {
      store_shared_floats(to, x);
    }
  }
};

}  // namespace flashactor
