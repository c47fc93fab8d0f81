// float32 to fp8 (Micikevicius et al. 2022, arXiv:2209.05433): to nearest even, saturated at the largest
// finite number; a NaN becomes 0x7f. The instruction for it came with sm_89, with these very results.
#pragma once

#include "common/types.cuh"

namespace flashactor {

// The layouts of fp8 by which a kernel is compiled; the values are the macro's.
enum class Fp8 {
  kNone,
  kE4m3,
  kE5m2,
};

// Two floats as fp8, `low` in the low byte.
template <Fp8 Format>
__device__ __forceinline__ u32 convert_fp8x2(float low, float high) {
  u16 packed;
  if constexpr (Format == Fp8::kE4m3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

// The same with integers, for architectures without the instruction.
template <Fp8 Format>
__device__ __forceinline__ u32 compute_fp8(float x) {
  constexpr int kMantissa = Format == Fp8::kE4m3 ? 3 : 2;
  constexpr int kBias = Format == Fp8::kE4m3 ? 7 : 15;
  constexpr u32 kLargest = Format == Fp8::kE4m3 ? 0x7e : 0x7b;
  constexpr int kDropped = 23 - kMantissa;  // bits of float32's mantissa
  constexpr u32 kLeastNormal = static_cast<u32>(127 - kBias + 1) << 23;
  // 2^23 times the least subnormal: added to it, a smaller number is rounded to a multiple of that.
  constexpr u32 kMagic = static_cast<u32>(127 + 23 + 1 - kBias - kMantissa) << 23;

  const u32 bits = __builtin_bit_cast(u32, x);
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  u32 code;
  if (magnitude < kLeastNormal) {
    const float sum = __builtin_bit_cast(float, magnitude) + __builtin_bit_cast(float, kMagic);
    code = __builtin_bit_cast(u32, sum) - kMagic;
  } else {
    // Half of the last bit that stays, less one unless that bit is odd. A carry moves into the exponent.
    const u32 rounded = magnitude + (1u << (kDropped - 1)) - 1 + (magnitude >> kDropped & 1);
    code = min((rounded >> kDropped) - (static_cast<u32>(127 - kBias) << kMantissa), kLargest);
  }
  return code | (bits >> 24 & 0x80);
}

template <Fp8 Format, bool HasConvert>
__device__ __forceinline__ u32 pack_fp8x4(float a, float b, float c, float d) {
  if constexpr (HasConvert) {
    return convert_fp8x2<Format>(a, b) | convert_fp8x2<Format>(c, d) << 16;
  } else {
    return compute_fp8<Format>(a) | compute_fp8<Format>(b) << 8 | compute_fp8<Format>(c) << 16 |
           compute_fp8<Format>(d) << 24;
  }
}

}  // namespace flashactor
