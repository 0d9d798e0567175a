// The pointwise operators: schemas, checks of arguments, calls, and results on the meta device.
#include "ops/pointwise.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include "math/activations.h"
#include "ops/common/operator_handle.h"

namespace fused_dropout::pointwise {

CallParams check(const char* function, const Tensor& x, const OptionalTensor& bias,
                 const OptionalTensor& residual, const OptionalTensor& rng_state,
                 const Options& options) {
  return check_arguments(function, x, bias, residual, rng_state, options);
}

CallParams check_backward(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                          const OptionalTensor& rng_state, const Options& options,
                          const Gradient& gradient) {
  constexpr auto kFunction = "bias_act_dropout_backward";
  check_tensors(kFunction, dy, bias, input, rng_state, options);
  // There may be a gradient of a bias whose values backward does not need.
  const bool has_bias = bias || gradient.bias_dtype;
  const CallParams call = resolve(kFunction, options, dy.dim(), has_bias);
  const ActivationInfo& activation = kActivations[call.activation];
  TORCH_CHECK_VALUE(!gradient.from_output || activation.from_output, kFunction, ": activation '",
                    activation.name, "' needs its input, not its output");
  TORCH_CHECK_VALUE(input || (activation.identity && !gradient.from_output), kFunction,
                    ": input is None, but activation '", activation.name, "' needs it");
  TORCH_CHECK_TYPE(
      is_supported(gradient.dtype) && (!gradient.bias_dtype || is_supported(*gradient.bias_dtype)),
      kFunction, ": the gradients' dtypes are not supported");
  TORCH_CHECK_VALUE(gradient.bias_dtype || (!gradient.output_mask[1] && !bias), kFunction,
                    ": bias_dtype is None, but there is a bias");
  check_dense(kFunction, dy.sym_sizes(), gradient.strides);
  return call;
}

bool backward_uses_output(const CallParams& call, bool has_residual) {
  return kActivations[call.activation].from_output && !has_residual && call.mode != Mode::kAlpha;
}

#define FD_POINTWISE_ARGUMENTS(o)                                                           \
  o.p, o.p_tensor, o.activation, o.negative_slope, o.alpha, o.bias_dim, o.mode, o.training, \
      FD_MASK_ARGUMENTS(o)

Tensor call_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::bias_act_dropout", &forward_entry<call_forward>);
  return op.call(x, bias, residual, rng_state, FD_POINTWISE_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::bias_act_dropout_backward", &backward_entry<call_backward>);
  return op.call(dy, input, bias, rng_state, FD_POINTWISE_ARGUMENTS(o), gradient.from_output,
                 gradient.strides, gradient.dtype, gradient.bias_dtype, gradient.output_mask);
}

void call_inplace(Tensor x, const OptionalTensor& rng_state, const Options& o) {
  static const auto op = find_operator("fused_dropout::dropout_", &inplace_entry<call_inplace>);
  op.call(std::move(x), rng_state, o.p, o.p_tensor, o.mode, o.training, FD_MASK_ARGUMENTS(o));
}

Tensor eager_forward(const EagerCall& eager, const Tensor& x, const OptionalTensor& bias,
                     const OptionalTensor& residual, const OptionalTensor& rng_state,
                     const Options& options) {
  check(eager.function, x, bias, residual, rng_state, options);
  return eager.with_state(
      x, options.mask_strides.has_value(), rng_state,
      [&](const OptionalTensor& state) { return call_forward(x, bias, residual, state, options); });
}

void eager_inplace(const EagerCall& eager, Tensor x, const OptionalTensor& rng_state,
                   const Options& options) {
  check(eager.function, x, {}, {}, rng_state, options);
  at::assert_no_internal_overlap(x);
  torch::autograd::check_inplace(x, at::GradMode::is_enabled() && x.requires_grad());
  eager.with_state(x, options.mask_strides.has_value(), rng_state,
                   [&](const OptionalTensor& state) { call_inplace(x, state, options); });
}

namespace {

Tensor forward_meta(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& options) {
  check("bias_act_dropout", x, bias, residual, rng_state, options);
  return at::empty_like(x, x.options().dtype(output_dtype(x, residual)));
}

Gradients backward_meta(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, const Options& options,
                        const Gradient& gradient) {
  check_backward(dy, input, bias, rng_state, options, gradient);
  Tensor dx = at::empty({0}, dy.options().dtype(gradient.dtype));
  Tensor dbias = at::empty({0}, dy.options().dtype(gradient.bias_dtype.value_or(at::kFloat)));
  if (gradient.output_mask[0]) {
    dx = at::empty_strided_symint(dy.sym_sizes(), gradient.strides, dx.options());
  }
  if (gradient.output_mask[1]) {
    const int64_t dim = at::maybe_wrap_dim(options.bias_dim, dy.dim());
    dbias = at::empty_symint({dy.sym_size(dim)}, dbias.options());
  }
  return {dx, dbias};
}

void inplace_meta(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  check("dropout_", x, {}, {}, rng_state, options);
}

}  // namespace

// p, p_tensor, dropout_mode, training and the options of the mask mean the same in all schemas.
TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("bias_act_dropout(Tensor x, Tensor? bias, Tensor? residual, Tensor? rng_state, ",
                 kOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("bias_act_dropout_backward(Tensor dy, Tensor? input, Tensor? bias, "
                 "Tensor? rng_state, ",
                 kOptions,
                 ", bool from_output, SymInt[] strides, ScalarType dtype, "
                 "ScalarType? bias_dtype, bool[2] output_mask) -> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("dropout_(Tensor(a!) x, Tensor? rng_state, float p, Tensor? p_tensor, "
                 "str dropout_mode, bool training, ",
                 kMaskOptions, ") -> ()")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("bias_act_dropout", forward_entry<forward_meta>);
  m.impl("bias_act_dropout_backward", backward_entry<backward_meta>);
  m.impl("dropout_", inplace_entry<inplace_meta>);
}

}  // namespace fused_dropout::pointwise
