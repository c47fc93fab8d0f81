// FlashAttention-2 forward (Dao 2023, arXiv:2307.08691, algorithm 1) with mma.sync and cp.async.
//
// One thread block computes TileM rows (queries, or queries by the heads of a group) of one sequence. It walks
// the key blocks that they see from the last to the first. Loads run ahead of the products by half a step: the
// block's V is in flight under Q*K^T, the next block's K under the softmax and P*V. For a few rows and many keys,
// the warps of a block share the keys rather than the rows, and several blocks share a sequence (split-KV, as in
// Flash-Decoding): each writes what it has, and combine.cu merges them.
#include "common/fwd_params.cuh"
#include "common/mask.cuh"
#include "common/philox.cuh"
#include "common/seqlen.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm80/ptx.cuh"
#include "sm80/rows.cuh"
#include "sm80/staging.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

// Everything that is fixed at compile time; flashactor/kernels/spec.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr Scores kScores = static_cast<Scores>(FA_SCORES);
  static constexpr bool kPaged = FA_PAGED;
  static constexpr bool kFp8Kv = FA_FP8_KV;  // 8-bit keys and values, which become 16-bit on the way in
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kHeadDimV = FA_HEAD_DIM_V;
  static constexpr int kTileM = FA_TILE_M;
  static constexpr int kTileN = FA_TILE_N;
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kKeyWarps = FA_KEY_WARPS;  // warps that share the keys of the same rows

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowsPerWarp = kTileM * kKeyWarps / kWarps;
  static constexpr int kKeysPerWarp = kTileN / kKeyWarps;
  static constexpr int kMTiles = kRowsPerWarp / 16;    // m16 tiles that a warp owns
  static constexpr int kKeyTiles = kKeysPerWarp / 8;   // n8 tiles of S
  static constexpr int kDimTiles = kHeadDimV / 8;      // n8 tiles of O
  static constexpr bool kModified = kScores != Scores::kPlain;

  static constexpr int kQBytes = kTileM * (kHeadDim > kHeadDimV ? kHeadDim : kHeadDimV) * kElementBytes;
  static constexpr int kKBytes = kTileN * kHeadDim * kElementBytes;
  static constexpr int kVBytes = kTileN * kHeadDimV * kElementBytes;
  static constexpr int kStagingBytes = kFp8Kv ? kTileN * (kHeadDim + kHeadDimV) : 0;
  static constexpr int kSharedBytes = kQBytes + kKBytes + kVBytes + kStagingBytes;

  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256 && kHeadDimV % 32 == 0 && kHeadDimV <= 256);
  static_assert(kRowsPerWarp % 16 == 0 && kKeysPerWarp % 16 == 0);
  static_assert(kKeyWarps == 1 || kKeyWarps == kWarps);
  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");
  static_assert(sizeof(FwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;
using TileK = Tile<C::kHeadDim, C::kThreads>;  // of Q, too
using TileV = Tile<C::kHeadDimV, C::kThreads>;

struct Shared {
  u32 q;           // [TileM][HeadDim]; at the end out, [TileM][HeadDimV]
  u32 k;           // [TileN][HeadDim]
  u32 v;           // [TileN][HeadDimV]
  u32 staged_k;    // [TileN][HeadDim] of 8 bits
  u32 staged_v;    // [TileN][HeadDimV] of 8 bits
};

// Where a thread's elements of an m16n8 accumulator are: rows lane / 4 and lane / 4 + 8, columns
// 2 * (lane % 4) and the next.
struct Lane {
  int lane = threadIdx.x % 32;
  int warp = threadIdx.x / 32;
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

// Blocks of one head follow each other, so that its keys and values are read from L2 after the first; so do
// the heads that share them. The rows with most keys under a causal mask come first, which leaves short work for
// the end of the grid.
__device__ __forceinline__ Work find_work(const FwdParams& p) {
  const u32 tiled = blockIdx.x / p.q_tiles;
  const int tile = blockIdx.x % p.q_tiles;
  const u32 sequence_head = tiled / p.num_splits;
  const int heads = p.problem.heads_q / p.pack;
  return {static_cast<int>(sequence_head / heads), static_cast<int>(sequence_head % heads) * p.pack,
          static_cast<int>(tiled % p.num_splits), (p.q_tiles - 1 - tile) * C::kTileM};
}

// How scores become exponents of two.
struct Scale {
  float log2;             // softmax_scale * log2(e), with the descale of 8-bit keys
  float softcap_inverse;  // softmax_scale / softcap, likewise
  float slopes[C::kMTiles][2];  // ALiBi, in base 2
};

// S = Q K^T, [RowsPerWarp][KeysPerWarp].
__device__ __forceinline__ void multiply_qk(float (&s)[C::kMTiles][C::kKeyTiles][4], const Shared& shared,
                                            const Lane& lane) {
  // ldmatrix takes the address of row `lane % 8` of matrix `lane / 8`. For A the four matrices are rows
  // 0-7 and 8-15 of the first chunk, then of the second; for B the two chunks of keys 0-7, then of 8-15.
  const int l = lane.lane;
  const u32 q = shared.q + TileK::lane_offset(lane.first_row + l % 16, l / 16);
  const u32 k = shared.k + TileK::lane_offset(lane.first_key + l % 8 + l / 16 * 8, l / 8 % 2);
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0.f;
// Not unrolled further: more loads hoisted means more registers, and at head_dim 128 that spills.
#pragma unroll 2
  for (int step = 0; step < C::kHeadDim / 16; ++step) {
    u32 a[C::kMTiles][4];
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
      ldmatrix_x4(a[m], TileK::at(q, step * 2) + m * 16 * TileK::kRowBytes);
    }
#pragma unroll
    for (int n = 0; n < C::kKeyTiles; n += 2) {
      u32 b[4];
      ldmatrix_x4(b, TileK::at(k, step * 2) + n * 8 * TileK::kRowBytes);
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        mma_m16n8k16<C::kBf16>(s[m][n], a[m], b[0], b[1]);
        mma_m16n8k16<C::kBf16>(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// O += P V, [RowsPerWarp][HeadDimV]. The accumulator layout of S is the layout of the A operand, so P goes
// from one product to the other in registers.
__device__ __forceinline__ void multiply_pv(float (&o)[C::kMTiles][C::kDimTiles][4],
                                            const float (&p)[C::kMTiles][C::kKeyTiles][4],
                                            const Shared& shared, const Lane& lane) {
  const int l = lane.lane;
  const u32 v = shared.v + TileV::lane_offset(lane.first_key + l % 16, l / 16);
#pragma unroll
  for (int step = 0; step < C::kKeysPerWarp / 16; ++step) {
    u32 a[C::kMTiles][4];
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
      const auto& left = p[m][2 * step];
      const auto& right = p[m][2 * step + 1];
      a[m][0] = pack<C::kBf16>(left[0], left[1]);
      a[m][1] = pack<C::kBf16>(left[2], left[3]);
      a[m][2] = pack<C::kBf16>(right[0], right[1]);
      a[m][3] = pack<C::kBf16>(right[2], right[3]);
    }
#pragma unroll
    for (int n = 0; n < C::kDimTiles; n += 2) {
      u32 b[4];
      ldmatrix_x4_trans(b, TileV::at(v, n) + step * 16 * TileV::kRowBytes);
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        mma_m16n8k16<C::kBf16>(o[m][n], a[m], b[0], b[1]);
        mma_m16n8k16<C::kBf16>(o[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Softcap and ALiBi (Press et al. 2021, arXiv:2108.12409), which turn raw scores into exponents of two.
__device__ __forceinline__ void modify(float (&s)[C::kMTiles][C::kKeyTiles][4], const Problem& p,
                                       const Mask& mask, const Scale& scale, const Lane& lane,
                                       const PackedRows& rows, int tile_row, int first_key) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = rows.query(tile_row + lane.row(m, half));
      const float distance = static_cast<float>(query + mask.offset - first_key - lane.column());
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[m][n][half * 2 + e];
          x = p.softcap_log2 > 0.f ? p.softcap_log2 * tanh_exp(x * scale.softcap_inverse) : x * scale.log2;
          x -= scale.slopes[m][half] * fabsf(distance - static_cast<float>(n * 8 + e));
        }
    }
}

// Scores of keys that a row does not see become -inf.
__device__ __forceinline__ void apply_mask(float (&s)[C::kMTiles][C::kKeyTiles][4], const Mask& mask,
                                           const Lane& lane, const PackedRows& rows, int tile_row,
                                           int first_key) {
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
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = n * 8 + e;
          if (column >= end || (column < begin && column >= sinks)) s[m][n][half * 2 + e] = -kInfinity;
        }
    }
}

// P = exp2(S * scale - max), with the row states and O brought up to the new maxima.
__device__ __forceinline__ void update_softmax(float (&s)[C::kMTiles][C::kKeyTiles][4],
                                               float (&o)[C::kMTiles][C::kDimTiles][4],
                                               RowState (&rows)[C::kMTiles][2], float scale_log2) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      RowState& row = rows[m][half];
      float largest = -kInfinity;
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n) {
        largest = fmaxf(largest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
      }
      float rescale;
      const float exponent = raise_max(row, quad_max(largest), scale_log2, rescale);
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[m][n][half * 2 + e];
          x = exp2_approx(x * scale_log2 - exponent);
          row.sum += x;
        }
#pragma unroll
      for (int n = 0; n < C::kDimTiles; ++n) {
        o[m][n][half * 2] *= rescale;
        o[m][n][half * 2 + 1] *= rescale;
      }
    }
}

// Dropped weights become 0. The row sums have counted them, as softmax comes before dropout.
__device__ __forceinline__ void drop(float (&s)[C::kMTiles][C::kKeyTiles][4], const Problem& p, const Work& work,
                                     const Lane& lane, int first_key) {
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

// Where the results of a row go.
struct Output {
  const FwdParams& p;
  const Work& work;
  const Sequence& sequence;
  const PackedRows& rows;
  float scale_log2;  // of the row maxima
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

  // Writes a row's lse and returns the factor that its part of O takes. `first` in one thread of the row.
  __device__ __forceinline__ float finish_row(int tile_row, float max, float total, bool first) const {
    const int i = query(tile_row);
    if (i >= sequence.seqlen_q) total = 0.f;  // a stored row that does not count sees nothing
    const float exponent = max * scale_log2;
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
__device__ __forceinline__ float normalised(float x, float factor) { return factor == 0.f ? 0.f : x * factor; }

// Normalises O and writes it through the warp's own rows of the Q tile, which no other warp reads, so that
// global memory is written in whole 16-byte chunks; writes lse.
__device__ __forceinline__ void finish(const float (&o)[C::kMTiles][C::kDimTiles][4],
                                       const RowState (&states)[C::kMTiles][2], const Output& output,
                                       const Shared& shared, const Lane& lane) {
  const FwdParams& p = output.p;
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowState& row = states[m][half];
      const int tile_row = lane.row(m, half);
      const float factor = output.finish_row(tile_row, row.max, quad_sum(row.sum), lane.lane % 4 == 0);
      if (p.num_splits > 1) {
        float* partial = p.partial_out + output.partial_row(tile_row) * p.problem.head_dim_v + lane.column();
#pragma unroll
        for (int n = 0; n < C::kDimTiles; ++n) {
          if (output.exists(tile_row) && n * 8 < p.problem.head_dim_v) {
            store_global_8(partial + n * 8, normalised(o[m][n][half * 2], factor),
                           normalised(o[m][n][half * 2 + 1], factor));
          }
        }
        continue;
      }
      const u32 to = shared.q + TileV::lane_offset(tile_row, 0) + lane.column() * kElementBytes;
#pragma unroll
      for (int n = 0; n < C::kDimTiles; ++n) {
        store_shared(TileV::at(to, n), pack<C::kBf16>(normalised(o[m][n][half * 2], factor),
                                                      normalised(o[m][n][half * 2 + 1], factor)));
      }
    }
  if (p.num_splits > 1) return;
  __syncwarp();
  constexpr int kSpan = TileV::kSpan;
  const int chunk = lane.lane % kSpan;
#pragma unroll
  for (int r = 0; r < C::kRowsPerWarp; r += 32 / kSpan) {
    const int tile_row = lane.first_row + r + lane.lane / kSpan;
    const bool exists = output.exists(tile_row);
    u16* out = output.out(tile_row);
    const u32 from = shared.q + TileV::lane_offset(tile_row, chunk);
#pragma unroll
    for (int c = 0; c < TileV::kChunks; c += kSpan) {
      if (exists && (chunk + c) * kChunkElements < p.problem.head_dim_v) {
        store_global_16(out + (chunk + c) * kChunkElements, load_shared_16(from + c * kChunkBytes));
      }
    }
  }
}

// The same where every warp has all rows and its own part of the keys: the parts are merged in shared memory, over
// K and V, which are read by none any more.
__device__ __forceinline__ void merge_and_finish(const float (&o)[C::kMTiles][C::kDimTiles][4],
                                                 const RowState (&states)[C::kMTiles][2], const Output& output,
                                                 const Shared& shared, const Lane& lane) {
  const FwdParams& p = output.p;
  constexpr int kRowFloats = C::kHeadDimV + 8;  // 8 more, so that the rows of a quad lie in different banks
  constexpr int kStates = C::kKeyWarps * C::kTileM * kRowFloats * 4;
  static_assert(C::kKeyWarps == 1 || kStates + C::kKeyWarps * C::kTileM * 8 <= C::kSharedBytes);
  const auto at = [&](int warp, int row) { return warp * C::kTileM + row; };
  __syncthreads();
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at(lane.warp, lane.row(m, half));
      const float sum = quad_sum(states[m][half].sum);
      if (lane.lane % 4 == 0) store_shared_8(shared.q + kStates + row * 8, states[m][half].max, sum);
      const u32 to = shared.q + (row * kRowFloats + lane.column()) * 4;
#pragma unroll
      for (int n = 0; n < C::kDimTiles; ++n) {
        store_shared_8(to + n * 32, o[m][n][half * 2], o[m][n][half * 2 + 1]);
      }
    }
  __syncthreads();
  const int chunks = p.problem.head_dim_v / kChunkElements;
  for (int item = threadIdx.x; item < C::kTileM * TileV::kChunks; item += C::kThreads) {
    const int tile_row = item / TileV::kChunks;
    const int chunk = item % TileV::kChunks;
    float maxima[C::kKeyWarps], sums[C::kKeyWarps], largest = -kInfinity;
#pragma unroll
    for (int w = 0; w < C::kKeyWarps; ++w) {
      load_shared_8(shared.q + kStates + at(w, tile_row) * 8, maxima[w], sums[w]);
      largest = fmaxf(largest, maxima[w]);
    }
    const float exponent = largest == -kInfinity ? 0.f : largest * output.scale_log2;
    float total = 0.f, x[kChunkElements] = {};
#pragma unroll
    for (int w = 0; w < C::kKeyWarps; ++w) {
      const float weight = exp2_approx(maxima[w] * output.scale_log2 - exponent);
      total += sums[w] * weight;
      const u32 from = shared.q + (at(w, tile_row) * kRowFloats + chunk * kChunkElements) * 4;
      float part[kChunkElements];
      load_shared_floats(from, part);
      load_shared_floats(from + 16, part + 4);
#pragma unroll
      for (int e = 0; e < kChunkElements; ++e) x[e] += part[e] * weight;
    }
    const float factor = output.finish_row(tile_row, largest, total, chunk == 0);
    if (!output.exists(tile_row) || chunk >= chunks) continue;
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) x[e] = normalised(x[e], factor);
    if (p.num_splits > 1) {
      float* partial = p.partial_out + output.partial_row(tile_row) * p.problem.head_dim_v + chunk * kChunkElements;
      store_global_floats(partial, x);
      store_global_floats(partial + 4, x + 4);
    } else {
      store_global_16(output.out(tile_row) + chunk * kChunkElements,
                      {pack<C::kBf16>(x[0], x[1]), pack<C::kBf16>(x[2], x[3]), pack<C::kBf16>(x[4], x[5]),
                       pack<C::kBf16>(x[6], x[7])});
    }
  }
}

// Keys or values of a sequence, and how a block of them comes into shared memory.
template <typename SharedTile>
struct KeyValue {
  using Element = typename Select<C::kFp8Kv, u8, u16>::Type;

  const Element* base;  // of the sequence and head; where it is paged, of the head in the pool
  const int* pages;
  i64 stride_page, stride_row;
  int page_shift, num_pages, seqlen, columns;

  __device__ __forceinline__ void load(u32 tile, int first_key) const {
    const int rows = seqlen - first_key;
    if constexpr (C::kPaged) {
      const PagedRows<Element> source{base, pages, stride_page, stride_row, page_shift, num_pages, first_key};
      copy(tile, source, rows);
    } else {
      const StridedRows<Element> source{base + first_key * stride_row, stride_row};
      copy(tile, source, rows);
    }
    cp_async_commit();
  }

 private:
  template <typename Source>
  __device__ __forceinline__ void copy(u32 tile, const Source& source, int rows) const {
    if constexpr (C::kFp8Kv) {
      Staging<SharedTile, C::kThreads>::template load<C::kTileN>(tile, source, rows, columns);
    } else {
      SharedTile::template load<C::kTileN>(tile, source, rows, columns / kChunkElements);
    }
  }
};

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_fwd_sm80(const __grid_constant__ FwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Shared shared;
  shared.q = shared_address(shared_memory);
  shared.k = shared.q + C::kQBytes;
  shared.v = shared.k + C::kKBytes;
  shared.staged_k = shared.v + C::kVBytes;
  shared.staged_v = shared.staged_k + C::kTileN * C::kHeadDim;

  const Lane lane;
  const Work work = find_work(p);
  const Sequence sequence = find_sequence(p.problem, work.batch);
  const PackedRows packed(p);
  const int kv_head = work.head / p.problem.gqa_ratio;
  const int first_query = packed.query(work.first_row);
  if (first_query >= sequence.stored_q) return;

  const auto key_value = [&](auto tile, const void* tensor, i64 stride_batch, i64 stride_row, i64 stride_head,
                             int columns) {
    using Source = KeyValue<decltype(tile)>;
    const auto* base = static_cast<const typename Source::Element*>(tensor) + kv_head * stride_head;
    if (!p.page_table) base += sequence.entry_k * stride_batch + sequence.first_k * stride_row;
    const int* pages = p.page_table ? p.page_table + work.batch * p.page_table_stride : nullptr;
    return Source{base, pages, stride_batch, stride_row, p.page_shift, p.num_pages, sequence.seqlen_k, columns};
  };
  const auto k = key_value(TileK{}, p.k, p.k_stride_batch, p.k_stride_row, p.k_stride_head, p.problem.head_dim);
  const auto v = key_value(TileV{}, p.v, p.v_stride_batch, p.v_stride_row, p.v_stride_head, p.problem.head_dim_v);

  Scale scale{p.problem.scale_log2, p.problem.softcap_inverse, {}};
  float v_descale = 1.f;
  if constexpr (C::kFp8Kv) {
    const float k_descale = p.k_descale * (p.k_scale ? p.k_scale[kv_head * p.k_scale_stride] : 1.f);
    scale.log2 *= k_descale;
    scale.softcap_inverse *= k_descale;
    v_descale = p.v_descale * (p.v_scale ? p.v_scale[kv_head * p.v_scale_stride] : 1.f);
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

  const Mask mask(p.problem, sequence);
  const int last_query =
      min(packed.query(work.first_row + C::kTileM - 1), sequence.seqlen_q - 1);
  const KeyBlocks blocks(mask, first_query, last_query, C::kTileN);
  const int share = p.blocks_per_split ? p.blocks_per_split : divide_up(blocks.count, p.num_splits);
  const int first_block = work.split * share;
  int index = min(first_block + share, blocks.count) - 1;

  float o[C::kMTiles][C::kDimTiles][4] = {};
  RowState rows[C::kMTiles][2];
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m) rows[m][0] = rows[m][1] = kEmptyRow;

  const u32 k_target = C::kFp8Kv ? shared.staged_k : shared.k;
  const u32 v_target = C::kFp8Kv ? shared.staged_v : shared.v;
  if (index >= first_block) {
    const u16* q = static_cast<const u16*>(p.q) + sequence.entry * p.q_stride_batch +
                   sequence.first_q * p.q_stride_row + work.head * p.q_stride_head;
    const QueryRows source{q, packed, work.first_row, p.q_stride_row, p.q_stride_head};
    TileK::load<C::kTileM>(shared.q, source, sequence.seqlen_q * p.pack - work.first_row,
                           p.problem.head_dim / kChunkElements);
    k.load(k_target, blocks.block(index) * C::kTileN);
  }
#pragma unroll 1
  for (; index >= first_block; --index) {
    const int first_key = blocks.block(index) * C::kTileN;
    cp_async_wait<0>();
    __syncthreads();  // K is there for all; V of the block before is read by none any more
    v.load(v_target, first_key);
    if constexpr (C::kFp8Kv) {
      Staging<TileK, C::kThreads>::expand<C::kBf16, C::kTileN>(shared.k, shared.staged_k, p.kv_e5m2);
      __syncthreads();  // K is there for all in 16 bits
    }

    float s[C::kMTiles][C::kKeyTiles][4];
    multiply_qk(s, shared, lane);

    cp_async_wait<0>();
    __syncthreads();  // V is there for all; K is read by none any more
    if (index > first_block) k.load(k_target, blocks.block(index - 1) * C::kTileN);
    if constexpr (C::kFp8Kv) {
      Staging<TileV, C::kThreads>::expand<C::kBf16, C::kTileN>(shared.v, shared.staged_v, p.kv_e5m2);
      __syncthreads();  // V is there for all in 16 bits
    }

    const int warp_key = first_key + lane.first_key;
    if constexpr (C::kModified) modify(s, p.problem, mask, scale, lane, packed, work.first_row, warp_key);
    if (mask.cuts_right(first_query, first_key, C::kTileN) || mask.cuts_left(last_query, first_key)) {
      apply_mask(s, mask, lane, packed, work.first_row, warp_key);
    }
    update_softmax(s, o, rows, C::kModified ? 1.f : scale.log2);
    if constexpr (C::kScores == Scores::kDropout) drop(s, p.problem, work, lane, warp_key);
    multiply_pv(o, s, shared, lane);
  }
  const Output output{p, work, sequence, packed, C::kModified ? 1.f : scale.log2, v_descale};
  if constexpr (C::kKeyWarps == 1) {
    finish(o, rows, output, shared, lane);
  } else {
    merge_and_finish(o, rows, output, shared, lane);
  }
}
