// The operator y = drop(act(x1 + b1) * (x2 + b2)), where x = [x1 | x2] along the last dimension.
#pragma once

#include "ops/random.h"

namespace fused_dropout::gated {

// The arguments of the gradient beyond those of forward.
struct Gradient {
  at::SymIntArrayRef strides;  // of dx: those of a dense x
  at::ScalarType bias_dtype;
  std::array<bool, 2> output_mask;
};

CallParams check(const char* function, const Tensor& x, const OptionalTensor& bias,
                 const OptionalTensor& rng_state, const Options& options);
CallParams check_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                          const OptionalTensor& rng_state, const Options& options,
                          const Gradient& gradient);

// The sizes and strides of y, whose dimensions lie in memory as those of a dense x.
std::vector<c10::SymInt> sizes_of(at::SymIntArrayRef x_sizes);
std::vector<c10::SymInt> strides_of(at::SymIntArrayRef x_strides);

// The same as plain integers, for kernels.
struct Output {
  Output(const Tensor& x, at::IntArrayRef x_strides);
  std::vector<int64_t> sizes, strides;
};

// Calls through the dispatcher.
Tensor call_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& rng_state,
                    bool gate_first, const Options& options);
Gradients call_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, bool gate_first, const Options& options,
                        const Gradient& gradient);

// A call from Python.
Tensor eager_forward(const EagerCall& eager, const Tensor& x, const OptionalTensor& bias,
                     const OptionalTensor& rng_state, bool gate_first, const Options& options);

// The composition of plain torch operators.
Tensor compose_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& rng_state,
                       bool gate_first, const Options& options);
Gradients compose_backward(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                           const OptionalTensor& rng_state, bool gate_first, const Options& options,
                           const Gradient& gradient);

// Functions with the flat argument lists of the schemas. `Leading` arguments come before those.
template <auto kFunction, class... Leading>
Tensor forward_entry(Leading... leading, const Tensor& x, const OptionalTensor& bias,
                     const OptionalTensor& rng_state, bool gate_first, FD_ROW_PARAMETERS) {
  return kFunction(leading..., x, bias, rng_state, gate_first, FD_ROW_OPTIONS);
}

template <auto kFunction>
Gradients backward_entry(const Tensor& dy, const Tensor& x, const OptionalTensor& bias,
                         const OptionalTensor& rng_state, bool gate_first, FD_ROW_PARAMETERS,
                         at::SymIntArrayRef strides, at::ScalarType bias_dtype,
                         std::array<bool, 2> output_mask) {
  return kFunction(dy, x, bias, rng_state, gate_first, FD_ROW_OPTIONS,
                   {strides, bias_dtype, output_mask});
}

}  // namespace fused_dropout::gated
