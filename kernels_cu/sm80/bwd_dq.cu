// Backward pass of queries (Dao 2023, arXiv:2307.08691, algorithm 2, its inner sums over keys).
//
// One thread block owns TileM queries of one head of one sequence and walks over the key blocks that they
// see. It computes S and dP a second time, which is what dQ costs without atomic additions: with
// bwd_dkdv.cu it makes the deterministic backward pass.
//
// With one stage, the next block's V is in flight under S = Q K^T and dQ += dS K, its K under dP = dO V^T;
// with two, both are under all of the block before.
#include "common/mask.cuh"
#include "common/philox.cuh"
#include "common/seqlen.cuh"
#include "sm80/bwd.cuh"

namespace flashactor {

// Everything that is fixed at compile time; flashactor/kernels/backward_spec.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr Scores kScores = static_cast<Scores>(FA_SCORES);
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kHeadDimV = FA_HEAD_DIM_V;
  static constexpr int kTileM = FA_TILE_M;  // queries of a block
  static constexpr int kTileN = FA_TILE_N;  // keys of a step
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kStages = FA_STAGES;  // tiles of K and V that shared memory holds

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowsPerWarp = kTileM / kWarps;
  static constexpr int kMTiles = kRowsPerWarp / 16;  // m16 tiles that a warp owns
  static constexpr int kKeyTiles = kTileN / 8;       // n8 tiles of S
  static constexpr bool kModified = kScores != Scores::kPlain;

  static constexpr int kQBytes = kTileM * kHeadDim * kElementBytes;
  static constexpr int kDoutBytes = kTileM * kHeadDimV * kElementBytes;
  static constexpr int kKBytes = kTileN * kHeadDim * kElementBytes;
  static constexpr int kVBytes = kTileN * kHeadDimV * kElementBytes;
  static constexpr int kSharedBytes = kQBytes + kDoutBytes + kStages * (kKBytes + kVBytes);

  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256 && kHeadDimV % 32 == 0 && kHeadDimV <= 256);
  static_assert(kTileM % (16 * kWarps) == 0 && kTileN % 16 == 0 && kStatRows % kTileM == 0);
  static_assert(kTileN <= 64, "a word holds what dropout keeps of a thread's elements of an m16 tile");
  static_assert(kStages == 1 || kStages == 2);
  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");
  static_assert(sizeof(BwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;
using TileK = Tile<C::kHeadDim, C::kThreads>;   // of Q, too
using TileV = Tile<C::kHeadDimV, C::kThreads>;  // of dO, too
using Scored = float[C::kMTiles][C::kKeyTiles][4];

struct Shared {
  u32 q;     // [TileM][HeadDim]
  u32 dout;  // [TileM][HeadDimV]
  u32 k;     // [Stages][TileN][HeadDim]
  u32 v;     // [Stages][TileN][HeadDimV]

  __device__ __forceinline__ explicit Shared(const void* memory) {
    q = shared_address(memory);
    dout = q + C::kQBytes;
    k = dout + C::kDoutBytes;
    v = k + C::kStages * C::kKBytes;
  }
};

// Which queries a thread block owns. If later queries see more keys, they come first: that leaves short
// work for the end of the grid.
struct Work {
  int batch, head, tile;
};

__device__ __forceinline__ Work find_work(const BwdParams& p) {
  const int sequence_head = blockIdx.x / p.tiles;
  const int tile = blockIdx.x % p.tiles;
  return {sequence_head / p.problem.heads_q, sequence_head % p.problem.heads_q,
          p.problem.window_right < kUnlimited ? p.tiles - 1 - tile : tile};
}

// What a thread knows of each of its rows.
struct RowStats {
  float lse, term;
};

// Scores of keys that a row does not see become -inf.
__device__ __forceinline__ void apply_mask(Scored& s, const Mask& mask, const Lane& lane, int first_row,
                                           int first_key) {
  const int key = first_key + lane.column();
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + lane.row(m, half);
      const int begin = mask.begin(row);
      const int end = mask.end(row);
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = key + n * 8 + e;
          if (mask.hides_right(j, end) || mask.hides_left(j, begin)) s[m][n][half * 2 + e] = -kInfinity;
        }
    }
}

// Which elements of an m16 tile dropout keeps: bit n * 4 + element.
__device__ __forceinline__ u32 kept_elements(const Problem& p, const Work& work, const Lane& lane, int m,
                                             int first_key) {
  u32 kept = 0;
// Not unrolled: the calls would take each other's registers.
#pragma unroll 1
  for (int n = 0; n < C::kKeyTiles; ++n) {
    const Random4 random = dropout_words(p, work.batch, work.head, work.tile * C::kTileM + lane.row(m, 0),
                                         first_key + n * 8 + lane.column());
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      kept |= static_cast<u32>(random.word[e] >= p.dropout_threshold) << (n * 4 + e);
    }
  }
  return kept;
}

// dP becomes dS. `first_row` is the first query, relative to the keys by mask.offset.
__device__ __forceinline__ void weigh(Scored& s, Scored& dp, const u32 (&kept)[C::kMTiles],
                                      const RowStats (&stats)[C::kMTiles][2], const ScoreRule& rule,
                                      const Lane& lane, int first_row, int first_key, float& slope_sum) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m) {
    float distance[2] = {};  // of the thread's two rows from its first column
    if constexpr (C::kModified) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        distance[half] = static_cast<float>(first_row + lane.row(m, half) - first_key - lane.column());
      }
    }
#pragma unroll
    for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const RowStats& row = stats[m][e / 2];
        const bool is_kept = C::kScores != Scores::kDropout || kept[m] >> (n * 4 + e) & 1;
        differentiate<C::kScores>(s[m][n][e], dp[m][n][e], row.lse, row.term, is_kept,
                                  fabsf(distance[e / 2] - static_cast<float>(n * 8 + e % 2)), rule,
                                  slope_sum);
      }
  }
}

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_bwd_dq_sm80(const __grid_constant__ BwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  const Shared shared(shared_memory);
  const Lane lane(C::kRowsPerWarp);
  const Work work = find_work(p);
  const Sequence sequence = find_sequence(p.problem, work.batch);
  const Mask mask(p.problem, sequence);
  const int first_row = work.tile * C::kTileM;
  const int last_row = min(first_row + C::kTileM, sequence.seqlen_q) - 1;
  const KeyBlocks blocks(mask, first_row, last_row, C::kTileN);
  const int head_kv = work.head / p.problem.gqa_ratio;
  const int chunks = p.problem.head_dim / kChunkElements;
  const int chunks_v = p.problem.head_dim_v / kChunkElements;
  const u16* k = p.k + sequence.entry_k * p.k_stride_batch + head_kv * p.k_stride_head +
                 sequence.first_k * p.k_stride_row;
  const u16* v = p.v + sequence.entry_k * p.v_stride_batch + head_kv * p.v_stride_head +
                 sequence.first_k * p.v_stride_row;

  const auto load_k = [&](int key, int stage) {
    TileK::template load<C::kTileN>(shared.k + stage * C::kKBytes,
                                    StridedRows<u16>{k + key * p.k_stride_row, p.k_stride_row},
                                    sequence.seqlen_k - key, chunks);
  };
  const auto load_v = [&](int key, int stage) {
    TileV::template load<C::kTileN>(shared.v + stage * C::kVBytes,
                                    StridedRows<u16>{v + key * p.v_stride_row, p.v_stride_row},
                                    sequence.seqlen_k - key, chunks_v);
  };

  float dq[C::kMTiles][C::kHeadDim / 8][4] = {};
  RowStats stats[C::kMTiles][2];
  ScoreRule rule(p.problem);
  float slope_sum = 0.f;

  if (blocks.count > 0) {
    const int rows = sequence.seqlen_q - first_row;
    const u16* q = p.q + sequence.entry * p.q_stride_batch + work.head * p.q_stride_head +
                   (sequence.first_q + first_row) * p.q_stride_row;
    const u16* dout = p.dout + sequence.entry * p.dout_stride_batch + work.head * p.dout_stride_head +
                      (sequence.first_q + first_row) * p.dout_stride_row;
    TileV::template load<C::kTileM>(shared.dout, StridedRows<u16>{dout, p.dout_stride_row}, rows, chunks_v);
    load_v(blocks.block(0) * C::kTileN, 0);
    if constexpr (C::kStages == 1) cp_async_commit();
    TileK::template load<C::kTileM>(shared.q, StridedRows<u16>{q, p.q_stride_row}, rows, chunks);
    load_k(blocks.block(0) * C::kTileN, 0);
    cp_async_commit();
    const i64 first_stat = stat_row(p, sequence, work.batch, work.head) + first_row;
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const i64 row = first_stat + lane.row(m, half);
        stats[m][half].lse = p.row_lse[row];
        stats[m][half].term = p.row_term[row];
      }
    if constexpr (C::kModified) rule.set_head(p.problem, work.batch, work.head);
  }
#pragma unroll 1
  for (int index = 0, stage = 0; index < blocks.count; ++index) {
    const int key = blocks.block(index) * C::kTileN;
    const int next_key = blocks.block(index + 1) * C::kTileN;
    const bool has_next = index + 1 < blocks.count;
    if constexpr (C::kStages == 1) {
      cp_async_wait<1>();
      __syncthreads();  // V is there for all
    } else {
      cp_async_wait<0>();
      __syncthreads();  // K and V are there for all; those before are read by none any more
      if (has_next) {
        load_v(next_key, stage ^ 1);
        load_k(next_key, stage ^ 1);
      }
      cp_async_commit();
    }
    u32 kept[C::kMTiles] = {};
    if constexpr (C::kScores == Scores::kDropout) {
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) kept[m] = kept_elements(p.problem, work, lane, m, key);
    }
    Scored s, dp;
    multiply_transposed<C::kBf16, TileV>(dp, shared.dout, shared.v + stage * C::kVBytes, lane);
    if constexpr (C::kStages == 1) {
      cp_async_wait<0>();
      __syncthreads();  // K is there for all; V is read by none any more
      if (has_next) load_v(next_key, 0);
      cp_async_commit();
    }
    multiply_transposed<C::kBf16, TileK>(s, shared.q, shared.k + stage * C::kKBytes, lane);
    if constexpr (C::kModified) cap_scores(s, rule);
    if (mask.cuts_right(first_row, key, C::kTileN) || mask.cuts_left(first_row + C::kTileM - 1, key)) {
      apply_mask(s, mask, lane, first_row, key);
    }
    weigh(s, dp, kept, stats, rule, lane, first_row + mask.offset, key, slope_sum);
    multiply_add<C::kBf16, TileK>(dq, dp, shared.k + stage * C::kKBytes, lane);
    if constexpr (C::kStages == 1) {
      __syncthreads();  // K is read by none any more
      if (has_next) load_k(next_key, 0);
      cp_async_commit();
    } else {
      stage ^= 1;
    }
  }
  if constexpr (C::kModified) {
    if (p.dslopes_partials) {
      const float sum = block_sum<C::kWarps>(slope_sum);
      if (threadIdx.x == 0) p.dslopes_partials[blockIdx.x] = -sum;
    }
  }
  u16* to = p.dq + sequence.entry * p.dq_stride_batch + work.head * p.dq_stride_head +
            (sequence.first_q + first_row) * p.dq_stride_row;
  write_rows<C::kBf16, TileK>(dq, p.softmax_scale, shared.q, lane, to, p.dq_stride_row,
                              sequence.stored_q - first_row, chunks);
}
