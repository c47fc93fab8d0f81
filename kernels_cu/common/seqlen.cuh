// Where a sequence lies, and how long it is. Lengths are read on the device, so a new length needs neither a
// new kernel nor the host.
#pragma once

#include "common/params.cuh"
#include "common/types.cuh"

namespace flashactor {

struct Sequence {
  i64 first_q;   // rows before the sequence's own: of its batch entry 0, of a packed batch the offset
  i64 first_k;
  int stored_q;  // rows that exist; those from `seqlen_q` on see no key
  int stored_k;  // rows that exist; those from `seqlen_k` on are seen by no query
  int seqlen_q;
  int seqlen_k;
  int entry;     // batch entry of dense arrays, 0 where they are packed
  int entry_k;
};

__device__ __forceinline__ Sequence find_sequence(const Problem& p, int batch) {
  Sequence s{0, 0, p.seqlen_q, p.seqlen_k, p.seqlen_q, p.seqlen_k, batch, batch};
  if (p.cu_seqlens_q) {
    s.first_q = p.cu_seqlens_q[batch];
    s.stored_q = s.seqlen_q = p.cu_seqlens_q[batch + 1] - static_cast<int>(s.first_q);
    s.entry = 0;
  }
  if (p.cu_seqlens_k) {
    s.first_k = p.cu_seqlens_k[batch];
    s.stored_k = s.seqlen_k = p.cu_seqlens_k[batch + 1] - static_cast<int>(s.first_k);
    s.entry_k = 0;
  }
  if (p.seqused_q) s.seqlen_q = p.seqused_q[batch];
  if (p.seqused_k) s.seqlen_k = p.seqused_k[batch] + p.appended;
  return s;
}

}  // namespace flashactor
