// Online softmax in base 2 (Milakov and Gimelshein 2018, arXiv:1805.02867), as FlashAttention-2 uses it
// (arXiv:2307.08691, section 3.1): a running maximum and an unnormalised sum for each row.
#pragma once

#include "common/types.cuh"

namespace flashactor {

// What a thread knows of one row of scores. The four threads that hold a row agree on `max`; `sum` is each
// thread's own part of it until `quad_sum` adds the parts up at the end.
struct RowState {
  float max;  // of the raw scores, before scale_log2
  float sum;
};

// A row that has seen no key. Assigned element by element: NVRTC 13.5 drops default member initialisers of all
// but the first row of a two-dimensional array.
constexpr RowState kEmptyRow{-kInfinity, 0.f};

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// tanh, exact to a few units in 2^-23 of 1: the one instruction for it is exact to 2^-11 alone, which a softcap
// of 50 would turn into an error of 2 % of a weight.
__device__ __forceinline__ float tanh_exp(float x) {
  return 1.f - 2.f * reciprocal_approx(1.f + exp2_approx(x * (2.f * kLog2E)));
}

// A row of an m16n8 accumulator lies in four neighbouring lanes.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Takes a new maximum of the row; returns the exponent that it stands for and, through `rescale`, the factor
// for everything that was accumulated under the old one. A row without a visible key so far keeps exponent 0,
// so that its scores of -inf become 0 and not NaN. The products are rounded before they are subtracted: fused,
// a maximum that stays would leave the rounding error of its own product, and rescale would not be 1. Then a
// row's result would depend on blocks that it does not see.
__device__ __forceinline__ float raise_max(RowState& row, float candidate, float scale_log2, float& rescale) {
  const float old_max = row.max;
  row.max = fmaxf(old_max, candidate);
  const float exponent = row.max == -kInfinity ? 0.f : __fmul_rn(row.max, scale_log2);
  rescale = exp2_approx(__fsub_rn(__fmul_rn(old_max, scale_log2), exponent));
  row.sum *= rescale;
  return exponent;
}

// Factor that normalises a row of O, from the row's total sum. Only a row without a visible key sums up to 0,
// and a NaN stays a NaN. The approximate reciprocal needs no subroutine, and its error is far below that of
// rounding O to 16 bits.
__device__ __forceinline__ float normaliser(float total) {
  return total == 0.f ? 0.f : reciprocal_approx(total);
}

}  // namespace flashactor
