// Scalar and 1-D operands, converted to the type that kernels compute with.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/device/vector_access.cuh"
#include "cuda/launch_types.h"
#include "math/elementwise.h"

namespace fused_dropout::cuda {

// The precision of the activation formulas: reduced for 16-bit types.
template <class T>
struct PrecisionOf {
  using Type = Reduced;
};
template <>
struct PrecisionOf<float> {
  using Type = Full;
};
template <>
struct PrecisionOf<double> {
  using Type = Full;
};

template <class C>
FD_HD C number(const Number& value) {
  if constexpr (std::is_same_v<C, double>) {
    return value.fp64;
  } else {
    return value.fp32;
  }
}

// One value of a vector. T is the type of x.
template <class T, class C>
FD_HD C number_at(const VectorOperand& vector, int64_t index) {
  return vector.wide ? static_cast<const float*>(vector.values)[index]
                     : widen(static_cast<const T*>(vector.values)[index]);
}

// The bias with `vectorised` set for this layout.
template <class T>
VectorOperand bias_operand(VectorOperand bias, const Layout& layout) {
  bias.vectorised = kCanVectorise<T> && layout.inner == 1 && layout.channels % kGroup == 0 &&
                    are_aligned(bias.values);
  return bias;
}

// The offset of a column in its repetition of the bias.
FD_HD int64_t offset_in_repetition(const Layout& layout, int64_t column) {
  const int64_t repetition = layout.channels * layout.inner;
  return layout.period == repetition ? column
                                     : column - layout.by_repetition.divide(column) * repetition;
}

// The `count` values of a vector from `column` on, or `fallback` if the call has no such vector.
template <class T, bool kVectorised, class Index, class C>
FD_HD void load_vector(const VectorOperand& vector, Index column, int count, C fallback,
                       C (&values)[kGroup]) {
  if (!vector.values) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = fallback;
  } else if constexpr (!kVectorised) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      values[k] = k < count ? number_at<T, C>(vector, column + k) : fallback;
    }
  } else if (vector.wide) {
    load_group<true>(static_cast<const float*>(vector.values) + column, count, values);
  } else {
    load_group<true>(static_cast<const T*>(vector.values) + column, count, values);
  }
}

// The bias values of the eight elements from `column` on; -0 if the call has no bias.
template <class T, class C>
FD_HD void load_bias(const VectorOperand& bias, const Layout& layout, int64_t column,
                     C (&values)[kGroup]) {
  // -0 is the one number whose addition changes no value.
#pragma unroll
  for (int k = 0; k < kGroup; ++k) values[k] = C(-0.0);
  if (!bias.values || column >= layout.period) return;
  const int64_t offset = offset_in_repetition(layout, column);
  if constexpr (kCanVectorise<T>) {
    if (bias.vectorised) return load_vector<T, true>(bias, offset, kGroup, C(-0.0), values);
  }
  int64_t channel = offset;
  int64_t remaining = layout.inner;  // elements until the next channel
  if (layout.inner != 1) {
    channel = layout.by_inner.divide(offset);
    remaining -= offset - channel * layout.inner;
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    values[k] = number_at<T, C>(bias, channel);
    if (--remaining == 0) {
      remaining = layout.inner;
      channel = channel + 1 == layout.channels ? 0 : channel + 1;
    }
  }
}

}  // namespace fused_dropout::cuda
