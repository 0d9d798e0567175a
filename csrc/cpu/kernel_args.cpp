// Describes masks, biases and vectors to the kernels; see kernel_args.h.
#include "cpu/kernel_args.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace fused_dropout::cpu {

void for_each_chunk(int64_t numel, const std::function<void(int64_t, int64_t)>& range) {
  at::parallel_for(
      0, (numel + kChunk - 1) / kChunk, kGrain / kChunk,
      [&](int64_t begin, int64_t end) { range(begin * kChunk, std::min(end * kChunk, numel)); });
}

PhiloxState state_for(const CallParams& call, const OptionalTensor& rng_state,
                      const DropConstants& constants, const Tensor& x) {
  if (constants.keep_count == 0 || constants.keep_count == 65536 || x.numel() == 0) return {};
  TORCH_CHECK_VALUE(rng_state, call.function,
                    ": rng_state is None, but a probability between 0 and 1 needs one");
  return read_rng_state(*rng_state);
}

uint32_t threshold_of(uint32_t keep_count) {
  return keep_count + (mutated(Mutation::kInclusiveThreshold) && keep_count < 65536);
}

MaskIndexing mask_indexing(const MaskLayout& layout, uint32_t keep_count, PhiloxState state) {
  return {state,
          threshold_of(keep_count),
          layout.first,
          static_cast<int>(layout.sizes.size()),
          layout.sizes.data(),
          layout.strides.data()};
}

BiasLayout::BiasLayout(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dim)
    : channels(sizes[dim]), inner(channels == 1 ? c10::multiply_integers(sizes) : strides[dim]) {
  period = channels * inner;
  if (unrolled()) period *= (kChunk + period - 1) / period;
}

Tensor empty_vector(int64_t length, at::ScalarType dtype) {
  return at::detail::empty_cpu({length}, at::TensorOptions().dtype(dtype));
}

Tensor BiasLayout::expand(const Tensor& bias, at::ScalarType arithmetic) const {
  if (!unrolled()) return bias.to(arithmetic).contiguous();
  const Tensor values = empty_vector(length(), arithmetic);
  const Tensor one =
      (inner == 1 ? bias : bias.repeat_interleave(inner)).to(arithmetic).contiguous();
  // Copies of `one` until the memory is full; the last copy may be shorter.
  const int64_t step = one.numel() * one.element_size();
  auto* target = static_cast<char*>(values.data_ptr());
  for (int64_t remaining = values.nbytes(); remaining > 0; remaining -= step, target += step) {
    std::memcpy(target, one.const_data_ptr(), std::min(remaining, step));
  }
  return values;
}

BiasIndexing BiasLayout::indexing(const Tensor& values) const {
  return {values.defined() ? values.const_data_ptr() : nullptr, period, unrolled() ? 1 : inner};
}

namespace {

template <class C>
void fill_row_vector(C* values, const OptionalTensor& given, double neutral, int64_t length) {
  if (given) {
    std::copy_n(given->contiguous().const_data_ptr<C>(), length, values);
    values += length;
    length = 0;
  }
  std::fill_n(values, length + kPadding, static_cast<C>(neutral));
}

}  // namespace

Tensor row_vector(const OptionalTensor& given, double neutral, int64_t length,
                  at::ScalarType arithmetic) {
  const Tensor values = empty_vector(length + kPadding, arithmetic);
  const OptionalTensor wide = given ? OptionalTensor(given->to(arithmetic)) : std::nullopt;
  if (arithmetic == at::kDouble) {
    fill_row_vector(values.mutable_data_ptr<double>(), wide, neutral, length);
  } else {
    fill_row_vector(values.mutable_data_ptr<float>(), wide, neutral, length);
  }
  return values;
}

}  // namespace fused_dropout::cpu
