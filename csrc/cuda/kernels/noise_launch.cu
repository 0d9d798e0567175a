// Launches the noise kernels for the storage type of a call.
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/noise.h"

namespace fused_dropout::cuda {

ColumnSums flat_sums(const void* partials, const Layout& layout, void* target) {
  ColumnSums sums{partials, layout, partial_rows(layout), 1, {target}};
  // One long channel, so that all threads of one thread block add it up.
  sums.layout.inner = layout.period;
  sums.layout.by_inner = Divisor(layout.period);
  return sums;
}

void launch_noise(int functor, const NoiseArgs& args, Storage storage, Stream stream) {
  with_type(storage,
            [&](auto element) { launch_noise_of<decltype(element)>(functor, args, stream); });
}

}  // namespace fused_dropout::cuda
