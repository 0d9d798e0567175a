// Standout: schemas, checks of arguments, calls, and results on the meta device.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/library.h>

#include "ops/common/operator_handle.h"
#include "ops/standout.h"

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

const Tensor& given_state(const CallParams& call, const OptionalTensor& rng_state) {
  TORCH_CHECK_VALUE(rng_state, call.function, ": rng_state is None, but training needs one");
  return *rng_state;
}

Tensor call_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                    const Settings& s, const Options& o) {
  static const auto op = find_operator("fused_dropout::standout", &forward_entry<compose_forward>);
  return op.call(x, z, rng_state, s.alpha, s.beta, s.training, FD_MASK_ARGUMENTS(o));
}

Gradients call_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& s, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::standout_backward", &backward_entry<compose_backward>);
  return op.call(dy, x, z, rng_state, s.alpha, s.beta, s.training, FD_MASK_ARGUMENTS(o),
                 gradient.strides, gradient.z_dtype, gradient.output_mask);
}

Tensor eager_forward(const EagerCall& eager, const Tensor& x, const Tensor& z,
                     const OptionalTensor& rng_state, const Settings& settings,
                     const Options& options) {
  check(eager.function, x, z, rng_state, settings, options);
  return eager.with_state(
      x, options.mask_strides.has_value(), rng_state,
      [&](const OptionalTensor& state) { return call_forward(x, z, state, settings, options); });
}

namespace {

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

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  constexpr auto kSettings = "Tensor? rng_state, float alpha, float beta, bool training, ";
  m.def(c10::str("standout(Tensor x, Tensor z, ", kSettings, kMaskOptions, ") -> Tensor").c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("standout_backward(Tensor dy, Tensor? x, Tensor z, ", kSettings, kMaskOptions,
                 ", SymInt[] strides, ScalarType z_dtype, bool[2] output_mask) -> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("standout", forward_entry<forward_meta>);
  m.impl("standout_backward", backward_entry<backward_meta>);
}

}  // namespace fused_dropout::standout
