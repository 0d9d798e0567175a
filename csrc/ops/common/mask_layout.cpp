#include "ops/common/mask_layout.h"

#include <algorithm>
#include <numeric>

namespace fused_dropout {
namespace {

template <class Strides>
std::vector<int64_t> by_descending(Strides strides) {
  std::vector<int64_t> order(strides.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  return order;
}

}  // namespace

std::vector<int64_t> memory_order(at::SymIntArrayRef strides) { return by_descending(strides); }
std::vector<int64_t> memory_order(at::IntArrayRef strides) { return by_descending(strides); }

std::vector<c10::SymInt> mask_strides_of(at::SymIntArrayRef sizes, at::SymIntArrayRef strides,
                                         at::IntArrayRef shared_dims) {
  const std::vector<int64_t> order = memory_order(strides);
  std::vector<c10::SymInt> result(sizes.size(), 0);
  c10::SymInt stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); ++dim) {
    if (std::find(shared_dims.begin(), shared_dims.end(), *dim) != shared_dims.end()) continue;
    result[*dim] = stride;
    stride *= sizes[*dim];
  }
  return result;
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
  for (const int64_t dim : memory_order(tensor_strides)) {
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

}  // namespace fused_dropout
