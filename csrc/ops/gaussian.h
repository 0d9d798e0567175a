// Gaussian dropout: y = x (1 + sigma z), z standard normal.
#pragma once

#include "ops/noise.h"

namespace fused_dropout::gaussian {

constexpr auto kFunction = "gaussian_dropout";

// `strides` are the strides of the result, and of the tensor that the draws are laid out for. The
// default is those of x. Only backward gives them.
CallParams check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
                 const Options& options, at::OptionalSymIntArrayRef strides = {});
// sigma = sqrt(p / (1 - p)).
double scale_of(const CallParams& call);

Tensor call(const Tensor& x, const Tensor& rng_state, const Options& options,
            at::OptionalSymIntArrayRef strides);
Tensor compose(const Tensor& x, const Tensor& rng_state, const Options& options,
               at::OptionalSymIntArrayRef strides);

template <auto kImplementation>
Tensor entry(const Tensor& x, const Tensor& rng_state, double p, const OptionalTensor& p_tensor,
             FD_MASK_OPTION_PARAMETERS, at::OptionalSymIntArrayRef strides) {
  Options options = FD_MASK_OPTIONS;
  options.p = p;
  options.p_tensor = p_tensor;
  return kImplementation(x, rng_state, options, strides);
}

}  // namespace fused_dropout::gaussian
