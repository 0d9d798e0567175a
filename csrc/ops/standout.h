// Standout: y = kept ? x : 0, kept where draw < rint(65536 sigmoid(alpha z + beta)). In evaluation
// y is the mean of that, x sigmoid(alpha z + beta).
#pragma once

#include "ops/random.h"

namespace fused_dropout::standout {

struct Settings {
  double alpha, beta;
  bool training;
};

struct Gradient {
  at::SymIntArrayRef strides;  // of dx and dz
  at::ScalarType z_dtype;      // of dz; dx has that of dy
  std::array<bool, 2> output_mask;
};

CallParams check(const char* function, const Tensor& x, const Tensor& z,
                 const OptionalTensor& rng_state, const Settings& settings, const Options& options);
// `x` is needed in evaluation only.
CallParams check_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                          const OptionalTensor& rng_state, const Settings& settings,
                          const Options& options, const Gradient& gradient);
// The state, which a call in training needs.
const Tensor& given_state(const CallParams& call, const OptionalTensor& rng_state);

Tensor call_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                    const Settings& settings, const Options& options);
Gradients call_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options, const Gradient& gradient);
Tensor compose_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                       const Settings& settings, const Options& options);
Gradients compose_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient);

// A call from Python.
Tensor eager_forward(const EagerCall& eager, const Tensor& x, const Tensor& z,
                     const OptionalTensor& rng_state, const Settings& settings,
                     const Options& options);

// Functions with the flat argument lists of the schemas. `Leading` arguments come before those.
template <auto kImplementation, class... Leading>
Tensor forward_entry(Leading... leading, const Tensor& x, const Tensor& z,
                     const OptionalTensor& rng_state, double alpha, double beta, bool training,
                     FD_MASK_PARAMETERS) {
  return kImplementation(leading..., x, z, rng_state, {alpha, beta, training},
                         mask_options(FD_MASK_OPTIONS));
}
template <auto kImplementation>
Gradients backward_entry(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                         const OptionalTensor& rng_state, double alpha, double beta, bool training,
                         FD_MASK_PARAMETERS, at::SymIntArrayRef strides, at::ScalarType z_dtype,
                         std::array<bool, 2> output_mask) {
  return kImplementation(dy, x, z, rng_state, {alpha, beta, training},
                         mask_options(FD_MASK_OPTIONS), {strides, z_dtype, output_mask});
}

}  // namespace fused_dropout::standout
