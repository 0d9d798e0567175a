#include "ops/common/layout.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <numeric>

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

MaskLayout::MaskLayout(const CallParams& call, at::IntArrayRef tensor_sizes,
                       at::IntArrayRef tensor_strides)
    : first(call.mask_offset.expect_int()) {
  if (call.mask_strides) {
    collapse(tensor_sizes, tensor_strides, C10_AS_INTARRAYREF_SLOW(*call.mask_strides));
  } else if (call.shared_dims.empty()) {
    sizes = {c10::multiply_integers(tensor_sizes)};
    strides = {1};
  } else {
    const auto mask_strides =
        mask_strides_of(c10::fromIntArrayRefSlow(tensor_sizes),
                        c10::fromIntArrayRefSlow(tensor_strides), call.shared_dims);
    collapse(tensor_sizes, tensor_strides, C10_AS_INTARRAYREF_SLOW(mask_strides));
  }
}

void MaskLayout::collapse(at::IntArrayRef tensor_sizes, at::IntArrayRef tensor_strides,
                          at::IntArrayRef mask_strides) {
  std::vector<int64_t> order(tensor_sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return tensor_strides[a] > tensor_strides[b]; });
  for (const int64_t dim : order) {
    if (tensor_sizes[dim] == 1) continue;
    if (!sizes.empty() && strides.back() == mask_strides[dim] * tensor_sizes[dim]) {
      sizes.back() *= tensor_sizes[dim];
      strides.back() = mask_strides[dim];
    } else {
      sizes.push_back(tensor_sizes[dim]);
      strides.push_back(mask_strides[dim]);
    }
  }
  if (sizes.empty()) {
    sizes = {1};
    strides = {1};
  }
}

namespace {

CallParams mask_only(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                     at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides,
                     c10::SymInt mask_offset) {
  constexpr auto kFunction = "dropout_mask";
  check_rng_state(kFunction, rng_state, rng_state.device());
  check_dense(kFunction, size, strides);
  check_mask_place(kFunction, size, mask_strides, mask_offset);
  CallParams call;
  call.shared_dims = shared_dims.vec();
  if (mask_strides) call.mask_strides = mask_strides->vec();
  call.mask_offset = std::move(mask_offset);
  return call;
}

}  // namespace

MaskParams::MaskParams(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                       double p, at::IntArrayRef shared_dims,
                       at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset)
    : keep_count(keep_count_of(check_probability("dropout_mask", p))),
      layout(mask_only(rng_state, size, strides, shared_dims, mask_strides, std::move(mask_offset)),
             C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(strides)) {
  kept = at::empty_strided_symint(size, strides, rng_state.options().dtype(at::kBool));
}

}  // namespace fused_dropout
