// The operators draw_rng_state and dropout_mask: how a random state is drawn, and the mask of a
// state.
#pragma once

#include <ATen/core/Generator.h>
#include <torch/library.h>

#include <string>

#include "ops/common/mask_layout.h"

namespace fused_dropout {

using OptionalGenerator = std::optional<at::Generator>;

// Defines an operator that draws from a generator.
void define_draw(torch::Library& m, const std::string& schema);

// Calls draw_rng_state through the dispatcher: int64 [seed, offset] on the device of `token`. With
// `on_host` it lies on the CPU, unless a CUDA graph is being captured.
Tensor call_draw(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator, bool on_host = false);

// Checks that the generator is one of the device.
void check_generator(const char* function, const OptionalGenerator& generator, at::Device device);

// The numbers of a state on the CPU.
PhiloxState read_rng_state(const Tensor& rng_state);

// An eager call from Python, which draws a state if it needs one.
struct EagerCall {
  const char* function;  // the name that error messages carry
  OptionalGenerator generator;
  bool draws;       // whether the call needs a state
  bool check_only;  // whether to stop after the check of the arguments

  // Calls run(state), unless only a check is wanted. The arguments have been checked: an error
  // after the draw would leave the generator changed. An empty x needs no state; as part of a
  // sharded tensor it draws one all the same, or the generators of the ranks would not stay equal.
  template <class Run>
  auto with_state(const Tensor& x, bool is_part, const OptionalTensor& rng_state, Run run) const {
    using Result = decltype(run(OptionalTensor()));
    if (check_only) return Result();
    if (!draws || (!is_part && x.sym_numel() == 0)) return run({});
    return run(state_for(x, rng_state));
  }
  // The same for an operator whose state is not optional.
  template <class Run>
  auto with_required_state(const Tensor& x, const OptionalTensor& rng_state, Run run) const {
    using Result = decltype(run(x));
    return check_only ? Result() : run(state_for(x, rng_state));
  }

 private:
  Tensor state_for(const Tensor& x, const OptionalTensor& given) const;
};

// Calls dropout_mask through the dispatcher.
Tensor call_mask(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                 double p, FD_MASK_PARAMETERS);

// Memory for the result of dropout_mask. Several states have several masks, one after the other.
Tensor empty_masks(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides);

// The check of the arguments of dropout_mask. They describe the mask of one state.
CallParams check_mask(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                      double p, FD_MASK_PARAMETERS);

// The arguments of dropout_mask as kernels need them, and memory for its result.
struct MaskParams {
  MaskParams(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides, double p,
             FD_MASK_PARAMETERS);

  // Calls write(state, kept) for each state and the memory of its mask.
  template <class Write>
  void for_each_mask(Write write) const {
    if (kept.numel() == 0) return;
    bool* values = kept.mutable_data_ptr<bool>();
    for (int64_t i = 0; i < states.size(0); ++i, values += numel)
      write(states.select(0, i), values);
  }

  uint32_t keep_count;
  Tensor states;  // one in each row
  Tensor kept;
  int64_t numel;  // of one mask
  MaskLayout layout;
};

}  // namespace fused_dropout
