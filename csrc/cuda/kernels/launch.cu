// The launch functions: storage types to template arguments, and how memory is cut.
#include "cuda/device/launch.cuh"

#include <numeric>

#include "cuda/device/mask.cuh"
#include "cuda/device/row_group.cuh"
#include "cuda/device/row_tensor.cuh"
#include "cuda/device/sums.cuh"
#include "cuda/drop_block.h"
#include "cuda/gated.h"
#include "cuda/noise.h"
#include "cuda/norm.h"
#include "cuda/pointwise.h"

namespace fused_dropout::cuda {

Layout layout_for(int64_t numel, int64_t channels, int64_t inner) {
  if (channels == 1) inner = 1;  // one value for all
  const int64_t once = channels * inner;
  // Repetitions until a row is whole groups, so that no row starts within one.
  const int64_t whole = once * (kGroup / std::gcd<int64_t>(once, kGroup));
  // And more of them until no more than one lane in 32 has no column.
  constexpr int64_t kWarp = 32;
  int64_t copies = 1;
  const auto idle = [&](int64_t k) {
    const int64_t columns = whole / kGroup * k;
    return divide_up(columns, kWarp) * kWarp - columns;
  };
  while (kWarp * idle(copies) > whole / kGroup * copies) ++copies;  // up to 32: none is idle then
  return {numel, whole * copies, inner, channels, Divisor(inner), Divisor(once)};
}

int64_t partial_rows(const Layout& layout) { return row_blocks(layout, backward_grid(layout)); }

namespace {

// Calls visit with an element of the storage type, for its type alone.
template <class Visit>
void with_type(Storage storage, Visit visit) {
  switch (storage) {
    case Storage::kFloat32:
      return visit(float());
    case Storage::kFloat64:
      return visit(double());
    case Storage::kFloat16:
      return visit(Half());
    case Storage::kBFloat16:
      return visit(BFloat16());
  }
}

template <class T>
constexpr bool kIsHalf = sizeof(T) == 2;

}  // namespace

void launch_pointwise_forward(const PointwiseForwardArgs& args, Storage storage, bool wide_y,
                              int activation, Stream stream) {
  with_type(storage, [&](auto element) {
    using T = decltype(element);
    if constexpr (kIsHalf<T>) {
      if (wide_y) return pointwise_forward_of<T, float>(args, activation, stream);
    }
    pointwise_forward_of<T, T>(args, activation, stream);
  });
}

void launch_pointwise_backward(const PointwiseBackwardArgs& args, Storage storage, bool wide_dy,
                               int activation, Stream stream) {
  with_type(storage, [&](auto element) {
    using T = decltype(element);
    if constexpr (kIsHalf<T>) {
      if (wide_dy) return pointwise_backward_of<T, float>(args, activation, stream);
    }
    pointwise_backward_of<T, T>(args, activation, stream);
  });
}

void launch_gated_forward(const GatedForwardArgs& args, Storage storage, int activation,
                          Stream stream) {
  with_type(storage,
            [&](auto element) { gated_forward_of<decltype(element)>(args, activation, stream); });
}

void launch_gated_backward(const GatedBackwardArgs& args, Storage storage, int activation,
                           Stream stream) {
  with_type(storage,
            [&](auto element) { gated_backward_of<decltype(element)>(args, activation, stream); });
}

void launch_drop_block_apply(const DropBlockArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { drop_block_apply_of<decltype(element)>(args, stream); });
}

ColumnSums flat_sums(const void* partials, const Layout& layout, void* target) {
  ColumnSums sums{partials, layout, partial_rows(layout), 1, {target}};
  // One long channel: it fills a thread block by itself.
  sums.layout.inner = layout.period;
  sums.layout.by_inner = Divisor(layout.period);
  return sums;
}

void launch_gaussian(const GaussianArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { gaussian_of<decltype(element)>(args, stream); });
}

void launch_concrete_forward(const ConcreteForwardArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { concrete_forward_of<decltype(element)>(args, stream); });
}

void launch_concrete_backward(const ConcreteBackwardArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { concrete_backward_of<decltype(element)>(args, stream); });
}

void launch_standout(const StandoutArgs& args, Storage storage, bool training, Stream stream) {
  with_type(storage, [&](auto element) { standout_of<decltype(element)>(args, training, stream); });
}

void launch_standout_backward(const StandoutBackwardArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { standout_backward_of<decltype(element)>(args, stream); });
}

int64_t norm_partial_rows(int64_t rows, int width) {
  return norm_grid(rows, width, /*sums=*/true).blocks;
}

// 16-byte words of what a thread holds of a row of a tensor, if there is one.
static int words_of(const void* tensor, Storage storage, int width) {
  if (!tensor) return 0;
  return static_cast<int>(row_groups(width) * size_of(storage) * kGroup / sizeof(Words4));
}

static int staged_words(const NormForwardArgs& args, const NormTypes& types) {
  return words_of(args.branch.x, types.x, args.width) +
         words_of(args.residual_stream(), types.h(), args.width);
}
static int staged_words(const NormBackwardArgs& args, const NormTypes& types) {
  return words_of(args.branch.x, types.x, args.width) +
         words_of(args.residual_stream(), types.h(), args.width) +
         words_of(args.dy, types.y(), args.width) + words_of(args.dh, types.h(), args.width);
}

int64_t norm_scratch(const NormBackwardArgs& args, const NormTypes& types) {
  const RowGrid grid = norm_grid(args.rows, args.width, args.vectors > 0);
  const int64_t size = types.x == Storage::kFloat64 ? sizeof(double) : sizeof(float);
  const int64_t sums = sums_bytes(grid, args.vectors, size);
  const int64_t staged = Staging::bytes(staged_words(args, types), grid.threads(),
                                        stages_of(size_of(types.x), grid.groups));
  return sums + staged <= most_shared() ? 0 : grid.blocks * sums;
}

void launch_norm_forward(const NormForwardArgs& given, const NormTypes& types, Stream stream) {
  NormForwardArgs args = given;
  args.staged_words = staged_words(args, types);
  with_type(types.x, [&](auto element) {
    using T = decltype(element);
    if constexpr (kIsHalf<T>) {
      if (types.wide_y) return norm_forward_of<T, float, float>(args, stream);
      if (types.wide_h) return norm_forward_of<T, float, T>(args, stream);
    }
    norm_forward_of<T, T, T>(args, stream);
  });
}

void launch_norm_backward(const NormBackwardArgs& given, const NormTypes& types, Stream stream) {
  NormBackwardArgs args = given;
  args.staged_words = staged_words(args, types);
  with_type(types.x, [&](auto element) {
    using T = decltype(element);
    if constexpr (kIsHalf<T>) {
      if (types.wide_y) return norm_backward_of<T, float, float>(args, stream);
      if (types.wide_h) return norm_backward_of<T, float, T>(args, stream);
    }
    norm_backward_of<T, T, T>(args, stream);
  });
}

void launch_column_sums(const ColumnSums& sums, bool fp64_partials, Storage storage,
                        Stream stream) {
  with_type(storage, [&](auto element) {
    using T = decltype(element);
    // Channels side by side share a read; a channel of many neighbours fills one by itself.
    const int width = sums.layout.inner >= 32 ? 1 : 8;
    const auto blocks = static_cast<uint32_t>(divide_up(sums.layout.channels, width));
    if (fp64_partials) {
      FD_LAUNCH((column_sums_kernel<double, T>), sums.vectors * blocks, kThreads, stream, sums,
                width, blocks);
    } else {
      FD_LAUNCH((column_sums_kernel<float, T>), sums.vectors * blocks, kThreads, stream, sums,
                width, blocks);
    }
  });
}

static __global__ void __launch_bounds__(kThreads)
    mask_kernel(const MaskIndexing indexing, const RandomState random, int64_t numel, bool* kept) {
  const int64_t position = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kGroup;
  if (position >= numel) return;
  const int count = count_in_group(numel - position);
  const AnyMask mask = any_mask(indexing, resolve(random), position, count);
  for (int k = 0; k < count; ++k) kept[position + k] = mask(k);
}

void launch_mask(const MaskIndexing& mask, const RandomState& random, int64_t numel, bool* kept,
                 Stream stream) {
  FD_LAUNCH(mask_kernel, divide_up(divide_up(numel, kGroup), kThreads), kThreads, stream, mask,
            random, numel, kept);
}

static __global__ void state_kernel(const RandomState random) {
  write_down(random, resolve(random));
}

void launch_state(const RandomState& random, Stream stream) {
  FD_LAUNCH(state_kernel, 1, 1, stream, random);
}

}  // namespace fused_dropout::cuda
