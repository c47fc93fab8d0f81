// Chunks of 16-bit elements to float32 and back.
#pragma once

#include "common/memory.cuh"
#include "common/types.cuh"

namespace flashactor {

template <bool Bf16>
__device__ __forceinline__ void unpack(u32 packed, float& low, float& high) {
  if constexpr (Bf16) {
    low = __builtin_bit_cast(float, packed << 16);
    high = __builtin_bit_cast(float, packed & 0xffff0000u);
  } else {
    asm("{\n\t.reg .f16 x, y;\n\tmov.b32 {x, y}, %2;\n\tcvt.f32.f16 %0, x;\n\tcvt.f32.f16 %1, y;\n\t}"
        : "=f"(low), "=f"(high)
        : "r"(packed));
  }
}

template <bool Bf16>
__device__ __forceinline__ uint4 pack_chunk(const float (&x)[kChunkElements]) {
  return {pack<Bf16>(x[0], x[1]), pack<Bf16>(x[2], x[3]), pack<Bf16>(x[4], x[5]), pack<Bf16>(x[6], x[7])};
}

template <bool Bf16>
__device__ __forceinline__ void unpack_chunk(uint4 packed, float (&x)[kChunkElements]) {
  unpack<Bf16>(packed.x, x[0], x[1]);
  unpack<Bf16>(packed.y, x[2], x[3]);
  unpack<Bf16>(packed.z, x[4], x[5]);
  unpack<Bf16>(packed.w, x[6], x[7]);
}

}  // namespace flashactor
