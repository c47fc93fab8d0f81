// dQ from the float32 sums of bwd_dkdv.cu: scaled, rounded, and in the order of the caller's array.
#include "common/seqlen.cuh"
#include "sm80/bwd.cuh"

namespace flashactor {

struct Config {
  static constexpr bool kBf16 = FA_BF16;
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kTileM = FA_TILE_M;
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kThreads = kWarps * 32;

  static_assert(kTileM == 16 * kWarps && kStatRows % kTileM == 0);
  static_assert(kTileM * kHeadDim * kElementBytes == FA_SHARED_BYTES, "the plan reserves another amount");
  static_assert(sizeof(BwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

using C = Config;
using TileQ = Tile<C::kHeadDim, C::kThreads>;

}  // namespace flashactor

using namespace flashactor;

extern "C" __global__ void __launch_bounds__(C::kThreads)
    flash_bwd_convert_sm80(const __grid_constant__ BwdParams p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  const int sequence_head = blockIdx.x / p.tiles;
  const int first_row = blockIdx.x % p.tiles * C::kTileM;
  const int batch = sequence_head / p.problem.heads_q;
  const int head = sequence_head % p.problem.heads_q;
  const Sequence s = find_sequence(p.problem, batch);
  const Lane lane(16);
  if (first_row + lane.first_row >= s.stored_q) return;

  const float* from = p.dq_accumulator + (stat_row(p, s, batch, head) + first_row) * C::kHeadDim +
                      dq_fragment(lane.first_row, 0, C::kHeadDim, 0) + lane.lane;
  float dq[1][C::kHeadDim / 8][4];
#pragma unroll
  for (int n = 0; n < C::kHeadDim / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) dq[0][n][e] = from[dq_fragment(0, n * 8, 0, e)];
  u16* to = p.dq + s.entry * p.dq_stride_batch + head * p.dq_stride_head +
            (s.first_q + first_row) * p.dq_stride_row;
  write_rows<C::kBf16, TileQ>(dq, p.softmax_scale, shared_address(shared_memory), lane, to, p.dq_stride_row,
                              s.stored_q - first_row, p.problem.head_dim / kChunkElements);
}
