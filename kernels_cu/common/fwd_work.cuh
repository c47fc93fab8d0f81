// What a forward kernel knows of its rows: which they are, where a lane holds parts of them, how their scores
// become exponents of two.
#pragma once

#include "common/fwd_params.cuh"
#include "common/packed_rows.cuh"
#include "common/types.cuh"

namespace flashactor {

// Where a thread's elements of an m16n8 accumulator are: rows lane / 4 and lane / 4 + 8, columns
// 2 * (lane % 4) and the next.
template <typename C>
struct Lane {
  int lane = threadIdx.x % 32;
  int warp = C::kWarpgroups ? threadIdx.x / 32 % 4 : threadIdx.x / 32;  // of those that share a tile
  int first_row = C::kKeyWarps == 1 ? warp * C::kRowsPerWarp : 0;  // of the warp, within the tile
  int first_key = C::kKeyWarps == 1 ? 0 : warp * C::kKeysPerWarp;

  __device__ __forceinline__ int row(int m, int half) const {
    return first_row + m * 16 + half * 8 + lane / 4;
  }
  __device__ __forceinline__ int column() const { return lane % 4 * 2; }
};

// Which rows of which sequence a thread block computes, over which part of the keys.
struct Work {
  int batch;
  int head;       // the first query head of the tile
  int split;
  int first_row;  // in units of `pack` heads by queries
};

// The descale of an 8-bit tensor's head.
__device__ __forceinline__ float find_descale(float number, const float* scale, int stride, int head) {
  return number * (scale ? scale[head * stride] : 1.f);
}
// A descale of 0, as a head of zeros may have, would make NaN of the -inf of masked scores.
constexpr float kLeastDescale = 1e-18f;

// That of the scores of 8-bit keys.
__device__ __forceinline__ float k_descale(const FwdParams& p, int kv_head) {
  return fmaxf(find_descale(p.k_descale, p.k_scale, p.k_scale_stride, kv_head), kLeastDescale);
}
// That of the scores of 8-bit queries and keys.
__device__ __forceinline__ float qk_descale(const FwdParams& p, int head, int kv_head) {
  return fmaxf(find_descale(p.q_descale, p.q_scale, p.q_scale_stride, head) *
                   find_descale(p.k_descale, p.k_scale, p.k_scale_stride, kv_head),
               kLeastDescale);
}

// How scores become exponents of two.
template <typename C>
struct Scale {
  float log2;             // softmax_scale * log2(e), with the descale of keys that were 8-bit
  float softcap_inverse;  // softmax_scale / softcap, likewise
  float slopes[C::kMTiles][2];  // ALiBi, in base 2
  float rows[C::kMTiles][2];    // descales of 8-bit products: heads that share a tile have their own

  __device__ __forceinline__ float of_row(float factor, int m, int half) const {
    return C::kFp8 ? factor * rows[m][half] : factor;
  }
  // Of row maxima: modify() has already scaled the scores.
  __device__ __forceinline__ float of_maxima(int m, int half) const {
    return C::kModified ? 1.f : of_row(log2, m, half);
  }
};

// The scales of the rows that a thread holds parts of.
template <typename C>
__device__ __forceinline__ Scale<C> find_scale(const FwdParams& p, const Work& work, const PackedRows& packed,
                                               const Lane<C>& lane, int kv_head) {
  Scale<C> scale{p.problem.scale_log2, p.problem.softcap_inverse, {}, {}};
  if constexpr (C::kFp8Kv) {
    const float descale = k_descale(p, kv_head);
    scale.log2 *= descale;
    scale.softcap_inverse *= descale;
  }
  if constexpr (C::kFp8) {
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int head = work.head + packed.head(work.first_row + lane.row(m, half));
        scale.rows[m][half] = qk_descale(p, head, kv_head);
      }
  }
  if constexpr (C::kModified) {
    if (p.problem.alibi_slopes) {
      const float* slopes = p.problem.alibi_slopes + work.batch * p.problem.alibi_stride_batch + work.head;
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          scale.slopes[m][half] = kLog2E * slopes[packed.head(work.first_row + lane.row(m, half))];
        }
    }
  }
  return scale;
}

}  // namespace flashactor
