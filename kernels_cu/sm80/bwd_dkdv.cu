// Backward pass of keys and values (Dao 2023, arXiv:2307.08691, algorithm 2, its loop over queries).
//
// One thread block owns TileN keys of one key/value head of one sequence, and walks over the query heads
// that share it and over the query tiles that see its keys; so nothing has to be summed over blocks. Scores
// are computed transposed, a row for each key: P^T and dS^T then have the layout of the A operand in dV +=
// P^T dO and dK += dS^T Q, and go there in registers.
//
// With one stage, the next tile's dO is in flight under dK += dS^T Q, its Q under dP^T = V dO^T; with two,
// both are under all of the tile before.
//
// If it also adds to dQ, in float32 and in no fixed order, dS^T goes through shared memory, for dQ += dS K
// is divided among the warps by queries and dimensions.
#include "common/mask.cuh"
#include "common/philox.cuh"
#include "common/query_tiles.cuh"
#include "common/seqlen.cuh"
#include "sm80/bwd.cuh"

namespace flashactor {

// Everything that is fixed at compile time; flashactor/kernels/backward_spec.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr Scores kScores = static_cast<Scores>(FA_SCORES);
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kHeadDimV = FA_HEAD_DIM_V;
  static constexpr int kTileM = FA_TILE_M;  // queries of a step
  static constexpr int kTileN = FA_TILE_N;  // keys of a block
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kStages = FA_STAGES;     // tiles of Q and dO that shared memory holds
  static constexpr bool kHasDk = FA_OUTPUTS & 1;  // two launches where accumulators of both are too many
  static constexpr bool kHasDv = FA_OUTPUTS & 2;
  static constexpr bool kAddsDq = FA_DQ_ATOMIC;

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowsPerWarp = kTileN / kWarps;
  static constexpr int kMTiles = kRowsPerWarp / 16;  // m16 tiles of keys that a warp owns
  static constexpr int kQueryTiles = kTileM / 8;     // n8 tiles of S^T
  static constexpr bool kModified = kScores != Scores::kPlain;

  // The warps' shares of dQ += dS K.
  static constexpr int kDqRowWarps = kTileM / 16;
  static constexpr int kDqDims = kAddsDq ? kHeadDim * kDqRowWarps / kWarps : 16;
  static constexpr int kDqPass = kDqDims % 64 == 0 ? 64 : kDqDims;

  static constexpr int kKBytes = kTileN * kHeadDim * kElementBytes;
  static constexpr int kVBytes = kHasDk ? kTileN * kHeadDimV * kElementBytes : 0;
  static constexpr int kQBytes = kTileM * kHeadDim * kElementBytes;
  static constexpr int kDoutBytes = kTileM * kHeadDimV * kElementBytes;
  static constexpr int kStatBytes = kTileM * sizeof(float);
  static constexpr int kDsBytes = kAddsDq ? kTileN * kTileM * kElementBytes : 0;
  static constexpr int kSharedBytes =
      kKBytes + kVBytes + kStages * (kQBytes + kDoutBytes + 2 * kStatBytes) + kDsBytes;

  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256 && kHeadDimV % 32 == 0 && kHeadDimV <= kHeadDim);
  static_assert(kTileN % (16 * kWarps) == 0 && kTileM % 32 == 0 && kStatRows % kTileM == 0);
  static_assert(kStages == 1 || kStages == 2);
  static_assert(!kAddsDq || (kHasDk && kWarps % kDqRowWarps == 0 && kDqDims % 16 == 0));
  static_assert(kTileM <= 64, "a word holds what dropout keeps of a thread's elements of an m16 tile");
  static_assert(kThreads >= kTileM / 2, "one thread copies four values of lse or of the row term");
  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");
  static_assert(sizeof(BwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;
using TileK = Tile<C::kHeadDim, C::kThreads>;   // of Q, too
using TileV = Tile<C::kHeadDimV, C::kThreads>;  // of dO, too
using TileDs = Tile<C::kTileM, C::kThreads>;
using Scored = float[C::kMTiles][C::kQueryTiles][4];

struct Shared {
  u32 k;     // [TileN][HeadDim]
  u32 v;     // [TileN][HeadDimV]
  u32 q;     // [Stages][TileM][HeadDim]
  u32 dout;  // [Stages][TileM][HeadDimV]
  u32 ds;    // [TileN][TileM]
  u32 lse;   // [Stages][TileM]
  u32 term;  // [Stages][TileM]

  __device__ __forceinline__ explicit Shared(const void* memory) {
    k = shared_address(memory);
    v = C::kHasDk ? k + C::kKBytes : k;  // without dP no tile of V: dV leaves through that of K
    q = k + C::kKBytes + C::kVBytes;
    dout = q + C::kStages * C::kQBytes;
    ds = dout + C::kStages * C::kDoutBytes;
    lse = ds + C::kDsBytes;
    term = lse + C::kStages * C::kStatBytes;
  }
};

// Which keys a thread block owns. Under a causal mask the first ones are seen by the most queries, so the
// long work comes first.
struct Work {
  int batch, head_kv, first_key;
};

__device__ __forceinline__ Work find_work(const BwdParams& p) {
  const int sequence_head = blockIdx.x / p.tiles;
  const int heads_kv = p.problem.heads_q / p.problem.gqa_ratio;
  const int tile = blockIdx.x % p.tiles;
  return {sequence_head / heads_kv, sequence_head % heads_kv, tile * C::kTileN};
}

// The query heads of the group, and the query tiles of each.
struct Step {
  int head, tile;

  __device__ __forceinline__ void advance(const QueryTiles& tiles) {
    if (++tile == tiles.first + tiles.count) {
      tile = tiles.first;
      ++head;
    }
  }
};

// Scores of queries that do not see a key become -inf.
__device__ __forceinline__ void apply_mask(Scored& s, const Mask& mask, const Lane& lane, int first_key,
                                           int first_row) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const QuerySpan span = queries_of(mask, first_key + lane.row(m, half));
      // Counted from the thread's own first column.
      const int first = span.first - first_row - lane.column();
      const int last = span.last - first_row - lane.column();
#pragma unroll
      for (int n = 0; n < C::kQueryTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (n * 8 + e < first || n * 8 + e > last) s[m][n][half * 2 + e] = -kInfinity;
        }
    }
}

// Which elements of an m16 tile dropout keeps: bit n / 2 * 8 + half * 4 + n % 2 * 2 + query. A Philox call
// decides for queries i and i + 8 and two keys, and the neighbouring key is four lanes away: each of the
// two lanes makes the calls of one of its two queries and gets those of the other.
__device__ __forceinline__ u32 kept_elements(const Problem& p, const Work& work, int head, const Lane& lane,
                                             int m, int first_row) {
  const int parity = lane.lane / 4 & 1;
  const int key = work.first_key + lane.row(m, 0) & ~1;
  const int query = first_row + lane.column() + parity;
  u32 own = 0;
// Not unrolled: the calls would take each other's registers.
#pragma unroll 1
  for (int n = 0; n < C::kQueryTiles; n += 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Random4 random = dropout_words(p, work.batch, head, query + n * 8, key + half * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        own |= static_cast<u32>(random.word[i] >= p.dropout_threshold) << (n * 4 + half * 4 + i);
      }
    }
  }
  const u32 other = __shfl_xor_sync(0xffffffffu, own, 4);
  // Words 0 and 1 are of the first query, 2 and 3 of the one 8 later; the odd ones of the odd key.
  const u32 first = (parity ? other : own) >> parity & 0x55555555u;
  const u32 second = (parity ? own : other) >> parity & 0x55555555u;
  return first | second << 1;
}

// S^T becomes P^T, and dP^T becomes dS^T. `first_row` is the first query, relative to the keys by
// mask.offset.
__device__ __forceinline__ void weigh(Scored& s, Scored& dp, const u32 (&kept)[C::kMTiles], u32 lse,
                                      u32 term, const ScoreRule& rule, const Lane& lane, int first_row,
                                      int first_key, float& slope_sum) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m) {
    float distance[2] = {};  // of the thread's first column from its two keys
    if constexpr (C::kModified) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        distance[half] = static_cast<float>(first_row + lane.column() - first_key - lane.row(m, half));
      }
    }
#pragma unroll
    for (int n = 0; n < C::kQueryTiles; ++n) {
      float lse_of[2], term_of[2];
      load_shared_8(lse_of, lse + (n * 8 + lane.column()) * sizeof(float));
      load_shared_8(term_of, term + (n * 8 + lane.column()) * sizeof(float));
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = e % 2;
        const int bit = n / 2 * 8 + e / 2 * 4 + n % 2 * 2 + column;
        const bool is_kept = C::kScores != Scores::kDropout || kept[m] >> bit & 1;
        differentiate<C::kScores>(s[m][n][e], dp[m][n][e], lse_of[column], term_of[column], is_kept,
                                  fabsf(distance[e / 2] + static_cast<float>(n * 8 + column)), rule,
                                  slope_sum);
      }
    }
  }
}

__device__ __forceinline__ void store_ds(const Scored& ds, u32 tile, const Lane& lane) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const u32 to = tile + TileDs::lane_offset(lane.row(m, half), 0) + lane.column() * kElementBytes;
#pragma unroll
      for (int n = 0; n < C::kQueryTiles; ++n) {
        store_shared(TileDs::at(to, n), pack<C::kBf16>(ds[m][n][half * 2], ds[m][n][half * 2 + 1]));
      }
    }
}

// dQ += dS K: 16 queries and DqDims dimensions for each warp, as many at a time as leave room for dK and
// dV.
__device__ __forceinline__ void add_dq(const Shared& shared, float* accumulator, const Lane& lane) {
  const int warp = threadIdx.x / 32;
  const int first_row = warp % C::kDqRowWarps * 16;
  const int first_dim = warp / C::kDqRowWarps * C::kDqDims;
  const int l = lane.lane;
  // The transposing ldmatrix turns dS^T into the A operand: rows 0-7 and 8-15 are chunks of the tile.
  const u32 from_ds = shared.ds + TileDs::offset(l % 8 + l / 16 * 8, first_row / 8 + l / 8 % 2);
  float* to = accumulator + dq_fragment(first_row, first_dim, C::kHeadDim, 0) + l;
#pragma unroll 1
  for (int dim = 0; dim < C::kDqDims; dim += C::kDqPass) {
    float dq[C::kDqPass / 8][4] = {};
#pragma unroll 2
    for (int step = 0; step < C::kTileN / 16; ++step) {
      u32 a[4];
      ldmatrix_x4_trans(a, from_ds + step * 16 * TileDs::kRowBytes);
#pragma unroll
      for (int n = 0; n < C::kDqPass / 8; n += 2) {
        u32 b[4];
        const int chunk = (first_dim + dim) / 8 + n + l / 16;
        ldmatrix_x4_trans(b, shared.k + TileK::offset(step * 16 + l % 16, chunk));
        mma_m16n8k16<C::kBf16>(dq[n], a, b[0], b[1]);
        mma_m16n8k16<C::kBf16>(dq[n + 1], a, b[2], b[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < C::kDqPass / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) add_global(to + dq_fragment(0, dim + n * 8, 0, e), dq[n][e]);
  }
}

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_bwd_dkdv_sm80(const __grid_constant__ BwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  const Shared shared(shared_memory);
  const Lane lane(C::kRowsPerWarp);
  const Work work = find_work(p);
  const Sequence sequence = find_sequence(p.problem, work.batch);
  const Mask mask(p.problem, sequence);
  const QueryTiles tiles(mask, work.first_key, C::kTileN, C::kTileM);
  const int first_head = work.head_kv * p.problem.gqa_ratio;
  const int chunks = p.problem.head_dim / kChunkElements;
  const int chunks_v = p.problem.head_dim_v / kChunkElements;

  const auto load_q = [&](const Step& step, int stage) {
    const int row = step.tile * C::kTileM;
    const u16* q = p.q + sequence.entry * p.q_stride_batch + step.head * p.q_stride_head +
                   (sequence.first_q + row) * p.q_stride_row;
    TileK::template load<C::kTileM>(shared.q + stage * C::kQBytes, StridedRows<u16>{q, p.q_stride_row},
                                    sequence.seqlen_q - row, chunks);
  };
  const auto load_dout = [&](const Step& step, int stage) {
    const int row = step.tile * C::kTileM;
    const u16* dout = p.dout + sequence.entry * p.dout_stride_batch + step.head * p.dout_stride_head +
                      (sequence.first_q + row) * p.dout_stride_row;
    TileV::template load<C::kTileM>(shared.dout + stage * C::kDoutBytes,
                                    StridedRows<u16>{dout, p.dout_stride_row}, sequence.seqlen_q - row,
                                    chunks_v);
    constexpr int kCopies = C::kTileM / 4;
    const int copy = threadIdx.x % kCopies;
    if (threadIdx.x < 2 * kCopies) {
      const bool is_lse = threadIdx.x < kCopies;
      const float* from = is_lse ? p.row_lse : p.row_term;
      const u32 to = (is_lse ? shared.lse : shared.term) + stage * C::kStatBytes;
      const i64 first = stat_row(p, sequence, work.batch, step.head) + row;
      cp_async_16(to + copy * kChunkBytes, from + first + copy * 4);
    }
  };

  float dk[C::kMTiles][C::kHasDk ? C::kHeadDim / 8 : 2][4] = {};
  float dv[C::kMTiles][C::kHasDv ? C::kHeadDimV / 8 : 2][4] = {};
  ScoreRule rule(p.problem);
  float slope_sum = 0.f;

  Step step{first_head, tiles.first};
  int left = tiles.count * p.problem.gqa_ratio;
  if (left > 0) {
    const int rows = sequence.seqlen_k - work.first_key;
    const u16* k = p.k + sequence.entry_k * p.k_stride_batch + work.head_kv * p.k_stride_head +
                   (sequence.first_k + work.first_key) * p.k_stride_row;
    TileK::template load<C::kTileN>(shared.k, StridedRows<u16>{k, p.k_stride_row}, rows, chunks);
    if constexpr (C::kHasDk) {
      const u16* v = p.v + sequence.entry_k * p.v_stride_batch + work.head_kv * p.v_stride_head +
                     (sequence.first_k + work.first_key) * p.v_stride_row;
      TileV::template load<C::kTileN>(shared.v, StridedRows<u16>{v, p.v_stride_row}, rows, chunks_v);
    }
    load_dout(step, 0);
    if constexpr (C::kStages == 1) cp_async_commit();
    load_q(step, 0);
    cp_async_commit();
  }
#pragma unroll 1
  for (int stage = 0; left > 0; --left) {
    Step next = step;
    next.advance(tiles);
    if constexpr (C::kStages == 1) {
      cp_async_wait<1>();
      __syncthreads();  // dO is there for all
    } else {
      cp_async_wait<0>();
      __syncthreads();  // the tiles are there for all; those before are read by none any more
      if (left > 1) {
        load_dout(next, stage ^ 1);
        load_q(next, stage ^ 1);
      }
      cp_async_commit();
    }
    const u32 q = shared.q + stage * C::kQBytes;
    const u32 dout = shared.dout + stage * C::kDoutBytes;

    const int first_row = step.tile * C::kTileM;
    u32 kept[C::kMTiles] = {};
    if constexpr (C::kScores == Scores::kDropout) {
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        kept[m] = kept_elements(p.problem, work, step.head, lane, m, first_row);
      }
    }
    Scored s, dp = {};
    if constexpr (C::kHasDk) multiply_transposed<C::kBf16, TileV>(dp, shared.v, dout, lane);
    if constexpr (C::kStages == 1) {
      cp_async_wait<0>();
      __syncthreads();  // Q is there for all
    }
    multiply_transposed<C::kBf16, TileK>(s, shared.k, q, lane);
    if constexpr (C::kModified) {
      rule.set_head(p.problem, work.batch, step.head);
      cap_scores(s, rule);
    }
    if (mask.cuts_right(first_row, work.first_key, C::kTileN) ||
        mask.cuts_left(first_row + C::kTileM - 1, work.first_key)) {
      apply_mask(s, mask, lane, work.first_key, first_row);
    }
    weigh(s, dp, kept, shared.lse + stage * C::kStatBytes, shared.term + stage * C::kStatBytes, rule, lane,
          first_row + mask.offset, work.first_key, slope_sum);
    if constexpr (C::kAddsDq) store_ds(dp, shared.ds, lane);
    if constexpr (C::kHasDv) multiply_add<C::kBf16, TileV>(dv, s, dout, lane);
    if constexpr (C::kStages == 1) {
      __syncthreads();  // dO is read by none any more; dS is there for all
      if (left > 1) load_dout(next, 0);
      cp_async_commit();
    } else if constexpr (C::kAddsDq) {
      __syncthreads();  // dS is there for all
    }
    if constexpr (C::kHasDk) multiply_add<C::kBf16, TileK>(dk, dp, q, lane);
    if constexpr (C::kAddsDq) {
      const i64 row = stat_row(p, sequence, work.batch, step.head) + first_row;
      add_dq(shared, p.dq_accumulator + row * C::kHeadDim, lane);
    }
    if constexpr (C::kStages == 1) {
      __syncthreads();  // Q and dS are read by none any more
      if (left > 1) load_q(next, 0);
      cp_async_commit();
    } else {
      stage ^= 1;
    }
    if constexpr (C::kModified && C::kAddsDq) {
      if (p.dslopes_partials && next.head != step.head) {
        const float sum = block_sum<C::kWarps>(slope_sum);
        if (threadIdx.x == 0) {
          p.dslopes_partials[(work.batch * p.problem.heads_q + step.head) * static_cast<i64>(p.tiles) +
                             work.first_key / C::kTileN] = -sum;
        }
        slope_sum = 0.f;
      }
    }
    step = next;
  }
  if constexpr (C::kModified && C::kAddsDq) {
    if (p.dslopes_partials && tiles.count == 0) {
      for (int head = threadIdx.x; head < p.problem.gqa_ratio; head += C::kThreads) {
        p.dslopes_partials[(work.batch * p.problem.heads_q + first_head + head) * static_cast<i64>(p.tiles) +
                           work.first_key / C::kTileN] = 0.f;
      }
    }
  }

  __syncthreads();  // K and V are read by none any more
  const int rows = sequence.stored_k - work.first_key;
  const i64 first_key = sequence.first_k + work.first_key;
  if constexpr (C::kHasDk) {
    u16* to = p.dk + sequence.entry_k * p.dk_stride_batch + work.head_kv * p.dk_stride_head +
              first_key * p.dk_stride_row;
    write_rows<C::kBf16, TileK>(dk, p.softmax_scale, shared.k, lane, to, p.dk_stride_row, rows, chunks);
  }
  if constexpr (C::kHasDv) {
    u16* to = p.dv + sequence.entry_k * p.dv_stride_batch + work.head_kv * p.dv_stride_head +
              first_key * p.dv_stride_row;
    const float scale = C::kScores == Scores::kDropout ? p.problem.dropout_scale : 1.f;
    write_rows<C::kBf16, TileV>(dv, scale, shared.v, lane, to, p.dv_stride_row, rows, chunks_v);
  }
}
