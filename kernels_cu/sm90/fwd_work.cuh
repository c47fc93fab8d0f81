// Which rows a thread block computes, and which blocks of keys they see.
#pragma once

#include "common/fwd_work.cuh"
#include "common/mask.cuh"
#include "common/packed_rows.cuh"
#include "common/seqlen.cuh"
#include "common/types.cuh"
#include "sm90/params.cuh"

namespace flashactor {

// Tile `index` of the launch. All tiles of some lines, whose keys L2 holds together, come before those of the
// next lines. Among them the rows with most keys under a causal mask come first, whatever line they are of:
// the work gets shorter towards the end, so blocks that stay resident finish together.
template <typename C>
__device__ __forceinline__ Work find_work(const HopperParams& p, u32 index) {
  const u32 section_tiles = p.lines_together * p.fwd.q_tiles;
  const u32 first_line = index / section_tiles * p.lines_together;
  const u32 lines = min(p.lines - first_line, static_cast<u32>(p.lines_together));
  const u32 within = index % section_tiles;
  const int tile = static_cast<int>(within / lines);
  const u32 line = first_line + within % lines;
  const u32 sequence_head = line / p.fwd.num_splits;
  const int heads = p.fwd.problem.heads_q / p.fwd.pack;
  return {static_cast<int>(sequence_head / heads), static_cast<int>(sequence_head % heads) * p.fwd.pack,
          static_cast<int>(line % p.fwd.num_splits),
          (p.fwd.q_tiles - 1 - tile) * C::kConsumers * p.consumer_rows};
}

// A tile with the part of its sequence's keys that this split walks over, from `last` down to `first`.
template <typename C>
struct Unit {
  Work work;
  Sequence sequence;
  Mask mask;
  KeyBlocks blocks;
  int first, last;  // last < first if it sees no key
  bool exists;      // whether any of its rows does

  __device__ __forceinline__ Unit(const HopperParams& p, u32 index)
      : Unit(p, find_work<C>(p, index), PackedRows(p.fwd)) {}

 private:
  __device__ __forceinline__ Unit(const HopperParams& p, const Work& w, const PackedRows& packed)
      : work(w),
        sequence(find_sequence(p.fwd.problem, w.batch)),
        mask(p.fwd.problem, sequence),
        blocks(mask, packed.query(w.first_row),
               min(packed.query(w.first_row + C::kConsumers * p.consumer_rows - 1), sequence.seqlen_q - 1),
               C::kTileN) {
    const int share =
        p.fwd.blocks_per_split ? p.fwd.blocks_per_split : divide_up(blocks.count, p.fwd.num_splits);
    first = w.split * share;
    last = min(first + share, blocks.count) - 1;
    exists = packed.query(w.first_row) < sequence.stored_q;
  }
};

}  // namespace flashactor
