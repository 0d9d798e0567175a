// The gated operator: schema, checks of arguments, calls, shapes of results, and autograd.
#include "ops/gated.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/common/autograd.h"
#include "ops/common/draw_schema.h"
#include "ops/common/operator_handle.h"
#include "ops/common/saved_call.h"

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
      find_operator("fused_dropout::bias_glu_dropout", forward_entry<call_forward>);
  return op.call(x, bias, rng_state, gate_first, FD_ROW_OPTION_ARGUMENTS(o));
}

Drawn call_draw_forward(const Tensor& x, const OptionalTensor& bias,
                        const OptionalGenerator& generator, bool gate_first, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::draw_bias_glu_dropout", draw_forward_entry<call_draw_forward>);
  return op.call(x, bias, generator, gate_first, FD_ROW_OPTION_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool gate_first, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::bias_glu_dropout_backward", &backward_entry<call_backward>);
  return op.call(dy, x, bias, rng_state, gate_first, FD_ROW_OPTION_ARGUMENTS(o), gradient.strides,
                 gradient.bias_dtype, gradient.output_mask);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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
                        Random& random, bool gate_first, const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    SavedCall state{check("bias_glu_dropout", x, bias, random.rng_state, options), gate_first,
                    strides_like(x)};
    if (bias) state.bias_dtype = bias->scalar_type();
    save_call(ctx, state);
    Tensor y;
    if (random.draws) {
      std::tie(y, random.rng_state) =
          call_draw_forward(x, bias, random.generator, gate_first, options);
    } else {
      y = call_forward(x, bias, random.rng_state, gate_first, options);
    }
    ctx->save_for_backward({x, bias.value_or(Tensor()), random.rng_state.value_or(Tensor()),
                            options.p_tensor.value_or(Tensor())});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0);
    const bool needs_bias = state.bias_dtype && ctx->needs_input_grad(1);
    Options options = state.call.options();
    options.p_tensor = optional(saved[3]);
    auto [dx, dbias] = call_backward(
        grads[0], saved[0], optional(saved[1]), optional(saved[2]), state.gate_first, options,
        {state.strides, state.bias_dtype.value_or(at::kFloat), {needs_x, needs_bias}});
    return {needs_x ? dx : Tensor(), needs_bias ? dbias : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool gate_first, const Options& options) {
  if (needs_composition({x, bias})) return compose_forward(x, bias, rng_state, gate_first, options);
  if (needs_graph({x, bias})) {
    Random random{rng_state};
    return BiasGluDropout::apply(x, bias, random, gate_first, options);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, bias, rng_state, gate_first, options);
}

Drawn draw_forward_autograd(const Tensor& x, const OptionalTensor& bias,
                            const OptionalGenerator& generator, bool gate_first,
                            const Options& options) {
  if (needs_composition({x, bias})) {
    const Tensor rng_state = call_draw(x, options.p_tensor, generator);
    return {compose_forward(x, bias, rng_state, gate_first, options), rng_state};
  }
  if (needs_graph({x, bias})) {
    auto random = Random::from(generator);
    const Tensor y = BiasGluDropout::apply(x, bias, random, gate_first, options);
    return {y, *random.rng_state};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_draw_forward(x, bias, generator, gate_first, options);
}

Gradients backward_autograd(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                            const OptionalTensor& rng_state, bool gate_first,
                            const Options& options, const Gradient& gradient) {
  if (needs_composition({dy, x, bias}) || needs_graph({dy, x, bias})) {
    return compose_backward(dy, x, bias, rng_state, gate_first, options, gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, x, bias, rng_state, gate_first, options, gradient);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("bias_glu_dropout(Tensor x, Tensor? bias, Tensor? rng_state, bool gate_first, ",
                 kRowOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  define_draw(m, c10::str("draw_bias_glu_dropout(Tensor x, Tensor? bias, Generator? generator, "
                          "bool gate_first, ",
                          kRowOptions, ") -> (Tensor, Tensor)"));
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

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("bias_glu_dropout", forward_entry<forward_autograd>);
  m.impl("draw_bias_glu_dropout", draw_forward_entry<draw_forward_autograd>);
  m.impl("bias_glu_dropout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::gated
