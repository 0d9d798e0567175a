// The interface between the noise kernels and the functors of math/noise.h.
#pragma once

#include <type_traits>

#include "math/scalar.h"

namespace fused_dropout {

// Which random number an element draws.
enum class NoiseDraw {
  kNone,
  kBits,     // the 16-bit draw of philox.h, as an fp32 number
  kUniform,  // the upper 24 bits of a random word: k of distributions.h
  kNormal,   // a standard normal number
};

constexpr int kMaxNoiseInputs = 3, kMaxNoiseOutputs = 2, kMaxNoiseConstants = 4;

// The base of a functor: how many tensors its kernel reads and writes, which number each element
// draws, and whether the kernel also returns a sum over all elements. A functor adds
//   - kName, the name that tests use;
//   - Constants<T>, a struct template with at most kMaxNoiseConstants members of type T;
//   - element<Precision>(inputs, draw, constants, results), a static function that computes one
//     element of every output tensor from one element of every input tensor. With kSum, `results`
//     has one more number at its end, the element's term of the sum. With kNone, `draw` is unused.
// All tensors have the same dtype and memory layout. If a kernel has several results, the caller
// may want only some of them.
template <int kInputCount, int kOutputCount, NoiseDraw kDrawnNumber, bool kHasSum = false>
struct NoiseFunctor {
  static_assert(kInputCount <= kMaxNoiseInputs && kOutputCount <= kMaxNoiseOutputs);
  static constexpr int kInputs = kInputCount;
  static constexpr int kOutputs = kOutputCount;
  static constexpr NoiseDraw kDraw = kDrawnNumber;
  static constexpr bool kSum = kHasSum;
  static constexpr int kResults = kOutputs + kSum;

  // CUDA: the constants of a call with a scalar in device memory. A functor whose constants depend
  // on such a scalar hides this function.
  template <class Constants, class C>
  static FD_HD Constants with_scalar(const Constants& constants, const C*) {
    return constants;
  }
};

template <class Functor>
constexpr int kNoiseConstants =
    sizeof(typename Functor::template Constants<double>) / sizeof(double);

// Copies constants to the array in the kernel arguments.
template <class Functor, class Number>
void store_constants(const typename Functor::template Constants<double>& constants,
                     Number (&target)[kMaxNoiseConstants]) {
  constexpr int kCount = kNoiseConstants<Functor>;
  static_assert(kCount <= kMaxNoiseConstants);
  double numbers[kMaxNoiseConstants];
  memcpy(numbers, &constants, kCount * sizeof(double));
  for (int i = 0; i < kCount; ++i) target[i] = numbers[i];
}

template <class... Functors>
struct NoiseList {
  static constexpr int kCount = sizeof...(Functors);
};

// The position of a functor in the list.
template <class Functor, class... Functors>
constexpr int position_in(NoiseList<Functors...>) {
  int position = 0;
  bool found = false;
  ((found = found || std::is_same_v<Functor, Functors>, position += !found), ...);
  return position;
}

}  // namespace fused_dropout
