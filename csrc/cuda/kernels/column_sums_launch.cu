// Launch function of the kernel that adds up partial sums.
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/device/sums.cuh"

namespace fused_dropout::cuda {

void launch_column_sums(const ColumnSums& sums, bool fp64_partials, Storage storage,
                        Stream stream) {
  with_type(storage, [&](auto element) {
    using T = decltype(element);
    // Eight adjacent channels share a memory transaction. If `inner` is large, the numbers of one
    // channel are adjacent and fill transactions themselves.
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
