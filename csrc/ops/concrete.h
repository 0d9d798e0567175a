// Concrete dropout: y = x (1 - d) / (1 - p), d = sigmoid((logit p + logit u) / temperature), u
// uniform.
#pragma once

#include "ops/noise.h"

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

template <auto kImplementation>
Tensor forward_entry(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                     double temperature, FD_MASK_OPTION_PARAMETERS) {
  return kImplementation(x, logit, rng_state, temperature, FD_MASK_OPTIONS);
}
template <auto kImplementation>
Gradients backward_entry(const Tensor& dy, const Tensor& x, const Tensor& logit,
                         const Tensor& rng_state, double temperature, FD_MASK_OPTION_PARAMETERS,
                         at::SymIntArrayRef strides, std::array<bool, 2> output_mask) {
  return kImplementation(dy, x, logit, rng_state, temperature, FD_MASK_OPTIONS,
                         {strides, output_mask});
}

}  // namespace fused_dropout::concrete
