// Autograd: what is saved for backward, and which cases the composition takes over.
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/common/autograd.h"

#include "math/activations.h"
#include "ops/common/saved_call.h"

namespace fused_dropout {
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

// The gradients of x, bias and residual (undefined where not needed), shared by the functions
// below. Gradients are asked for by position among the tensors that were given.
variable_list gradients(AutogradContext* ctx, const Tensor& dy) {
  const auto state = read_call<SavedCall>(ctx);
  size_t edge = 0;
  const bool needs_x = ctx->needs_input_grad(edge++);
  const bool needs_bias = state.bias_dtype && ctx->needs_input_grad(edge++);
  const bool needs_residual = state.residual_dtype && ctx->needs_input_grad(edge++);

  Tensor dx, dbias, dresidual;
  if (dy.defined()) {
    if (needs_x || needs_bias) {
      const auto tensors = ctx->get_saved_variables();
      const Gradient gradient{
          state.from_output, state.strides, state.dtype, state.bias_dtype, {needs_x, needs_bias}};
      Options options = state.call.options();
      options.p_tensor = optional(tensors[3]);
      std::tie(dx, dbias) = call_backward(dy, optional(tensors[0]), optional(tensors[1]),
                                          optional(tensors[2]), options, gradient);
    }
    if (needs_residual) dresidual = dy.to(*state.residual_dtype);
  }
  return {needs_x ? dx : Tensor(), needs_bias ? dbias : Tensor(), dresidual};
}

struct BiasActDropout : torch::autograd::Function<BiasActDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& residual, Random& random, const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    SavedCall state{
        check_arguments("bias_act_dropout", x, bias, residual, random.rng_state, options)};
    Tensor y;
    if (random.draws) {
      std::tie(y, random.rng_state) =
          call_draw_forward(x, bias, residual, random.generator, options);
    } else {
      y = call_forward(x, bias, residual, random.rng_state, options);
    }
    state.from_output = backward_uses_output(state.call, residual.has_value());
    state.strides = y.sym_strides().vec();
    state.dtype = x.scalar_type();
    if (bias) state.bias_dtype = bias->scalar_type();
    if (residual) state.residual_dtype = residual->scalar_type();
    save_call(ctx, state);

    // The mask is drawn again from rng_state, so that only what the derivative reads is kept.
    Tensor input, kept_bias;
    if (requires_grad(x) || requires_grad(bias)) {
      if (state.from_output) {
        input = y;
      } else if (!kActivations[state.call.activation].identity) {
        input = x;
        if (bias) kept_bias = *bias;
      }
    }
    ctx->save_for_backward({input, kept_bias, random.rng_state.value_or(Tensor()),
                            options.p_tensor.value_or(Tensor())});
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

  static Tensor forward(AutogradContext* ctx, const Tensor& x, Random& random,
                        const Options& options, AutogradContext*& context) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    SavedCall state{check_arguments("dropout_", x, {}, {}, random.rng_state, options)};
    state.strides = strides_like(x);
    state.dtype = x.scalar_type();
    save_call(ctx, state);
    if (random.draws) {
      random.rng_state = call_draw_inplace(x, random.generator, options);
    } else {
      call_inplace(x, random.rng_state, options);
    }
    ctx->mark_dirty({x});
    ctx->save_for_backward({Tensor(), Tensor(), random.rng_state.value_or(Tensor()),
                            options.p_tensor.value_or(Tensor())});
    context = ctx;
    return x;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {gradients(ctx, grads[0])[0], Tensor(), Tensor(), Tensor()};
  }
};

void apply_inplace(const Tensor& x, Random& random, const Options& options) {
  AutogradContext* context = nullptr;
  InplaceDropout::apply(x, random, options, context);
  context->mark_dirty({});  // has been read; compiled autograd expects none
}

Tensor forward_autograd(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                        const OptionalTensor& rng_state, const Options& options) {
  if (needs_composition({x, bias, residual})) {
    return compose_forward(x, bias, residual, rng_state, options);
  }
  if (needs_graph({x, bias, residual})) {
    Random random{rng_state};
    return BiasActDropout::apply(x, bias, residual, random, options);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, bias, residual, rng_state, options);
}

void inplace_autograd(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const bool differentiable = at::GradMode::is_enabled() && x.requires_grad();
  torch::autograd::check_inplace(x, differentiable);
  if (needs_composition({x})) {
    x.copy_(compose_forward(x, {}, {}, rng_state, options));
  } else if (differentiable) {
    Random random{rng_state};
    apply_inplace(x, random, options);
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

// As forward_autograd and inplace_autograd, with a state drawn on the way.
Drawn draw_forward_autograd(const Tensor& x, const OptionalTensor& bias,
                            const OptionalTensor& residual, const OptionalGenerator& generator,
                            const Options& options) {
  if (needs_composition({x, bias, residual})) {
    const Tensor rng_state = call_draw(x, options.p_tensor, generator);
    return {compose_forward(x, bias, residual, rng_state, options), rng_state};
  }
  if (needs_graph({x, bias, residual})) {
    auto random = Random::from(generator);
    const Tensor y = BiasActDropout::apply(x, bias, residual, random, options);
    return {y, *random.rng_state};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_draw_forward(x, bias, residual, generator, options);
}

Tensor draw_inplace_autograd(Tensor x, const OptionalGenerator& generator, const Options& options) {
  const bool differentiable = at::GradMode::is_enabled() && x.requires_grad();
  torch::autograd::check_inplace(x, differentiable);
  if (needs_composition({x})) {
    const Tensor rng_state = call_draw(x, options.p_tensor, generator);
    x.copy_(compose_forward(x, {}, {}, rng_state, options));
    return rng_state;
  }
  if (differentiable) {
    auto random = Random::from(generator);
    apply_inplace(x, random, options);
    return *random.rng_state;
  }
  const at::AutoDispatchBelowAutograd guard;
  return call_draw_inplace(x, generator, options);
}

Tensor draw_inplace_version(Tensor x, const OptionalGenerator& generator, const Options& options) {
  Tensor rng_state;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    rng_state = call_draw_inplace(x, generator, options);
  }
  torch::autograd::increment_version(x);
  return rng_state;
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& input,
                            const OptionalTensor& bias, const OptionalTensor& rng_state,
                            const Options& options, const Gradient& gradient) {
  if (needs_composition({dy, input, bias}) || needs_graph({dy, input, bias})) {
    return compose_backward(dy, input, bias, rng_state, options, gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, input, bias, rng_state, options, gradient);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("bias_act_dropout", forward_entry<forward_autograd>);
  m.impl("bias_act_dropout_backward", backward_entry<backward_autograd>);
  m.impl("dropout_", inplace_entry<inplace_autograd>);
  m.impl("draw_bias_act_dropout", draw_forward_entry<draw_forward_autograd>);
  m.impl("draw_dropout_", draw_inplace_entry<draw_inplace_autograd>);
  // Their results are integers and booleans.
  m.impl("dropout_mask", torch::CppFunction::makeFallthrough());
  m.impl("draw_rng_state", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(fused_dropout, ADInplaceOrView, m) {
  m.impl("dropout_", inplace_entry<inplace_version>);
  m.impl("draw_dropout_", draw_inplace_entry<draw_inplace_version>);
}

}  // namespace fused_dropout
