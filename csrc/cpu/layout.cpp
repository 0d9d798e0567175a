#include "layout.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

namespace fused_dropout::cpu {

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

MaskLayout::MaskLayout(const Resolved& call, at::IntArrayRef sizes, at::IntArrayRef strides)
    : first_(call.mask_offset.expect_int()) {
  if (call.mask_strides) {
    collapse(sizes, strides, C10_AS_INTARRAYREF_SLOW(*call.mask_strides));
  } else if (call.shared_dims.empty()) {
    sizes_ = {c10::multiply_integers(sizes)};
    strides_ = {1};
  } else {
    const auto mask_strides = mask_strides_of(c10::fromIntArrayRefSlow(sizes),
                                              c10::fromIntArrayRefSlow(strides), call.shared_dims);
    collapse(sizes, strides, C10_AS_INTARRAYREF_SLOW(mask_strides));
  }
}

void MaskLayout::collapse(at::IntArrayRef sizes, at::IntArrayRef strides,
                          at::IntArrayRef mask_strides) {
  std::vector<int64_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  for (const int64_t dim : order) {
    if (sizes[dim] == 1) continue;
    if (!sizes_.empty() && strides_.back() == mask_strides[dim] * sizes[dim]) {
      sizes_.back() *= sizes[dim];
      strides_.back() = mask_strides[dim];
    } else {
      sizes_.push_back(sizes[dim]);
      strides_.push_back(mask_strides[dim]);
    }
  }
  if (sizes_.empty()) {
    sizes_ = {1};
    strides_ = {1};
  }
}

MaskRule MaskLayout::rule(uint32_t keep_count, PhiloxState state) const {
  if (mutated(Mutation::kInclusiveThreshold) && keep_count < 65536) ++keep_count;
  return {state,         keep_count,     first_, static_cast<int>(sizes_.size()),
          sizes_.data(), strides_.data()};
}

BiasLayout::BiasLayout(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dim)
    : channels(sizes[dim]), inner(channels == 1 ? c10::multiply_integers(sizes) : strides[dim]) {
  period = channels * inner;
  if (unrolled()) period *= (kBlock + period - 1) / period;
}

Tensor BiasLayout::expand(const Tensor& bias, at::ScalarType arithmetic) const {
  if (!unrolled()) return bias.to(arithmetic).contiguous();
  Tensor values = at::empty({length()}, bias.options().dtype(arithmetic));
  const Tensor one =
      (inner == 1 ? bias : bias.repeat_interleave(inner)).to(arithmetic).contiguous();
  // One period after another; the last one may be cut.
  const int64_t step = one.numel() * one.element_size();
  auto* target = static_cast<char*>(values.data_ptr());
  for (int64_t left = values.nbytes(); left > 0; left -= step, target += step) {
    std::memcpy(target, one.const_data_ptr(), std::min(left, step));
  }
  return values;
}

BiasRule BiasLayout::rule(const Tensor& values) const {
  return {values.defined() ? values.const_data_ptr() : nullptr, period, unrolled() ? 1 : inner};
}

}  // namespace fused_dropout::cpu
