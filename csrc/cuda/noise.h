// The arguments and the launch function of the noise kernels.
#pragma once

#include "cuda/launch_types.h"
#include "math/noise.h"

namespace fused_dropout::cuda {

// The arguments of a functor of math/noise.h. All tensors have the same dtype and memory layout.
struct NoiseArgs {
  const void* inputs[kMaxNoiseInputs] = {};
  void* outputs[kMaxNoiseOutputs] = {};  // null if not wanted
  const void* scalar = nullptr;          // a number of arithmetic type: see NoiseFunctor
  void* partials = nullptr;              // partial sums: see partial_rows; null if not wanted
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number constants[kMaxNoiseConstants];
};

// A layout without a bias.
inline Layout flat_layout(int64_t numel) { return layout_for(numel, 1, 1); }

// Adds the partial sums of a kernel over a flat layout up into one number, `target`.
ColumnSums flat_sums(const void* partials, const Layout& layout, void* target);

// `functor` is a kNoiseIndex.
void launch_noise(int functor, const NoiseArgs& args, Storage storage, Stream stream);

// The same for one storage type.
template <class T>
void launch_noise_of(int functor, const NoiseArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
