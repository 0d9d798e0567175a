// Numbers and vectors beside the tensors, in the type that kernels compute with.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/device/vector_access.cuh"
#include "math/elementwise.h"

namespace fused_dropout::cuda {

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
    return value.wide;
  } else {
    return value.single;
  }
}

template <class T, class C>
FD_HD C number_at(const Vector& vector, int64_t index) {
  return vector.wide ? static_cast<const float*>(vector.values)[index]
                     : widen(static_cast<const T*>(vector.values)[index]);
}

// What `bias` needs to know of the layout.
template <class T>
Vector along(Vector bias, const Layout& layout) {
  bias.in_groups = kHasVectors<T> && layout.inner == 1 && layout.channels % kGroup == 0 &&
                   are_aligned(bias.values);
  return bias;
}

// The place within its repetition of the bias.
FD_HD int64_t place_in_repetition(const Layout& layout, int64_t column) {
  const int64_t once = layout.channels * layout.inner;
  return layout.period == once ? column : column - layout.by_repetition.divide(column) * once;
}

// The numbers of a vector from `column` on, or `otherwise` where there is none.
template <class T, bool kVector, class Index, class C>
FD_HD void load_along(const Vector& vector, Index column, int count, C otherwise,
                      C (&values)[kGroup]) {
  if (!vector.values) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = otherwise;
  } else if constexpr (!kVector) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      values[k] = k < count ? number_at<T, C>(vector, column + k) : otherwise;
    }
  } else if (vector.wide) {
    load_group<true>(static_cast<const float*>(vector.values) + column, count, values);
  } else {
    load_group<true>(static_cast<const T*>(vector.values) + column, count, values);
  }
}

// The bias of the eight elements from `column` on.
template <class T, class C>
FD_HD void load_bias(const Vector& bias, const Layout& layout, int64_t column,
                     C (&values)[kGroup]) {
  // -0 is the one number whose addition changes nothing.
#pragma unroll
  for (int k = 0; k < kGroup; ++k) values[k] = C(-0.0);
  if (!bias.values || column >= layout.period) return;
  const int64_t place = place_in_repetition(layout, column);
  if constexpr (kHasVectors<T>) {
    if (bias.in_groups) return load_along<T, true>(bias, place, kGroup, C(-0.0), values);
  }
  int64_t channel = place;
  int64_t left = layout.inner;  // elements until the next channel
  if (layout.inner != 1) {
    channel = layout.by_inner.divide(place);
    left -= place - channel * layout.inner;
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    values[k] = number_at<T, C>(bias, channel);
    if (--left == 0) {
      left = layout.inner;
      channel = channel + 1 == layout.channels ? 0 : channel + 1;
    }
  }
}

}  // namespace fused_dropout::cuda
