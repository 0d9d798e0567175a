// The noise operators on CUDA: memory and streams around the kernels.
#include "cuda/noise.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/kernel_args.h"
#include "ops/concrete.h"
#include "ops/gaussian.h"
#include "ops/noise_call.h"
#include "ops/standout.h"

namespace fused_dropout::cuda {
namespace {

// ---- one launch of a kernel -------------------------------------------------------------------

// An output that is not wanted is a tensor without elements: its data pointer is null.
Tensor output_like(const Tensor& x, at::IntArrayRef strides, bool wanted = true) {
  return wanted ? at::empty_strided(x.sizes(), strides, x.options()) : at::empty({0}, x.options());
}

// Launches the kernel of a functor. All tensors have the dtype and the memory layout of the first
// input, which is not empty. `scalar` is the argument of with_scalar, in arithmetic precision. The
// sum over all elements is written to `sum`, unless that has no elements.
template <class Functor, size_t kInputs, size_t kOutputs>
void launch(const MaskLayout& mask, const RandomState& random, const TensorRef (&inputs)[kInputs],
            const TensorRef (&outputs)[kOutputs],
            const typename Functor::template Constants<double>& constants,
            const Tensor& scalar = {}, const Tensor& sum = {}) {
  const Tensor& x = inputs[0];
  const Stream stream = stream_of(x);
  NoiseArgs args;
  set_operands<Functor>(args, inputs, outputs, constants);
  args.scalar = data_of(scalar);
  args.layout = flat_layout(x.numel());
  args.random = random;
  args.mask = mask_indexing(mask, kDrawsAlways);
  Tensor partials;
  const bool need_sum = sum.defined() && sum.numel() > 0;
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  if (need_sum) {
    partials =
        at::empty({partial_rows(args.layout), args.layout.period}, x.options().dtype(arithmetic));
    args.partials = partials.mutable_data_ptr();
  }
  launch_noise(kNoiseIndex<Functor>, args, storage_of(x.scalar_type()), stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (need_sum) {
    launch_column_sums(flat_sums(args.partials, args.layout, sum.mutable_data_ptr()),
                       arithmetic == at::kDouble, storage_of(sum.scalar_type()), stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

// ---- Gaussian dropout -------------------------------------------------------------------------

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
  if (x.numel() > 0) launch<noise::Gaussian>(mask, state_at(rng_state), {x}, {y}, {sigma});
  return y;
}

// ---- Concrete dropout -------------------------------------------------------------------------

// The kernel computes the other constants from the logit, which is in device memory.
noise::ConcreteConstants<double> concrete_constants_of(double temperature) {
  return {/*logit=*/0, 1 / temperature, /*scale=*/0, /*p=*/0};
}

Tensor concrete_forward_cuda(const Tensor& x_any, const Tensor& logit, const Tensor& rng_state,
                             double temperature, const Options& options) {
  const CallParams call =
      concrete::check("concrete_dropout", x_any, logit, rng_state, temperature, options);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const Tensor x = dense(x_any);
  const MaskLayout mask(call, x.sizes(), x.strides());
  if (!can_index(mask)) {
    return concrete::compose_forward(x_any, logit, rng_state, temperature, options);
  }
  const Tensor y = output_like(x, x.strides());
  if (x.numel() == 0) return y;
  launch<noise::ConcreteForward>(mask, state_at(rng_state), {x}, {y},
                                 concrete_constants_of(temperature),
                                 logit.to(arithmetic_of(x.scalar_type())));
  return y;
}

Gradients concrete_backward_cuda(const Tensor& dy_any, const Tensor& x_any, const Tensor& logit,
                                 const Tensor& rng_state, double temperature,
                                 const Options& options, const concrete::Gradient& gradient) {
  const CallParams call =
      concrete::check_backward(dy_any, x_any, logit, rng_state, temperature, options, gradient);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const MaskLayout mask(call, x_any.sizes(), strides);
  if (!can_index(mask)) {
    return concrete::compose_backward(dy_any, x_any, logit, rng_state, temperature, options,
                                      gradient);
  }
  const auto [need_dx, need_dlogit] = gradient.output_mask;
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  const Tensor dy = in_layout(dy_any, strides, x.scalar_type());
  const Tensor dx = output_like(x, strides, need_dx);
  const Tensor dlogit =
      need_dlogit ? at::empty(logit.sizes(), logit.options()) : at::empty({0}, logit.options());
  if (x.numel() == 0) return {dx, dlogit.zero_()};
  launch<noise::ConcreteBackward>(mask, state_at(rng_state), {dy, x}, {dx},
                                  concrete_constants_of(temperature),
                                  logit.to(arithmetic_of(x.scalar_type())), dlogit);
  return {dx, dlogit};
}

// ---- Standout ---------------------------------------------------------------------------------

Tensor standout_forward_cuda(const Tensor& x_any, const Tensor& z_any,
                             const OptionalTensor& rng_state, const standout::Settings& settings,
                             const Options& options) {
  const CallParams call = standout::check("standout", x_any, z_any, rng_state, settings, options);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const Tensor x = dense(x_any);
  if (x.numel() == 0) return output_like(x, x.strides());
  const MaskLayout mask(call, x.sizes(), x.strides());
  if (!can_index(mask)) {
    return standout::compose_forward(x_any, z_any, rng_state, settings, options);
  }
  const Tensor z = in_layout(z_any, x.strides(), x.scalar_type());
  const Tensor y = output_like(x, x.strides());
  if (settings.training) {
    launch<noise::Standout>(mask, state_at(standout::given_state(call, rng_state)), {x, z}, {y},
                            {settings.alpha, settings.beta});
  } else {
    launch<noise::StandoutMean>(mask, {}, {x, z}, {y}, {settings.alpha, settings.beta});
  }
  return y;
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
  const Tensor dy = in_layout(dy_any, strides, dtype), z = in_layout(z_any, strides, dtype);
  const Tensor dx = output_like(dy, strides, need_dx), dz = output_like(dy, strides, need_dz);
  if (dy.numel() == 0) return {dx, dz.to(gradient.z_dtype)};
  const noise::StandoutConstants<double> constants{settings.alpha, settings.beta};
  if (!settings.training) {
    const Tensor x = in_layout(*x_any, strides, dtype);
    launch<noise::StandoutMeanBackward>(mask, {}, {dy, x, z}, {dx, dz}, constants);
  } else {
    const RandomState random = state_at(standout::given_state(call, rng_state));
    if (need_dx) launch<noise::Standout>(mask, random, {dy, z}, {dx}, constants);
    dz.zero_();
  }
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
