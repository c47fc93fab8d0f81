// Where the rows of a tile are in global memory.
#pragma once

#include "common/fwd_params.cuh"
#include "common/types.cuh"

namespace flashactor {

// The rows of a query tile: queries, or queries by the heads of a group, which share keys and values ("pack
// GQA").
struct PackedRows {
  int pack;
  u32 multiplier;
  int shift;

  __device__ __forceinline__ explicit PackedRows(const FwdParams& p)
      : pack(p.pack), multiplier(p.pack_multiplier), shift(p.pack_shift) {}

  __device__ __forceinline__ int query(int row) const {
    return pack == 1 ? row : static_cast<int>(__umulhi(row, multiplier) >> shift);
  }
  __device__ __forceinline__ int head(int row) const { return row - query(row) * pack; }
  __device__ __forceinline__ i64 offset(int row, i64 stride_row, i64 stride_head) const {
    const int i = query(row);
    return i * stride_row + (row - i * pack) * stride_head;
  }
};

template <typename Element>
struct QueryRows {
  const Element* first;
  PackedRows rows;
  int first_row;
  i64 stride_row, stride_head;

  static constexpr bool kAlwaysGuarded = true;  // loaded once: a second body would only take time to compile
  __device__ __forceinline__ const Element* operator()(int row, bool&) const {
    return first + rows.offset(first_row + row, stride_row, stride_head);
  }
};

// Rows of keys that lie in pages. Rows of a page outside of the pool are invalid if the parameters ask for a
// guard.
template <typename Element>
struct PagedRows {
  const Element* pool;
  const int* pages;  // of this sequence; null where it is one run of rows
  i64 stride_page, stride_row;
  int shift, num_pages, table_pages, first_key;

  static constexpr bool kAlwaysGuarded = true;
  __device__ __forceinline__ const Element* operator()(int row, bool& valid) const {
    const int key = first_key + row;
    if (!pages) return pool + key * stride_row;
    // A length beyond the table is wrong as well.
    if (num_pages > 0) valid = valid && key >> shift < table_pages;
    const int page = valid ? pages[key >> shift] : 0;
    if (num_pages > 0) valid = valid && static_cast<u32>(page) < static_cast<u32>(num_pages);
    return pool + page * stride_page + (key & ((1 << shift) - 1)) * stride_row;
  }
};

}  // namespace flashactor
