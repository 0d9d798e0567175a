// Autograd of the pointwise operators: what is saved for backward.
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/custom_function.h>

#include "math/activations.h"
#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/pointwise.h"

namespace fused_dropout::pointwise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SavedCall {
  CallParams call;
  bool from_output;
  std::vector<c10::SymInt> strides;
  at::ScalarType dtype;
  std::optional<at::ScalarType> bias_dtype, residual_dtype;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.from_output, s.strides, s.dtype, s.bias_dtype, s.residual_dtype);
}

// The gradients of x, bias and residual for the functions below; undefined if they are not needed.
// Autograd numbers only the tensors that were given.
variable_list gradients(AutogradContext* ctx, const Tensor& dy) {
  const auto saved = read_call<SavedCall>(ctx);
  size_t edge = 0;
  const bool needs_x = ctx->needs_input_grad(edge++);
  const bool needs_bias = saved.bias_dtype && ctx->needs_input_grad(edge++);
  const bool needs_residual = saved.residual_dtype && ctx->needs_input_grad(edge++);

  Tensor dx, dbias, dresidual;
  if (dy.defined()) {
    if (needs_x || needs_bias) {
      const auto tensors = ctx->get_saved_variables();
      const Gradient gradient{
          saved.from_output, saved.strides, saved.dtype, saved.bias_dtype, {needs_x, needs_bias}};
      Options options = saved.call.options();
      options.p_tensor = optional(tensors[3]);
      std::tie(dx, dbias) = call_backward(dy, optional(tensors[0]), optional(tensors[1]),
                                          saved_state(tensors[2], dy), options, gradient);
    }
    if (needs_residual) dresidual = dy.to(*saved.residual_dtype);
  }
  return {needs_x ? dx : Tensor(), needs_bias ? dbias : Tensor(), dresidual};
}

struct BiasActDropout : torch::autograd::Function<BiasActDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& residual, const OptionalTensor& rng_state,
                        const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_forward(x, bias, residual, rng_state, options);
    SavedCall saved{resolve("bias_act_dropout", options, x.dim(), bias.has_value())};
    saved.from_output = backward_uses_output(saved.call, residual.has_value());
    saved.strides = y.sym_strides().vec();
    saved.dtype = x.scalar_type();
    if (bias) saved.bias_dtype = bias->scalar_type();
    if (residual) saved.residual_dtype = residual->scalar_type();
    save_call(ctx, saved);

    // Backward draws the mask again from rng_state: only what the derivative reads is kept.
    Tensor input, kept_bias;
    if (requires_grad(x) || requires_grad(bias)) {
      if (saved.from_output) {
        input = y;
      } else if (!kActivations[saved.call.activation].identity) {
        input = x;
        kept_bias = or_undefined(bias);
      }
    }
    ctx->save_for_backward(
        {input, kept_bias, or_undefined(rng_state), or_undefined(options.p_tensor)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result = gradients(ctx, grads[0]);
    result.resize(5);  // the state and the options have none
    return result;
  }
};

struct InplaceDropout : torch::autograd::Function<InplaceDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& rng_state,
                        const Options& options, AutogradContext*& context) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    SavedCall saved{resolve("dropout_", options, x.dim(), /*has_bias=*/false)};
    saved.strides = strides_like(x);
    saved.dtype = x.scalar_type();
    save_call(ctx, saved);
    call_inplace(x, rng_state, options);
    ctx->mark_dirty({x});
    ctx->save_for_backward(
        {Tensor(), Tensor(), or_undefined(rng_state), or_undefined(options.p_tensor)});
    context = ctx;
    return x;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {gradients(ctx, grads[0])[0], Tensor(), Tensor(), Tensor()};
  }
};

Tensor forward_autograd(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                        const OptionalTensor& rng_state, const Options& options) {
  return route_forward([&] { return compose_forward(x, bias, residual, rng_state, options); },
                       [&] { return BiasActDropout::apply(x, bias, residual, rng_state, options); },
                       [&] { return call_forward(x, bias, residual, rng_state, options); }, x, bias,
                       residual);
}

void inplace_autograd(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const bool differentiable = needs_graph(x);
  torch::autograd::check_inplace(x, differentiable);
  if (needs_composite(x)) {
    x.copy_(compose_forward(x, {}, {}, rng_state, options));
  } else if (differentiable) {
    AutogradContext* context = nullptr;
    InplaceDropout::apply(x, rng_state, options, context);
    context->mark_dirty({});  // has been read; compiled autograd expects none
  } else {
    const at::AutoDispatchBelowAutograd guard;
    call_inplace(x, rng_state, options);
  }
}

void inplace_version(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    call_inplace(x, rng_state, options);
  }
  torch::autograd::increment_version(x);
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& input,
                            const OptionalTensor& bias, const OptionalTensor& rng_state,
                            const Options& options, const Gradient& gradient) {
  return route_backward(
      [&] { return compose_backward(dy, input, bias, rng_state, options, gradient); },
      [&] { return call_backward(dy, input, bias, rng_state, options, gradient); }, dy, input,
      bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("bias_act_dropout", forward_entry<forward_autograd>);
  m.impl("bias_act_dropout_backward", backward_entry<backward_autograd>);
  m.impl("dropout_", inplace_entry<inplace_autograd>);
}

TORCH_LIBRARY_IMPL(fused_dropout, ADInplaceOrView, m) {
  m.impl("dropout_", inplace_entry<inplace_version>);
}

}  // namespace fused_dropout::pointwise
