// Launch functions of the norm kernels, and the sizes of their buffers.
#include "cuda/device/launch.cuh"
#include "cuda/device/row_group.cuh"
#include "cuda/device/row_tensor.cuh"
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/norm.h"

namespace fused_dropout::cuda {

int64_t norm_partial_rows(int64_t rows, int width) {
  return norm_grid(rows, width, /*sums=*/true).blocks;
}

// How many 16-byte words a thread holds of each row of a tensor; 0 if `tensor` is null.
static int words_of(const void* tensor, Storage storage, int width) {
  if (!tensor) return 0;
  return static_cast<int>(groups_per_thread(width) * size_of(storage) * kGroup / sizeof(Words4));
}

static int staged_words(const NormForwardArgs& args, const NormTypes& types) {
  return words_of(args.branch.x, types.x, args.width) +
         words_of(args.residual_or_h(), types.h(), args.width);
}
static int staged_words(const NormBackwardArgs& args, const NormTypes& types) {
  return words_of(args.branch.x, types.x, args.width) +
         words_of(args.residual_or_h(), types.h(), args.width) +
         words_of(args.dy, types.y(), args.width) + words_of(args.dh, types.h(), args.width);
}

int64_t norm_scratch_bytes(const NormBackwardArgs& args, const NormTypes& types) {
  const RowGrid grid = norm_grid(args.rows, args.width, args.vectors > 0);
  const int64_t size = types.x == Storage::kFloat64 ? sizeof(double) : sizeof(float);
  const int64_t sums = sums_bytes(grid, args.vectors, size);
  const int64_t staged = Staging::bytes(staged_words(args, types), grid.threads(),
                                        stages_of(size_of(types.x), grid.groups_per_thread));
  return sums + staged <= max_shared_bytes() ? 0 : grid.blocks * sums;
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

}  // namespace fused_dropout::cuda
