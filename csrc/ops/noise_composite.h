// The functors of math/noise.h evaluated on tensors by plain torch operators. These compositions
// are differentiable any number of times.
#pragma once

#include <array>
#include <functional>

#include "math/noise.h"
#include "ops/common/tensor_value.h"
#include "ops/random.h"

namespace fused_dropout {

using composition::Value;

// The random numbers that the elements of x draw, in a shape that broadcasts to x's. `strides` are
// the dense strides that the draws are laid out for.
Value noise_draws(NoiseDraw draw, const CallParams& call, const Tensor& rng_state, const Tensor& x,
                  at::SymIntArrayRef strides);

// The results of a functor, in arithmetic precision.
template <class Functor, size_t kInputs>
std::array<Tensor, Functor::kResults> compose_noise(
    const std::reference_wrapper<const Tensor> (&inputs)[kInputs], const Value& draw,
    const typename Functor::template Constants<Value>& constants) {
  static_assert(kInputs == Functor::kInputs);
  const at::ScalarType arithmetic = arithmetic_of(inputs[0].get().scalar_type());
  Value values[kInputs], results[Functor::kResults];
  for (size_t i = 0; i < kInputs; ++i) values[i] = inputs[i].get().to(arithmetic);
  Functor::template element<Full>(values, draw, constants, results);
  std::array<Tensor, Functor::kResults> found;
  for (size_t i = 0; i < found.size(); ++i) found[i] = results[i].tensor;
  return found;
}

}  // namespace fused_dropout
