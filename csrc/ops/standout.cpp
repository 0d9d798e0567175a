// Standout: schemas, checks of arguments, calls, shapes of results, and autograd.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/common/autograd.h"
#include "ops/common/operator_handle.h"
#include "ops/common/saved_call.h"
#include "ops/noise.h"

namespace fused_dropout::standout {

CallParams check(const char* function, const Tensor& x, const Tensor& z,
                 const OptionalTensor& rng_state, const Settings& settings,
                 const Options& options) {
  const auto check_finite = [&](const char* argument, double value) {
    TORCH_CHECK_VALUE(std::isfinite(value), function, ": ", argument, " is ", value,
                      ", but expected a finite number");
  };
  check_finite("alpha", settings.alpha);
  check_finite("beta", settings.beta);
  CallParams call = check_arguments(function, x, {}, {}, rng_state, options);
  check_like(function, "z", z, x);
  return call;
}

CallParams check_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                          const OptionalTensor& rng_state, const Settings& settings,
                          const Options& options, const Gradient& gradient) {
  constexpr auto kFunction = "standout_backward";
  CallParams call = check(kFunction, dy, z, rng_state, settings, options);
  check_like(kFunction, "x", x, dy);
  TORCH_CHECK_VALUE(x || settings.training, kFunction,
                    ": x is None, but the gradient of an evaluation needs it");
  TORCH_CHECK_TYPE(is_supported(gradient.z_dtype), kFunction, ": z_dtype is ", gradient.z_dtype,
                   ", but expected float32, float64, float16 or bfloat16");
  check_dense(kFunction, dy.sym_sizes(), gradient.strides);
  return call;
}

Tensor call_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                    const Settings& s, const Options& o) {
  static const auto op = find_operator("fused_dropout::standout", &forward_entry<compose_forward>);
  return op.call(x, z, rng_state, s.alpha, s.beta, s.training, FD_PLACE_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& s, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::standout_backward", &backward_entry<compose_backward>);
  return op.call(dy, x, z, rng_state, s.alpha, s.beta, s.training, FD_PLACE_ARGUMENTS(o),
                 gradient.strides, gradient.z_dtype, gradient.output_mask);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor forward_meta(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                    const Settings& settings, const Options& options) {
  check("standout", x, z, rng_state, settings, options);
  return at::empty_like(x);
}

Gradients backward_meta(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options, const Gradient& gradient) {
  check_backward(dy, x, z, rng_state, settings, options, gradient);
  const auto empty = [&](bool wanted, at::ScalarType dtype) {
    const auto tensor_options = dy.options().dtype(dtype);
    return wanted ? at::empty_strided_symint(dy.sym_sizes(), gradient.strides, tensor_options)
                  : at::empty({0}, tensor_options);
  };
  return {empty(gradient.output_mask[0], dy.scalar_type()),
          empty(gradient.output_mask[1], gradient.z_dtype)};
}

struct SavedCall {
  CallParams call;
  Settings settings;
  std::vector<c10::SymInt> strides;
  at::ScalarType z_dtype;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.settings.alpha, s.settings.beta, s.settings.training, s.strides, s.z_dtype);
}

struct Standout : torch::autograd::Function<Standout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_forward(x, z, rng_state, settings, options);
    SavedCall state{check("standout", x, z, rng_state, settings, options), settings,
                    y.sym_strides().vec(), z.scalar_type()};
    save_call(ctx, state);
    // In training the sampled mask is a constant, and what went through it does not matter.
    ctx->save_for_backward({settings.training ? Tensor() : x, z, rng_state.value_or(Tensor())});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0);
    const bool needs_z = ctx->needs_input_grad(1) && !state.settings.training;
    Tensor dx, dz;
    if (needs_x || needs_z) {
      std::tie(dx, dz) =
          call_backward(grads[0], optional(saved[0]), saved[1], optional(saved[2]), state.settings,
                        state.call.options(), {state.strides, state.z_dtype, {needs_x, needs_z}});
    }
    return {needs_x ? dx : Tensor(), needs_z ? dz : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                        const Settings& settings, const Options& options) {
  if (needs_composition({x, z})) return compose_forward(x, z, rng_state, settings, options);
  if (needs_graph({x, z})) return Standout::apply(x, z, rng_state, settings, options);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, z, rng_state, settings, options);
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                            const OptionalTensor& rng_state, const Settings& settings,
                            const Options& options, const Gradient& gradient) {
  if (needs_composition({dy, x, z}) || needs_graph({dy, x, z})) {
    return compose_backward(dy, x, z, rng_state, settings, options, gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, x, z, rng_state, settings, options, gradient);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  constexpr auto kSettings = "Tensor? rng_state, float alpha, float beta, bool training, ";
  m.def(c10::str("standout(Tensor x, Tensor z, ", kSettings, kPlaceOptions, ") -> Tensor").c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("standout_backward(Tensor dy, Tensor? x, Tensor z, ", kSettings, kPlaceOptions,
                 ", SymInt[] strides, ScalarType z_dtype, bool[2] output_mask) -> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("standout", forward_entry<forward_meta>);
  m.impl("standout_backward", backward_entry<backward_meta>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("standout", forward_entry<forward_autograd>);
  m.impl("standout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::standout
