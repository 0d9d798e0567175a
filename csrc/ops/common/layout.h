// How tensors lie in memory, for the kernels of any device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "math/dtype.h"

namespace fused_dropout {

using at::Tensor;

Storage storage_of(at::ScalarType dtype);

// x itself if it fills its memory without gaps or overlaps, else a copy in the layout of
// empty_like(x).
Tensor dense(const Tensor& x);
// The strides that dense(x) would have.
std::vector<int64_t> dense_strides(const Tensor& x);
// The tensor with these strides and this dtype: itself, or a copy.
Tensor in_layout(const Tensor& tensor, at::IntArrayRef strides, at::ScalarType dtype);

inline const void* data_of(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

}  // namespace fused_dropout
