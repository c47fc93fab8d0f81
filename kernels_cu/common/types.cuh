// Names of fixed-width types and constants. The kernels include no CUDA header, so they spell their own.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;

namespace flashactor {

constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000);
constexpr float kLn2 = 0.693147180559945309f;

// Query, key and value elements are carried as their 16 bits; which format they are is the kernel's Config.
constexpr int kElementBytes = 2;
// The unit of every global and shared memory transfer: 16 bytes, 8 elements.
constexpr int kChunkBytes = 16;
constexpr int kChunkElements = kChunkBytes / kElementBytes;

}  // namespace flashactor
