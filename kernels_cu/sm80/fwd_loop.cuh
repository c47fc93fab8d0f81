// FlashAttention-2 forward (Dao 2023, arXiv:2307.08691, algorithm 1) with mma.sync and cp.async: all but the
// two products, which depend on the element type.
//
// One thread block computes TileM rows (queries, or queries by the heads of a group) of one sequence. It
// walks the key blocks that they see from the last to the first. Loads run ahead of the products by half a
// step: the block's V is in flight under Q*K^T, the next block's K under the softmax and P*V. For a few rows
// and many keys, the warps of a block share the keys rather than the rows, and several blocks share a
// sequence (split-KV, as in Flash-Decoding): each writes what it has, and combine.cu merges them.
#pragma once

#include "common/fwd_output.cuh"
#include "common/fwd_params.cuh"
#include "common/fwd_scores.cuh"
#include "common/fwd_work.cuh"
#include "common/mask.cuh"
#include "common/seqlen.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm80/fwd_config.cuh"
#include "sm80/fwd_output.cuh"
#include "sm80/fwd_work.cuh"
#include "sm80/ptx.cuh"
#include "sm80/rows.cuh"
#include "sm80/staging.cuh"
#include "sm80/tile.cuh"

namespace flashactor {

// Keys or values of a sequence, and how a block of them comes into shared memory.
template <typename C, typename SharedTile>
struct KeyValue {
  using Element = typename Select<C::kFp8Kv, u8, typename C::Element>::Type;

  const Element* base;  // of the sequence and head; where it is paged, of the head in the pool
  const int* pages;
  i64 stride_page, stride_row;
  int page_shift, num_pages, table_pages, seqlen, columns;

  __device__ __forceinline__ void load(u32 tile, int first_key) const {
    const int rows = seqlen - first_key;
    if constexpr (C::kPaged) {
      const PagedRows<Element> source{base,       pages,     stride_page, stride_row,
                                      page_shift, num_pages, table_pages, first_key};
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
      SharedTile::template load<C::kTileN>(tile, source, rows, columns / SharedTile::kPerChunk);
    }
  }
};

// P from S, with the row states and O brought up to the new maxima.
template <typename C>
__device__ __forceinline__ void update_softmax(typename C::ScoreTile& s, typename C::OutTile& o,
                                               typename C::RowStates& rows, const Scale<C>& scale) {
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float rescale = weigh(s, rows[m][half], scale, m, half);
#pragma unroll
      for (int n = 0; n < C::kDimTiles; ++n) {
        o[m][n][half * 2] *= rescale;
        o[m][n][half * 2 + 1] *= rescale;
      }
    }
}

// The body of a kernel. Products: how Q K^T and P V are computed.
template <typename C, typename Products>
__device__ __forceinline__ void forward(const FwdParams& p, u32 shared_memory) {
  using TileK = Tile<C::kHeadDim, C::kThreads, typename C::Element>;  // of Q, too
  using TileV = Tile<C::kHeadDimV, C::kThreads, typename C::Element>;
  Shared shared;
  shared.q = shared_memory;
  shared.k = shared.q + C::kQBytes;
  shared.v = shared.k + C::kKBytes;
  shared.staged_k = shared.v + C::kVBytes;
  shared.staged_v = shared.staged_k + C::kTileN * C::kHeadDim;

  const Lane<C> lane;
  const Work work = find_work<C>(p);
  const Sequence sequence = find_sequence(p.problem, work.batch);
  const PackedRows packed(p);
  const int kv_head = work.head / p.problem.gqa_ratio;
  const int first_query = packed.query(work.first_row);
  if (first_query >= sequence.stored_q) return;

  const auto key_value = [&](auto tile, const void* tensor, i64 stride_batch, i64 stride_row, i64 stride_head,
                             int columns) {
    using Source = KeyValue<C, decltype(tile)>;
    const auto* base = static_cast<const typename Source::Element*>(tensor) + kv_head * stride_head;
    if (!p.page_table) base += sequence.entry_k * stride_batch + sequence.first_k * stride_row;
    const int* pages = p.page_table ? p.page_table + work.batch * p.page_table_stride : nullptr;
    return Source{base,        pages,         stride_batch,      stride_row, p.page_shift,
                  p.num_pages, p.table_pages, sequence.seqlen_k, columns};
  };
  const auto k = key_value(TileK{}, p.k, p.k_stride_batch, p.k_stride_row, p.k_stride_head,
                           p.problem.head_dim);
  const auto v = key_value(TileV{}, p.v, p.v_stride_batch, p.v_stride_row, p.v_stride_head,
                           p.problem.head_dim_v);

  const Scale<C> scale = find_scale<C>(p, work, packed, lane, kv_head);
  const Mask mask(p.problem, sequence);
  const int last_query =
      min(packed.query(work.first_row + C::kTileM - 1), sequence.seqlen_q - 1);
  const KeyBlocks blocks(mask, first_query, last_query, C::kTileN);
  const int share = p.blocks_per_split ? p.blocks_per_split : divide_up(blocks.count, p.num_splits);
  const int first_block = work.split * share;
  int index = min(first_block + share, blocks.count) - 1;

  typename C::OutTile o = {};
  typename C::RowStates rows;
#pragma unroll
  for (int m = 0; m < C::kMTiles; ++m) rows[m][0] = rows[m][1] = kEmptyRow;

  const u32 k_target = C::kFp8Kv ? shared.staged_k : shared.k;
  const u32 v_target = C::kFp8Kv ? shared.staged_v : shared.v;
  if (index >= first_block) {
    const auto* q = static_cast<const typename C::Element*>(p.q) + sequence.entry * p.q_stride_batch +
                    sequence.first_q * p.q_stride_row + work.head * p.q_stride_head;
    const QueryRows<typename C::Element> source{q, packed, work.first_row, p.q_stride_row, p.q_stride_head};
    TileK::template load<C::kTileM>(shared.q, source, sequence.seqlen_q * p.pack - work.first_row,
                                    p.problem.head_dim / TileK::kPerChunk);
    k.load(k_target, blocks.block(index) * C::kTileN);
  }
#pragma unroll 1
  for (; index >= first_block; --index) {
    const int first_key = blocks.block(index) * C::kTileN;
    cp_async_wait<0>();
    __syncthreads();  // K is there for all; V of the block before is read by none any more
    v.load(v_target, first_key);
    if constexpr (C::kFp8Kv) {
      Staging<TileK, C::kThreads>::template expand<C::kBf16, C::kTileN>(shared.k, shared.staged_k, p.kv_e5m2);
      __syncthreads();  // K is there for all in 16 bits
    }

    typename C::ScoreTile s;
    Products::multiply_qk(s, shared, lane);

    cp_async_wait<0>();
    __syncthreads();  // V is there for all; K is read by none any more
    if (index > first_block) k.load(k_target, blocks.block(index - 1) * C::kTileN);
    if constexpr (C::kFp8Kv) {
      Staging<TileV, C::kThreads>::template expand<C::kBf16, C::kTileN>(shared.v, shared.staged_v, p.kv_e5m2);
      __syncthreads();  // V is there for all in 16 bits
    }

    const int warp_key = first_key + lane.first_key;
    if constexpr (C::kModified) modify(s, p.problem, mask, scale, lane, packed, work.first_row, warp_key);
    if (mask.cuts_right(first_query, first_key, C::kTileN) || mask.cuts_left(last_query, first_key)) {
      apply_mask(s, mask, lane, packed, work.first_row, warp_key);
    }
    update_softmax(s, o, rows, scale);
    if constexpr (C::kScores == Scores::kDropout) drop(s, p.problem, work, lane, warp_key);
    Products::multiply_pv(o, s, shared, lane);
  }
  // Read again: what is kept takes registers from the loop.
  const Sequence finished = find_sequence(p.problem, work.batch);
  Work finished_work = work;
  int finished_head = kv_head;
  float v_descale = 1.f;
  // Likewise, in kernels that spill else. Others spill if they do: ptxas then takes fewer registers, for more
  // blocks at a time. Which are which was found by compiling them all.
  constexpr bool kFindAgain =
      C::kFp8 || C::kKeyWarps > 1 || (C::kHeadDim > 128) == (C::kFp8Kv || !C::kPaged);
  if constexpr (kFindAgain) {
    finished_work = find_work_again<C>(p);
    finished_head = finished_work.head / p.problem.gqa_ratio;
  }
  if constexpr (C::kFp8Kv || C::kFp8) {
    v_descale = find_descale(p.v_descale, p.v_scale, p.v_scale_stride, finished_head);
  }
  const Output<C> output{p, finished_work, finished, packed, finished_head, scale.log2, v_descale};
  if constexpr (C::kKeyWarps == 1) {
    finish(o, rows, output, shared, lane);
  } else {
    merge_and_finish(o, rows, output, shared, lane);
  }
}

}  // namespace flashactor
