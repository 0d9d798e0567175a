// The normalised operator: schemas, checks of arguments, calls, and results on the meta device.
#include "ops/norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#include "math/activations.h"
#include "ops/common/operator_handle.h"

namespace fused_dropout::norm {
namespace {

Kind resolve_kind(const char* function, std::string_view name) {
  TORCH_CHECK_VALUE(name == "layer_norm" || name == "rms_norm", function, ": norm is '", name,
                    "', but expected layer_norm or rms_norm");
  return name == "layer_norm" ? Kind::kLayer : Kind::kRms;
}

void check_eps(const char* function, double eps) {
  TORCH_CHECK_VALUE(eps >= 0, function, ": eps is ", eps, ", but expected a number from 0 on");
}

void check_row_scale(const char* function, const OptionalTensor& row_scale, const Tensor& x) {
  if (!row_scale) return;
  check_operand(function, "row_scale", *row_scale, x);
  const auto expected = x.sym_sizes().slice(0, x.dim() - 1);
  TORCH_CHECK(row_scale->dim() == x.dim() - 1, function, ": row_scale has shape ",
              row_scale->sym_sizes(), ", but expected ", expected,
              ", x's without the last dimension");
  for (int64_t dim = 0; dim < row_scale->dim(); ++dim) {
    TORCH_SYM_CHECK(row_scale->sym_size(dim).sym_eq(x.sym_size(dim)), function,
                    ": row_scale has shape ", row_scale->sym_sizes(), ", but expected ", expected,
                    ", x's without the last dimension");
  }
}

c10::SymInt rows_of(const Tensor& x) {
  c10::SymInt rows = 1;
  for (int64_t dim = 0; dim + 1 < x.dim(); ++dim) rows = rows * x.sym_size(dim);
  return rows;
}

int64_t statistics_of(Kind kind) { return kind == Kind::kLayer ? 2 : 1; }

Tensor statistics_like(const Tensor& x, Kind kind) {
  return at::empty_symint({statistics_of(kind), rows_of(x)},
                          x.options().dtype(arithmetic_of(x.scalar_type())));
}

void check_statistics(const char* function, const Tensor& statistics, const Tensor& dy, Kind kind) {
  check_operand(function, "statistics", statistics, dy);
  TORCH_CHECK(statistics.dim() == 2, function, ": statistics has ", statistics.dim(),
              " dimensions, but expected 2");
  const c10::SymInt rows = rows_of(dy);
  TORCH_SYM_CHECK(
      statistics.sym_size(0).sym_eq(statistics_of(kind)) & statistics.sym_size(1).sym_eq(rows),
      function, ": statistics has shape ", statistics.sym_sizes(), ", but expected (",
      statistics_of(kind), ", ", rows, ")");
}

void check_gradient(const char* function, const Gradient& gradient) {
  TORCH_CHECK_TYPE(is_supported(gradient.dtype) && is_supported(gradient.h_dtype) &&
                       c10::promoteTypes(gradient.dtype, gradient.h_dtype) == gradient.h_dtype,
                   function, ": dtype is ", gradient.dtype, " and h_dtype is ", gradient.h_dtype,
                   ", but expected floating-point types of which the second holds the first");
}

Results forward_meta(const Tensor& x, const Operands& operands, const OptionalTensor& rng_state,
                     const Settings& settings, const Options& options) {
  const NormCallParams call = check("dropout_add_norm", x, operands, rng_state, settings, options);
  const Tensor y = at::empty_like(x, x.options().dtype(call.y_dtype));
  const auto h_options = x.options().dtype(call.h_dtype);
  const Tensor h = settings.prenorm ? at::empty_like(x, h_options) : at::empty({0}, h_options);
  return {y, h, statistics_like(x, call.kind)};
}

Gradients backward_meta(const Tensor& dy, const OptionalTensor& dh, const Saved& saved,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options, const Gradient& gradient) {
  check_backward(dy, dh, saved, rng_state, settings, options, gradient);
  const auto full = [&](Output output, at::ScalarType dtype) {
    const auto tensor_options = dy.options().dtype(dtype);
    return gradient.output_mask[output]
               ? at::empty_strided_symint(dy.sym_sizes(), gradient.strides, tensor_options)
               : at::empty({0}, tensor_options);
  };
  const auto vector = [&](Output output) {
    return at::empty_symint({gradient.output_mask[output] ? dy.sym_size(-1) : c10::SymInt(0)},
                            dy.options().dtype(arithmetic_of(gradient.dtype)));
  };
  return {full(kDx, gradient.dtype),
          full(kDresidual, gradient.h_dtype),
          vector(kDbias),
          vector(kDlayerScale),
          vector(kDweight),
          vector(kDnormBias)};
}

}  // namespace

NormCallParams resolve(const char* function, const Tensor& x, const Operands& operands,
                       const Settings& settings, const Options& options) {
  NormCallParams call{
      fused_dropout::resolve(function, options, x.dim(), operands.bias.has_value())};
  call.kind = resolve_kind(function, settings.kind);
  check_eps(function, settings.eps);
  call.h_dtype = output_dtype(x, operands.residual);
  call.y_dtype = settings.prenorm ? x.scalar_type() : call.h_dtype;
  return call;
}

NormCallParams check(const char* function, const Tensor& x, const Operands& operands,
                     const OptionalTensor& rng_state, const Settings& settings,
                     const Options& options) {
  TORCH_CHECK(x.dim() > 0, function, ": x has 0 dimensions, but expected at least 1");
  check_tensors(function, x, operands.bias, operands.residual, rng_state, options);
  NormCallParams call = resolve(function, x, operands, settings, options);
  check_row_scale(function, operands.row_scale, x);
  check_row_vector(function, "layer_scale", operands.layer_scale, x);
  check_row_vector(function, "weight", operands.weight, x);
  check_row_vector(function, "norm_bias", operands.norm_bias, x);
  TORCH_CHECK_VALUE(!operands.norm_bias || call.kind == Kind::kLayer, function,
                    ": norm_bias is given, but RMSNorm has none");
  return call;
}

NormCallParams check_backward(const Tensor& dy, const OptionalTensor& dh, const Saved& saved,
                              const OptionalTensor& rng_state, const Settings& settings,
                              const Options& options, const Gradient& gradient) {
  constexpr auto kFunction = "dropout_add_norm_backward";
  TORCH_CHECK(dy.dim() > 0, kFunction, ": dy has 0 dimensions, but expected at least 1");
  NormCallParams call{check_arguments(kFunction, dy, saved.bias, saved.h, rng_state, options)};
  check_like(kFunction, "dh", dh, dy);
  check_like(kFunction, "input", saved.x, dy);
  check_like(kFunction, "residual", saved.residual, dy);
  call.kind = resolve_kind(kFunction, settings.kind);
  check_eps(kFunction, settings.eps);
  check_gradient(kFunction, gradient);
  check_statistics(kFunction, saved.statistics, dy, call.kind);
  check_row_scale(kFunction, saved.row_scale, dy);
  check_row_vector(kFunction, "layer_scale", saved.layer_scale, dy);
  check_row_vector(kFunction, "weight", saved.weight, dy);
  call.h_dtype = gradient.h_dtype;
  call.y_dtype = dy.scalar_type();
  const bool needs_x = !saved.h || gradient.output_mask[kDlayerScale] ||
                       (!kActivations[call.activation].identity &&
                        (gradient.output_mask[kDx] || gradient.output_mask[kDbias]));
  TORCH_CHECK_VALUE(saved.x || !needs_x, kFunction, ": x is None, but it is needed");
  check_dense(kFunction, dy.sym_sizes(), gradient.strides);
  return call;
}

Results call_forward(const Tensor& x, const Operands& t, const OptionalTensor& rng_state,
                     const Settings& settings, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::dropout_add_norm", &forward_entry<call_forward>);
  return op.call(x, t.residual, t.bias, t.row_scale, t.layer_scale, t.weight, t.norm_bias,
                 rng_state, settings.kind, settings.eps, settings.prenorm, FD_ROW_ARGUMENTS(o));
}

std::tuple<Tensor, Tensor> eager_forward(const EagerCall& eager, const Tensor& x,
                                         const Operands& operands, const OptionalTensor& rng_state,
                                         const Settings& settings, const Options& options) {
  check(eager.function, x, operands, rng_state, settings, options);
  return eager.with_state(x, options.mask_strides.has_value(), rng_state,
                          [&](const OptionalTensor& state) -> std::tuple<Tensor, Tensor> {
                            const Results results =
                                call_forward(x, operands, state, settings, options);
                            return {std::get<0>(results), std::get<1>(results)};
                          });
}

Gradients call_backward(const Tensor& dy, const OptionalTensor& dh, const Saved& s,
                        const OptionalTensor& rng_state, const Settings& settings, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::dropout_add_norm_backward", &backward_entry<call_backward>);
  return op.call(dy, dh, s.h, s.x, s.residual, s.bias, s.row_scale, s.layer_scale, s.weight,
                 s.statistics, rng_state, settings.kind, settings.eps, FD_ROW_ARGUMENTS(o),
                 gradient.strides, gradient.dtype, gradient.h_dtype, gradient.output_mask);
}

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("dropout_add_norm(Tensor x, Tensor? residual, Tensor? bias, Tensor? row_scale, "
                 "Tensor? layer_scale, Tensor? weight, Tensor? norm_bias, Tensor? rng_state, "
                 "str norm, float eps, bool prenorm, ",
                 kRowOptions, ") -> (Tensor, Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("dropout_add_norm_backward(Tensor dy, Tensor? dh, Tensor? h, Tensor? x, "
                 "Tensor? residual, Tensor? bias, Tensor? row_scale, Tensor? layer_scale, "
                 "Tensor? weight, Tensor statistics, Tensor? rng_state, str norm, float eps, ",
                 kRowOptions,
                 ", SymInt[] strides, ScalarType dtype, ScalarType h_dtype, bool[6] output_mask) "
                 "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("dropout_add_norm", forward_entry<forward_meta>);
  m.impl("dropout_add_norm_backward", backward_entry<backward_meta>);
}

}  // namespace fused_dropout::norm
