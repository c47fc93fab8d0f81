// What is fixed at compile time in the forward kernels of this folder, and where a block's tiles are.
#pragma once

#include "common/fwd_params.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"

namespace flashactor {

// The part of a kernel's Config that does not depend on how it multiplies. The specifications of
// flashactor/kernels pass the macros. Fp8: q, k and v are 8-bit and are multiplied as such.
template <bool Fp8>
struct ForwardConfig {
  using Element = typename Select<Fp8, u8, u16>::Type;

  static constexpr bool kFp8 = Fp8;
  static constexpr Scores kScores = static_cast<Scores>(FA_SCORES);
  static constexpr int kHeadDim = FA_HEAD_DIM;
  static constexpr int kHeadDimV = FA_HEAD_DIM_V;
  static constexpr int kTileM = FA_TILE_M;
  static constexpr int kTileN = FA_TILE_N;
  static constexpr int kWarps = FA_WARPS;
  static constexpr int kKeyWarps = FA_KEY_WARPS;  // warps that share the keys of the same rows

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kWarpgroups = 0;  // all warps of the block share one tile
  static constexpr int kRowsPerWarp = kTileM * kKeyWarps / kWarps;
  static constexpr int kKeysPerWarp = kTileN / kKeyWarps;
  static constexpr int kMTiles = kRowsPerWarp / 16;    // m16 tiles that a warp owns
  static constexpr int kKeyTiles = kKeysPerWarp / 8;   // n8 tiles of S
  static constexpr int kDimTiles = kHeadDimV / 8;      // n8 tiles of O
  static constexpr bool kModified = kScores != Scores::kPlain;

  // Consecutive elements of a row of O that a lane holds: see struct Run in fwd_output.cuh.
  static constexpr int kRun = Fp8 ? 4 : 2;
  // Weights are 2 to this power times too large until the normalisation: e4m3 ends at 448, and its least
  // steps are coarse.
  static constexpr float kWeightsExponent = Fp8 ? 8.f : 0.f;

  // What a thread holds of S and P, of O, and of its rows.
  using ScoreTile = float[kMTiles][kKeyTiles][4];
  using OutTile = float[kMTiles][kDimTiles][4];
  using RowStates = RowState[kMTiles][2];

  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256 && kHeadDimV % 32 == 0 && kHeadDimV <= 256);
  static_assert(kRowsPerWarp % 16 == 0 && kKeysPerWarp % (Fp8 ? 32 : 16) == 0);
  static_assert(kKeyWarps == 1 || kKeyWarps == kWarps);
  static_assert(sizeof(FwdParams) == FA_PARAMS_BYTES, "the plan packs another parameter struct");
};

struct Shared {
  u32 q;         // [TileM][HeadDim]; at the end of a 16-bit kernel out, [TileM][HeadDimV]
  u32 k;         // [TileN][HeadDim]
  u32 v;         // [TileN][HeadDimV]
  u32 staged_k;  // [TileN][HeadDim] of 8 bits that become 16
  u32 staged_v;  // [TileN][HeadDimV] likewise
};

}  // namespace flashactor
