// What a forward kernel writes: normalised rows of O and lse, or the partial results of a split.
#pragma once

#include "common/compiler.cuh"
#include "common/fwd_output.cuh"
#include "common/fwd_params.cuh"
#include "common/fwd_work.cuh"
#include "common/memory.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm80/fwd_config.cuh"
#include "sm80/ptx.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

// Normalises O and writes it, and lse. 8-bit kernels write whole sectors directly. Others write through the
// warp's own rows of the Q tile, which no other warp reads, so that global memory is written in whole 16-byte
// chunks.
template <typename C>
__device__ __forceinline__ void finish(const typename C::OutTile& o, const typename C::RowStates& states,
                                       const Output<C>& output, const Shared& shared, const Lane<C>& lane) {
  using TileOut = Tile<C::kHeadDimV, C::kThreads>;
  using Runs = Run<C>;
  const FwdParams& p = output.p;
  const int first_dim = lane.lane % 4 * C::kRun;
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowState& row = states[m][half];
      const int tile_row = opaque(lane.row(m, half));
      const float factor = output.finish_row(tile_row, row.max, quad_sum(row.sum), lane.lane % 4 == 0);
      if (p.num_splits > 1) {
        float* partial = output.partial(tile_row, first_dim);
#pragma unroll
        for (int r = 0; r < Runs::kCount; ++r) {
          Runs run(o, m, half, r);
          run.normalise(factor);
          if (output.exists(tile_row) && r * Runs::kDims < p.problem.head_dim_v) {
            run.store_partial(partial + r * Runs::kDims);
          }
        }
        continue;
      }
      u16* out = output.out(tile_row) + first_dim;
      const u32 to = shared.q + TileOut::lane_offset(tile_row, 0) + first_dim * kElementBytes;
#pragma unroll
      for (int r = 0; r < Runs::kCount; ++r) {
        Runs run(o, m, half, r);
        run.normalise(factor);
        const u32 low = output.packed(run.x[0], run.x[1]);
        if constexpr (C::kRun == 2) {
          store_shared(TileOut::at(to, r), low);
        } else if (output.exists(tile_row) && r * Runs::kDims < p.problem.head_dim_v) {
          store_global_8(out + r * Runs::kDims, {low, output.packed(run.x[2], run.x[3])});
        }
      }
    }
  if (C::kFp8 || p.num_splits > 1) return;
  __syncwarp();
  constexpr int kSpan = TileOut::kSpan;
  const int chunk = lane.lane % kSpan;
#pragma unroll 2
  for (int r = 0; r < C::kRowsPerWarp; r += 32 / kSpan) {
    const int tile_row = lane.first_row + r + lane.lane / kSpan;
    const bool exists = output.exists(tile_row);
    u16* out = output.out(tile_row);
    const u32 from = shared.q + TileOut::lane_offset(tile_row, chunk);
#pragma unroll
    for (int c = 0; c < TileOut::kChunks; c += kSpan) {
      if (exists && (chunk + c) * kChunkElements < p.problem.head_dim_v) {
        store_global_16(out + (chunk + c) * kChunkElements, load_shared_16(from + c * kChunkBytes));
      }
    }
  }
}

// What merge_and_finish keeps in shared memory. Rows are longer by what keeps those that a store touches at
// once in different banks.
template <typename C>
struct MergeSpace {
  static constexpr int kRowFloats = C::kHeadDimV + 4 * C::kRun;
  static constexpr int kRows = C::kKeyWarps * C::kTileM;
  static constexpr int kStates = kRows * kRowFloats * 4;  // where the row states begin
  static constexpr int kBytes = C::kKeyWarps == 1 ? 0 : kStates + kRows * 8;
};

// The same where every warp has all rows and its own part of the keys: the parts are merged in shared memory,
// over K and V, which are read by none any more.
template <typename C>
__device__ __forceinline__ void merge_and_finish(const typename C::OutTile& o,
                                                 const typename C::RowStates& states, const Output<C>& output,
                                                 const Shared& shared, const Lane<C>& lane) {
  using Space = MergeSpace<C>;
  using Runs = Run<C>;
  const FwdParams& p = output.p;
  static_assert(Space::kBytes <= C::kSharedBytes);
  constexpr int kRowChunks = C::kHeadDimV / kChunkElements;
  const auto at = [&](int warp, int row) { return warp * C::kTileM + row; };
  __syncthreads();
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at(lane.warp, lane.row(m, half));
      const float sum = quad_sum(states[m][half].sum);
      if (lane.lane % 4 == 0) store_shared_8(shared.q + Space::kStates + row * 8, states[m][half].max, sum);
      const u32 to = shared.q + (row * Space::kRowFloats + lane.lane % 4 * C::kRun) * 4;
#pragma unroll
      for (int r = 0; r < Runs::kCount; ++r) Runs(o, m, half, r).store_in_shared(to + r * Runs::kDims * 4);
    }
  __syncthreads();
  const int chunks = p.problem.head_dim_v / kChunkElements;
  // Lanes read halves of chunks, 32 bytes apart: four of eight lanes begin with the second half, so that no
  // two of them meet in a bank. x[0] to x[3] are of the half that comes first.
  const int swapped = threadIdx.x / 4 % 2;
  for (int item = threadIdx.x; item < C::kTileM * kRowChunks; item += C::kThreads) {
    const int tile_row = item / kRowChunks;
    const int chunk = item % kRowChunks;
    const float scale_log2 = output.scale_of_max(tile_row);
    float maxima[C::kKeyWarps], sums[C::kKeyWarps], largest = -kInfinity;
#pragma unroll
    for (int w = 0; w < C::kKeyWarps; ++w) {
      load_shared_8(shared.q + Space::kStates + at(w, tile_row) * 8, maxima[w], sums[w]);
      largest = fmaxf(largest, maxima[w]);
    }
    const float exponent = largest == -kInfinity ? 0.f : __fmul_rn(largest, scale_log2);
    float total = 0.f, x[kChunkElements] = {};
#pragma unroll
    for (int w = 0; w < C::kKeyWarps; ++w) {
      const float weight = exp2_approx(__fsub_rn(__fmul_rn(maxima[w], scale_log2), exponent));
      total += sums[w] * weight;
      const u32 from = shared.q + (at(w, tile_row) * Space::kRowFloats + chunk * kChunkElements) * 4;
      float part[kChunkElements];
      load_shared_floats(from + swapped * 16, part);
      load_shared_floats(from + (swapped ^ 1) * 16, part + 4);
#pragma unroll
      for (int e = 0; e < kChunkElements; ++e) x[e] += part[e] * weight;
    }
    const float factor = output.finish_row(tile_row, largest, total, chunk == 0);
    if (!output.exists(tile_row) || chunk >= chunks) continue;
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) x[e] = normalised(x[e], factor);
    if (p.num_splits > 1) {
      float* partial = output.partial(tile_row, chunk * kChunkElements);
      store_global_floats(partial + swapped * 4, x);
      store_global_floats(partial + (swapped ^ 1) * 4, x + 4);
    } else {
      const uint2 half[2] = {{output.packed(x[0], x[1]), output.packed(x[2], x[3])},
                             {output.packed(x[4], x[5]), output.packed(x[6], x[7])}};
      const uint2 low = swapped ? half[1] : half[0];
      const uint2 high = swapped ? half[0] : half[1];
      store_global_16(output.out(tile_row) + chunk * kChunkElements, {low.x, low.y, high.x, high.y});
    }
  }
}

}  // namespace flashactor
