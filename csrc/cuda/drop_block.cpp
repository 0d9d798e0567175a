// DropBlock on CUDA: memory and streams around the kernels.
#include "ops/drop_block.h"

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/drop_block.h"
#include "cuda/kernel_args.h"

namespace fused_dropout::cuda {
namespace {

Tensor kept_cuda(const Tensor& x, const Tensor& rng_state, const drop_block::Options& options) {
  const drop_block::Params call = drop_block::check("drop_block_kept", x, rng_state, {}, options);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::TensorOptions counts = x.options().dtype(at::kLong);
  if (x.numel() == 0) return at::zeros({}, counts);
  const auto geometry = drop_block::geometry_for(call, x.sizes(), dense_strides(x));
  if (!geometry || !can_tile(*geometry)) return drop_block::compose_kept(x, rng_state, options);
  if (geometry->keep_count == 65536) return at::full({}, x.numel(), counts);
  const Tensor kept = at::zeros({}, counts);
  DropBlockArgs args;
  args.geometry = *geometry;
  args.random = state_at(rng_state);
  launch_drop_block_count(args, kept.mutable_data_ptr<int64_t>(), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return kept;
}

Tensor apply_cuda(const Tensor& x_any, const OptionalTensor& rng_state, const OptionalTensor& kept,
                  at::OptionalSymIntArrayRef layout, const drop_block::Options& options) {
  const drop_block::Params call = drop_block::check("drop_block", x_any, rng_state, kept, options);
  if (layout) check_dense("drop_block", x_any.sym_sizes(), *layout);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const std::vector<int64_t> strides =
      layout ? C10_AS_INTARRAYREF_SLOW(*layout).vec() : dense_strides(x_any);
  const Tensor y = at::empty_strided(x_any.sizes(), strides, x_any.options());
  if (x_any.numel() == 0) return y;
  if (!call.training) {
    return y.copy_(call.classic ? x_any.mul(drop_block::keep_rate(call, x_any.sizes())) : x_any);
  }
  drop_block::check_state(call, rng_state, kept);
  const auto geometry = drop_block::geometry_for(call, x_any.sizes(), strides);
  if (!geometry || !can_tile(*geometry)) {
    return y.copy_(drop_block::compose_apply(x_any, rng_state, kept, layout, options));
  }
  if (geometry->keep_count == 65536) return y.copy_(x_any);
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  DropBlockArgs args;
  args.geometry = *geometry;
  args.random = state_at(*rng_state);
  if (call.scales()) args.kept = kept->const_data_ptr<int64_t>();
  args.x = x.const_data_ptr();
  args.y = y.mutable_data_ptr();
  launch_drop_block_apply(args, storage_of(x.scalar_type()), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("drop_block_kept", drop_block::kept_entry<kept_cuda>);
  m.impl("drop_block", drop_block::apply_entry<apply_cuda>);
}

}  // namespace fused_dropout::cuda
