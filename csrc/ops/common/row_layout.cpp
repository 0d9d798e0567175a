#include "ops/common/row_layout.h"

#include <ATen/ops/empty.h>
#include <c10/util/strides.h>

namespace fused_dropout {
namespace {

bool lies_in_rows(at::IntArrayRef sizes, at::IntArrayRef strides) {
  return sizes.back() == 1 || strides.back() == 1;
}

std::vector<int64_t> row_strides(at::IntArrayRef sizes, at::IntArrayRef strides) {
  if (!lies_in_rows(sizes, strides)) return at::IntArrayRef(c10::contiguous_strides(sizes)).vec();
  std::vector<int64_t> result = strides.vec();
  result.back() = 1;
  return result;
}

MaskLayout mask_in(const CallParams& call, at::IntArrayRef sizes, at::IntArrayRef strides) {
  if (lies_in_rows(sizes, strides)) return MaskLayout(call, sizes, strides);
  CallParams moved = call;
  if (!moved.mask_strides) {
    moved.mask_strides = mask_strides_of(c10::fromIntArrayRefSlow(sizes),
                                         c10::fromIntArrayRefSlow(strides), call.shared_dims);
  }
  return MaskLayout(moved, sizes, c10::contiguous_strides(sizes));
}

}  // namespace

RowLayout::RowLayout(const CallParams& call, at::IntArrayRef tensor_sizes,
                     at::IntArrayRef tensor_strides)
    : sizes(tensor_sizes.vec()),
      strides(row_strides(tensor_sizes, tensor_strides)),
      rows(c10::multiply_integers(tensor_sizes.slice(0, tensor_sizes.size() - 1))),
      width(tensor_sizes.back()),
      mask(mask_in(call, tensor_sizes, tensor_strides)) {}

std::vector<int64_t> RowLayout::strides_of(int64_t copies) const {
  std::vector<int64_t> result = strides;
  for (size_t dim = 0; dim + 1 < result.size(); ++dim) result[dim] *= copies;
  return result;
}

std::vector<int64_t> RowLayout::strides_without_rows() const {
  std::vector<int64_t> result(strides.begin(), strides.end() - 1);
  for (int64_t& stride : result) stride /= width;
  return result;
}

RowOutput::RowOutput(bool wanted, const RowLayout& layout, int64_t copies, at::IntArrayRef strides,
                     at::TensorOptions options, Allocate allocate) {
  if (!wanted) {
    result_ = rows_ = at::empty({0}, options);
    return;
  }
  std::vector<int64_t> sizes = layout.sizes;
  sizes.back() *= copies;
  result_ = allocate(sizes, strides, options);
  // Checked for these sizes: rows of one element are contiguous in any layout, rows of two are not.
  rows_ =
      lies_in_rows(sizes, strides) ? result_ : allocate(sizes, layout.strides_of(copies), options);
  data_ = rows_.mutable_data_ptr();
}

}  // namespace fused_dropout
