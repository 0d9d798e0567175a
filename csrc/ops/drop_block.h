// The operators of DropBlock: `drop_block_kept` counts the elements that are kept, `drop_block`
// applies the mask and scales by the count. The second is linear and its own gradient.
#pragma once

#include "math/drop_block.h"
#include "ops/random.h"

namespace fused_dropout::drop_block {

// The options of the operators besides tensors, in the order of their schemas.
struct Options {
  double p = 0.1;
  OptionalTensor p_tensor;  // replaces p if given: 0-d float64, on the CPU
  int64_t block_size = 7;
  bool shared_channels = false;
  std::string_view mode = "inverted";
  bool training = true;
};

// Options after their check; owns its memory.
struct Params {
  const char* function;
  double p;
  OptionalTensor p_tensor;
  int64_t block_size;
  bool shared_channels;
  bool classic;
  bool training;

  double probability() const;  // reads p_tensor if there is one
  // True if the result is scaled by the share of elements that are kept.
  bool scales() const { return training && !classic; }
  std::string_view mode() const { return classic ? "classic" : "inverted"; }
};

// Checks the options alone, and resolves them.
Params resolve(const char* function, const Options& options);
// Checks everything. `x` is (N, C, spatial...) with one to three spatial dimensions.
Params check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
             const OptionalTensor& kept, const Options& options);

// Raises an error if training lacks what it needs.
void check_state(const Params& call, const OptionalTensor& rng_state, const OptionalTensor& kept);

// The spatial dimensions of a tensor of these sizes, in their order.
std::vector<Axis> axes_of(at::IntArrayRef sizes, int64_t block_size);
uint32_t seed_keep_count(double p, const std::vector<Axis>& axes);
// The expected share of elements that are dropped, for the probability of a seed that is really
// applied.
double drop_rate(const std::vector<Axis>& axes, double p);
// The factor of evaluation in classic mode.
double keep_rate(const Params& call, at::IntArrayRef sizes);

// No value if the dimensions of the tensor lie in an order that kernels do not know.
std::optional<Geometry> geometry_for(const Params& call, at::IntArrayRef sizes,
                                     at::IntArrayRef strides);

// Calls through the dispatcher. `strides` is the layout of the result, and the one that the mask is
// for; by default that of a dense x.
Tensor call_kept(const Tensor& x, const Tensor& rng_state, const Options& options);
Tensor call_apply(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                  at::OptionalSymIntArrayRef strides, const Options& options);

// A call from Python, which counts and applies; `kept` and `strides` are not given.
Tensor eager_apply(const EagerCall& eager, const Tensor& x, const OptionalTensor& rng_state,
                   const OptionalTensor& kept, at::OptionalSymIntArrayRef strides,
                   const Options& options);

// The composition of plain torch operators.
Tensor compose_kept(const Tensor& x, const Tensor& rng_state, const Options& options);
Tensor compose_apply(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                     at::OptionalSymIntArrayRef strides, const Options& options);

// Functions with the flat argument lists of the schemas. `Leading` arguments come before those.
template <auto kFunction>
Tensor kept_entry(const Tensor& x, const Tensor& rng_state, double p,
                  const OptionalTensor& p_tensor, int64_t block_size, bool shared_channels) {
  return kFunction(x, rng_state, {p, p_tensor, block_size, shared_channels});
}

template <auto kFunction, class... Leading>
Tensor apply_entry(Leading... leading, const Tensor& x, const OptionalTensor& rng_state,
                   const OptionalTensor& kept, at::OptionalSymIntArrayRef strides, double p,
                   const OptionalTensor& p_tensor, int64_t block_size, bool shared_channels,
                   std::string_view mode, bool training) {
  return kFunction(leading..., x, rng_state, kept, strides,
                   Options{p, p_tensor, block_size, shared_channels, mode, training});
}

}  // namespace fused_dropout::drop_block
