// Pieces of the compositions of plain torch operators.
#pragma once

#include "ops.h"

namespace fused_dropout {

// The 16-bit draws of the mask indices in `index`, by `rng_state`, which may be batched.
Tensor compose_draws(const Tensor& rng_state, const Tensor& index);
// Which elements a call keeps, in a shape that broadcasts to that of x, whose dense strides are
// `strides`.
Tensor mask_for(const Resolved& call, const DropConstants& constants,
                const OptionalTensor& rng_state, const Tensor& x, at::SymIntArrayRef strides);
Tensor add_bias(const Tensor& x, const OptionalTensor& bias, int64_t bias_dim);
// The activation.
Tensor value_of(const Resolved& call, const Tensor& z);
// dz times the activation's derivative at z.
Tensor chain_of(const Resolved& call, const Tensor& dz, const Tensor& z);
// `kept` is undefined where everything is kept.
Tensor drop(const DropConstants& constants, const Tensor& kept, Tensor value);
// drop(act(x + bias)), in the dtype that is computed in.
Tensor compose_branch(const Resolved& call, const Tensor& x, const OptionalTensor& bias,
                      const OptionalTensor& rng_state);

}  // namespace fused_dropout
