// Tensors as rows along their last dimension, for the operators that work row by row.
#pragma once

#include "layout.h"

namespace fused_dropout {

// The layout in which a kernel sees a tensor: its own where the last dimension lies innermost, else
// row-major. The mask is that of the tensor as it lies, in both cases.
struct RowLayout {
  // Of a dense tensor with these sizes and strides.
  RowLayout(const Resolved& call, at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides);

  // The strides of a tensor with rows of `copies` times the length, and of one number a row.
  std::vector<int64_t> strides_of(int64_t copies) const;
  std::vector<int64_t> strides_without_rows() const;

  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  int64_t rows, width;
  bool is_direct;  // the tensor lies as kernels see it
  MaskLayout mask;
};

}  // namespace fused_dropout
