// What the noise kernels have in common: tensors of one type, walked over in groups of eight.
#pragma once

#include "cuda/device/column_loop.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/device/random_words.cuh"
#include "cuda/noise.h"

namespace fused_dropout::cuda {

template <class T>
struct NoiseWork {
  using C = typename Arithmetic<T>::Scalar;
  using Precision = typename PrecisionOf<T>::Type;

  static FD_HD const T* at(const void* tensor, int64_t base, uint32_t offset) {
    return group_at(static_cast<const T*>(tensor), base, offset);
  }
  static FD_HD T* at(void* tensor, int64_t base, uint32_t offset) {
    return group_at(static_cast<T*>(tensor), base, offset);
  }
  // Calls visit(position in memory) for the elements of a group. Not unrolled: formulas are long.
  template <class Visit>
  static FD_HD void for_each(int64_t numel, int64_t base, uint32_t offset, Visit visit) {
    const int64_t position = (base + offset) * kGroup;
    const int count = count_in_group(numel - position);
#pragma unroll 1
    for (int k = 0; k < count; ++k) visit(position + k);
  }
};

}  // namespace fused_dropout::cuda
