// A consumer: a warpgroup that computes 64 rows of O (Shah et al. 2024, arXiv:2407.08608, algorithm 2).
//
// Within a consumer the products S = Q K^T of the next block and O += P V of this one run while the scores of
// the next block are turned into weights. Between consumers a turn goes round: who has it issues its two
// products, so that one's softmax runs under the other's products.
#pragma once

#include "common/compiler.cuh"
#include "common/fwd_output.cuh"
#include "common/fwd_scores.cuh"
#include "common/fwd_work.cuh"
#include "common/softmax.cuh"
#include "common/types.cuh"
#include "sm90/fwd_config.cuh"
#include "sm90/fwd_store.cuh"
#include "sm90/fwd_work.cuh"
#include "sm90/ptx.cuh"
#include "sm90/wgmma.cuh"

namespace flashactor {

// Who issues products. Alone, a consumer need not ask.
template <typename C>
struct Turn {
  int consumer;

  __device__ __forceinline__ void begin() const {
    if (C::kConsumers > 1 && consumer == C::kConsumers - 1) pass();
  }
  __device__ __forceinline__ void take() const {
    if (C::kConsumers > 1) named_sync(kTurnBarrier + consumer, 2 * 128);
  }
  __device__ __forceinline__ void pass() const {
    if (C::kConsumers > 1) named_arrive(kTurnBarrier + (consumer + 1) % C::kConsumers, 2 * 128);
  }
  // The turn that begin() put into circulation leaves it: no barrier is left half full.
  __device__ __forceinline__ void end() const {
    if (consumer == 0) take();
  }
};

// Zeroes the values behind the last key, which came from whatever lies there. Their weights are 0, but 0
// times infinity is not.
template <typename C>
__device__ __forceinline__ void clear_values(u32 tile, int keys) {
  constexpr int kRowChunks = C::kSlabRowBytes / kChunkBytes;
  const int chunks = (C::kTileN - keys) * kRowChunks;  // of a slab
#pragma unroll 1
  for (int slab = 0; slab < C::TileV::kSlabs; ++slab) {
    const u32 first = tile + slab * C::TileV::kSlabBytes + keys * C::kSlabRowBytes;
#pragma unroll 1
    for (int i = threadIdx.x - 128; i < chunks; i += C::kConsumerThreads) {
      store_shared_16(first + i * kChunkBytes, {0, 0, 0, 0});
    }
  }
  fence_async_shared();
  named_sync(kConsumersBarrier, C::kConsumerThreads);
}

// The rows of one consumer.
template <typename C>
struct Consumer {
  int number;
  Lane<C> lane;
  Work work;  // from its own first row on
  PackedRows packed;
  Scale<C> scale;
  int first_query, last_query;

  __device__ __forceinline__ Consumer(const HopperParams& p, const Unit<C>& unit, int consumer)
      : number(consumer),
        work{unit.work.batch, unit.work.head, unit.work.split,
             unit.work.first_row + consumer * p.consumer_rows},
        packed(p.fwd),
        scale(find_scale<C>(p.fwd, work, packed, lane, unit.work.head / p.fwd.problem.gqa_ratio)),
        first_query(packed.query(work.first_row)),
        last_query(min(packed.query(work.first_row + p.consumer_rows - 1), unit.sequence.seqlen_q - 1)) {}

  // Scores of the block of keys that begins at `first_key` to weights.
  __device__ __forceinline__ void weigh_block(typename C::ScoreTile& s, typename C::RowStates& rows,
                                              float (&rescale)[2], const HopperParams& p, const Mask& mask,
                                              int first_key) const {
    if constexpr (C::kModified) {
      modify(s, p.fwd.problem, mask, scale, lane, packed, work.first_row, first_key);
    }
    if (mask.cuts_right(first_query, first_key, C::kTileN) || mask.cuts_left(last_query, first_key)) {
      apply_mask(s, mask, lane, packed, work.first_row, first_key);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) rescale[half] = weigh(s, rows[0][half], scale, 0, half);
  }
};

template <typename C>
__device__ __forceinline__ void rescale_out(typename C::OutTile& o, const float (&factor)[2]) {
#pragma unroll
  for (int n = 0; n < C::kDimTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) o[0][n][e] *= factor[e / 2];
}

// S = Q K^T, [64][TileN].
template <typename C>
__device__ __forceinline__ void issue_qk(typename C::ScoreTile& s, u32 q, u32 k) {
  pin(s[0]);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < C::kHeadDim * C::kElementSize / kStepBytes; ++step) {
    wgmma_shared<C::kQkProduct>(s[0], C::TileQ::along_columns(q, step), C::TileK::along_columns(k, step),
                                step > 0);
  }
  wgmma_commit();
}

// The body of a consumer. Products: how P V is computed. Between issue_pv and wait_pv the product
// runs, then add_pv adds up what did not go to O at once; `rescale` comes when maxima have risen.
template <typename C, typename Products>
__device__ __forceinline__ void attend(const HopperParams& p, const Shared<C>& shared, int consumer) {
  Place<1> q_at;
  Place<C::kStages> k_at;
  Place<C::kValueStages> v_at;
  const Turn<C> turn{consumer};
  const u32 q = shared.q_of(consumer);
  const Ring<1> q_ring = shared.q_ring_of(consumer);
  turn.begin();
#pragma unroll 1
  for (u32 index = blockIdx.x; index < p.tiles; index += gridDim.x) {
    const Unit<C> unit(p, index);
    if (!unit.exists) continue;
    const Consumer<C> me(p, unit, consumer);
    if (unit.last < unit.first) {
      store_nothing(Output<C>{p.fwd, me.work, unit.sequence, me.packed, 0, 1.f, 1.f}, p, me);
      continue;
    }
    typename C::OutTile o = {};
    typename C::RowStates rows;
    rows[0][0] = rows[0][1] = kEmptyRow;
    typename C::ScoreTile s;
    typename Products::Weights weights;
    typename Products::Sums sums;
    float rescale[2];
    q_ring.wait_full(q_at);
    shared.k_ring.wait_full(k_at);
#pragma unroll 1
    for (int block = unit.last; block >= unit.first; --block) {
      const bool begins = block == unit.last;
      const int first_key = unit.blocks.block(block) * C::kTileN;
      turn.take();
      issue_qk<C>(s, q, shared.k_of(k_at));
      if (begins) {
        wgmma_commit();  // no product, so that the one before is the last but one in any case
      } else {
        shared.value_ring.wait_full(v_at);
        Products::issue_pv(o, sums, weights, shared.values_of(v_at));
      }
      turn.pass();
      wgmma_wait<1>();
      pin(s[0]);
      shared.k_ring.leave(k_at);
      k_at.advance();
      me.weigh_block(s, rows, rescale, p, unit.mask, first_key);
      // The next keys are waited for here, between the softmax and the wait for P V, and by a condition that
      // needs all weights (their sums are never negative): without a branch between them ptxas moves one
      // behind the other, so that they do not overlap.
      pin(s[0]);
      const bool never = fminf(rows[0][0].sum, rows[0][1].sum) < 0.f;
      if (block > unit.first || never) shared.k_ring.wait_full(k_at);
      Products::wait_pv(o, sums);
      typename Products::Weights next;
      Products::round(next, s);  // first of all, for the registers of S
      if (begins) {
        shared.value_ring.wait_full(v_at);
        if (!C::kFp8 && first_key + C::kTileN > unit.mask.seqlen_k) {
          clear_values<C>(shared.values_of(v_at), unit.mask.seqlen_k - first_key);
        }
      } else {
        Products::add_pv(o, sums, weights, shared.values_of(v_at));
        shared.value_ring.leave(v_at);
        v_at.advance();
      }
      Products::rescale(o, sums, rescale);
      weights = next;
    }
    shared.value_ring.wait_full(v_at);
    Products::issue_pv(o, sums, weights, shared.values_of(v_at));
    Products::wait_pv(o, sums);
    Products::add_pv(o, sums, weights, shared.values_of(v_at));
    shared.value_ring.leave(v_at);
    v_at.advance();
    // Read again: what is kept takes registers from the loop.
    const Sequence sequence = find_sequence(p.fwd.problem, me.work.batch);
    const int kv_head = me.work.head / p.fwd.problem.gqa_ratio;
    const float v_descale =
        C::kFp8 ? find_descale(p.fwd.v_descale, p.fwd.v_scale, p.fwd.v_scale_stride, kv_head) : 1.f;
    store(o, rows, Output<C>{p.fwd, me.work, sequence, me.packed, kv_head, me.scale.log2, v_descale}, p, q,
          me);
    q_ring.leave(q_at);
    q_at.advance();
  }
  turn.end();
}

}  // namespace flashactor
