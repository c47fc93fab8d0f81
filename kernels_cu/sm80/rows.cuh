// Where the rows of a tile are in global memory.
#pragma once

#include "common/packed_rows.cuh"
#include "common/types.cuh"

namespace flashactor {

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
