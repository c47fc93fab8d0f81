// Names of fixed-width types and constants. The kernels include no CUDA header, so they spell their own.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

namespace flashactor {

constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000);
constexpr float kLn2 = 0.693147180559945309f;
constexpr float kLog2E = 1.44269504088896341f;

// 16-bit elements are carried as their bits; which format they are is the kernel's Config.
constexpr int kElementBytes = 2;
// The unit of every global and shared memory transfer: 16 bytes, 8 elements of 16 bits.
constexpr int kChunkBytes = 16;
constexpr int kChunkElements = kChunkBytes / kElementBytes;

// How scores are treated between the two products.
enum class Scores {
  kPlain,     // the mask, and nothing else
  kModified,  // softcap and ALiBi, each if the parameters say so
  kDropout,   // the same, and dropout
};

template <bool Condition, typename Then, typename Else>
struct Select {
  using Type = Then;
};
template <typename Then, typename Else>
struct Select<false, Then, Else> {
  using Type = Else;
};

__host__ __device__ constexpr int divide_up(int x, int y) { return (x + y - 1) / y; }

}  // namespace flashactor
