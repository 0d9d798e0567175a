// Autograd of the normalised operator: what is saved for backward.
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

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
  // Of the arguments in their order, without x; none where not given.
  std::optional<at::ScalarType> residual, bias, row_scale, layer_scale, weight, norm_bias;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(static_cast<CallParams&>(s.call), s.call.kind, s.call.h_dtype, s.call.y_dtype, s.eps,
          s.prenorm, s.strides, s.dtype, s.residual, s.bias, s.row_scale, s.layer_scale, s.weight,
          s.norm_bias);
}

// Results that have no gradient: they are not among those that autograd knows of.
struct Constants {
  Tensor h;  // where h is no result
  Tensor statistics;
};

struct DropoutAddNorm : torch::autograd::Function<DropoutAddNorm> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x,
                               const OptionalTensor& residual, const OptionalTensor& bias,
                               const OptionalTensor& row_scale, const OptionalTensor& layer_scale,
                               const OptionalTensor& weight, const OptionalTensor& norm_bias,
                               Random& random, const Settings& settings, const Options& options,
                               Constants& constants) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Operands operands{residual, bias, row_scale, layer_scale, weight, norm_bias};
    SavedCall state{check("dropout_add_norm", x, operands, random.rng_state, settings, options),
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
    save_call(ctx, state);
    ctx->set_materialize_grads(false);

    Tensor y, h, statistics;
    if (random.draws) {
      std::tie(y, h, statistics, random.rng_state) =
          call_draw_forward(x, operands, random.generator, settings, options);
    } else {
      std::tie(y, h, statistics) = call_forward(x, operands, random.rng_state, settings, options);
    }
    // The mask is drawn again. Where h is a result anyway, it is kept; else the inputs are, of
    // which h is computed again: no tensor is kept that is neither input nor result.
    const bool needs_x = !settings.prenorm || !kActivations[state.call.activation].identity ||
                         requires_grad(layer_scale);
    const auto kept = [](bool condition, const OptionalTensor& tensor) {
      return condition && tensor ? *tensor : Tensor();
    };
    ctx->save_for_backward(
        {kept(settings.prenorm, h), kept(needs_x, x), kept(!settings.prenorm, residual),
         kept(needs_x, bias), kept(true, row_scale), kept(true, layer_scale), kept(true, weight),
         statistics, kept(true, random.rng_state), kept(true, options.p_tensor)});
    constants.statistics = statistics;
    if (settings.prenorm) return {y, h};
    constants.h = h;
    return {y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    variable_list result(11);
    const Tensor dh = state.prenorm ? grads[1] : Tensor();
    if (!grads[0].defined() && !dh.defined()) return result;
    const auto tensors = ctx->get_saved_variables();
    const Saved saved{
        optional(tensors[0]), optional(tensors[1]), optional(tensors[2]), optional(tensors[3]),
        optional(tensors[4]), optional(tensors[5]), optional(tensors[6]), tensors[7]};
    Options options = state.call.options();
    options.p_tensor = optional(tensors[9]);

    // Gradients are asked for by position among the tensors that were given.
    size_t edge = 0;
    const auto needs = [&](bool given) { return given && ctx->needs_input_grad(edge++); };
    const bool x = needs(true), residual = needs(state.residual.has_value()),
               bias = needs(state.bias.has_value());
    needs(state.row_scale.has_value());
    const bool layer_scale = needs(state.layer_scale.has_value()),
               weight = needs(state.weight.has_value()),
               norm_bias = needs(state.norm_bias.has_value());

    const Tensor dy =
        grads[0].defined() ? grads[0] : at::zeros_like(dh, dh.options().dtype(state.call.y_dtype));
    const std::string_view kind = state.call.kind == Kind::kLayer ? "layer_norm" : "rms_norm";
    auto [dx, dresidual, dbias, dlayer_scale, dweight, dnorm_bias] = call_backward(
        dy, optional(dh), saved, optional(tensors[8]), {kind, state.eps, false}, options,
        {state.strides,
         state.dtype,
         state.call.h_dtype,
         {x, residual, bias, layer_scale, weight, norm_bias}});
    if (x) result[0] = dx;
    if (residual) result[1] = dresidual.to(*state.residual);
    if (bias) result[2] = dbias.to(*state.bias);
    if (layer_scale) result[4] = dlayer_scale.to(*state.layer_scale);
    if (weight) result[5] = dweight.to(*state.weight);
    if (norm_bias) result[6] = dnorm_bias.to(*state.norm_bias);
    return result;
  }
};

// Kernels have no gradient by row_scale.
bool composes(const Tensor& x, const Operands& t) {
  return needs_graph({t.row_scale}) || needs_composition({x, t.residual, t.bias, t.row_scale,
                                                          t.layer_scale, t.weight, t.norm_bias});
}

bool has_graph(const Tensor& x, const Operands& t) {
  return needs_graph({x, t.residual, t.bias, t.layer_scale, t.weight, t.norm_bias});
}

Results apply(const Tensor& x, const Operands& t, Random& random, const Settings& settings,
              const Options& options) {
  Constants constants;
  const auto results =
      DropoutAddNorm::apply(x, t.residual, t.bias, t.row_scale, t.layer_scale, t.weight,
                            t.norm_bias, random, settings, options, constants);
  return {results[0], settings.prenorm ? results[1] : constants.h, constants.statistics};
}

Results forward_autograd(const Tensor& x, const Operands& t, const OptionalTensor& rng_state,
                         const Settings& settings, const Options& options) {
  if (composes(x, t)) return compose_forward(x, t, rng_state, settings, options);
  if (has_graph(x, t)) {
    Random random{rng_state};
    return apply(x, t, random, settings, options);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, t, rng_state, settings, options);
}

DrawnResults draw_forward_autograd(const Tensor& x, const Operands& t,
                                   const OptionalGenerator& generator, const Settings& settings,
                                   const Options& options) {
  if (composes(x, t)) {
    const Tensor rng_state = call_draw(x, options.p_tensor, generator);
    return std::tuple_cat(compose_forward(x, t, rng_state, settings, options),
                          std::make_tuple(rng_state));
  }
  if (has_graph(x, t)) {
    auto random = Random::from(generator);
    const Results results = apply(x, t, random, settings, options);
    return std::tuple_cat(results, std::make_tuple(*random.rng_state));
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_draw_forward(x, t, generator, settings, options);
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& dh, const Saved& s,
                            const OptionalTensor& rng_state, const Settings& settings,
                            const Options& options, const Gradient& gradient) {
  const auto tensors = {OptionalTensor(dy), dh,      s.h, s.x, s.residual, s.bias, s.row_scale,
                        s.layer_scale,      s.weight};
  if (needs_composition(tensors) || needs_graph(tensors)) {
    return compose_backward(dy, dh, s, rng_state, settings, options, gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, dh, s, rng_state, settings, options, gradient);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("dropout_add_norm", forward_entry<forward_autograd>);
  m.impl("draw_dropout_add_norm", draw_forward_entry<draw_forward_autograd>);
  m.impl("dropout_add_norm_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::norm
