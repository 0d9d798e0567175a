// Concrete dropout: schemas, checks of arguments, calls, and results on the meta device.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/library.h>

#include "ops/common/operator_handle.h"
#include "ops/concrete.h"

namespace fused_dropout::concrete {

CallParams check(const char* function, const Tensor& x, const Tensor& logit,
                 const OptionalTensor& rng_state, double temperature, const Options& options) {
  TORCH_CHECK_VALUE(temperature > 0 && std::isfinite(temperature), function, ": temperature is ",
                    temperature, ", but expected a positive number");
  CallParams call = check_arguments(function, x, {}, {}, rng_state, options);
  check_operand(function, "logit", logit, x);
  TORCH_SYM_CHECK(logit.sym_numel().sym_eq(1), function, ": logit has shape ", logit.sym_sizes(),
                  ", but expected one element");
  return call;
}

CallParams check_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                          const Tensor& rng_state, double temperature, const Options& options,
                          const Gradient& gradient) {
  constexpr auto kFunction = "concrete_dropout_backward";
  CallParams call = check(kFunction, x, logit, rng_state, temperature, options);
  check_like(kFunction, "dy", dy, x);
  check_dense(kFunction, x.sym_sizes(), gradient.strides);
  return call;
}

Tensor call_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                    double temperature, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::concrete_dropout", &forward_entry<compose_forward>);
  return op.call(x, logit, rng_state, temperature, FD_MASK_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                        const Tensor& rng_state, double temperature, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::concrete_dropout_backward", &backward_entry<compose_backward>);
  return op.call(dy, x, logit, rng_state, temperature, FD_MASK_ARGUMENTS(o), gradient.strides,
                 gradient.output_mask);
}

Tensor eager_forward(const EagerCall& eager, const Tensor& x, const Tensor& logit,
                     const OptionalTensor& rng_state, double temperature, const Options& options) {
  check(eager.function, x, logit, rng_state, temperature, options);
  return eager.with_required_state(x, rng_state, [&](const Tensor& state) {
    return call_forward(x, logit, state, temperature, options);
  });
}

namespace {

Tensor forward_meta(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                    double temperature, const Options& options) {
  check("concrete_dropout", x, logit, rng_state, temperature, options);
  return at::empty_like(x);
}

Gradients backward_meta(const Tensor& dy, const Tensor& x, const Tensor& logit,
                        const Tensor& rng_state, double temperature, const Options& options,
                        const Gradient& gradient) {
  check_backward(dy, x, logit, rng_state, temperature, options, gradient);
  Tensor dx = at::empty({0}, x.options()), dlogit = at::empty({0}, logit.options());
  if (gradient.output_mask[0]) {
    dx = at::empty_strided_symint(x.sym_sizes(), gradient.strides, x.options());
  }
  if (gradient.output_mask[1]) dlogit = at::empty_symint(logit.sym_sizes(), logit.options());
  return {dx, dlogit};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("concrete_dropout(Tensor x, Tensor logit, Tensor rng_state, float temperature, ",
                 kMaskOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("concrete_dropout_backward(Tensor dy, Tensor x, Tensor logit, Tensor rng_state, "
                 "float temperature, ",
                 kMaskOptions, ", SymInt[] strides, bool[2] output_mask) -> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("concrete_dropout", forward_entry<forward_meta>);
  m.impl("concrete_dropout_backward", backward_entry<backward_meta>);
}

}  // namespace fused_dropout::concrete
