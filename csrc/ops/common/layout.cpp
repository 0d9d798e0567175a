#include "ops/common/layout.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

namespace fused_dropout {

namespace {

bool has_layout(const Tensor& tensor, at::IntArrayRef strides) {
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != strides[dim]) return false;
  }
  return true;
}

}  // namespace

Tensor dense(const Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x);
}

std::vector<int64_t> dense_strides(const Tensor& x) {
  if (x.is_non_overlapping_and_dense()) return x.strides().vec();
  return at::infer_dense_strides(x.sizes(), x.strides());  // as in empty_like
}

Tensor in_layout(const Tensor& tensor, at::IntArrayRef strides, at::ScalarType dtype) {
  if (tensor.scalar_type() == dtype && has_layout(tensor, strides)) return tensor;
  return at::empty_strided(tensor.sizes(), strides, tensor.options().dtype(dtype)).copy_(tensor);
}

Storage storage_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return Storage::kFloat32;
    case at::kDouble:
      return Storage::kFloat64;
    case at::kHalf:
      return Storage::kFloat16;
    case at::kBFloat16:
      return Storage::kBFloat16;
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", dtype);
  }
}

}  // namespace fused_dropout
