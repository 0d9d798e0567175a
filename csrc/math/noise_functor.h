// What the kernels of the noise operators know of a functor in math/noise.h.
#pragma once

#include <type_traits>

#include "math/scalar.h"

namespace fused_dropout {

// Which random number an element draws.
enum class NoiseDraw {
  kNone,
  kBits,     // the 16-bit draw of philox.h, as an fp32 number
  kUniform,  // 24 bits of a random word: k of distributions.h
  kNormal,   // a standard normal number
};

constexpr int kMaxNoiseInputs = 3, kMaxNoiseOutputs = 2, kMaxNoiseConstants = 4;

// Every functor derives from this and adds
//   - kName, by which tests find it;
//   - a struct template Constants<T>, of at most kMaxNoiseConstants members of type T;
//   - element<Precision>(inputs, draw, constants, results), where `inputs` are one element of each
//     input tensor and `results` one of each output tensor. If kSum, a further result follows,
//     which the kernel adds up over all elements. kNone: `draw` has no meaning.
// Input and output tensors have one dtype and one memory layout. A kernel with several results
// computes all of them and writes those that the caller wants.
template <int kInputCount, int kOutputCount, NoiseDraw kDrawnNumber, bool kHasSum = false>
struct NoiseFunctor {
  static_assert(kInputCount <= kMaxNoiseInputs && kOutputCount <= kMaxNoiseOutputs);
  static constexpr int kInputs = kInputCount;
  static constexpr int kOutputs = kOutputCount;
  static constexpr NoiseDraw kDraw = kDrawnNumber;
  static constexpr bool kSum = kHasSum;
  static constexpr int kResults = kOutputs + kSum;

  // CUDA: the constants, where some of them depend on a number in device memory. A functor that
  // has such a number hides this function.
  template <class Constants, class C>
  static FD_HD Constants with_scalar(const Constants& constants, const C*) {
    return constants;
  }
};

template <class Functor>
constexpr int kNoiseConstants =
    sizeof(typename Functor::template Constants<double>) / sizeof(double);

// Puts the constants into the array that kernels take.
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
