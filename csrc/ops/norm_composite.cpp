// The normalised operator as a composition of plain torch operators.
#include <ATen/ATen.h>

#include "math/activations.h"
#include "ops/common/composite.h"
#include "ops/norm.h"

namespace fused_dropout::norm {
namespace {

Tensor scaled(Tensor branch, const OptionalTensor& layer_scale, const OptionalTensor& row_scale) {
  if (layer_scale) branch = branch * layer_scale->to(branch.scalar_type());
  if (row_scale) branch = branch * row_scale->to(branch.scalar_type()).unsqueeze(-1);
  return branch;
}

// Mean (undefined for RMSNorm) and reciprocal of the standard deviation.
struct Statistics {
  Tensor mean, rstd;
  Statistics(const Tensor& h, Kind kind, double eps) {
    if (kind == Kind::kLayer) {
      mean = h.mean(-1, /*keepdim=*/true);
      mean = mean + (h - mean).mean(-1, /*keepdim=*/true);  // see correct_moments
    }
    rstd = (centered(h).square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  }
  Tensor centered(const Tensor& h) const { return mean.defined() ? h - mean : h; }
  Tensor normalised(const Tensor& h) const { return centered(h) * rstd; }
};

}  // namespace

Results compose_forward(const Tensor& x, const Operands& operands, const OptionalTensor& rng_state,
                        const Settings& settings, const Options& options) {
  const NormCallParams call = check("dropout_add_norm", x, operands, rng_state, settings, options);
  Tensor h = scaled(compose_branch(call, x, operands.bias, rng_state), operands.layer_scale,
                    operands.row_scale);
  if (operands.residual) h = *operands.residual + h;
  // Backward has only the rounded h.
  if (settings.prenorm) h = h.to(call.h_dtype).to(h.scalar_type());
  const Statistics statistics(h, call.kind, settings.eps);
  Tensor y = statistics.normalised(h);
  if (operands.weight) y = y * operands.weight->to(h.scalar_type());
  if (operands.norm_bias) y = y + operands.norm_bias->to(h.scalar_type());
  const auto rows = [&](const Tensor& statistic) {
    return statistic.detach().to(arithmetic_of(x.scalar_type())).reshape({1, -1});
  };
  const Tensor both = statistics.mean.defined()
                          ? at::cat({rows(statistics.mean), rows(statistics.rstd)})
                          : rows(statistics.rstd);
  return {y.to(call.y_dtype),
          settings.prenorm ? h.to(call.h_dtype) : at::empty({0}, x.options().dtype(call.h_dtype)),
          both};
}

Gradients compose_backward(const Tensor& dy_any, const OptionalTensor& dh, const Saved& saved,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient) {
  const NormCallParams call =
      check_backward(dy_any, dh, saved, rng_state, settings, options, gradient);
  const DropConstants constants = call.constants();
  const at::ScalarType arithmetic =
      arithmetic_of(c10::promoteTypes(gradient.dtype, gradient.h_dtype));
  const Tensor dy = dy_any.to(arithmetic);

  // The branch if x is saved: its value, and the argument z of its activation.
  Tensor kept, z, branch;
  if (constants.keep_count < 65536) {
    kept = mask_for(call, constants, rng_state, dy, gradient.strides);
  }
  if (saved.x) {
    z = add_bias(saved.x->to(arithmetic), saved.bias, call.bias_dim);
    if (kept.defined()) z = at::where(kept, z, 0.);
    branch = drop(constants, kept, activation_value(call, z));
  }
  Tensor h;
  if (saved.h) {
    h = saved.h->to(arithmetic);
  } else {
    h = scaled(branch, saved.layer_scale, saved.row_scale);
    if (saved.residual) h = saved.residual->to(arithmetic) + h;
  }

  const Statistics statistics(h, call.kind, settings.eps);
  const Tensor normal = statistics.normalised(h);
  Tensor g = saved.weight ? dy * saved.weight->to(arithmetic) : dy;
  const Tensor mean_product = (g * normal).mean(-1, /*keepdim=*/true);
  if (call.kind == Kind::kLayer) g = g - g.mean(-1, /*keepdim=*/true);
  g = statistics.rstd * (g - normal * mean_product);
  if (dh) g = g + dh->to(arithmetic);
  Tensor dz = scaled(g, saved.layer_scale, saved.row_scale) * constants.scale;
  if (kept.defined()) dz = at::where(kept, dz, 0.);
  if (!kActivations[call.activation].identity && z.defined()) dz = activation_grad(call, dz, z);

  const auto& wanted = gradient.output_mask;
  const auto columns = [&](Output output, const Tensor& rows) {
    return wanted[output]
               ? rows.reshape_symint({-1, dy.sym_size(-1)}).sum(0).to(arithmetic_of(gradient.dtype))
               : at::empty({0}, dy.options().dtype(arithmetic_of(gradient.dtype)));
  };
  const auto full = [&](Output output, const Tensor& tensor, at::ScalarType dtype) {
    return wanted[output] ? tensor.to(dtype) : at::empty({0}, dy.options().dtype(dtype));
  };
  return {full(kDx, dz, gradient.dtype),
          full(kDresidual, g, gradient.h_dtype),
          columns(kDbias, dz),
          columns(kDlayerScale,
                  wanted[kDlayerScale] ? scaled(g, {}, saved.row_scale) * branch : Tensor()),
          columns(kDweight, dy * normal),
          columns(kDnormBias, dy)};
}

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("dropout_add_norm", forward_entry<compose_forward>);
  m.impl("dropout_add_norm_backward", backward_entry<compose_backward>);
}

}  // namespace fused_dropout::norm
