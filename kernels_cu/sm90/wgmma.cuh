// wgmma of 64 rows: one instruction per function, for the shapes that the tile tables use. Written by
// tools/generate_wgmma.py.
//
// D[64][N] += A B, or = A B where `accumulates` is false. D lies in registers as of m64nN: columns 8n to
// 8n + 7 in d[n], of which a lane holds two of row lane / 4 and two of row lane / 4 + 8. B lies in shared
// memory, and so does A, or in registers (PTX ISA, "Asynchronous warpgroup-level matrix instructions").
#pragma once

#include "common/types.cuh"

namespace flashactor {

// Element types of A and B. The depth of a product is 32 bytes of them.
enum class Product { kF16, kBf16, kE4m3, kE4m3E5m2 };

template <Product Types>
__device__ __forceinline__ void wgmma_shared(float (&d)[8][4], u64 a, u64 b,
                                             bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %34, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n64" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
      "}, %32, %33, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]) \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 0, 0");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_shared(float (&d)[10][4], u64 a, u64 b,
                                             bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %42, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n80" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39" \
      "}, %40, %41, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]) \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 0, 0");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_shared(float (&d)[12][4], u64 a, u64 b,
                                             bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %50, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n96" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
      "}, %48, %49, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]) \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 0, 0");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_shared(float (&d)[14][4], u64 a, u64 b,
                                             bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %58, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n112" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55" \
      "}, %56, %57, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]),  \
        "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]) \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 0, 0");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_shared(float (&d)[16][4], u64 a, u64 b,
                                             bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n128" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
      "%56, %57, %58, %59, %60, %61, %62, %63" \
      "}, %64, %65, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]),  \
        "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),  \
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]),  \
        "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]) \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 0, 0");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_shared(float (&d)[22][4], u64 a, u64 b,
                                             bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %90, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n176" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, " \
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87" \
      "}, %88, %89, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]),  \
        "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),  \
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]),  \
        "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]), "+f"(d[16][0]), "+f"(d[16][1]),  \
        "+f"(d[16][2]), "+f"(d[16][3]), "+f"(d[17][0]), "+f"(d[17][1]), "+f"(d[17][2]),  \
        "+f"(d[17][3]), "+f"(d[18][0]), "+f"(d[18][1]), "+f"(d[18][2]), "+f"(d[18][3]),  \
        "+f"(d[19][0]), "+f"(d[19][1]), "+f"(d[19][2]), "+f"(d[19][3]), "+f"(d[20][0]),  \
        "+f"(d[20][1]), "+f"(d[20][2]), "+f"(d[20][3]), "+f"(d[21][0]), "+f"(d[21][1]),  \
        "+f"(d[21][2]), "+f"(d[21][3]) \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 0, 0");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_registers(float (&d)[4][4], const u32 (&a)[4], u64 b,
                                                bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %21, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n32" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
      "}, {%16, %17, %18, %19}, %20, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 1");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 1");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_registers(float (&d)[8][4], const u32 (&a)[4], u64 b,
                                                bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %37, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n64" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 1");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 1");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_registers(float (&d)[12][4], const u32 (&a)[4], u64 b,
                                                bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %53, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n96" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
      "}, {%48, %49, %50, %51}, %52, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 1");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 1");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_registers(float (&d)[16][4], const u32 (&a)[4], u64 b,
                                                bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %69, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n128" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
      "%56, %57, %58, %59, %60, %61, %62, %63" \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]),  \
        "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),  \
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]),  \
        "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 1");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 1");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_registers(float (&d)[24][4], const u32 (&a)[4], u64 b,
                                                bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %101, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n192" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, " \
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, " \
      "%92, %93, %94, %95" \
      "}, {%96, %97, %98, %99}, %100, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]),  \
        "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),  \
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]),  \
        "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]), "+f"(d[16][0]), "+f"(d[16][1]),  \
        "+f"(d[16][2]), "+f"(d[16][3]), "+f"(d[17][0]), "+f"(d[17][1]), "+f"(d[17][2]),  \
        "+f"(d[17][3]), "+f"(d[18][0]), "+f"(d[18][1]), "+f"(d[18][2]), "+f"(d[18][3]),  \
        "+f"(d[19][0]), "+f"(d[19][1]), "+f"(d[19][2]), "+f"(d[19][3]), "+f"(d[20][0]),  \
        "+f"(d[20][1]), "+f"(d[20][2]), "+f"(d[20][3]), "+f"(d[21][0]), "+f"(d[21][1]),  \
        "+f"(d[21][2]), "+f"(d[21][3]), "+f"(d[22][0]), "+f"(d[22][1]), "+f"(d[22][2]),  \
        "+f"(d[22][3]), "+f"(d[23][0]), "+f"(d[23][1]), "+f"(d[23][2]), "+f"(d[23][3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 1");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 1");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

template <Product Types>
__device__ __forceinline__ void wgmma_registers(float (&d)[32][4], const u32 (&a)[4], u64 b,
                                                bool accumulates) {
#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \
  asm volatile( \
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %133, 0;\n\t" \
      "wgmma.mma_async.sync.aligned.m64n256" TYPES " {" \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, " \
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, " \
      "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, " \
      "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
      "%123, %124, %125, %126, %127" \
      "}, {%128, %129, %130, %131}, %132, p, 1, 1" TRANSPOSED ";\n\t}" \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),  \
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),  \
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),  \
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),  \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),  \
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),  \
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]),  \
        "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]),  \
        "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]),  \
        "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),  \
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]),  \
        "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]), "+f"(d[16][0]), "+f"(d[16][1]),  \
        "+f"(d[16][2]), "+f"(d[16][3]), "+f"(d[17][0]), "+f"(d[17][1]), "+f"(d[17][2]),  \
        "+f"(d[17][3]), "+f"(d[18][0]), "+f"(d[18][1]), "+f"(d[18][2]), "+f"(d[18][3]),  \
        "+f"(d[19][0]), "+f"(d[19][1]), "+f"(d[19][2]), "+f"(d[19][3]), "+f"(d[20][0]),  \
        "+f"(d[20][1]), "+f"(d[20][2]), "+f"(d[20][3]), "+f"(d[21][0]), "+f"(d[21][1]),  \
        "+f"(d[21][2]), "+f"(d[21][3]), "+f"(d[22][0]), "+f"(d[22][1]), "+f"(d[22][2]),  \
        "+f"(d[22][3]), "+f"(d[23][0]), "+f"(d[23][1]), "+f"(d[23][2]), "+f"(d[23][3]),  \
        "+f"(d[24][0]), "+f"(d[24][1]), "+f"(d[24][2]), "+f"(d[24][3]), "+f"(d[25][0]),  \
        "+f"(d[25][1]), "+f"(d[25][2]), "+f"(d[25][3]), "+f"(d[26][0]), "+f"(d[26][1]),  \
        "+f"(d[26][2]), "+f"(d[26][3]), "+f"(d[27][0]), "+f"(d[27][1]), "+f"(d[27][2]),  \
        "+f"(d[27][3]), "+f"(d[28][0]), "+f"(d[28][1]), "+f"(d[28][2]), "+f"(d[28][3]),  \
        "+f"(d[29][0]), "+f"(d[29][1]), "+f"(d[29][2]), "+f"(d[29][3]), "+f"(d[30][0]),  \
        "+f"(d[30][1]), "+f"(d[30][2]), "+f"(d[30][3]), "+f"(d[31][0]), "+f"(d[31][1]),  \
        "+f"(d[31][2]), "+f"(d[31][3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)))
  if constexpr (Types == Product::kF16) {
    FLASHACTOR_WGMMA("k16.f32.f16.f16", ", 1");
  } else if constexpr (Types == Product::kBf16) {
    FLASHACTOR_WGMMA("k16.f32.bf16.bf16", ", 1");
  } else if constexpr (Types == Product::kE4m3) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e4m3", "");
  } else if constexpr (Types == Product::kE4m3E5m2) {
    FLASHACTOR_WGMMA("k32.f32.e4m3.e5m2", "");
  }
#undef FLASHACTOR_WGMMA
}

}  // namespace flashactor
