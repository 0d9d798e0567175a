// The operators whose noise is not a mask of one probability: Gaussian dropout, Concrete dropout
// and Standout. What is shared, and each operator's checks, calls and composition.
#pragma once

#include "ops/random.h"

namespace fused_dropout {

// y = x (1 + sigma z), z standard normal.
namespace gaussian {

constexpr auto kFunction = "gaussian_dropout";

// `strides`: of the result, and of the tensor that the draws are laid out for, where not those of
// x.
CallParams check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
                 const Options& options, at::OptionalSymIntArrayRef strides = {});
// sigma, from p.
double scale_of(const CallParams& call);

Tensor call(const Tensor& x, const Tensor& rng_state, const Options& options,
            at::OptionalSymIntArrayRef strides);
Tensor compose(const Tensor& x, const Tensor& rng_state, const Options& options,
               at::OptionalSymIntArrayRef strides);
// A call from Python.
Tensor eager(const EagerCall& eager, const Tensor& x, const OptionalTensor& rng_state,
             const Options& options, at::OptionalSymIntArrayRef strides);

template <auto kImplementation, class State = Tensor, class... Leading>
Tensor entry(Leading... leading, const Tensor& x, const State& rng_state, double p,
             const OptionalTensor& p_tensor, FD_MASK_PARAMETERS,
             at::OptionalSymIntArrayRef strides) {
  Options options = mask_options(FD_MASK_OPTIONS);
  options.p = p;
  options.p_tensor = p_tensor;
  return kImplementation(leading..., x, rng_state, options, strides);
}

}  // namespace gaussian

// y = x (1 - d) / (1 - p), d = sigmoid((logit p + logit u) / temperature).
namespace concrete {

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
// A call from Python.
Tensor eager_forward(const EagerCall& eager, const Tensor& x, const Tensor& logit,
                     const OptionalTensor& rng_state, double temperature, const Options& options);
Tensor compose_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                       double temperature, const Options& options);
Gradients compose_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                           const Tensor& rng_state, double temperature, const Options& options,
                           const Gradient& gradient);

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

}  // namespace concrete

// y = kept ? x : 0 where draw < rint(65536 sigmoid(alpha z + beta)); in evaluation the mean of
// that.
namespace standout {

struct Settings {
  double alpha, beta;
  bool training;
};

struct Gradient {
  at::SymIntArrayRef strides;  // of both gradients
  at::ScalarType z_dtype;      // of dz; dx has that of dy
  std::array<bool, 2> output_mask;
};

CallParams check(const char* function, const Tensor& x, const Tensor& z,
                 const OptionalTensor& rng_state, const Settings& settings, const Options& options);
// `x` only in evaluation.
CallParams check_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                          const OptionalTensor& rng_state, const Settings& settings,
                          const Options& options, const Gradient& gradient);

Tensor call_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                    const Settings& settings, const Options& options);
Gradients call_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options, const Gradient& gradient);
// A call from Python.
Tensor eager_forward(const EagerCall& eager, const Tensor& x, const Tensor& z,
                     const OptionalTensor& rng_state, const Settings& settings,
                     const Options& options);
Tensor compose_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                       const Settings& settings, const Options& options);
Gradients compose_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient);

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

}  // namespace standout

}  // namespace fused_dropout
