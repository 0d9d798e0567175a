// The operators y = residual + drop(act(x + bias)), its gradient, and dropout in place.
#pragma once

#include "ops/random.h"

namespace fused_dropout::pointwise {

// The arguments of the gradient beyond those of forward.
struct Gradient {
  bool from_output;            // `input` is y rather than x
  at::SymIntArrayRef strides;  // of dx
  at::ScalarType dtype;        // of dx
  std::optional<at::ScalarType> bias_dtype;
  std::array<bool, 2> output_mask;
};

CallParams check(const char* function, const Tensor& x, const OptionalTensor& bias,
                 const OptionalTensor& residual, const OptionalTensor& rng_state,
                 const Options& options);
CallParams check_backward(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                          const OptionalTensor& rng_state, const Options& options,
                          const Gradient& gradient);

// True if backward needs nothing but the sign of the output: dx = (y > 0) * scale * dy.
bool backward_uses_output(const CallParams& call, bool has_residual);

// Calls through the dispatcher.
Tensor call_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& options);
Gradients call_backward(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, const Options& options,
                        const Gradient& gradient);
void call_inplace(Tensor x, const OptionalTensor& rng_state, const Options& options);

// Calls from Python.
Tensor eager_forward(const EagerCall& eager, const Tensor& x, const OptionalTensor& bias,
                     const OptionalTensor& residual, const OptionalTensor& rng_state,
                     const Options& options);
void eager_inplace(const EagerCall& eager, Tensor x, const OptionalTensor& rng_state,
                   const Options& options);

// The composition of plain torch operators.
Tensor compose_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                       const OptionalTensor& rng_state, const Options& options);
Gradients compose_backward(const Tensor& dy, const OptionalTensor& input,
                           const OptionalTensor& bias, const OptionalTensor& rng_state,
                           const Options& options, const Gradient& gradient);
// The gradient of the gradient: what an upstream gradient `g` of the gradient with respect to
// x + bias gives for input and bias.
Gradients compose_second_order(const Tensor& g, const Tensor& dy, const Tensor& input,
                               const OptionalTensor& bias, const OptionalTensor& rng_state,
                               const Options& options, const Gradient& gradient,
                               std::array<bool, 2> output_mask);

constexpr auto kOptions =
    "float p, Tensor? p_tensor, str activation, float? negative_slope, float? alpha, int bias_dim, "
    "str dropout_mode, bool training, int[] shared_dims, SymInt[]? mask_strides, "
    "SymInt mask_offset";
#define FD_POINTWISE_PARAMETERS                                                            \
  double p, const OptionalTensor &p_tensor, std::string_view activation,                   \
      std::optional<double> negative_slope, std::optional<double> alpha, int64_t bias_dim, \
      std::string_view mode, bool training, FD_MASK_PARAMETERS
#define FD_POINTWISE_OPTIONS                                                                  \
  Options {                                                                                   \
    p, p_tensor, activation, negative_slope, alpha, bias_dim, mode, training, FD_MASK_OPTIONS \
  }

// Functions with the flat argument lists of the schemas. `Leading` arguments come before those.
template <auto kFunction, class... Leading>
Tensor forward_entry(Leading... leading, const Tensor& x, const OptionalTensor& bias,
                     const OptionalTensor& residual, const OptionalTensor& rng_state,
                     FD_POINTWISE_PARAMETERS) {
  return kFunction(leading..., x, bias, residual, rng_state, FD_POINTWISE_OPTIONS);
}

template <auto kFunction>
Gradients backward_entry(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                         const OptionalTensor& rng_state, FD_POINTWISE_PARAMETERS, bool from_output,
                         at::SymIntArrayRef strides, at::ScalarType dtype,
                         std::optional<at::ScalarType> bias_dtype,
                         std::array<bool, 2> output_mask) {
  return kFunction(dy, input, bias, rng_state, FD_POINTWISE_OPTIONS,
                   {from_output, strides, dtype, bias_dtype, output_mask});
}

template <auto kFunction, class... Leading>
void inplace_entry(Leading... leading, Tensor x, const OptionalTensor& rng_state, double p,
                   const OptionalTensor& p_tensor, std::string_view mode, bool training,
                   FD_MASK_PARAMETERS) {
  Options options = mask_options(FD_MASK_OPTIONS);
  options.p = p;
  options.p_tensor = p_tensor;
  options.mode = mode;
  options.training = training;
  kFunction(leading..., std::move(x), rng_state, options);
}

}  // namespace fused_dropout::pointwise
