// Concrete dropout: y = x (1 - d) / (1 - p), d = sigmoid((logit p + logit u) / temperature), u
// uniform.
#pragma once

#include "ops/random.h"

namespace fused_dropout::concrete {

struct Gradient {
  at::SymIntArrayRef strides;  // of dx
  std::array<bool, 2> output_mask;
};

CallParams check(const char* function, const Tensor& x, const Tensor& logit,
                 const OptionalTensor& rng_state, double temperature, const Options& options);
CallParams check_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                          const Tensor& rng_state, double temperature, const Options& options,
                          const Gradient& gradient);

Tensor call_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                    double temperature, const Options& options);
Gradients call_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                        const Tensor& rng_state, double temperature, const Options& options,
                        const Gradient& gradient);
Tensor compose_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                       double temperature, const Options& options);
Gradients compose_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                           const Tensor& rng_state, double temperature, const Options& options,
                           const Gradient& gradient);

// A call from Python.
Tensor eager_forward(const EagerCall& eager, const Tensor& x, const Tensor& logit,
                     const OptionalTensor& rng_state, double temperature, const Options& options);

// Functions with the flat argument lists of the schemas. `Leading` arguments come before those.
template <auto kImplementation, class State = Tensor, class... Leading>
Tensor forward_entry(Leading... leading, const Tensor& x, const Tensor& logit,
                     const State& rng_state, double temperature, FD_MASK_PARAMETERS) {
  return kImplementation(leading..., x, logit, rng_state, temperature,
                         mask_options(FD_MASK_OPTIONS));
}
template <auto kImplementation>
Gradients backward_entry(const Tensor& dy, const Tensor& x, const Tensor& logit,
                         const Tensor& rng_state, double temperature, FD_MASK_PARAMETERS,
                         at::SymIntArrayRef strides, std::array<bool, 2> output_mask) {
  return kImplementation(dy, x, logit, rng_state, temperature, mask_options(FD_MASK_OPTIONS),
                         {strides, output_mask});
}

}  // namespace fused_dropout::concrete
