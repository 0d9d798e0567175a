// Pieces of the composite kernels, which are made of plain torch operators: for double backward,
// forward mode, the transforms of torch.func, and devices without kernels. The formulas are those
// of the kernels; the mask comes from the same contract.
#pragma once

#include <torch/library.h>

#include "ops/common/arguments.h"

namespace fused_dropout {

// dropout_mask as a composition, for devices without kernels.
Tensor compose_dropout_mask(const Tensor& rng_state, at::SymIntArrayRef size,
                            at::SymIntArrayRef strides, double p, FD_MASK_PARAMETERS);

// Which elements of x a call keeps, in a shape that broadcasts to that of x. `strides`: the order
// in memory that the mask is for. Where the device of x has a kernel for masks, it computes this
// one.
Tensor mask_for(const CallParams& call, const DropConstants& constants,
                const OptionalTensor& rng_state, const Tensor& x, at::SymIntArrayRef strides);

// The sum over all dimensions but one.
Tensor sum_along(const Tensor& tensor, int64_t dim);
Tensor add_bias(const Tensor& x, const OptionalTensor& bias, int64_t bias_dim);
Tensor activation_value(const CallParams& call, const Tensor& z);
// dz times the derivative of the activation at z.
Tensor activation_grad(const CallParams& call, const Tensor& dz, const Tensor& z);
// dz times the second derivative of the activation at z; undefined if that is zero everywhere.
Tensor activation_second_order(const CallParams& call, const Tensor& dz, const Tensor& z);
// `kept` is undefined if everything is kept.
Tensor drop(const DropConstants& constants, const Tensor& kept, Tensor value);
// drop(act(x + bias)), in the dtype of the arithmetic.
Tensor compose_branch(const CallParams& call, const Tensor& x, const OptionalTensor& bias,
                      const OptionalTensor& rng_state);

}  // namespace fused_dropout
