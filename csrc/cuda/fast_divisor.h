// Integer division by a divisor that the host knows before the launch: kernels multiply by a
// precomputed number instead.
#pragma once

#include <cstdint>

#include "math/scalar.h"

namespace fused_dropout::cuda {

// The upper half of the product.
FD_HD uint32_t high_product(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}
FD_HD uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
#endif
}

// Exact for numerators below half of the range of Word (Granlund and Montgomery, "Division by
// Invariant Integers using Multiplication", PLDI 1994). Word has N bits. With 2^k < d < 2^(k+1) and
// m = floor(2^(N+k) / d) + 1, which fits into N bits, n / d = floor(n * m / 2^(N+k)).
template <class Word, class TwoWords>
struct DivisorOf {
  Word multiplier = 0;  // 0 if the divisor is a power of two
  int shift = 0;

  DivisorOf() = default;
  explicit DivisorOf(Word divisor) {
    while (Word{2} << shift <= divisor) ++shift;  // 2^shift <= divisor < 2^(shift + 1)
    if (divisor != Word{1} << shift) {
      const TwoWords numerator = TwoWords{1} << (8 * sizeof(Word) + shift);
      multiplier = static_cast<Word>(numerator / divisor) + 1;
    }
  }

  FD_HD Word divide(Word numerator) const {
    return (multiplier ? high_product(numerator, multiplier) : numerator) >> shift;
  }
};

using Divisor = DivisorOf<uint64_t, unsigned __int128>;
using ShortDivisor = DivisorOf<uint32_t, uint64_t>;  // for numerators up to 2^31 - 1

}  // namespace fused_dropout::cuda
