// FlashAttention-2 forward (Dao 2023, arXiv:2307.08691, algorithm 1) with mma.sync and cp.async.
//
// One thread block computes TileM queries of one head of one sequence. It walks the key blocks from the last
// visible one to the first: the blocks that need a mask (the diagonal, the ragged end) come first. Loads run
// ahead of the products by half a step: the block's V is in flight under Q*K^T, the next block's K under the
// softmax and P*V.
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm80/ptx.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

// Everything that is fixed at compile time; flashactor/kernels/spec.py passes the macros.
struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr bool kCausal = FA_CAUSAL;
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kTileM = FA_TILE_M;
  static constexpr int kTileN = FA_TILE_N;
  static constexpr int kWarps = FA_WARPS;

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowsPerWarp = kTileM / kWarps;
  static constexpr int kMTiles = kRowsPerWarp / 16;  // m16 tiles that a warp owns
  static constexpr int kKeyTiles = kTileN / 8;       // n8 tiles of S
  static constexpr int kDimTiles = kHeadDim / 8;     // n8 tiles of O

  static constexpr int kQBytes = kTileM * kHeadDim * kElementBytes;
  static constexpr int kKvBytes = kTileN * kHeadDim * kElementBytes;
  static constexpr int kSharedBytes = kQBytes + 2 * kKvBytes;

  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256);
  static_assert(kTileM % (16 * kWarps) == 0 && kTileN % 16 == 0);
  static_assert(kSharedBytes == FA_SHARED_BYTES, "the plan reserves another amount of shared memory");
  static_assert(sizeof(FwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;
using SharedTile = Tile<C::kHeadDim, C::kThreads>;

struct Shared {
  u32 q;  // [TileM][HeadDim]
  u32 k;  // [TileN][HeadDim]
  u32 v;  // [TileN][HeadDim]
};

// Where a thread's elements of an m16n8 accumulator are: rows lane / 4 and lane / 4 + 8, columns
// 2 * (lane % 4) and the next.
struct Lane {
  int lane = threadIdx.x % 32;
  int first_row = threadIdx.x / 32 * C::kRowsPerWarp;  // of the warp, within the tile

  __device__ __forceinline__ int row(int m, int half) const {
    return first_row + m * 16 + half * 8 + lane / 4;
  }
  __device__ __forceinline__ int column() const { return lane % 4 * 2; }
};

// Which queries a thread block computes.
struct Work {
  int batch, head, first_row;
};

// Blocks of one head follow each other, so that its keys and values are read from L2 after the first; so do
// the heads that share them. Under a causal mask the longest rows come first, which leaves short work for the
// end of the grid.
__device__ __forceinline__ Work find_work(const FwdParams& p) {
  const u32 sequence_head = blockIdx.x / p.q_tiles;
  const int tile = blockIdx.x % p.q_tiles;
  const int batch = sequence_head / p.heads_q;
  const int head = sequence_head % p.heads_q;
  return {batch, head, (C::kCausal ? p.q_tiles - 1 - tile : tile) * C::kTileM};
}

// S = Q K^T, [RowsPerWarp][TileN].
__device__ __forceinline__ void multiply_qk(float (&s)[C::kMTiles][C::kKeyTiles][4], const Shared& shared,
                                            const Lane& lane) {
  // ldmatrix takes the address of row `lane % 8` of matrix `lane / 8`. For A the four matrices are rows
  // 0-7 and 8-15 of the first chunk, then of the second; for B the two chunks of keys 0-7, then of 8-15.
  const int l = lane.lane;
  const u32 q = shared.q + SharedTile::lane_offset(lane.first_row + l % 16, l / 16);
  const u32 k = shared.k + SharedTile::lane_offset(l % 8 + l / 16 * 8, l / 8 % 2);
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
      ldmatrix_x4(a[m], SharedTile::at(q, step * 2) + m * 16 * SharedTile::kRowBytes);
    }
#pragma unroll
    for (int n = 0; n < C::kKeyTiles; n += 2) {
      u32 b[4];
      ldmatrix_x4(b, SharedTile::at(k, step * 2) + n * 8 * SharedTile::kRowBytes);
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        mma_m16n8k16<C::kBf16>(s[m][n], a[m], b[0], b[1]);
        mma_m16n8k16<C::kBf16>(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// O += P V, [RowsPerWarp][HeadDim]. The accumulator layout of S is the layout of the A operand, so P goes
// from one product to the other in registers.
__device__ __forceinline__ void multiply_pv(float (&o)[C::kMTiles][C::kDimTiles][4],
                                            const float (&p)[C::kMTiles][C::kKeyTiles][4],
                                            const Shared& shared, const Lane& lane) {
  const int l = lane.lane;
  const u32 v = shared.v + SharedTile::lane_offset(l % 16, l / 16);
#pragma unroll
  for (int step = 0; step < C::kTileN / 16; ++step) {
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
      ldmatrix_x4_trans(b, SharedTile::at(v, n) + step * 16 * SharedTile::kRowBytes);
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        mma_m16n8k16<C::kBf16>(o[m][n], a[m], b[0], b[1]);
        mma_m16n8k16<C::kBf16>(o[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Scores of keys that a row does not see become -inf.
__device__ __forceinline__ void apply_mask(float (&s)[C::kMTiles][C::kKeyTiles][4],
                                           const Mask<C::kCausal>& mask, const Lane& lane, int tile_row,
                                           int first_key) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Columns of this thread that the row sees, counted from the thread's own first column.
      const int visible = mask.visible(tile_row + lane.row(m, half)) - first_key - lane.column();
#pragma unroll
      for (int n = 0; n < C::kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (n * 8 + e >= visible) s[m][n][half * 2 + e] = -kInfinity;
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

// Normalises O and writes it through the warp's own rows of the Q tile, which no other warp reads, so that
// global memory is written in whole 16-byte chunks; writes lse.
__device__ __forceinline__ void finish(const float (&o)[C::kMTiles][C::kDimTiles][4],
                                       const RowState (&rows)[C::kMTiles][2], const FwdParams& p,
                                       const Work& work, const Shared& shared, const Lane& lane) {
  float* lse = p.lse + work.batch * p.lse_stride_batch + work.head * p.lse_stride_head;
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowState& row = rows[m][half];
      const float total = quad_sum(row.sum);
      const float normalise = normaliser(total);
      const int tile_row = lane.row(m, half);
      const u32 to = shared.q + SharedTile::lane_offset(tile_row, 0) + lane.column() * kElementBytes;
#pragma unroll
      for (int n = 0; n < C::kDimTiles; ++n) {
        store_shared(SharedTile::at(to, n),
                     pack<C::kBf16>(o[m][n][half * 2] * normalise, o[m][n][half * 2 + 1] * normalise));
      }
      const int query = work.first_row + tile_row;
      if (lane.lane % 4 == 0 && query < p.seqlen_q) {
        lse[query * p.lse_stride_row] = log_sum_exp(row, total, p.scale_log2);
      }
    }
  __syncwarp();
  u16* out = p.out + work.batch * p.out_stride_batch + work.head * p.out_stride_head;
  constexpr int kSpan = SharedTile::kSpan;
  const int chunk = lane.lane % kSpan;
#pragma unroll
  for (int r = 0; r < C::kRowsPerWarp; r += 32 / kSpan) {
    const int tile_row = lane.first_row + r + lane.lane / kSpan;
    const int query = work.first_row + tile_row;
    const u32 from = shared.q + SharedTile::lane_offset(tile_row, chunk);
#pragma unroll
    for (int c = 0; c < SharedTile::kChunks; c += kSpan) {
      if (query < p.seqlen_q && (chunk + c) * kChunkElements < p.head_dim) {
        store_global_16(out + query * p.out_stride_row + (chunk + c) * kChunkElements,
                        load_shared_16(from + c * kChunkBytes));
      }
    }
  }
}

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_fwd_sm80(const __grid_constant__ FwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Shared shared;
  shared.q = shared_address(shared_memory);
  shared.k = shared.q + C::kQBytes;
  shared.v = shared.k + C::kKvBytes;

  const Lane lane;
  const Work work = find_work(p);
  const int chunks = p.head_dim / kChunkElements;
  const int kv_head = work.head / p.gqa_ratio;
  const u16* q = p.q + work.batch * p.q_stride_batch + work.head * p.q_stride_head;
  const u16* k = p.k + work.batch * p.k_stride_batch + kv_head * p.k_stride_head;
  const u16* v = p.v + work.batch * p.v_stride_batch + kv_head * p.v_stride_head;

  const Mask<C::kCausal> mask{p.seqlen_k, p.seqlen_k - p.seqlen_q};
  const int last_row = min(work.first_row + C::kTileM, p.seqlen_q) - 1;
  const int whole_blocks = mask.whole_blocks(work.first_row, C::kTileN);
  int block = mask.blocks(last_row, C::kTileN) - 1;

  const auto load_kv = [&](u32 tile, const u16* source, i64 stride, int index) {
    const int first_key = index * C::kTileN;
    SharedTile::load<C::kTileN>(tile, source + first_key * stride, stride, p.seqlen_k - first_key, chunks);
    cp_async_commit();
  };

  float o[C::kMTiles][C::kDimTiles][4] = {};
  RowState rows[C::kMTiles][2];
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m) rows[m][0] = rows[m][1] = kEmptyRow;

  if (block >= 0) {
    SharedTile::load<C::kTileM>(shared.q, q + work.first_row * p.q_stride_row, p.q_stride_row,
                                p.seqlen_q - work.first_row, chunks);
    load_kv(shared.k, k, p.k_stride_row, block);
  }
#pragma unroll 1
  for (; block >= 0; --block) {
    cp_async_wait<0>();
    __syncthreads();  // K is there for all; V of the block before is read by none any more
    load_kv(shared.v, v, p.v_stride_row, block);

    float s[C::kMTiles][C::kKeyTiles][4];
    multiply_qk(s, shared, lane);

    cp_async_wait<0>();
    __syncthreads();  // V is there for all; K is read by none any more
    if (block > 0) load_kv(shared.k, k, p.k_stride_row, block - 1);

    if (block >= whole_blocks) apply_mask(s, mask, lane, work.first_row, block * C::kTileN);
    update_softmax(s, o, rows, p.scale_log2);
    multiply_pv(o, s, shared, lane);
  }
  finish(o, rows, p, work, shared, lane);
}
