// Concrete dropout: schemas, checks of arguments, calls, shapes of results, and autograd.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/common/autograd.h"
#include "ops/common/operator_handle.h"
#include "ops/common/saved_call.h"
#include "ops/noise.h"

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
  return op.call(x, logit, rng_state, temperature, FD_PLACE_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                        const Tensor& rng_state, double temperature, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::concrete_dropout_backward", &backward_entry<compose_backward>);
  return op.call(dy, x, logit, rng_state, temperature, FD_PLACE_ARGUMENTS(o), gradient.strides,
                 gradient.output_mask);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

struct SavedCall {
  CallParams call;
  double temperature;
  std::vector<c10::SymInt> strides;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.temperature, s.strides);
}

struct ConcreteDropout : torch::autograd::Function<ConcreteDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& logit,
                        const Tensor& rng_state, double temperature, const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_forward(x, logit, rng_state, temperature, options);
    SavedCall state{check("concrete_dropout", x, logit, rng_state, temperature, options),
                    temperature, y.sym_strides().vec()};
    save_call(ctx, state);
    ctx->save_for_backward({x, logit, rng_state});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0), needs_logit = ctx->needs_input_grad(1);
    auto [dx, dlogit] =
        call_backward(grads[0], saved[0], saved[1], saved[2], state.temperature,
                      state.call.options(), {state.strides, {needs_x, needs_logit}});
    return {needs_x ? dx : Tensor(), needs_logit ? dlogit : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                        double temperature, const Options& options) {
  if (needs_composition({x, logit})) {
    return compose_forward(x, logit, rng_state, temperature, options);
  }
  if (needs_graph({x, logit})) {
    return ConcreteDropout::apply(x, logit, rng_state, temperature, options);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, logit, rng_state, temperature, options);
}

Gradients backward_autograd(const Tensor& dy, const Tensor& x, const Tensor& logit,
                            const Tensor& rng_state, double temperature, const Options& options,
                            const Gradient& gradient) {
  if (needs_composition({dy, x, logit}) || needs_graph({dy, x, logit})) {
    return compose_backward(dy, x, logit, rng_state, temperature, options, gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, x, logit, rng_state, temperature, options, gradient);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("concrete_dropout(Tensor x, Tensor logit, Tensor rng_state, float temperature, ",
                 kPlaceOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("concrete_dropout_backward(Tensor dy, Tensor x, Tensor logit, Tensor rng_state, "
                 "float temperature, ",
                 kPlaceOptions, ", SymInt[] strides, bool[2] output_mask) -> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("concrete_dropout", forward_entry<forward_meta>);
  m.impl("concrete_dropout_backward", backward_entry<backward_meta>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("concrete_dropout", forward_entry<forward_autograd>);
  m.impl("concrete_dropout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::concrete
