// The operators of DropBlock: `drop_block_kept` counts the elements that are kept, `drop_block`
// applies the mask and scales by the count. The second is linear and its own gradient.
#pragma once

#include "math/drop_block.h"
#include "ops/common/arguments.h"

namespace fused_dropout::drop_block {

// What the operators take besides tensors, in the order of their schemas.
struct Options {
  double p = 0.1;
  OptionalTensor p_tensor;  // takes the place of p where given: 0-d, on the CPU
  int64_t block_size = 7;
  bool shared_channels = false;
  std::string_view mode = "inverted";
  bool training = true;
};

// Checked options; owns what it points to.
struct Params {
  const char* function;
  double p;
  OptionalTensor p_tensor;
  int64_t block_size;
  bool shared_channels;
  bool classic;
  bool training;

  double probability() const;  // reads p_tensor where there is one
  // Whether the result is scaled by the share of elements that are kept.
  bool scales() const { return training && !classic; }
  std::string_view mode() const { return classic ? "classic" : "inverted"; }
};

// `x` is (N, C, spatial...) with one to three spatial dimensions.
Params check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
             const OptionalTensor& kept, const Options& options);

// Errors where what training needs is not there.
void check_state(const Params& call, const OptionalTensor& rng_state, const OptionalTensor& kept);

// The spatial dimensions of a tensor of these sizes, in their order.
std::vector<Axis> axes_of(at::IntArrayRef sizes, int64_t block_size);
uint32_t seed_keep_count(double p, const std::vector<Axis>& axes);
// The share of elements that is dropped in expectation, for the probability of a seed that is
// really applied.
double drop_rate(const std::vector<Axis>& axes, double p);
// What evaluation multiplies by in classic mode.
double keep_rate(const Params& call, at::IntArrayRef sizes);

// Nothing if the tensor's dimensions lie in an order that kernels do not know.
std::optional<Geometry> geometry_for(const Params& call, at::IntArrayRef sizes,
                                     at::IntArrayRef strides);

// Calls through the dispatcher. `strides` is the layout that the mask is for, and the result's:
// that of a dense x where not given.
Tensor call_kept(const Tensor& x, const Tensor& rng_state, const Options& options);
Tensor call_apply(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                  at::OptionalSymIntArrayRef strides, const Options& options);

// The composition of plain torch operators.
Tensor compose_kept(const Tensor& x, const Tensor& rng_state, const Options& options);
Tensor compose_apply(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                     at::OptionalSymIntArrayRef strides, const Options& options);

// These turn the flat argument lists of the schemas into Options.
template <Tensor (*kFunction)(const Tensor&, const Tensor&, const Options&)>
Tensor kept_entry(const Tensor& x, const Tensor& rng_state, double p,
                  const OptionalTensor& p_tensor, int64_t block_size, bool shared_channels) {
  return kFunction(x, rng_state, {p, p_tensor, block_size, shared_channels});
}

template <Tensor (*kFunction)(const Tensor&, const OptionalTensor&, const OptionalTensor&,
                              at::OptionalSymIntArrayRef, const Options&)>
Tensor apply_entry(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                   at::OptionalSymIntArrayRef strides, double p, const OptionalTensor& p_tensor,
                   int64_t block_size, bool shared_channels, std::string_view mode, bool training) {
  return kFunction(x, rng_state, kept, strides,
                   {p, p_tensor, block_size, shared_channels, mode, training});
}

}  // namespace fused_dropout::drop_block
