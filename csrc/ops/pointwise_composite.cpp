// The pointwise operators as compositions of plain torch operators.
#include <ATen/ATen.h>

#include "math/activations.h"
#include "ops/common/composite.h"
#include "ops/pointwise.h"

namespace fused_dropout::pointwise {
Tensor compose_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                       const OptionalTensor& rng_state, const Options& options) {
  const CallParams call = check("bias_act_dropout", x, bias, residual, rng_state, options);
  Tensor y = compose_branch(call, x, bias, rng_state);
  if (residual) y = *residual + y;
  return y.to(output_dtype(x, residual));
}

Gradients compose_backward(const Tensor& dy, const OptionalTensor& input,
                           const OptionalTensor& bias, const OptionalTensor& rng_state,
                           const Options& options, const Gradient& gradient) {
  const CallParams call = check_backward(dy, input, bias, rng_state, options, gradient);
  const DropConstants constants = call.constants();
  const at::ScalarType arithmetic = arithmetic_of(gradient.dtype);

  Tensor dz = dy.to(arithmetic) * constants.scale;
  if (gradient.from_output) {
    dz = activation_grad(call, dz, input->to(arithmetic));
  } else {
    Tensor kept;
    if (constants.keep_count < 65536) {
      kept = mask_for(call, constants, rng_state, dy, gradient.strides);
      dz = at::where(kept, dz, 0.);
    }
    if (!kActivations[call.activation].identity) {
      Tensor z = add_bias(input->to(arithmetic), bias, call.bias_dim);
      if (kept.defined()) z = at::where(kept, z, 0.);
      dz = activation_grad(call, dz, z);
    }
  }
  Tensor dx = at::empty({0}, dy.options().dtype(gradient.dtype));
  Tensor dbias = at::empty({0}, dy.options().dtype(gradient.bias_dtype.value_or(at::kFloat)));
  if (gradient.output_mask[0]) dx = dz.to(gradient.dtype);
  if (gradient.output_mask[1]) {
    dbias = sum_along(dz, call.bias_dim).to(*gradient.bias_dtype);
  }
  return {dx, dbias};
}

namespace {

void compose_inplace(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  x.copy_(compose_forward(x, {}, {}, rng_state, options));
}

// For views whose memory holds the negated numbers, torch's fallback supports only operators that
// return the tensor that they write.
void inplace_negative(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const Tensor plain = x.resolve_neg();
  call_inplace(plain, rng_state, options);
  x.copy_(plain);
}

// Functionalisation replaces in-place operators, but only those that it knows. Under vmap too,
// there is no in-place operator for all examples.
void inplace_functional(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  x.copy_(call_forward(x, {}, {}, rng_state, options));
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("bias_act_dropout", forward_entry<compose_forward>);
  m.impl("bias_act_dropout_backward", backward_entry<compose_backward>);
  m.impl("dropout_", inplace_entry<compose_inplace>);
}

// The implementations of the other operators for vmap are in fused_dropout/_vmap.py.
TORCH_LIBRARY_IMPL(fused_dropout, FuncTorchBatched, m) {
  m.impl("dropout_", inplace_entry<inplace_functional>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Negative, m) {
  m.impl("dropout_", inplace_entry<inplace_negative>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Functionalize, m) {
  m.impl("dropout_", inplace_entry<inplace_functional>);
}

}  // namespace fused_dropout::pointwise
