// The one parameter of a forward kernel of this folder, passed by value; mirrored in
// flashactor/kernels/sm90.py.
#pragma once

#include "common/fwd_params.cuh"
#include "common/types.cuh"
#include "sm90/ptx.cuh"

namespace flashactor {

// Dimensions of each tensor map, the innermost first: elements of a head, heads, rows, batch entries (or
// pages).
struct HopperParams {
  TensorMap q;    // boxes of a slab's row by `pack` heads by the queries of a consumer
  TensorMap k;    // boxes of a slab's row by `box_rows` keys
  TensorMap v;    // likewise
  TensorMap out;  // as q

  FwdParams fwd;

  int tiles;           // of queries, over all heads, sequences and splits
  int lines;           // heads (or groups of `pack`) by sequences by splits
  int lines_together;  // of which all tiles are computed before those of the next: their keys share L2
  int box_rows;        // keys of a box; a block of keys is one box, or several where keys lie in pages
  int consumer_rows;   // rows of a warpgroup: the most queries by `pack` that 64 rows hold
  int padding[FA_PARAMS_PADDING];
};

}  // namespace flashactor
