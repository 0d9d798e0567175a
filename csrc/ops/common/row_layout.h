// Tensors as rows along their last dimension, for the gated and norm operators.
#pragma once

#include "ops/common/layout.h"
#include "ops/common/mask_layout.h"

namespace fused_dropout {

// The layout in which a kernel sees a tensor: its own if the last dimension is innermost in memory,
// else row-major. In both cases the mask is that of the tensor's own layout.
struct RowLayout {
  // For a dense tensor with these sizes and strides.
  RowLayout(const CallParams& call, at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides);

  // The strides of a tensor with rows of `copies` times the length, and of one with a number for
  // each row.
  std::vector<int64_t> strides_of(int64_t copies) const;
  std::vector<int64_t> strides_without_rows() const;

  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  int64_t rows, width;
  MaskLayout mask;
};

// The tensor in this layout and dtype; undefined if there is none.
inline Tensor in_rows(const OptionalTensor& tensor, const RowLayout& layout, at::ScalarType dtype) {
  return tensor ? in_layout(*tensor, layout.strides, dtype) : Tensor();
}

// A result that a kernel writes in rows; finish() copies it to its own layout if that differs.
class RowOutput {
 public:
  using Allocate = Tensor (*)(at::IntArrayRef sizes, at::IntArrayRef strides,
                              at::TensorOptions options);

  // With these dense strides and rows of `copies` times the width; without elements if it is not
  // wanted.
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
