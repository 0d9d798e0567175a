// Shapes, strides and dtypes of the operators' results, for tracing and compiling.
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/library.h>

#include "ops/common/arguments.h"

namespace fused_dropout {
namespace {

Tensor forward_meta(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& options) {
  check_arguments("bias_act_dropout", x, bias, residual, rng_state, options);
  return at::empty_like(x, x.options().dtype(output_dtype(x, residual)));
}

Gradients backward_meta(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, const Options& options,
                        const Gradient& gradient) {
  check_backward_arguments(dy, input, bias, rng_state, options, gradient);
  Tensor dx = at::empty({0}, dy.options().dtype(gradient.dtype));
  Tensor dbias = at::empty({0}, dy.options().dtype(gradient.bias_dtype.value_or(at::kFloat)));
  if (gradient.output_mask[0]) {
    dx = at::empty_strided_symint(dy.sym_sizes(), gradient.strides, dx.options());
  }
  if (gradient.output_mask[1]) {
    const int64_t dim = at::maybe_wrap_dim(options.bias_dim, dy.dim());
    dbias = at::empty_symint({dy.sym_size(dim)}, dbias.options());
  }
  return {dx, dbias};
}

void inplace_meta(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  check_arguments("dropout_", x, {}, {}, rng_state, options);
}

Tensor mask_meta(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                 double p, at::IntArrayRef, at::OptionalSymIntArrayRef, c10::SymInt) {
  check_probability("dropout_mask", p);
  check_rng_state("dropout_mask", rng_state, rng_state.device());
  return at::empty_strided_symint(size, strides, rng_state.options().dtype(at::kBool));
}

Tensor draw_meta(const Tensor& token, const OptionalTensor&, const OptionalGenerator&) {
  return at::empty({2}, token.options().dtype(at::kLong));
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("bias_act_dropout", forward_entry<forward_meta>);
  m.impl("bias_act_dropout_backward", backward_entry<backward_meta>);
  m.impl("dropout_", inplace_entry<inplace_meta>);
  m.impl("dropout_mask", mask_meta);
  m.impl("draw_rng_state", draw_meta);
}

}  // namespace fused_dropout
