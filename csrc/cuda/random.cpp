// The operators draw_rng_state and dropout_mask on CUDA.
#include "ops/random.h"

#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/kernel_args.h"
#include "ops/common/composite.h"

namespace fused_dropout::cuda {
namespace {

// Reserves numbers of the generator: values, or during a graph capture the addresses where they
// will be.
RandomState reserve(const Tensor& token, const OptionalGenerator& generator) {
  check_generator("draw_rng_state", generator, token.device());
  auto* const source = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(token.device().index()));
  const std::lock_guard<std::mutex> lock(source->mutex_);
  const at::PhiloxCudaState reserved = source->philox_cuda_state(kOffsetUnit);
  if (!reserved.captured_) return RandomState::of(reserved.seed_.val, reserved.offset_.val);
  RandomState random;
  random.indirect = true;
  random.seed_address = reinterpret_cast<const int64_t*>(reserved.seed_.ptr);
  random.offset_address = reserved.offset_.ptr;
  random.added_offset = reserved.offset_intragraph_;
  return random;
}

Tensor draw_cuda(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator, bool on_host) {
  const c10::cuda::CUDAGuard guard(token.device());
  const auto options = token.options().dtype(at::kLong).requires_grad(false);
  if (p_tensor) {
    const double p = check_probability("draw_rng_state", p_tensor->item<double>());
    if (p == 0 || p == 1) return at::zeros({2}, options);  // nothing will be drawn with it
  }
  const RandomState random = reserve(token, generator);
  if (on_host && !random.indirect) {
    const Tensor rng_state = at::empty({2}, options.device(at::kCPU));
    int64_t* const values = rng_state.mutable_data_ptr<int64_t>();
    values[0] = static_cast<int64_t>(random.seed);
    values[1] = static_cast<int64_t>(random.offset);
    return rng_state;
  }
  const Tensor rng_state = at::empty({2}, options);
  launch_state(random, rng_state.mutable_data_ptr<int64_t>(), stream_of(rng_state));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return rng_state;
}

Tensor mask_cuda(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                 double p, FD_MASK_PARAMETERS) {
  const c10::cuda::CUDAGuard guard(rng_state.device());
  const MaskParams call(rng_state, size, strides, p, shared_dims, mask_strides,
                        std::move(mask_offset));
  if (!can_index(call.layout)) {
    return compose_dropout_mask(rng_state, size, strides, p, shared_dims, mask_strides,
                                call.layout.first);
  }
  const MaskIndexing indexing = mask_indexing(call.layout, call.keep_count);
  call.for_each_mask([&](const Tensor& state, bool* kept) {
    launch_mask(indexing, state_at(state), call.numel, kept, stream_of(call.kept));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return call.kept;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("draw_rng_state", draw_cuda);
  m.impl("dropout_mask", mask_cuda);
}

}  // namespace fused_dropout::cuda
