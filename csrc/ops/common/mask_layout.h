// From the sizes and strides of a tensor to the mask indices of its elements.
#pragma once

#include "ops/common/arguments.h"

namespace fused_dropout {

// The dimensions by descending stride: as they lie in memory, outermost first. The one order that
// masks are defined by.
std::vector<int64_t> memory_order(at::SymIntArrayRef strides);
std::vector<int64_t> memory_order(at::IntArrayRef strides);

// The stride of the mask index along each dimension of a dense tensor: row-major over the
// dimensions in memory order, without the shared ones, whose stride is 0.
std::vector<c10::SymInt> mask_strides_of(at::SymIntArrayRef sizes, at::SymIntArrayRef strides,
                                         at::IntArrayRef shared_dims);

// The mask index as a function of the offset in the memory of a dense tensor: neighbouring
// dimensions are collapsed, outermost first.
struct MaskLayout {
  MaskLayout(const CallParams& call, at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides);

  // True if the mask index is the offset in memory plus `first`.
  bool in_memory_order() const { return sizes.size() == 1 && strides[0] == 1; }

  int64_t first;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;

 private:
  void collapse(at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides,
                at::IntArrayRef mask_strides);
};

}  // namespace fused_dropout
