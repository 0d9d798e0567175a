// Standout as a composition of plain torch operators.
#include "ops/common/composite.h"
#include "ops/noise_composite.h"
#include "ops/standout.h"

namespace fused_dropout::standout {
namespace {

// The result broadcasts to the shape of x.
Tensor is_dropped(const CallParams& call, const OptionalTensor& rng_state, const Tensor& z,
                  at::SymIntArrayRef strides, const Settings& settings) {
  // A tensor without elements drops none, and no state was drawn for it.
  if (!rng_state && z.sym_numel() == 0) return at::zeros({}, z.options().dtype(at::kBool));
  const Value draw = noise_draws(NoiseDraw::kBits, call, given_state(call, rng_state), z, strides);
  const Value threshold = noise::keep_threshold(Value(z.detach().to(at::kFloat)),
                                                Value(static_cast<float>(settings.alpha)),
                                                Value(static_cast<float>(settings.beta)));
  return draw.tensor >= threshold.tensor;
}

}  // namespace

Tensor compose_forward(const Tensor& x, const Tensor& z_any, const OptionalTensor& rng_state,
                       const Settings& settings, const Options& options) {
  const CallParams call = check("standout", x, z_any, rng_state, settings, options);
  const Tensor z = z_any.to(x.scalar_type());
  if (settings.training) {
    const Tensor dropped = is_dropped(call, rng_state, z, strides_like(x), settings);
    return at::where(dropped, 0., x);
  }
  const auto [y] = compose_noise<noise::StandoutMean>(
      {x, z}, Value(), {Value(settings.alpha), Value(settings.beta)});
  return y.to(x.scalar_type());
}

Gradients compose_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z_any,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient) {
  const CallParams call = check_backward(dy, x, z_any, rng_state, settings, options, gradient);
  const Tensor z = z_any.to(dy.scalar_type());
  Tensor dx = at::empty({0}, dy.options());
  Tensor dz = at::empty({0}, dy.options().dtype(gradient.z_dtype));
  if (settings.training) {
    if (gradient.output_mask[0]) {
      dx = at::where(is_dropped(call, rng_state, z, gradient.strides, settings), 0., dy);
    }
    if (gradient.output_mask[1]) dz = at::zeros_like(dy, dz.options());
    return {dx, dz};
  }
  const auto [by_x, by_z] = compose_noise<noise::StandoutMeanBackward>(
      {dy, *x, z}, Value(), {Value(settings.alpha), Value(settings.beta)});
  if (gradient.output_mask[0]) dx = by_x.to(dy.scalar_type());
  if (gradient.output_mask[1]) dz = by_z.to(gradient.z_dtype);
  return {dx, dz};
}

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("standout", forward_entry<compose_forward>);
  m.impl("standout_backward", backward_entry<compose_backward>);
}

}  // namespace fused_dropout::standout
