// The operators drop_block_kept and drop_block on the CPU: memory, layouts and threads around the
// kernels. Tensors whose layout the kernels do not know use the composition of torch operators.
#include "ops/drop_block.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <functional>

#include "cpu/capability.h"
#include "cpu/kernel_args.h"
#include "cpu/large_memory.h"
#include "ops/common/layout.h"

namespace fused_dropout::cpu {
namespace {

using drop_block::Geometry;

// The most decisions in a window, and in a window of several small volumes.
constexpr int64_t kWindow = 32768, kSmallWindow = 2048;

DropBlockArgs arguments(const Geometry& geometry, const Tensor& rng_state) {
  DropBlockArgs args{};
  args.seeds.state = read_rng_state(rng_state);
  args.seeds.keep_count = threshold_of(geometry.keep_count);
  args.volumes = geometry.volumes;
  args.copies = geometry.copies;
  args.volume_stride = geometry.volume_stride;
  args.copy_stride = geometry.copy_stride;
  args.inner = geometry.inner;
  args.run = geometry.run;
  const bool are_contiguous =
      geometry.volumes > 1 && geometry.volume_stride == geometry.decisions() * geometry.run;
  if (are_contiguous && geometry.decisions() <= kSmallWindow) {
    args.slow = {geometry.volumes, 1};
    args.volumes = 1;
    args.volume_stride = 0;
    std::copy_backward(geometry.axes, geometry.axes + geometry.ndim, args.fast + 3);
    args.window = kSmallWindow / geometry.decisions();
  } else {
    args.slow = geometry.axes[0];
    if (geometry.ndim > 0)
      std::copy_backward(geometry.axes + 1, geometry.axes + geometry.ndim, args.fast + 3);
    // At least as many slices as a window hands on to the next one.
    args.window = std::max(kWindow / args.slice(), args.slow.block);
  }
  args.window = std::min(args.window, args.slow.size);
  return args;
}

// The mask of the seeds: their mask indices are consecutive. `seeds` points into this object.
struct SeedOrder {
  int64_t sizes[1];
  int64_t strides[1] = {1};

  SeedOrder(const Geometry& geometry, MaskIndexing& seeds)
      : sizes{geometry.volumes * geometry.seeds()} {
    seeds.ndim = 1;
    seeds.sizes = sizes;
    seeds.strides = strides;
  }
};

// Calls task(range, window) for all slices, in several threads. A range is a full volume if there
// are enough volumes for all threads, else a part of one.
void for_each_range(const DropBlockArgs& args,
                    const std::function<void(const DropBlockRange&, uint16_t* window)>& task) {
  const int64_t wanted = 4 * at::get_num_threads();
  const int64_t possible = std::max<int64_t>(1, args.slow.size / (4 * args.slow.block));
  const int64_t parts = std::min((wanted + args.volumes - 1) / args.volumes, possible);
  const int64_t elements = args.slow.size * args.slice() * args.copies * args.run / parts;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
  at::parallel_for(0, args.volumes * parts, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint16_t[]> window(new uint16_t[args.window_length()]);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t volume = i / parts, part = i % parts;
      task({volume, args.slow.size * part / parts, args.slow.size * (part + 1) / parts},
           window.get());
    }
  });
}

Tensor kept_cpu(const Tensor& x, const Tensor& rng_state, const drop_block::Options& options) {
  const drop_block::Params call = drop_block::check("drop_block_kept", x, rng_state, {}, options);
  std::atomic<int64_t> kept = 0;
  if (x.numel() > 0) {
    const auto geometry = drop_block::geometry_for(call, x.sizes(), dense_strides(x));
    if (!geometry) return drop_block::compose_kept(x, rng_state, options);
    if (geometry->keep_count == 65536) {
      kept = x.numel();
    } else {
      DropBlockArgs args = arguments(*geometry, rng_state);
      const SeedOrder order(*geometry, args.seeds);
      for_each_range(args, [&](const DropBlockRange& range, uint16_t* window) {
        kept += kernels().drop_block.count(args, range, window);
      });
      kept = kept * geometry->elements_per_decision();
    }
  }
  const Tensor result = at::empty({}, at::TensorOptions().dtype(at::kLong));
  *result.mutable_data_ptr<int64_t>() = kept;
  return result;
}

Tensor apply_cpu(const Tensor& x_any, const OptionalTensor& rng_state, const OptionalTensor& kept,
                 at::OptionalSymIntArrayRef layout, const drop_block::Options& options) {
  const drop_block::Params call = drop_block::check("drop_block", x_any, rng_state, kept, options);
  if (layout) check_dense("drop_block", x_any.sym_sizes(), *layout);
  const std::vector<int64_t> strides =
      layout ? C10_AS_INTARRAYREF_SLOW(*layout).vec() : dense_strides(x_any);
  const at::ScalarType dtype = x_any.scalar_type();
  const Tensor y = empty_large(x_any.sizes(), strides, x_any.options());
  if (x_any.numel() == 0) return y;
  if (!call.training) {
    if (!call.classic) return y.copy_(x_any);
    const double rate = drop_block::keep_rate(call, x_any.sizes());
    return y.copy_(x_any.mul(rate));
  }
  drop_block::check_state(call, rng_state, kept);
  const auto geometry = drop_block::geometry_for(call, x_any.sizes(), strides);
  if (!geometry) return y.copy_(drop_block::compose_apply(x_any, rng_state, kept, layout, options));
  const double scale =
      call.scales() ? drop_block::scale_of(x_any.numel(), kept->item<int64_t>()) : 1.0;
  if (geometry->keep_count == 65536) return y.copy_(x_any);

  const Tensor x = in_layout(x_any, strides, dtype);
  DropBlockArgs args = arguments(*geometry, *rng_state);
  const SeedOrder order(*geometry, args.seeds);
  args.x = x.const_data_ptr();
  args.y = y.mutable_data_ptr();
  args.scale = scale;
  args.non_temporal = exceeds_cache(y.nbytes());
  const DropBlockApplyKernel kernel = kernels().drop_block.apply(storage_of(dtype));
  for_each_range(
      args, [&](const DropBlockRange& range, uint16_t* window) { kernel(args, range, window); });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("drop_block_kept", drop_block::kept_entry<kept_cpu>);
  m.impl("drop_block", drop_block::apply_entry<apply_cpu>);
}

}  // namespace fused_dropout::cpu
