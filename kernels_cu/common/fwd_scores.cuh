// What a forward kernel does with scores between its two products.
#pragma once

#include "common/fwd_work.cuh"
#include "common/mask.cuh"
#include "common/packed_rows.cuh"
#include "common/philox.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"

namespace flashactor {

// Softcap and ALiBi (Press et al. 2021, arXiv:2108.12409), which turn raw scores into exponents of two.
template <typename C>
__device__ __forceinline__ void modify(typename C::ScoreTile& s, const Problem& p,
                                       const Mask& mask, const Scale<C>& scale, const Lane<C>& lane,
                                       const PackedRows& rows, int tile_row, int first_key) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = rows.query(tile_row + lane.row(m, half));
      const float log2 = scale.of_row(scale.log2, m, half);
      const float softcap_inverse = scale.of_row(scale.softcap_inverse, m, half);
      const float distance = static_cast<float>(query + mask.offset - first_key - lane.column());
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[m][n][half * 2 + e];
          x = p.softcap_log2 > 0.f ? p.softcap_log2 * tanh_exp(x * softcap_inverse) : x * log2;
          x -= scale.slopes[m][half] * fabsf(distance - static_cast<float>(n * 8 + e));
        }
    }
}

// A thread's columns of 16 n8 tiles as bits: those that lie before column `end`. Counted from its first one they
// are 0, 1, 8, 9, 16, ...
__device__ __forceinline__ u32 columns_before(int end) {
  const int count = (end >> 3) * 2 + min(end & 7, 2);
  return __funnelshift_lc(0xffffffffu, 0, max(count, 0));  // no more than 32
}

// Scores of keys that a row does not see become -inf. Which those are is worked out for 32 columns at a time.
template <typename C>
__device__ __forceinline__ void apply_mask(typename C::ScoreTile& s, const Mask& mask,
                                           const Lane<C>& lane, const PackedRows& rows, int tile_row,
                                           int first_key) {
  constexpr int kTilesTogether = 16;
  // Everything is counted from the thread's own first column.
  const int origin = first_key + lane.column();
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = rows.query(tile_row + lane.row(m, half));
      const int end = max(mask.end(query), mask.free_sinks) - origin;
      const int begin = mask.begin(query) - origin;
      const int sinks = mask.sinks - origin;
#pragma unroll
      for (int first = 0; first < C::kKeyTiles; first += kTilesTogether) {
        const int column = first * 8;
        const u32 seen = columns_before(end - column) &
                         (~columns_before(begin - column) | columns_before(sinks - column));
#pragma unroll
        for (int n = first; n < min(first + kTilesTogether, C::kKeyTiles); ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (!(seen >> ((n - first) * 2 + e) & 1)) s[m][n][half * 2 + e] = -kInfinity;
          }
      }
    }
}

// Row `half` of m16 tile `m`: S becomes P = exp2(S * scale - max). Returns the factor that brings what was
// accumulated under the old maximum up to the new one.
template <typename C>
__device__ __forceinline__ float weigh(typename C::ScoreTile& s, RowState& row, const Scale<C>& scale, int m,
                                       int half) {
  const float scale_log2 = scale.of_maxima(m, half);
  float largest = -kInfinity;
#pragma unroll
  for (int n = 0; n < C::kKeyTiles; ++n) {
    largest = fmaxf(largest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
  }
  float rescale;
  const float exponent = raise_max(row, quad_max(largest), scale_log2, rescale) - C::kWeightsExponent;
#pragma unroll
  for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& x = s[m][n][half * 2 + e];
      x = exp2_approx(x * scale_log2 - exponent);
      row.sum += x;
    }
  return rescale;
}

// Dropped weights become 0. The row sums have counted them, as softmax comes before dropout.
template <typename C>
__device__ __forceinline__ void drop(typename C::ScoreTile& s, const Problem& p, const Work& work,
                                     const Lane<C>& lane, int first_key) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int n = 0; n < C::kKeyTiles; ++n) {
      const Random4 random = dropout_words(p, work.batch, work.head, work.first_row + lane.row(m, 0),
                                           first_key + n * 8 + lane.column());
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (random.word[e] < p.dropout_threshold) s[m][n][e] = 0.f;
      }
    }
}

}  // namespace flashactor
