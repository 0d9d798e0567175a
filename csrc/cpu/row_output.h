// A tensor that a kernel writes in rows, and that goes where it belongs afterwards.
#pragma once

#include <ATen/ops/empty.h>

#include "../rows.h"
#include "large_memory.h"

namespace fused_dropout::cpu {

class RowOutput {
 public:
  // Of these dense strides, with rows of `copies` times the layout's width; of no elements where it
  // is not wanted.
  RowOutput(bool wanted, const RowLayout& layout, int64_t copies, at::IntArrayRef strides,
            at::ScalarType dtype) {
    const auto options = at::TensorOptions().dtype(dtype);
    if (!wanted) {
      result_ = rows_ = at::empty({0}, options);
      return;
    }
    std::vector<int64_t> sizes = layout.sizes;
    sizes.back() *= copies;
    result_ = empty_large(sizes, strides, options);
    rows_ = layout.is_direct ? result_ : empty_large(sizes, layout.strides_of(copies), options);
    data_ = rows_.mutable_data_ptr();
  }

  void* data() const { return data_; }  // null where it is not wanted
  bool exceeds_cache() const { return cpu::exceeds_cache(result_.nbytes()); }
  at::Tensor finish() const { return rows_.is_same(result_) ? result_ : result_.copy_(rows_); }
  at::Tensor zeros() const { return result_.zero_(); }

 private:
  at::Tensor result_, rows_;
  void* data_ = nullptr;
};

}  // namespace fused_dropout::cpu
