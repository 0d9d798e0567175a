// Numbers and vectors beside the tensors, in the type that kernels compute with.
#pragma once

#include "../fused_math.h"
#include "launch.h"
#include "memory.cuh"

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

// The bias of the eight elements from `column` on.
template <class T, class C>
FD_HD void load_bias(const Vector& bias, const Layout& layout, int64_t column,
                     C (&values)[kGroup]) {
  // -0 is the one number whose addition changes nothing.
#pragma unroll
  for (int k = 0; k < kGroup; ++k) values[k] = C(-0.0);
  if (!bias.values || column >= layout.period) return;
  int64_t channel = column;
  int64_t left = layout.inner;  // elements until the next channel
  if (layout.period != layout.channels) {
    const int64_t place =
        column - layout.by_repetition.divide(column) * layout.channels * layout.inner;
    channel = layout.by_inner.divide(place);
    left = layout.inner - (place - channel * layout.inner);
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

// The numbers of a vector from `column` on, or `otherwise` where there is none.
template <class T, bool kVector, class C>
FD_HD void load_along(const Vector& vector, int column, int count, C otherwise,
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

}  // namespace fused_dropout::cuda
