// The gated operator: schemas, checks of arguments, calls, and results on the meta device.
#include "ops/gated.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "ops/common/operator_handle.h"

namespace fused_dropout::gated {

CallParams check(const char* function, const Tensor& x, const OptionalTensor& bias,
                 const OptionalTensor& rng_state, const Options& options) {
  TORCH_CHECK(x.dim() > 0, function, ": x has 0 dimensions, but expected at least 1");
  TORCH_SYM_CHECK((x.sym_size(-1) % 2).sym_eq(0), function, ": x has ", x.sym_size(-1),
                  " elements along dimension -1, but expected an even number, two halves");
  return check_arguments(function, x, bias, {}, rng_state, options);
}

CallParams check_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                          const OptionalTensor& rng_state, const Options& options,
                          const Gradient& gradient) {
  constexpr auto kFunction = "bias_glu_dropout_backward";
  CallParams call = check(kFunction, x, bias, rng_state, options);
  check_operand(kFunction, "dy", dy, x);
  TORCH_CHECK(dy.dim() == x.dim(), kFunction, ": dy has ", dy.dim(), " dimensions, but x has ",
              x.dim());
  const auto expected = sizes_of(x.sym_sizes());
  for (int64_t dim = 0; dim < x.dim(); ++dim) {
    TORCH_SYM_CHECK(dy.sym_size(dim).sym_eq(expected[dim]), kFunction, ": dy has shape ",
                    dy.sym_sizes(), ", but expected ", at::SymIntArrayRef(expected));
  }
  TORCH_CHECK_TYPE(is_supported(gradient.bias_dtype), kFunction, ": bias_dtype is ",
                   gradient.bias_dtype, ", but expected float32, float64, float16 or bfloat16");
  check_dense(kFunction, x.sym_sizes(), gradient.strides);
  return call;
}

std::vector<c10::SymInt> sizes_of(at::SymIntArrayRef x_sizes) {
  std::vector<c10::SymInt> sizes = x_sizes.vec();
  sizes.back() = sizes.back() / 2;
  return sizes;
}

std::vector<c10::SymInt> strides_of(at::SymIntArrayRef x_strides) {
  std::vector<c10::SymInt> strides = x_strides.vec();
  for (c10::SymInt& stride : strides) {
    // One that is not known yet is that of a dimension around the last, unless it is empty.
    if (TORCH_GUARD_OR_TRUE(stride.sym_gt(x_strides.back()))) stride = stride / 2;
  }
  return strides;
}

Output::Output(const Tensor& x, at::IntArrayRef x_strides)
    : sizes(C10_AS_INTARRAYREF_SLOW(sizes_of(x.sym_sizes())).vec()),
      strides(C10_AS_INTARRAYREF_SLOW(strides_of(c10::fromIntArrayRefSlow(x_strides))).vec()) {}

Tensor call_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& rng_state,
                    bool gate_first, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::bias_glu_dropout", &forward_entry<call_forward>);
  return op.call(x, bias, rng_state, gate_first, FD_ROW_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool gate_first, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::bias_glu_dropout_backward", &backward_entry<call_backward>);
  return op.call(dy, x, bias, rng_state, gate_first, FD_ROW_ARGUMENTS(o), gradient.strides,
                 gradient.bias_dtype, gradient.output_mask);
}

Tensor eager_forward(const EagerCall& eager, const Tensor& x, const OptionalTensor& bias,
                     const OptionalTensor& rng_state, bool gate_first, const Options& options) {
  check(eager.function, x, bias, rng_state, options);
  return eager.with_state(x, options.mask_strides.has_value(), rng_state,
                          [&](const OptionalTensor& state) {
                            return call_forward(x, bias, state, gate_first, options);
                          });
}

namespace {

Tensor forward_meta(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& rng_state,
                    bool, const Options& options) {
  check("bias_glu_dropout", x, bias, rng_state, options);
  return at::empty_strided_symint(sizes_of(x.sym_sizes()), strides_of(strides_like(x)),
                                  x.options());
}

Gradients backward_meta(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool, const Options& options,
                        const Gradient& gradient) {
  check_backward(dy, x, bias, rng_state, options, gradient);
  Tensor dx = at::empty({0}, x.options());
  Tensor dbias = at::empty({0}, x.options().dtype(gradient.bias_dtype));
  if (gradient.output_mask[0]) {
    dx = at::empty_strided_symint(x.sym_sizes(), gradient.strides, x.options());
  }
  if (gradient.output_mask[1]) dbias = at::empty_symint({x.sym_size(-1)}, dbias.options());
  return {dx, dbias};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("bias_glu_dropout(Tensor x, Tensor? bias, Tensor? rng_state, bool gate_first, ",
                 kRowOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("bias_glu_dropout_backward(Tensor dy, Tensor x, Tensor? bias, Tensor? rng_state, "
                 "bool gate_first, ",
                 kRowOptions,
                 ", SymInt[] strides, ScalarType bias_dtype, bool[2] output_mask) "
                 "-> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("bias_glu_dropout", forward_entry<forward_meta>);
  m.impl("bias_glu_dropout_backward", backward_entry<backward_meta>);
}

}  // namespace fused_dropout::gated
