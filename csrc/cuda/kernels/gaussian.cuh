// The kernel of Gaussian dropout, which is its own gradient.
#pragma once

#include "cuda/kernels/noise_work.cuh"

namespace fused_dropout::cuda {

template <class T>
struct Gaussian : NoiseWork<T> {
  using typename NoiseWork<T>::C;
  using typename NoiseWork<T>::Precision;

  const GaussianArgs& args;
  PhiloxState state;

  FD_HD explicit Gaussian(const GaussianArgs& arguments)
      : args(arguments), state(resolve(args.random)) {}

  FD_HD void element_by_element(int64_t base, uint32_t offset) const {
    WordReader words(args.mask, state);
    this->for_each(args.layout.numel, base, offset, [&](int64_t position) {
      words.move_to(position);
      const C x = widen(static_cast<const T*>(args.x)[position]);
      narrow(gaussian_element(x, words.template normal<Precision, C>(), number<C>(args.sigma)),
             static_cast<T*>(args.y)[position]);
    });
  }

  template <int kUnroll>
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) const {
    Packed<T> packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) packed[u].load(this->at(args.x, base, offset + u * step));
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const GroupWords words = group_words(args.mask, state, base + offset + u * step);
      C values[kGroup];
      packed[u].widen_to(values);
#pragma unroll
      for (int k = 0; k < kGroup; k += 2) {
        C even, odd;
        normal_pair<Precision>(draw_number<C>(words(k)), draw_number<C>(words(k + 1)), even, odd);
        const C sigma = number<C>(args.sigma);
        values[k] = gaussian_element(values[k], words.choose(k, even, odd), sigma);
        values[k + 1] = gaussian_element(values[k + 1], words.choose(k + 1, even, odd), sigma);
      }
      Packed<T>::store(this->at(args.y, base, offset + u * step), values);
    }
  }
};

template <class T, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM<T>)
    gaussian_kernel(const GaussianArgs args, const ColumnGrid grid) {
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  const Gaussian<T> work(args);
  write_down(args.random, work.state);
  if constexpr (kVectorised) for_full_groups<1>(loop, work);
  for_remaining_groups(loop, args.layout.numel, work);
}

template <class T>
void gaussian_of(const GaussianArgs& args, Stream stream) {
  launch_column_loop(gaussian_kernel<T, kCanVectorise<T>>, gaussian_kernel<T, false>,
                     is_vectorisable(args.mask) && are_aligned(args.x, args.y),
                     forward_grid(args.layout), args, stream);
}

}  // namespace fused_dropout::cuda
