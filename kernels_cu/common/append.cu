// New keys and values join a cache: k is turned by its position (RoFormer, arXiv:2104.09864, section 3.2),
// both are quantised if the cache is fp8, and q is turned into a copy of its own. One pass over memory, one
// rounding.
//
// A thread writes one chunk of 8 elements. Of a row, that is a token of a sequence, the chunks of k come
// first, then those of v, then those of q, each in the order of heads: neighbours in a warp are neighbours in
// memory.
#include "common/append_params.cuh"
#include "common/convert.cuh"
#include "common/memory.cuh"
#include "common/quantize.cuh"
#include "common/types.cuh"

namespace flashactor {

// Which elements of a head are turned together.
enum class Rotary {
  kNone,
  kHalves,       // j and j + rotary_dim / 2
  kInterleaved,  // 2j and 2j + 1
};

// Everything that is fixed at compile time; flashactor/kernels/append.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr Fp8 kFp8 = static_cast<Fp8>(FA_FP8);
  static constexpr Rotary kRotary = static_cast<Rotary>(FA_ROTARY);
  static constexpr int kThreads = FA_THREADS;

  static constexpr bool kIsFp8 = kFp8 != Fp8::kNone;
  static constexpr bool kRotates = kRotary != Rotary::kNone;
  static constexpr bool kHasFp8Convert = __CUDA_ARCH__ >= 890;

  static_assert(kThreads % 32 == 0);
  static_assert(FA_SHARED_BYTES == 0, "the plan reserves another amount of shared memory");
  static_assert(sizeof(AppendParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;
using Chunk = float[kChunkElements];

// One new row, and where it belongs.
struct Row {
  int batch;
  int token;     // of those that are new
  int position;  // in the sequence
};

__device__ __forceinline__ Row find_row(const AppendParams& p, int row) {
  const int batch = row / p.tokens;
  const int token = row - batch * p.tokens;
  return {batch, token, (p.prefix_lens ? p.prefix_lens[batch] : p.prefix) + token};
}

// Where a row is in the caches.
struct Slot {
  int entry;  // batch entry, or page
  int row;
  bool exists;
};

__device__ __forceinline__ Slot find_slot(const AppendParams& p, const Row& row) {
  if (!p.page_table) return {row.batch, row.position, true};
  const int column = row.position >> p.page_shift;
  const bool guarded = p.num_pages > 0;
  if (guarded && static_cast<u32>(column) >= static_cast<u32>(p.table_pages)) return {0, 0, false};
  const int page = p.page_table[row.batch * p.page_table_stride + column];
  const bool exists = !guarded || static_cast<u32>(page) < static_cast<u32>(p.num_pages);
  return {page, row.position & ((1 << p.page_shift) - 1), exists};
}

// `Count` elements of a table of cosines or sines.
template <int Count>
__device__ __forceinline__ void load_table(const AppendParams& p, const void* table, i64 offset,
                                           float (&x)[Count]) {
  static_assert(Count == 4 || Count == 8);
  if (p.rotary_float) {
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
      const uint4 bits = load_global_16(static_cast<const float*>(table) + offset + i);
      x[i] = __builtin_bit_cast(float, bits.x);
      x[i + 1] = __builtin_bit_cast(float, bits.y);
      x[i + 2] = __builtin_bit_cast(float, bits.z);
      x[i + 3] = __builtin_bit_cast(float, bits.w);
    }
  } else if constexpr (Count == 8) {
    unpack_chunk<C::kBf16>(load_global_16(static_cast<const u16*>(table) + offset), x);
  } else {
    const uint2 bits = load_global_8(static_cast<const u16*>(table) + offset);
    unpack<C::kBf16>(bits.x, x[0], x[1]);
    unpack<C::kBf16>(bits.y, x[2], x[3]);
  }
}

// The chunk at `element` of a head, turned. Of halves, each of the two threads that share a pair of chunks
// loads both: the second load finds the first one's sectors in the cache.
__device__ __forceinline__ void load_rotated(const AppendParams& p, const u16* head, int element,
                                             int position, Chunk& x) {
  unpack_chunk<C::kBf16>(load_global_16(head + element), x);
  if (element >= p.rotary_dim) return;
  if constexpr (C::kRotary == Rotary::kHalves) {
    const int half = p.rotary_dim / 2;
    const bool second = element >= half;
    const int pair = second ? element - half : element;
    Chunk other, cos, sin;
    unpack_chunk<C::kBf16>(load_global_16(head + (second ? pair : pair + half)), other);
    load_table(p, p.rotary_cos, position * p.cos_stride + pair, cos);
    load_table(p, p.rotary_sin, position * p.sin_stride + pair, sin);
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) {
      x[i] = x[i] * cos[i] + other[i] * (second ? sin[i] : -sin[i]);
    }
  } else {
    float cos[kChunkElements / 2], sin[kChunkElements / 2];
    load_table(p, p.rotary_cos, position * p.cos_stride + element / 2, cos);
    load_table(p, p.rotary_sin, position * p.sin_stride + element / 2, sin);
#pragma unroll
    for (int i = 0; i < kChunkElements / 2; ++i) {
      const float first = x[2 * i];
      const float second = x[2 * i + 1];
      x[2 * i] = first * cos[i] - second * sin[i];
      x[2 * i + 1] = first * sin[i] + second * cos[i];
    }
  }
}

__device__ __forceinline__ void store_fp8(void* cache, i64 offset, const Chunk& x, float descale) {
  Chunk y;
  // A true division: what a product with the reciprocal rounds to is not always the nearest.
#pragma unroll
  for (int i = 0; i < kChunkElements; ++i) y[i] = x[i] / descale;
  store_global_8(static_cast<u8*>(cache) + offset,
                 {pack_fp8x4<C::kFp8, C::kHasFp8Convert>(y[0], y[1], y[2], y[3]),
                  pack_fp8x4<C::kFp8, C::kHasFp8Convert>(y[4], y[5], y[6], y[7])});
}

// Moves the chunk at `element` of a head into a cache.
template <bool Rotates>
__device__ __forceinline__ void append(const AppendParams& p, const u16* head, int element, int position,
                                       void* cache, i64 offset, float descale) {
  if constexpr (!Rotates && !C::kIsFp8) {
    store_global_16(static_cast<u16*>(cache) + offset, load_global_16(head + element));
  } else {
    Chunk x;
    if constexpr (Rotates) {
      load_rotated(p, head, element, position, x);
    } else {
      unpack_chunk<C::kBf16>(load_global_16(head + element), x);
    }
    if constexpr (C::kIsFp8) {
      store_fp8(cache, offset, x, descale);
    } else {
      store_global_16(static_cast<u16*>(cache) + offset, pack_chunk<C::kBf16>(x));
    }
  }
}

__device__ __forceinline__ float descale_of(float number, const float* scale, i64 stride, int head) {
  return C::kIsFp8 && scale ? number * scale[head * stride] : number;
}

__device__ __forceinline__ void append_k(const AppendParams& p, const Row& row, const Slot& slot, int head,
                                         int element) {
  const u16* from = p.k + row.batch * p.k_stride_batch + row.token * p.k_stride_row + head * p.k_stride_head;
  const i64 offset = slot.entry * p.k_cache_stride_batch + slot.row * p.k_cache_stride_row +
                     head * p.k_cache_stride_head + element;
  const float descale = descale_of(p.k_descale, p.k_scale, p.k_scale_stride, head);
  append<C::kRotates>(p, from, element, row.position, p.k_cache, offset, descale);
}

__device__ __forceinline__ void append_v(const AppendParams& p, const Row& row, const Slot& slot, int head,
                                         int element) {
  const u16* from = p.v + row.batch * p.v_stride_batch + row.token * p.v_stride_row + head * p.v_stride_head;
  const i64 offset = slot.entry * p.v_cache_stride_batch + slot.row * p.v_cache_stride_row +
                     head * p.v_cache_stride_head + element;
  const float descale = descale_of(p.v_descale, p.v_scale, p.v_scale_stride, head);
  append<false>(p, from, element, row.position, p.v_cache, offset, descale);
}

__device__ __forceinline__ void rotate_q(const AppendParams& p, const Row& row, i64 index, int head,
                                         int element) {
  const u16* from = p.q + row.batch * p.q_stride_batch + row.token * p.q_stride_row + head * p.q_stride_head;
  Chunk x;
  load_rotated(p, from, element, row.position, x);
  store_global_16(p.q_rotated + (index * p.heads_q + head) * p.head_dim + element, pack_chunk<C::kBf16>(x));
}

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_append(const __grid_constant__ AppendParams p) {
  const int chunks_k = p.head_dim / kChunkElements;
  const int chunks_v = p.head_dim_v / kChunkElements;
  const int end_k = p.heads_kv * chunks_k;
  const int end_v = end_k + p.heads_kv * chunks_v;
  const int end = end_v + (C::kRotates ? p.heads_q * chunks_k : 0);

  const u32 tile = blockIdx.x / p.blocks_per_tile;
  const int item = blockIdx.x % p.blocks_per_tile * C::kThreads + threadIdx.x;
  const int row_of_tile = item / end;
  const u32 index = tile * p.rows_per_tile + row_of_tile;
  if (row_of_tile >= p.rows_per_tile || index >= p.rows) return;
  const Row row = find_row(p, index);

  int chunk = item - row_of_tile * end;
  if (chunk < end_v) {
    const Slot slot = find_slot(p, row);
    if (!slot.exists) return;
    if (chunk < end_k) {
      append_k(p, row, slot, chunk / chunks_k, chunk % chunks_k * kChunkElements);
    } else {
      chunk -= end_k;
      append_v(p, row, slot, chunk / chunks_v, chunk % chunks_v * kChunkElements);
    }
  } else if constexpr (C::kRotates) {
    chunk -= end_v;
    rotate_q(p, row, index, chunk / chunks_k, chunk % chunks_k * kChunkElements);
  }
}
