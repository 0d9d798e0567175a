// Division by a number that is known before a kernel runs: one multiplication in its place.
#pragma once

#include <cstdint>

#include "../lanes.h"

namespace fused_dropout::cuda {

// Exact for numerators from 0 to 2^63 - 1 (Granlund and Montgomery, "Division by Invariant Integers
// using Multiplication", PLDI 1994): with 2^(k-1) < d < 2^k and m = floor(2^(63+k) / d) + 1, which
// has 64 bits, n / d = n * m / 2^(63+k).
struct Divisor {
  uint64_t multiplier = 0;  // 0 for a power of two
  int shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t divisor) {
    while (uint64_t{2} << shift <= static_cast<uint64_t>(divisor))
      ++shift;  // 2^shift <= divisor < 2^(shift + 1)
    if (divisor != int64_t{1} << shift) {
      const auto numerator = static_cast<unsigned __int128>(1) << (64 + shift);
      multiplier = static_cast<uint64_t>(numerator / static_cast<uint64_t>(divisor)) + 1;
    }
  }

  FD_HD int64_t divide(int64_t numerator) const {
    const auto n = static_cast<uint64_t>(numerator);
    return static_cast<int64_t>((multiplier ? high_product(n, multiplier) : n) >> shift);
  }

 private:
  static FD_HD uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
    return __umul64hi(a, b);
#else
    return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
#endif
  }
};

}  // namespace fused_dropout::cuda
