// What a consumer writes in the end: its rows of O and lse, or the partial results of a split.
#pragma once

#include "common/compiler.cuh"
#include "common/fwd_output.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/ptx.cuh"

namespace flashactor {

// A lane's part of the two rows of O that it holds, as partial results of a split.
template <typename C, typename Consumer>
__device__ __forceinline__ void store_partial(const typename C::OutTile& o, const Output<C>& output,
                                              const HopperParams& p, const Consumer& me) {
  using Runs = Run<C>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tile_row = opaque(me.lane.row(0, half));
    const int dims = tile_row < p.consumer_rows && output.exists(tile_row) ? p.fwd.problem.head_dim_v : 0;
    float* const to = output.partial(tile_row, me.lane.lane % 4 * C::kRun);
#pragma unroll
    for (int r = 0; r < Runs::kCount; ++r) {
      const Runs run(o, 0, half, r);
      store_global_8_if(r * Runs::kDims < dims, to + r * Runs::kDims, run.x[0], run.x[1]);
    }
  }
}

// The same as elements of out, into the consumer's tile of shared memory. A run of four lanes is a chunk.
template <typename C, typename Consumer>
__device__ __forceinline__ void store_in_tile(const typename C::OutTile& o, const Output<C>& output, u32 tile,
                                              const Consumer& me) {
  using Runs = Run<C>;
  using TileOut = typename C::TileOut;
  static_assert(Runs::kDims == kChunkElements);
  constexpr int kSlabChunks = C::kSlabRowBytes / kChunkBytes;
#pragma unroll
  for (int r = 0; r < Runs::kCount; ++r) {
    const u32 to = TileOut::chunk(tile, r / kSlabChunks, me.lane.row(0, 0), r % kSlabChunks) +
                   me.lane.lane % 4 * C::kRun * kElementBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Runs run(o, 0, half, r);
      // The other row is the pattern's height further down, so its chunks are permuted alike.
      store_shared(to + half * TileOut::kPatternBytes, output.packed(run.x[0], run.x[1]));
    }
  }
}

// Normalises O and writes it through the tile of the queries, which all have read by then: by TMA, or, where
// a box would reach into the next sequence, a 16-byte chunk at a time. Partial results go to global memory
// directly.
template <typename C, typename Consumer>
__device__ __forceinline__ void store(typename C::OutTile& o, const typename C::RowStates& states,
                                      const Output<C>& output, const HopperParams& p, u32 tile,
                                      const Consumer& me) {
  using TileOut = typename C::TileOut;
  const int barrier = kOwnBarrier + me.number;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const RowState& row = states[0][half];
    const int tile_row = opaque(me.lane.row(0, half));
    const bool first = me.lane.lane % 4 == 0 && tile_row < p.consumer_rows;
    const float factor = output.finish_row(tile_row, row.max, quad_sum(row.sum), first);
#pragma unroll
    for (int n = 0; n < C::kDimTiles; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) o[0][n][half * 2 + e] = normalised(o[0][n][half * 2 + e], factor);
  }
  if (p.fwd.num_splits > 1) return store_partial(o, output, p, me);
  named_sync(barrier, 128);  // all warps have read the queries
  store_in_tile(o, output, tile, me);
  fence_async_shared();
  named_sync(barrier, 128);  // all warps have written their rows
  const Sequence& sequence = output.sequence;
  const int last = me.packed.query(me.work.first_row + p.consumer_rows - 1);
  if (!p.fwd.problem.cu_seqlens_q || last < sequence.stored_q) {
    if (threadIdx.x % 128 == 0) {
#pragma unroll 1
      for (int slab = 0; slab < TileOut::kSlabs; ++slab) {
        tma_store(&p.out, tile + slab * TileOut::kSlabBytes, slab * TileOut::kPerSlab, me.work.head,
                  static_cast<int>(sequence.first_q) + me.first_query, sequence.entry);
      }
      tma_store_commit();
      tma_store_wait_read();
    }
    return;
  }
  constexpr int kRowChunks = C::kHeadDimV / kChunkElements;
#pragma unroll 1
  for (int item = threadIdx.x % 128; item < p.consumer_rows * kRowChunks; item += 128) {
    const int tile_row = item / kRowChunks;
    const int dim = item % kRowChunks * kChunkElements;
    if (output.exists(tile_row) && dim < p.fwd.problem.head_dim_v) {
      const u32 from =
          TileOut::chunk(tile, dim / TileOut::kPerSlab, tile_row, dim % TileOut::kPerSlab / kChunkElements);
      store_global_16(output.out(tile_row) + dim, load_shared_16(from));
    }
  }
}

// The results of rows that see no key. They go to global memory directly: the producer brings no queries for
// such a tile, and may be bringing those of the next one.
template <typename C, typename Consumer>
__device__ __forceinline__ void store_nothing(const Output<C>& output, const HopperParams& p,
                                              const Consumer& me) {
  constexpr int kRowChunks = C::kHeadDimV / kChunkElements;
#pragma unroll 1
  for (int item = threadIdx.x % 128; item < p.consumer_rows * kRowChunks; item += 128) {
    const int tile_row = item / kRowChunks;
    const int dim = item % kRowChunks * kChunkElements;
    if (!output.exists(tile_row)) break;
    if (dim == 0) output.finish_row(tile_row, -kInfinity, 0.f, true);
    if (dim >= p.fwd.problem.head_dim_v) continue;
    if (p.fwd.num_splits > 1) {
      const float zeros[4] = {};
      store_global_floats(output.partial(tile_row, dim), zeros);
      store_global_floats(output.partial(tile_row, dim) + 4, zeros);
    } else {
      store_global_16(output.out(tile_row) + dim, {0, 0, 0, 0});
    }
  }
}

}  // namespace flashactor
