// Gaussian dropout: y = x (1 + sigma z), z standard normal.
#pragma once

#include "ops/random.h"

namespace fused_dropout::gaussian {

constexpr auto kFunction = "gaussian_dropout";

// `strides`: of the result, and of the tensor that the mask indices are for; by default those of x.
// Only backward gives them.
CallParams check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
                 const Options& options, at::OptionalSymIntArrayRef strides = {});
// sigma = sqrt(p / (1 - p)).
double scale_of(const CallParams& call);

Tensor call(const Tensor& x, const Tensor& rng_state, const Options& options,
            at::OptionalSymIntArrayRef strides);
Tensor compose(const Tensor& x, const Tensor& rng_state, const Options& options,
               at::OptionalSymIntArrayRef strides);

// A call from Python.
Tensor eager_call(const EagerCall& eager, const Tensor& x, const OptionalTensor& rng_state,
                  const Options& options);

// Functions with the flat argument list of the schema; an eager call has no strides.
template <auto kImplementation>
Tensor entry(const Tensor& x, const Tensor& rng_state, double p, const OptionalTensor& p_tensor,
             FD_MASK_PARAMETERS, at::OptionalSymIntArrayRef strides) {
  Options options = mask_options(FD_MASK_OPTIONS);
  options.p = p;
  options.p_tensor = p_tensor;
  return kImplementation(x, rng_state, options, strides);
}

template <auto kImplementation>
Tensor eager_entry(const EagerCall& eager, const Tensor& x, const OptionalTensor& rng_state,
                   double p, const OptionalTensor& p_tensor, FD_MASK_PARAMETERS) {
  Options options = mask_options(FD_MASK_OPTIONS);
  options.p = p;
  options.p_tensor = p_tensor;
  return kImplementation(eager, x, rng_state, options);
}

}  // namespace fused_dropout::gaussian
