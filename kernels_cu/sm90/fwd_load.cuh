// The producer: one warp that has TMA bring queries, keys and values, as far ahead as there are stages.
#pragma once

#include "common/types.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/fwd_work.cuh"
#include "sm90/ptx.cuh"

namespace flashactor {

// Where the keys of a unit are, in coordinates of the tensor maps.
struct KeySource {
  int head;
  int first_row;     // of the sequence, where its rows follow each other
  int entry;         // likewise
  const int* pages;  // null where they do
  int seqlen;
  int boxes;         // of a slab
};

// A block of keys or values. Each lane sees to some of its boxes: they are as many as slabs, times pages.
template <typename C, typename Tile>
__device__ __forceinline__ void load_block(const HopperParams& p, const TensorMap& map,
                                           const KeySource& source, u32 tile, u32 barrier, int first_key) {
  const int lane = threadIdx.x % 32;
  if (lane == 0) mbarrier_arrive_expect(barrier, Tile::kBytes);
  __syncwarp();
#pragma unroll 1
  for (int box = lane; box < Tile::kSlabs * source.boxes; box += 32) {
    const int slab = box % Tile::kSlabs;
    const int row = box / Tile::kSlabs * p.box_rows;
    const int key = first_key + row;
    int entry = source.entry;
    int from = source.first_row + key;
    if (source.pages) {
      // Entries of a table that no key needs may be anything; they and, with a guard, pages outside of the
      // pool read as zeros, as everything outside of a tensor does.
      from = key & ((1 << p.fwd.page_shift) - 1);
      const int page = key >> p.fwd.page_shift;
      const bool valid = key < source.seqlen && (p.fwd.num_pages == 0 || page < p.fwd.table_pages);
      entry = valid ? source.pages[page] : -1;
    }
    tma_load(tile + slab * Tile::kSlabBytes + row * Tile::kSlabRowBytes, &map, barrier, slab * Tile::kPerSlab,
             source.head, from, entry);
  }
}

// The queries of all consumers, each for itself: one may still write its results over the last ones.
template <typename C>
__device__ __forceinline__ void load_queries(const HopperParams& p, const Shared<C>& shared,
                                             const Unit<C>& unit, const Place<1>& at) {
  const int lane = threadIdx.x % 32;
  const PackedRows packed(p.fwd);
#pragma unroll 1
  for (int consumer = 0; consumer < C::kConsumers; ++consumer) {
    const Ring<1> ring = shared.q_ring_of(consumer);
    ring.wait_empty(at);
    if (lane == 0) {
      mbarrier_arrive_expect(ring.full_of(at), C::TileQ::kSlabs * p.consumer_rows * C::kSlabRowBytes);
    }
    __syncwarp();
    if (lane < C::TileQ::kSlabs) {
      const int query = packed.query(unit.work.first_row + consumer * p.consumer_rows);
      tma_load(shared.q_of(consumer) + lane * C::TileQ::kSlabBytes, &p.q, ring.full_of(at),
               lane * C::TileQ::kPerSlab, unit.work.head, static_cast<int>(unit.sequence.first_q) + query,
               unit.sequence.entry);
    }
  }
}

// Keys of a block come before the values of the one before it: that is the order in which they are needed,
// and the stages of keys are left first.
template <typename C>
__device__ __forceinline__ void load(const HopperParams& p, const Shared<C>& shared) {
  Place<1> q_at;
  Place<C::kStages> k_at, v_at;
  const int boxes = C::kTileN / p.box_rows;
#pragma unroll 1
  for (u32 index = blockIdx.x; index < p.tiles; index += gridDim.x) {
    const Unit<C> unit(p, index);
    if (!unit.exists || unit.last < unit.first) continue;
    const KeySource source{
        unit.work.head / p.fwd.problem.gqa_ratio, static_cast<int>(unit.sequence.first_k),
        unit.sequence.entry_k,
        p.fwd.page_table ? p.fwd.page_table + unit.work.batch * p.fwd.page_table_stride : nullptr,
        unit.sequence.seqlen_k, boxes};
#pragma unroll 1
    for (int block = unit.last; block >= unit.first - 1; --block) {
      if (block >= unit.first) {
        const int first_key = unit.blocks.block(block) * C::kTileN;
        shared.k_ring.wait_empty(k_at);
        load_block<C, typename C::TileK>(p, p.k, source, shared.k_of(k_at), shared.k_ring.full_of(k_at),
                                         first_key);
        k_at.advance();
      }
      if (block == unit.last) {
        // Queries come second: the first keys are on their way while results lie where queries are to go.
        load_queries(p, shared, unit, q_at);
      } else {
        const int first_key = unit.blocks.block(block + 1) * C::kTileN;
        shared.v_ring.wait_empty(v_at);
        load_block<C, typename C::TileV>(p, p.v, source, shared.v_of(v_at), shared.v_ring.full_of(v_at),
                                         first_key);
        v_at.advance();
      }
    }
    q_at.advance();
  }
}

}  // namespace flashactor
