// draw_rng_state and dropout_mask as compositions of plain torch operators, for devices without
// kernels.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>

#include "ops/common/composite_draws.h"
#include "ops/random.h"

namespace fused_dropout {
namespace {

Tensor compose_dropout_mask(const Tensor& rng_state, at::SymIntArrayRef size,
                            at::SymIntArrayRef strides, double p, FD_MASK_PARAMETERS) {
  const CallParams call =
      check_mask(rng_state, size, strides, p, shared_dims, mask_strides, mask_offset);
  const Tensor kept = at::empty_strided_symint(size, strides, rng_state.options().dtype(at::kBool));
  return kept.copy_(
      kept_at(rng_state, mask_indices(call, size, strides), rng_state.device(), keep_count_of(p)));
}

// Also the implementation for vmap (fused_dropout/_partitioner.py calls it), because torch.randint
// follows the randomness of the transform. It draws the same 64 bits as the CPU operator, except
// for one value in 2^64.
Tensor compose_draw(const Tensor& token, const OptionalTensor&, const OptionalGenerator& generator,
                    bool) {
  constexpr auto kLowest = std::numeric_limits<int64_t>::min();
  constexpr auto kHighest = std::numeric_limits<int64_t>::max();
  const auto options = token.options().dtype(at::kLong).requires_grad(false);
  const Tensor seed = at::randint(kLowest, kHighest, {1}, generator, options).bitwise_xor(kLowest);
  return at::cat({seed, at::zeros({1}, options)});
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("draw_rng_state", compose_draw);
  m.impl("dropout_mask", compose_dropout_mask);
}

}  // namespace fused_dropout
