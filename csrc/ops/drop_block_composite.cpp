// The operators of DropBlock as compositions of plain torch operators.
#include <ATen/ATen.h>

#include "ops/common/composite.h"
#include "ops/common/composite_draws.h"
#include "ops/drop_block.h"

namespace fused_dropout::drop_block {
namespace {

std::vector<int64_t> numbers(at::SymIntArrayRef sizes) {
  std::vector<int64_t> result;
  for (const c10::SymInt& size : sizes) result.push_back(size.guard_int(__FILE__, __LINE__));
  return result;
}

// Which positions of the grid of seeds are no seeds, along the dimensions of x; size 1 along
// channels that share.
Tensor compose_no_seeds(const Params& call, const Tensor& rng_state,
                        const std::vector<int64_t>& sizes, at::SymIntArrayRef strides,
                        at::Device device) {
  const std::vector<Axis> axes = axes_of(sizes, call.block_size);
  std::vector<c10::SymInt> grid = {sizes[0], sizes[1]};
  for (const Axis& axis : axes) grid.emplace_back(axis.seeds());
  const std::vector<int64_t> shared =
      call.shared_channels ? std::vector<int64_t>{1} : std::vector<int64_t>{};
  const MaskIndices indices{grid, mask_strides_of(grid, strides, shared), 0};
  return kept_at(rng_state, indices, device, seed_keep_count(call.probability(), axes));
}

// Which elements are kept; a single channel if channels share.
Tensor compose_mask(const Params& call, const Tensor& rng_state, const std::vector<int64_t>& sizes,
                    at::SymIntArrayRef strides, at::Device device) {
  Tensor dropped = compose_no_seeds(call, rng_state, sizes, strides, device).logical_not();
  const std::vector<Axis> axes = axes_of(sizes, call.block_size);
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto dim = static_cast<int64_t>(i) + 2;
    const int64_t beyond = axes[i].block - 1;
    std::vector<int64_t> padding(2 * (axes.size() - i), 0);
    padding[padding.size() - 2] = padding[padding.size() - 1] = beyond;
    const Tensor padded = at::constant_pad_nd(dropped, padding, 0);
    dropped = padded.narrow(dim, beyond, axes[i].size);
    for (int64_t shift = 0; shift < beyond; ++shift) {
      dropped = dropped.logical_or(padded.narrow(dim, shift, axes[i].size));
    }
  }
  return dropped.logical_not();
}

Tensor count(const Tensor& mask, const std::vector<int64_t>& sizes) {
  return mask.sum() * (mask.size(1) == sizes[1] ? 1 : sizes[1]);
}

}  // namespace

Tensor compose_kept(const Tensor& x, const Tensor& rng_state, const Options& options) {
  const Params call = check("drop_block_kept", x, rng_state, {}, options);
  const auto sizes = numbers(x.sym_sizes());
  if (x.sym_numel() == 0) return at::zeros({}, x.options().dtype(at::kLong));
  return count(compose_mask(call, rng_state, sizes, strides_like(x), x.device()), sizes);
}

Tensor compose_apply(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                     at::OptionalSymIntArrayRef strides, const Options& options) {
  const Params call = check("drop_block", x, rng_state, kept, options);
  const auto sizes = numbers(x.sym_sizes());
  if (x.sym_numel() == 0) return x.clone();
  if (!call.training) return call.classic ? x * keep_rate(call, sizes) : x.clone();
  check_state(call, rng_state, kept);
  Tensor value = x.to(arithmetic_of(x.scalar_type()));
  const Tensor mask =
      compose_mask(call, *rng_state, sizes, strides ? *strides : strides_like(x), x.device());
  if (call.scales()) {
    const Tensor scale = static_cast<double>(c10::multiply_integers(sizes)) / kept->to(at::kDouble);
    value = value * at::where(*kept > 0, scale, 0.).to(value.scalar_type());
  }
  return at::where(mask, value, 0.).to(x.scalar_type());
}

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("drop_block_kept", kept_entry<compose_kept>);
  m.impl("drop_block", apply_entry<compose_apply>);
}

}  // namespace fused_dropout::drop_block
