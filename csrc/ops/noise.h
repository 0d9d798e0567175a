// The operators whose noise is not a mask of one probability: Gaussian dropout, Concrete dropout
// and Standout. What is shared, and each operator's checks, calls and composition.
#pragma once

#include "ops/common/arguments.h"

namespace fused_dropout {

// Where the draws of a tensor lie, as the schemas list it; the same in Options.
constexpr auto kPlaceOptions = "int[] shared_dims, SymInt[]? mask_strides, SymInt mask_offset";
#define FD_PLACE_PARAMETERS \
  at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset
#define FD_PLACE shared_dims, mask_strides, std::move(mask_offset)
#define FD_PLACE_ARGUMENTS(o) o.shared_dims, o.mask_strides, o.mask_offset

inline Options place_options(FD_PLACE_PARAMETERS) {
  Options options;
  options.shared_dims = shared_dims;
  options.mask_strides = mask_strides;
  options.mask_offset = std::move(mask_offset);
  return options;
}

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

template <auto kImplementation>
Tensor entry(const Tensor& x, const Tensor& rng_state, double p, const OptionalTensor& p_tensor,
             FD_PLACE_PARAMETERS, at::OptionalSymIntArrayRef strides) {
  Options options = place_options(FD_PLACE);
  options.p = p;
  options.p_tensor = p_tensor;
  return kImplementation(x, rng_state, options, strides);
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
Tensor compose_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                       double temperature, const Options& options);
Gradients compose_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                           const Tensor& rng_state, double temperature, const Options& options,
                           const Gradient& gradient);

template <auto kImplementation>
Tensor forward_entry(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                     double temperature, FD_PLACE_PARAMETERS) {
  return kImplementation(x, logit, rng_state, temperature, place_options(FD_PLACE));
}
template <auto kImplementation>
Gradients backward_entry(const Tensor& dy, const Tensor& x, const Tensor& logit,
                         const Tensor& rng_state, double temperature, FD_PLACE_PARAMETERS,
                         at::SymIntArrayRef strides, std::array<bool, 2> output_mask) {
  return kImplementation(dy, x, logit, rng_state, temperature, place_options(FD_PLACE),
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
Tensor compose_forward(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                       const Settings& settings, const Options& options);
Gradients compose_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient);

template <auto kImplementation>
Tensor forward_entry(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                     double alpha, double beta, bool training, FD_PLACE_PARAMETERS) {
  return kImplementation(x, z, rng_state, {alpha, beta, training}, place_options(FD_PLACE));
}
template <auto kImplementation>
Gradients backward_entry(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                         const OptionalTensor& rng_state, double alpha, double beta, bool training,
                         FD_PLACE_PARAMETERS, at::SymIntArrayRef strides, at::ScalarType z_dtype,
                         std::array<bool, 2> output_mask) {
  return kImplementation(dy, x, z, rng_state, {alpha, beta, training}, place_options(FD_PLACE),
                         {strides, z_dtype, output_mask});
}

}  // namespace standout

}  // namespace fused_dropout
