// Autograd of the normalised operator: what is saved for backward.
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "math/activations.h"
#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/norm.h"

namespace fused_dropout::norm {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<at::ScalarType> dtype_of(const OptionalTensor& tensor) {
  return tensor ? std::optional(tensor->scalar_type()) : std::nullopt;
}

struct SavedCall {
  NormCallParams call;
  double eps;
  bool prenorm;
  std::vector<c10::SymInt> strides;
  at::ScalarType dtype;
  // The dtypes of the arguments after x, in their order; none for those that are not given.
  std::optional<at::ScalarType> residual, bias, row_scale, layer_scale, weight, norm_bias;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(static_cast<CallParams&>(s.call), s.call.kind, s.call.h_dtype, s.call.y_dtype, s.eps,
          s.prenorm, s.strides, s.dtype, s.residual, s.bias, s.row_scale, s.layer_scale, s.weight,
          s.norm_bias);
}

// Results without a gradient: they are passed around autograd.
struct Constants {
  Tensor h;  // if h is not a result
  Tensor statistics;
};

struct DropoutAddNorm : torch::autograd::Function<DropoutAddNorm> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x,
                               const OptionalTensor& residual, const OptionalTensor& bias,
                               const OptionalTensor& row_scale, const OptionalTensor& layer_scale,
                               const OptionalTensor& weight, const OptionalTensor& norm_bias,
                               const OptionalTensor& rng_state, const Settings& settings,
                               const Options& options, Constants& constants) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Operands operands{residual, bias, row_scale, layer_scale, weight, norm_bias};
    const auto [y, h, statistics] = call_forward(x, operands, rng_state, settings, options);
    SavedCall saved{resolve("dropout_add_norm", x, operands, settings, options),
                    settings.eps,
                    settings.prenorm,
                    strides_like(x),
                    x.scalar_type(),
                    dtype_of(residual),
                    dtype_of(bias),
                    dtype_of(row_scale),
                    dtype_of(layer_scale),
                    dtype_of(weight),
                    dtype_of(norm_bias)};
    save_call(ctx, saved);
    ctx->set_materialize_grads(false);

    // Backward draws the mask again. If h is a result anyway, it is kept; else backward computes it
    // again from the inputs: no tensor is kept that is neither an input nor a result.
    const bool needs_x = !settings.prenorm || !kActivations[saved.call.activation].identity ||
                         requires_grad(layer_scale);
    const auto kept = [](bool condition, const OptionalTensor& tensor) {
      return condition && tensor ? *tensor : Tensor();
    };
    ctx->save_for_backward({kept(settings.prenorm, h), kept(needs_x, x),
                            kept(!settings.prenorm, residual), kept(needs_x, bias),
                            kept(true, row_scale), kept(true, layer_scale), kept(true, weight),
                            statistics, kept(true, rng_state), kept(true, options.p_tensor)});
    constants.statistics = statistics;
    if (settings.prenorm) return {y, h};
    constants.h = h;
    return {y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedCall>(ctx);
    variable_list result(11);
    const Tensor dh = saved.prenorm ? grads[1] : Tensor();
    if (!grads[0].defined() && !dh.defined()) return result;
    const auto tensors = ctx->get_saved_variables();
    const Saved inputs{
        optional(tensors[0]), optional(tensors[1]), optional(tensors[2]), optional(tensors[3]),
        optional(tensors[4]), optional(tensors[5]), optional(tensors[6]), tensors[7]};
    Options options = saved.call.options();
    options.p_tensor = optional(tensors[9]);

    // Autograd numbers only the tensors that were given.
    size_t edge = 0;
    const auto needs = [&](bool given) { return given && ctx->needs_input_grad(edge++); };
    const bool x = needs(true), residual = needs(saved.residual.has_value()),
               bias = needs(saved.bias.has_value());
    needs(saved.row_scale.has_value());
    const bool layer_scale = needs(saved.layer_scale.has_value()),
               weight = needs(saved.weight.has_value()),
               norm_bias = needs(saved.norm_bias.has_value());

    const Tensor dy =
        grads[0].defined() ? grads[0] : at::zeros_like(dh, dh.options().dtype(saved.call.y_dtype));
    const std::string_view kind = saved.call.kind == Kind::kLayer ? "layer_norm" : "rms_norm";
    auto [dx, dresidual, dbias, dlayer_scale, dweight, dnorm_bias] = call_backward(
        dy, optional(dh), inputs, saved_state(tensors[8], dy), {kind, saved.eps, false}, options,
        {saved.strides,
         saved.dtype,
         saved.call.h_dtype,
         {x, residual, bias, layer_scale, weight, norm_bias}});
    if (x) result[0] = dx;
    if (residual) result[1] = dresidual.to(*saved.residual);
    if (bias) result[2] = dbias.to(*saved.bias);
    if (layer_scale) result[4] = dlayer_scale.to(*saved.layer_scale);
    if (weight) result[5] = dweight.to(*saved.weight);
    if (norm_bias) result[6] = dnorm_bias.to(*saved.norm_bias);
    return result;
  }
};

Results apply(const Tensor& x, const Operands& t, const OptionalTensor& rng_state,
              const Settings& settings, const Options& options) {
  Constants constants;
  const auto results =
      DropoutAddNorm::apply(x, t.residual, t.bias, t.row_scale, t.layer_scale, t.weight,
                            t.norm_bias, rng_state, settings, options, constants);
  return {results[0], settings.prenorm ? results[1] : constants.h, constants.statistics};
}

Results forward_autograd(const Tensor& x, const Operands& t, const OptionalTensor& rng_state,
                         const Settings& settings, const Options& options) {
  const auto composite = [&] { return compose_forward(x, t, rng_state, settings, options); };
  if (needs_graph(t.row_scale)) return composite();  // kernels have no gradient of it
  return route_forward(
      composite, [&] { return apply(x, t, rng_state, settings, options); },
      [&] { return call_forward(x, t, rng_state, settings, options); }, x, t.residual, t.bias,
      t.row_scale, t.layer_scale, t.weight, t.norm_bias);
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& dh, const Saved& s,
                            const OptionalTensor& rng_state, const Settings& settings,
                            const Options& options, const Gradient& gradient) {
  return route_backward(
      [&] { return compose_backward(dy, dh, s, rng_state, settings, options, gradient); },
      [&] { return call_backward(dy, dh, s, rng_state, settings, options, gradient); }, dy, dh, s.h,
      s.x, s.residual, s.bias, s.row_scale, s.layer_scale, s.weight);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("dropout_add_norm", forward_entry<forward_autograd>);
  m.impl("dropout_add_norm_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::norm
