// Which keys a query sees. Query i is aligned with key i + seqlen_k - seqlen_q (bottom right). All of it is
// known at run time only: the blocks that need no mask, nearly all of a long sequence, pay two comparisons.
#pragma once

#include "common/params.cuh"
#include "common/seqlen.cuh"
#include "common/types.cuh"

namespace flashactor {

struct Mask {
  int seqlen_q;
  int seqlen_k;
  int offset;       // seqlen_k - seqlen_q
  int left, right;  // of the window
  int sinks;        // leading keys that the window's left end does not hide (StreamingLLM, arXiv:2309.17453)
  int free_sinks;   // those that its right end does not hide either: none under a causal mask

  __device__ __forceinline__ Mask(const Problem& p, const Sequence& s)
      : seqlen_q(s.seqlen_q),
        seqlen_k(s.seqlen_k),
        offset(s.seqlen_k - s.seqlen_q),
        left(p.window_left),
        right(p.window_right),
        sinks(min(p.sink_tokens, s.seqlen_k)),
        free_sinks(p.window_right == 0 ? 0 : sinks) {}

  // The window of a query row: keys from `begin` (maybe negative) to before `end` (maybe 0 or less).
  __device__ __forceinline__ int begin(int row) const { return row + offset - left; }
  __device__ __forceinline__ int end(int row) const { return min(seqlen_k, row + offset + 1 + right); }

  // Whether a key is hidden that lies at or behind the end, or before the beginning, of a row's window.
  __device__ __forceinline__ bool hides_right(int key, int end) const {
    return key >= end && key >= free_sinks;
  }
  __device__ __forceinline__ bool hides_left(int key, int begin) const { return key < begin && key >= sinks; }

  // Whether some row from `first` to `last` does not see all keys from `key` on, `count` of them.
  __device__ __forceinline__ bool cuts_right(int first, int key, int count) const {
    return key + count > end(first);
  }
  __device__ __forceinline__ bool cuts_left(int last, int key) const { return key < begin(last); }
};

// The key blocks that any row of a tile sees: those of the sinks, then those of the window, numbered through.
struct KeyBlocks {
  int sink_blocks;  // blocks from 0 on that hold sinks before the window begins
  int window;       // first block of the window
  int count;

  __device__ __forceinline__ KeyBlocks(const Mask& mask, int first_row, int last_row, int tile_n) {
    const int end = divide_up(max(max(mask.end(last_row), mask.free_sinks), 0), tile_n);
    sink_blocks = min(divide_up(mask.sinks, tile_n), end);
    window = max(max(mask.begin(first_row), 0) / tile_n, sink_blocks);
    count = sink_blocks + max(divide_up(max(mask.end(last_row), 0), tile_n) - window, 0);
    if (last_row < first_row) count = 0;
  }
  // The block of a number from 0 to count - 1.
  __device__ __forceinline__ int block(int index) const {
    return index < sink_blocks ? index : index - sink_blocks + window;
  }
};

}  // namespace flashactor
