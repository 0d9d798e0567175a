// Pieces of the compositions of plain torch operators.
#pragma once

#include <array>

#include "ops/common/arguments.h"

namespace fused_dropout {

// Which elements a call keeps, in a shape that broadcasts to that of x, whose dense strides are
// `strides`.
Tensor mask_for(const CallParams& call, const DropConstants& constants,
                const OptionalTensor& rng_state, const Tensor& x, at::SymIntArrayRef strides);
// The mask indices of x's elements, laid out for these dense strides, in such a shape.
Tensor mask_index_for(const CallParams& call, const Tensor& rng_state, const Tensor& x,
                      at::SymIntArrayRef strides);
// The words of groups, and the 16-bit draws of mask indices; rng_state may be batched.
using WordsOfGroup = std::array<Tensor, 4>;
WordsOfGroup words_of_group(const Tensor& rng_state, const Tensor& group);
Tensor draws_at(const Tensor& rng_state, const Tensor& index);
Tensor add_bias(const Tensor& x, const OptionalTensor& bias, int64_t bias_dim);
// The activation.
Tensor value_of(const CallParams& call, const Tensor& z);
// dz times the activation's derivative at z.
Tensor activation_grad(const CallParams& call, const Tensor& dz, const Tensor& z);
// `kept` is undefined where everything is kept.
Tensor drop(const DropConstants& constants, const Tensor& kept, Tensor value);
// drop(act(x + bias)), in the dtype that is computed in.
Tensor compose_branch(const CallParams& call, const Tensor& x, const OptionalTensor& bias,
                      const OptionalTensor& rng_state);

}  // namespace fused_dropout
