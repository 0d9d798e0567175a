// The gated operator as a composition of plain torch operators.
#include <ATen/ATen.h>

#include "ops/common/composite.h"
#include "ops/gated.h"

namespace fused_dropout::gated {
namespace {

// From [x1 | x2] to gate and value, and back.
std::pair<Tensor, Tensor> split(const Tensor& x, bool gate_first) {
  const c10::SymInt width = x.sym_size(-1) / 2;
  Tensor first = x.narrow_symint(-1, 0, width), second = x.narrow_symint(-1, width, width);
  return gate_first ? std::pair{first, second} : std::pair{second, first};
}
Tensor join(const Tensor& gate, const Tensor& value, bool gate_first) {
  return gate_first ? at::cat({gate, value}, -1) : at::cat({value, gate}, -1);
}

Tensor kept_in(const CallParams& call, const DropConstants& constants,
               const OptionalTensor& rng_state, const Tensor& y, at::SymIntArrayRef x_strides) {
  if (constants.keep_count == 65536) return {};
  return mask_for(call, constants, rng_state, y, strides_of(x_strides));
}

}  // namespace

Tensor compose_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& rng_state,
                       bool gate_first, const Options& options) {
  const CallParams call = check("bias_glu_dropout", x, bias, rng_state, options);
  const DropConstants constants = call.constants();
  const Tensor z = add_bias(x.to(arithmetic_of(x.scalar_type())), bias, call.bias_dim);
  auto [gate, value] = split(z, gate_first);
  const auto strides = strides_like(x);
  const Tensor kept = kept_in(call, constants, rng_state, gate, strides);
  if (kept.defined()) {
    // Before the activation too: its derivative at a dropped NaN would be NaN, also times zero.
    gate = at::where(kept, gate, 0.);
    value = at::where(kept, value, 0.);
  }
  return drop(constants, kept, activation_value(call, gate) * value).to(x.scalar_type());
}

Gradients compose_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                           const OptionalTensor& rng_state, bool gate_first, const Options& options,
                           const Gradient& gradient) {
  const CallParams call = check_backward(dy, x, bias, rng_state, options, gradient);
  const DropConstants constants = call.constants();
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  auto [gate, value] = split(add_bias(x.to(arithmetic), bias, call.bias_dim), gate_first);
  Tensor upstream = dy.to(arithmetic) * constants.scale;
  const Tensor kept = kept_in(call, constants, rng_state, gate, gradient.strides);
  if (kept.defined()) {
    gate = at::where(kept, gate, 0.);
    value = at::where(kept, value, 0.);
    upstream = at::where(kept, upstream, 0.);
  }
  const Tensor dz = join(activation_grad(call, upstream * value, gate),
                         upstream * activation_value(call, gate), gate_first);
  Tensor dx = at::empty({0}, x.options());
  Tensor dbias = at::empty({0}, x.options().dtype(gradient.bias_dtype));
  if (gradient.output_mask[0]) dx = dz.to(x.scalar_type());
  if (gradient.output_mask[1]) {
    dbias = dz.reshape_symint({-1, x.sym_size(-1)}).sum(0).to(gradient.bias_dtype);
  }
  return {dx, dbias};
}

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("bias_glu_dropout", forward_entry<compose_forward>);
  m.impl("bias_glu_dropout_backward", backward_entry<compose_backward>);
}

}  // namespace fused_dropout::gated
