// The noise operators on CUDA: memory and streams around the kernels.
#include "cuda/noise.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/kernel_args.h"
#include "ops/noise.h"

namespace fused_dropout::cuda {
namespace {

// Any count that is neither none nor all: kernels look at the draws only.
constexpr uint32_t kDrawsAlways = 1;

Tensor output_like(const Tensor& x, at::IntArrayRef strides, bool wanted = true) {
  return wanted ? at::empty_strided(x.sizes(), strides, x.options()) : at::empty({0}, x.options());
}
void* data_where(bool wanted, const Tensor& tensor) {
  return wanted ? tensor.mutable_data_ptr() : nullptr;
}

Tensor gaussian_cuda(const Tensor& x_any, const Tensor& rng_state, const Options& options,
                     at::OptionalSymIntArrayRef given_strides) {
  const CallParams call =
      gaussian::check(gaussian::kFunction, x_any, rng_state, options, given_strides);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const auto strides =
      given_strides ? C10_AS_INTARRAYREF_SLOW(*given_strides).vec() : dense_strides(x_any);
  const MaskLayout mask(call, x_any.sizes(), strides);
  if (!can_index(mask)) return gaussian::compose(x_any, rng_state, options, given_strides);
  const double sigma = gaussian::scale_of(call);
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  const Tensor y = output_like(x, strides);
  if (x.numel() == 0) return y;
  GaussianArgs args;
  args.x = x.const_data_ptr();
  args.y = y.mutable_data_ptr();
  args.layout = flat_layout(x.numel());
  args.random = state_at(rng_state);
  args.mask = mask_indexing(mask, kDrawsAlways);
  args.sigma = sigma;
  launch_gaussian(args, storage_of(x.scalar_type()), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

// What forward and backward take alike. `x` and `logit` have to outlive the call.
template <class Args>
void set_concrete(Args& args, const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                  double temperature, const MaskLayout& mask) {
  args.x = x.const_data_ptr();
  args.logit = logit.const_data_ptr();
  args.layout = flat_layout(x.numel());
  args.random = state_at(rng_state);
  args.mask = mask_indexing(mask, kDrawsAlways);
  args.inverse_temperature = 1 / temperature;
}

Tensor concrete_forward_cuda(const Tensor& x_any, const Tensor& logit_any, const Tensor& rng_state,
                             double temperature, const Options& options) {
  const CallParams call =
      concrete::check("concrete_dropout", x_any, logit_any, rng_state, temperature, options);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const Tensor x = dense(x_any);
  const MaskLayout mask(call, x.sizes(), x.strides());
  if (!can_index(mask)) {
    return concrete::compose_forward(x_any, logit_any, rng_state, temperature, options);
  }
  const Tensor y = output_like(x, x.strides());
  if (x.numel() == 0) return y;
  const Tensor logit = logit_any.to(arithmetic_of(x.scalar_type()));
  ConcreteForwardArgs args;
  set_concrete(args, x, logit, rng_state, temperature, mask);
  args.y = y.mutable_data_ptr();
  launch_concrete_forward(args, storage_of(x.scalar_type()), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Gradients concrete_backward_cuda(const Tensor& dy_any, const Tensor& x_any, const Tensor& logit_any,
                                 const Tensor& rng_state, double temperature,
                                 const Options& options, const concrete::Gradient& gradient) {
  const CallParams call =
      concrete::check_backward(dy_any, x_any, logit_any, rng_state, temperature, options, gradient);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const MaskLayout mask(call, x_any.sizes(), strides);
  if (!can_index(mask)) {
    return concrete::compose_backward(dy_any, x_any, logit_any, rng_state, temperature, options,
                                      gradient);
  }
  const auto [need_dx, need_dlogit] = gradient.output_mask;
  const at::ScalarType arithmetic = arithmetic_of(x_any.scalar_type());
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  const Tensor dy = in_layout(dy_any, strides, x.scalar_type());
  const Tensor logit = logit_any.to(arithmetic);
  const Tensor dx = output_like(x, strides, need_dx);
  const Tensor dlogit = need_dlogit ? at::empty(logit_any.sizes(), logit_any.options())
                                    : at::empty({0}, logit_any.options());
  if (x.numel() == 0) return {dx, dlogit.zero_()};

  ConcreteBackwardArgs args;
  set_concrete(args, x, logit, rng_state, temperature, mask);
  args.dy = dy.const_data_ptr();
  args.dx = data_where(need_dx, dx);
  args.partials = nullptr;
  Tensor partials;
  if (need_dlogit) {
    partials =
        at::empty({partial_rows(args.layout), args.layout.period}, x.options().dtype(arithmetic));
    args.partials = partials.mutable_data_ptr();
  }
  launch_concrete_backward(args, storage_of(x.scalar_type()), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (need_dlogit) {
    launch_column_sums(flat_sums(args.partials, args.layout, dlogit.mutable_data_ptr()),
                       arithmetic == at::kDouble, storage_of(dlogit.scalar_type()), stream_of(x));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {dx, dlogit};
}

RandomState state_of(const CallParams& call, const OptionalTensor& rng_state,
                     const standout::Settings& settings) {
  if (!settings.training) return {};
  TORCH_CHECK_VALUE(rng_state, call.function, ": rng_state is None, but training needs one");
  return state_at(*rng_state);
}

// What a mask decides about is x, or dy.
Tensor standout_kernel(const Tensor& x, const Tensor& z_any, const RandomState& random,
                       const MaskLayout& mask, const standout::Settings& settings) {
  const Tensor z = in_layout(z_any, x.strides(), x.scalar_type());
  const Tensor y = output_like(x, x.strides());
  StandoutArgs args;
  args.x = x.const_data_ptr();
  args.z = z.const_data_ptr();
  args.y = y.mutable_data_ptr();
  args.layout = flat_layout(x.numel());
  args.random = random;
  args.mask = mask_indexing(mask, kDrawsAlways);
  args.alpha = settings.alpha;
  args.beta = settings.beta;
  launch_standout(args, storage_of(x.scalar_type()), settings.training, stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor standout_forward_cuda(const Tensor& x_any, const Tensor& z, const OptionalTensor& rng_state,
                             const standout::Settings& settings, const Options& options) {
  const CallParams call = standout::check("standout", x_any, z, rng_state, settings, options);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const Tensor x = dense(x_any);
  if (x.numel() == 0) return output_like(x, x.strides());
  const MaskLayout mask(call, x.sizes(), x.strides());
  if (!can_index(mask)) {
    return standout::compose_forward(x_any, z, rng_state, settings, options);
  }
  return standout_kernel(x, z, state_of(call, rng_state, settings), mask, settings);
}

Gradients standout_backward_cuda(const Tensor& dy_any, const OptionalTensor& x_any,
                                 const Tensor& z_any, const OptionalTensor& rng_state,
                                 const standout::Settings& settings, const Options& options,
                                 const standout::Gradient& gradient) {
  const CallParams call =
      standout::check_backward(dy_any, x_any, z_any, rng_state, settings, options, gradient);
  const c10::cuda::CUDAGuard guard(dy_any.device());
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const at::ScalarType dtype = dy_any.scalar_type();
  const auto [need_dx, need_dz] = gradient.output_mask;
  const MaskLayout mask(call, dy_any.sizes(), strides);
  if (!can_index(mask)) {
    return standout::compose_backward(dy_any, x_any, z_any, rng_state, settings, options, gradient);
  }
  const Tensor dy = in_layout(dy_any, strides, dtype);
  const Tensor dz = output_like(dy, strides, need_dz);
  if (dy.numel() == 0) {
    return {output_like(dy, strides, need_dx), dz.to(gradient.z_dtype)};
  }
  if (settings.training) {
    const RandomState random = state_of(call, rng_state, settings);
    return {
        need_dx ? standout_kernel(dy, z_any, random, mask, settings) : output_like(dy, {}, false),
        dz.zero_().to(gradient.z_dtype)};
  }
  const Tensor z = in_layout(z_any, strides, dtype), x = in_layout(*x_any, strides, dtype);
  const Tensor dx = output_like(dy, strides, need_dx);
  StandoutBackwardArgs args;
  args.dy = dy.const_data_ptr();
  args.x = x.const_data_ptr();
  args.z = z.const_data_ptr();
  args.dx = data_where(need_dx, dx);
  args.dz = data_where(need_dz, dz);
  args.layout = flat_layout(dy.numel());
  args.alpha = settings.alpha;
  args.beta = settings.beta;
  launch_standout_backward(args, storage_of(dtype), stream_of(dy));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {dx, dz.to(gradient.z_dtype)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("gaussian_dropout", gaussian::entry<gaussian_cuda>);
  m.impl("concrete_dropout", concrete::forward_entry<concrete_forward_cuda>);
  m.impl("concrete_dropout_backward", concrete::backward_entry<concrete_backward_cuda>);
  m.impl("standout", standout::forward_entry<standout_forward_cuda>);
  m.impl("standout_backward", standout::backward_entry<standout_backward_cuda>);
}

}  // namespace fused_dropout::cuda
