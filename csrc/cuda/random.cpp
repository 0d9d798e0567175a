#include "cuda/random.h"

#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace fused_dropout::cuda {
namespace {

// One reservation in the generator: values, or in a graph capture the places where they will be.
RandomState reserve(at::CUDAGeneratorImpl* generator) {
  const std::lock_guard<std::mutex> lock(generator->mutex_);
  const at::PhiloxCudaState reserved = generator->philox_cuda_state(kOffsetUnit);
  RandomState random;
  random.indirect = reserved.captured_;
  if (reserved.captured_) {
    random.seed_address = reinterpret_cast<const int64_t*>(reserved.seed_.ptr);
    random.offset_address = reserved.offset_.ptr;
    random.added_offset = reserved.offset_intragraph_;
  } else {
    random.seed = reserved.seed_.val;
    random.offset = reserved.offset_.val;
  }
  return random;
}

Tensor mask_cuda(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                 double p, at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides,
                 c10::SymInt mask_offset) {
  const c10::cuda::CUDAGuard guard(rng_state.device());
  const MaskParams call(rng_state, size, strides, p, shared_dims, mask_strides,
                        std::move(mask_offset));
  if (call.kept.numel() == 0) return call.kept;
  TORCH_CHECK(can_index(call.layout), "dropout_mask: the mask has ", call.layout.sizes.size(),
              " dimensions that cannot be collapsed, but expected at most ", kMaxMaskDims);
  launch_mask(mask_indexing(call.layout, call.keep_count), state_at(rng_state), call.kept.numel(),
              call.kept.mutable_data_ptr<bool>(), stream_of(call.kept));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return call.kept;
}

}  // namespace

Draw::Draw(const Tensor& token, const OptionalGenerator& generator)
    : rng_state(at::empty({2}, token.options().dtype(at::kLong).requires_grad(false))) {
  if (generator) {
    TORCH_CHECK(generator->device() == token.device(), "dropout: generator is on ",
                generator->device(), ", but x is on ", token.device());
  }
  random = reserve(at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(token.device().index())));
  random.written_to = rng_state.mutable_data_ptr<int64_t>();
}

Tensor draw_cuda(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator) {
  const c10::cuda::CUDAGuard guard(token.device());
  if (p_tensor) {
    const double p = check_probability("dropout", p_tensor->item<double>());
    // Nothing will be drawn with it.
    if (p == 0 || p == 1) return at::zeros({2}, token.options().dtype(at::kLong));
  }
  const Draw draw(token, generator);
  launch_state(draw.random, stream_of(draw.rng_state));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return draw.rng_state;
}

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("draw_rng_state", draw_cuda);
  m.impl("dropout_mask", mask_cuda);
}

}  // namespace fused_dropout::cuda
