// What the calls of noise kernels have in common on the CPU and CUDA.
#pragma once

#include <functional>

#include "math/noise.h"
#include "ops/common/arguments.h"

namespace fused_dropout {

// A count that is neither none nor all: every element draws, and kernels read the draws only.
constexpr uint32_t kDrawsAlways = 1;

using TensorRef = std::reference_wrapper<const Tensor>;

// Sets the addresses and constants in the NoiseArgs of a device. The address of an output without
// elements is null.
template <class Functor, class Args, size_t kInputs, size_t kOutputs>
void set_operands(Args& args, const TensorRef (&inputs)[kInputs],
                  const TensorRef (&outputs)[kOutputs],
                  const typename Functor::template Constants<double>& constants) {
  static_assert(kInputs == Functor::kInputs && kOutputs == Functor::kOutputs);
  for (size_t i = 0; i < kInputs; ++i) args.inputs[i] = inputs[i].get().const_data_ptr();
  for (size_t i = 0; i < kOutputs; ++i) args.outputs[i] = outputs[i].get().mutable_data_ptr();
  store_constants<Functor>(constants, args.constants);
}

}  // namespace fused_dropout
