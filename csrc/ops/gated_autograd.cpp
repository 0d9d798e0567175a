// Autograd of the gated operator: what is saved for backward.
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/gated.h"

namespace fused_dropout::gated {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SavedCall {
  CallParams call;
  bool gate_first;
  std::vector<c10::SymInt> strides;
  std::optional<at::ScalarType> bias_dtype;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.gate_first, s.strides, s.bias_dtype);
}

struct BiasGluDropout : torch::autograd::Function<BiasGluDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool gate_first, const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_forward(x, bias, rng_state, gate_first, options);
    SavedCall saved{resolve("bias_glu_dropout", options, x.dim(), bias.has_value()), gate_first,
                    strides_like(x)};
    if (bias) saved.bias_dtype = bias->scalar_type();
    save_call(ctx, saved);
    ctx->save_for_backward(
        {x, or_undefined(bias), or_undefined(rng_state), or_undefined(options.p_tensor)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedCall>(ctx);
    const auto tensors = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0);
    const bool needs_bias = saved.bias_dtype && ctx->needs_input_grad(1);
    Options options = saved.call.options();
    options.p_tensor = optional(tensors[3]);
    auto [dx, dbias] = call_backward(
        grads[0], tensors[0], optional(tensors[1]), saved_state(tensors[2], grads[0]),
        saved.gate_first, options,
        {saved.strides, saved.bias_dtype.value_or(at::kFloat), {needs_x, needs_bias}});
    return {needs_x ? dx : Tensor(), needs_bias ? dbias : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool gate_first, const Options& options) {
  return route_forward(
      [&] { return compose_forward(x, bias, rng_state, gate_first, options); },
      [&] { return BiasGluDropout::apply(x, bias, rng_state, gate_first, options); },
      [&] { return call_forward(x, bias, rng_state, gate_first, options); }, x, bias);
}

Gradients backward_autograd(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                            const OptionalTensor& rng_state, bool gate_first,
                            const Options& options, const Gradient& gradient) {
  return route_backward(
      [&] { return compose_backward(dy, x, bias, rng_state, gate_first, options, gradient); },
      [&] { return call_backward(dy, x, bias, rng_state, gate_first, options, gradient); }, dy, x,
      bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("bias_glu_dropout", forward_entry<forward_autograd>);
  m.impl("bias_glu_dropout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::gated
