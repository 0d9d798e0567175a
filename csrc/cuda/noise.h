// What the torch side knows of the noise kernels.
#pragma once

#include "cuda/launch_types.h"
#include "math/noise.h"

namespace fused_dropout::cuda {

// The tensors and numbers of a functor of math/noise.h. All tensors have one dtype and one layout.
struct NoiseArgs {
  const void* inputs[kMaxNoiseInputs] = {};
  void* outputs[kMaxNoiseOutputs] = {};  // null where not wanted
  const void* scalar = nullptr;          // a number of arithmetic type; see with_scalar
  void* partials = nullptr;              // of the sum, see partial_rows; null if not wanted
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number constants[kMaxNoiseConstants];
};

// Memory without columns.
inline Layout flat_layout(int64_t numel) { return layout_for(numel, 1, 1); }

// The sums behind the partial ones of a flat layout.
ColumnSums flat_sums(const void* partials, const Layout& layout, void* target);

// `functor`: its kNoiseIndex.
void launch_noise(int functor, const NoiseArgs& args, Storage storage, Stream stream);

// The same for one type.
template <class T>
void launch_noise_of(int functor, const NoiseArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
