// The kernels that write a mask or the state of a generator, and their launch functions.
#include "cuda/device/column_loop.cuh"
#include "cuda/device/mask.cuh"

namespace fused_dropout::cuda {

static __global__ void __launch_bounds__(kThreads)
    mask_kernel(const MaskIndexing indexing, const RandomState random, int64_t numel, bool* kept) {
  const int64_t position = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kGroup;
  if (position >= numel) return;
  const int count = count_in_group(numel - position);
  const MaskBits mask = mask_bits(indexing, resolve(random), position, count);
  for (int k = 0; k < count; ++k) kept[position + k] = mask(k);
}

void launch_mask(const MaskIndexing& mask, const RandomState& random, int64_t numel, bool* kept,
                 Stream stream) {
  FD_LAUNCH(mask_kernel, divide_up(divide_up(numel, kGroup), kThreads), kThreads, stream, mask,
            random, numel, kept);
}

static __global__ void state_kernel(const RandomState random, int64_t* rng_state) {
  const PhiloxState state = resolve(random);
  rng_state[0] = static_cast<int64_t>(state.seed);
  rng_state[1] = static_cast<int64_t>(state.offset);
}

void launch_state(const RandomState& random, int64_t* rng_state, Stream stream) {
  FD_LAUNCH(state_kernel, 1, 1, stream, random, rng_state);
}

}  // namespace fused_dropout::cuda
