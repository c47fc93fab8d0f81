// fp8 to 16 bits (Micikevicius et al. 2022, arXiv:2209.05433): e4m3 has no infinity and one NaN, 0x7f.
#pragma once

#include "common/types.cuh"

namespace flashactor {

__device__ __forceinline__ u32 multiply_f16x2(u32 x, u32 y) {
  u32 product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(x), "r"(y));
  return product;
}

// Both halves of an f16x2, as bf16x2. Exact for what came from fp8: a bf16 holds its 2 or 3 bits of mantissa.
__device__ __forceinline__ u32 f16x2_to_bf16x2(u32 x) {
  u32 result;
  asm("{\n\t.reg .f16 low, high;\n\t.reg .f32 x, y;\n\t"
      "mov.b32 {low, high}, %1;\n\tcvt.f32.f16 x, low;\n\tcvt.f32.f16 y, high;\n\t"
      "cvt.rn.bf16x2.f32 %0, y, x;\n\t}"
      : "=r"(result)
      : "r"(x));
  return result;
}

// Bytes 0 and 2 of `x` are fp8; the result holds them as f16. Every e4m3 and e5m2 number is an f16.
__device__ __forceinline__ u32 e5m2_to_f16(u32 x) { return (x & 0x00ff00ffu) << 8; }

// The bits of an e4m3 are those of an f16 whose exponent is too small by 8 (biases 7 and 15), also if it is
// subnormal. sm_80 has no instruction for it.
__device__ __forceinline__ u32 e4m3_to_f16(u32 x) {
  const u32 magnitude = x & 0x007f007fu;
  const u32 number = multiply_f16x2((x & 0x00800080u) << 8 | magnitude << 7, 0x5c005c00u);  // 256
  // Only 0x7f carries into bit 7 when 1 is added: 0x80 * 0xfc is a NaN's 0x7e00.
  return number | ((magnitude + 0x00010001u) & 0x00800080u) * 0xfcu;
}

// Four fp8 of a word as 16-bit elements, in order.
template <bool Bf16>
__device__ __forceinline__ void expand_fp8(u32 x, bool e5m2, u32& low, u32& high) {
  const u32 even = e5m2 ? e5m2_to_f16(x) : e4m3_to_f16(x);
  const u32 odd = e5m2 ? e5m2_to_f16(x >> 8) : e4m3_to_f16(x >> 8);
  low = __byte_perm(even, odd, 0x5410);
  high = __byte_perm(even, odd, 0x7632);
  if constexpr (Bf16) {
    low = f16x2_to_bf16x2(low);
    high = f16x2_to_bf16x2(high);
  }
}

// Back, from sm_89 on: four floats, rounded to the nearest e4m3 or to the largest, `x0` in the lowest byte.
__device__ __forceinline__ u32 pack_e4m3(float x0, float x1, float x2, float x3) {
  u32 packed;
  asm("{\n\t.reg .b16 low, high;\n\t"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n\tcvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n\t"
      "mov.b32 %0, {low, high};\n\t}"
      : "=r"(packed)
      : "f"(x0), "f"(x1), "f"(x2), "f"(x3));
  return packed;
}

}  // namespace flashactor
