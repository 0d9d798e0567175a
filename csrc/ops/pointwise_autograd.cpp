// Autograd of the pointwise operators: what is saved for backward.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
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

// What BiasActDropoutGradient saves: its call, of which `strides`, `dtype` and `bias_dtype` are
// part.
struct SavedGradient {
  CallParams call;
  bool from_output;
  std::vector<c10::SymInt> strides;
  at::ScalarType dtype;
  std::optional<at::ScalarType> bias_dtype;
  at::ScalarType dy_dtype;
  bool has_input, has_bias;
};

template <class Archive>
void list_fields(Archive& archive, SavedGradient& s) {
  archive(s.call, s.from_output, s.strides, s.dtype, s.bias_dtype, s.dy_dtype, s.has_input,
          s.has_bias);
}

// The sum of a tensor of the shape of x and a bias; each may be undefined.
Tensor along_x(const Tensor& tensor, const Tensor& bias, const Tensor& x, int64_t bias_dim) {
  if (!bias.defined()) return tensor;
  std::vector<int64_t> shape(x.dim(), 1);
  shape[bias_dim] = -1;
  const Tensor along = bias.reshape(shape);
  return tensor.defined() ? tensor + along : along.expand_symint(x.sym_sizes());
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

// The gradient operator, differentiable. With g, the gradient of its result with respect to
// x + bias, the gradient of dy is the operator applied to g: it is linear in dy, and elementwise.
struct BiasActDropoutGradient : torch::autograd::Function<BiasActDropoutGradient> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& dy, const OptionalTensor& input,
                               const OptionalTensor& bias, const OptionalTensor& rng_state,
                               const Options& options, const Gradient& gradient) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [dx, dbias] = call_backward(dy, input, bias, rng_state, options, gradient);
    SavedGradient saved{check_backward(dy, input, bias, rng_state, options, gradient),
                        gradient.from_output,
                        gradient.strides.vec(),
                        gradient.dtype,
                        gradient.bias_dtype,
                        dy.scalar_type(),
                        input.has_value(),
                        bias.has_value()};
    save_call(ctx, saved);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({dy, or_undefined(input), or_undefined(bias), or_undefined(rng_state),
                            or_undefined(options.p_tensor)});
    return {dx, dbias};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedGradient>(ctx);
    const auto tensors = ctx->get_saved_variables();
    size_t edge = 0;
    const bool needs_dy = ctx->needs_input_grad(edge++);
    const bool needs_input = saved.has_input && ctx->needs_input_grad(edge++);
    const bool needs_bias = saved.has_bias && ctx->needs_input_grad(edge++);
    variable_list result(6);
    const Tensor& dy = tensors[0];
    const Tensor g = along_x(grads[0], grads[1], dy, saved.call.bias_dim);
    if (!g.defined()) return result;

    Options options = saved.call.options();
    options.p_tensor = optional(tensors[4]);
    const OptionalTensor input = optional(tensors[1]), bias = optional(tensors[2]),
                         state = saved_state(tensors[3], dy);
    Gradient gradient{
        saved.from_output, saved.strides, saved.dy_dtype, saved.bias_dtype, {true, false}};
    if (needs_dy) {
      result[0] = std::get<0>(call_backward(g, input, bias, state, options, gradient));
    }
    if (saved.from_output) {
      if (needs_input) result[1] = at::zeros_like(*input);  // its sign alone matters
    } else if (needs_input || needs_bias) {
      gradient.dtype = saved.dtype;
      std::tie(result[1], result[2]) = compose_second_order(g, dy, *input, bias, state, options,
                                                            gradient, {needs_input, needs_bias});
    }
    return result;
  }
};

// Forward mode, by the kernels of both operators: the functions are elementwise, so the tangent of
// x + bias is multiplied by what backward multiplies dy by. Not for calls with a graph, in which
// the tangents of what is saved count too.
Tensor forward_with_tangent(const Tensor& x, const OptionalTensor& bias,
                            const OptionalTensor& residual, const OptionalTensor& rng_state,
                            const Options& options) {
  const auto primal = [](const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(tensor->_fw_primal(/*level=*/0)) : std::nullopt;
  };
  const auto tangent = [](const OptionalTensor& tensor) {
    return tensor ? tensor->_fw_grad(/*level=*/0) : Tensor();
  };
  const Tensor value = x._fw_primal(/*level=*/0);
  const OptionalTensor bias_value = primal(bias);
  const Tensor y = call_forward(value, bias_value, primal(residual), rng_state, options);

  const CallParams call = resolve("bias_act_dropout", options, x.dim(), bias.has_value());
  Tensor result = along_x(tangent(x), tangent(bias), value, call.bias_dim);
  if (result.defined()) {
    const bool identity = kActivations[call.activation].identity;
    // An example of vmap may have gaps.
    const auto strides = mask_strides_of(value.sym_sizes(), strides_like(value), {});
    const Gradient gradient{false,
                            strides,
                            y.scalar_type(),
                            bias ? std::optional(bias->scalar_type()) : std::nullopt,
                            {true, false}};
    result = std::get<0>(call_backward(result, identity ? OptionalTensor() : value,
                                       identity ? OptionalTensor() : bias_value, rng_state, options,
                                       gradient));
  }
  if (const Tensor added = tangent(residual); added.defined()) {
    result = result.defined() ? result + added : added.to(y.scalar_type(), false, /*copy=*/true);
  }
  y._set_fw_grad(result, /*level=*/0, /*is_inplace_op=*/false);
  return y;
}

Tensor forward_autograd(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                        const OptionalTensor& rng_state, const Options& options) {
  if (has_tangents(x, bias, residual) && !needs_graph(x, bias, residual)) {
    return forward_with_tangent(x, bias, residual, rng_state, options);
  }
  return route_forward([&] { return compose_forward(x, bias, residual, rng_state, options); },
                       [&] { return BiasActDropout::apply(x, bias, residual, rng_state, options); },
                       [&] { return call_forward(x, bias, residual, rng_state, options); }, x, bias,
                       residual);
}

void inplace_autograd(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const bool differentiable = needs_graph(x);
  torch::autograd::check_inplace(x, differentiable);
  if (needs_composite(x)) {
    x.copy_(forward_autograd(x, {}, {}, rng_state, options));
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
  return route_forward(
      [&] { return compose_backward(dy, input, bias, rng_state, options, gradient); },
      [&]() -> Gradients {
        const auto results =
            BiasActDropoutGradient::apply(dy, input, bias, rng_state, options, gradient);
        return {results[0], results[1]};
      },
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
