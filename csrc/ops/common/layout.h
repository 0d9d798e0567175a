// How tensors lie in memory, for the kernels of any device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "math/dtype.h"
#include "ops/common/arguments.h"

namespace fused_dropout {

Storage storage_of(at::ScalarType dtype);

// x itself where it fills its memory without gaps or overlaps, else what empty_like makes of it.
Tensor dense(const Tensor& x);
// The strides of that; they are found without memory.
std::vector<int64_t> dense_strides(const Tensor& x);
// The tensor with these strides and this dtype: itself, or a copy.
Tensor in_layout(const Tensor& tensor, at::IntArrayRef strides, at::ScalarType dtype);

inline const void* data_of(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

// The mask's index over memory order for a dense tensor: neighbouring dimensions collapsed,
// outermost first.
struct MaskLayout {
  MaskLayout(const CallParams& call, at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides);

  // The mask index is the place in memory, plus `first`.
  bool in_memory_order() const { return sizes.size() == 1 && strides[0] == 1; }

  int64_t first;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;

 private:
  void collapse(at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides,
                at::IntArrayRef mask_strides);
};

// The arguments of the operator dropout_mask, checked, and memory for its result.
struct MaskParams {
  MaskParams(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides, double p,
             at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides,
             c10::SymInt mask_offset);

  uint32_t keep_count;
  Tensor kept;
  MaskLayout layout;
};

}  // namespace fused_dropout
