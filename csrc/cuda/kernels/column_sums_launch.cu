// Launches the kernel that adds up partial column sums.
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/device/sums.cuh"

namespace fused_dropout::cuda {

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

}  // namespace fused_dropout::cuda
