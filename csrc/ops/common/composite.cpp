#include "ops/common/composite.h"

#include <ATen/ATen.h>

#include "math/activation_dispatch.h"
#include "ops/common/composite_draws.h"
#include "ops/common/tensor_value.h"

namespace fused_dropout {

using composition::Value;

Tensor mask_for(const CallParams& call, const DropConstants& constants,
                const OptionalTensor& rng_state, const Tensor& x, at::SymIntArrayRef strides) {
  if (constants.keep_count == 0 || (!rng_state && x.sym_numel() == 0)) {
    return at::zeros({}, x.options().dtype(at::kBool));
  }
  TORCH_CHECK_VALUE(rng_state, call.function,
                    ": rng_state is None, but a probability between 0 and 1 needs one");
  return kept_at(*rng_state, mask_indices(call, x.sym_sizes(), strides), x.device(),
                 constants.keep_count);
}

Tensor add_bias(const Tensor& x, const OptionalTensor& bias, int64_t bias_dim) {
  if (!bias) return x;
  std::vector<int64_t> shape(x.dim(), 1);
  shape[bias_dim] = -1;
  return x + bias->to(x.scalar_type()).reshape(shape);
}

Tensor activation_value(const CallParams& call, const Tensor& z) {
  return with_functor(call.activation, [&](auto functor) {
    using Function = typename decltype(functor)::template Of<Full>;
    return Function::value(Value(z), Value(call.parameter)).tensor;
  });
}

Tensor activation_grad(const CallParams& call, const Tensor& dz, const Tensor& z) {
  return with_functor(call.activation, [&](auto functor) {
    using Function = typename decltype(functor)::template Of<Full>;
    return activation_grad<Function>(Value(dz), Value(z), Value(call.parameter)).tensor;
  });
}

Tensor drop(const DropConstants& constants, const Tensor& kept, Tensor value) {
  if (constants.scale != 1) value = value * constants.scale;
  if (constants.shift != 0) value = value + constants.shift;
  return kept.defined() ? at::where(kept, value, constants.fill) : value;
}

Tensor compose_branch(const CallParams& call, const Tensor& x, const OptionalTensor& bias,
                      const OptionalTensor& rng_state) {
  const DropConstants constants = call.constants();
  Tensor z = add_bias(x.to(arithmetic_of(x.scalar_type())), bias, call.bias_dim);
  Tensor kept;
  if (constants.keep_count < 65536) {
    kept = mask_for(call, constants, rng_state, x, strides_like(x));
    // Before the activation too: its derivative at a dropped NaN would be NaN, also times zero.
    if (!kActivations[call.activation].identity) z = at::where(kept, z, 0.);
  }
  return drop(constants, kept, activation_value(call, z));
}

}  // namespace fused_dropout
