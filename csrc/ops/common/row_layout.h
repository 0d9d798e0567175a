// Tensors as rows along their last dimension, for the operators that work row by row.
#pragma once

#include "ops/common/layout.h"
#include "ops/common/mask_layout.h"

namespace fused_dropout {

// The layout in which a kernel sees a tensor: its own where the last dimension lies innermost, else
// row-major. The mask is that of the tensor as it lies, in both cases.
struct RowLayout {
  // Of a dense tensor with these sizes and strides.
  RowLayout(const CallParams& call, at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides);

  // The strides of a tensor with rows of `copies` times the length, and of one number a row.
  std::vector<int64_t> strides_of(int64_t copies) const;
  std::vector<int64_t> strides_without_rows() const;

  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  int64_t rows, width;
  MaskLayout mask;
};

// The tensor as kernels see it, in this dtype; undefined for none.
inline Tensor in_rows(const OptionalTensor& tensor, const RowLayout& layout, at::ScalarType dtype) {
  return tensor ? in_layout(*tensor, layout.strides, dtype) : Tensor();
}

// A tensor that a kernel writes in rows, and that goes where it belongs afterwards.
class RowOutput {
 public:
  using Allocate = Tensor (*)(at::IntArrayRef sizes, at::IntArrayRef strides,
                              at::TensorOptions options);

  // Of these dense strides, with rows of `copies` times the layout's width; of no elements where it
  // is not wanted.
  RowOutput(bool wanted, const RowLayout& layout, int64_t copies, at::IntArrayRef strides,
            at::TensorOptions options, Allocate allocate);

  void* data() const { return data_; }  // null where it is not wanted
  size_t nbytes() const { return result_.nbytes(); }
  Tensor finish() const { return rows_.is_same(result_) ? result_ : result_.copy_(rows_); }
  Tensor zeros() const { return result_.zero_(); }

 private:
  Tensor result_, rows_;
  void* data_ = nullptr;
};

}  // namespace fused_dropout
