// Concrete dropout as a composition of plain torch operators.
#include "ops/common/composite.h"
#include "ops/concrete.h"
#include "ops/noise_composite.h"

namespace fused_dropout::concrete {
namespace {

noise::ConcreteConstants<Value> constants_of(const Tensor& logit, double temperature,
                                             at::ScalarType arithmetic) {
  const Tensor number = logit.to(arithmetic).reshape({});
  const double most = noise::max_scale_logit(arithmetic == at::kDouble);
  return {number, Value(1 / temperature), 1 + number.clamp_max(most).exp(), number.sigmoid()};
}

}  // namespace

Tensor compose_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                       double temperature, const Options& options) {
  const CallParams call = check("concrete_dropout", x, logit, rng_state, temperature, options);
  const auto constants = constants_of(logit, temperature, arithmetic_of(x.scalar_type()));
  const Value uniform = noise_draws(NoiseDraw::kUniform, call, rng_state, x, strides_like(x));
  const auto [y] = compose_noise<noise::ConcreteForward>({x}, uniform, constants);
  return y.to(x.scalar_type());
}

Gradients compose_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                           const Tensor& rng_state, double temperature, const Options& options,
                           const Gradient& gradient) {
  const CallParams call = check_backward(dy, x, logit, rng_state, temperature, options, gradient);
  const auto constants = constants_of(logit, temperature, arithmetic_of(x.scalar_type()));
  const Value uniform = noise_draws(NoiseDraw::kUniform, call, rng_state, x, gradient.strides);
  const auto [by_x, by_logit] = compose_noise<noise::ConcreteBackward>({dy, x}, uniform, constants);
  Tensor dx = at::empty({0}, x.options()), dlogit = at::empty({0}, logit.options());
  if (gradient.output_mask[0]) dx = by_x.to(x.scalar_type());
  if (gradient.output_mask[1]) {
    dlogit = by_logit.sum().to(logit.scalar_type()).reshape_symint(logit.sym_sizes());
  }
  return {dx, dlogit};
}

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("concrete_dropout", forward_entry<compose_forward>);
  m.impl("concrete_dropout_backward", backward_entry<compose_backward>);
}

}  // namespace fused_dropout::concrete
