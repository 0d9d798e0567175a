// The kernels of Standout: in training, in evaluation, and the gradient in evaluation.
#pragma once

#include "cuda/kernels/noise_work.cuh"

namespace fused_dropout::cuda {

template <class T>
struct Standout : NoiseWork<T> {
  using typename NoiseWork<T>::C;

  const StandoutArgs& args;
  PhiloxState state;
  float alpha, beta;

  FD_HD explicit Standout(const StandoutArgs& arguments)
      : args(arguments),
        state(resolve(args.random)),
        alpha(args.alpha.single),
        beta(args.beta.single) {}

  // Decisions are made in fp32.
  FD_HD C keep_unit(C x, C z, uint32_t draw) const {
    return standout_element(x, static_cast<float>(draw),
                            keep_threshold(static_cast<float>(z), alpha, beta));
  }

  FD_HD void element_by_element(int64_t base, uint32_t place) const {
    this->for_each(args.layout.numel, base, place, [&](int64_t position) {
      const int64_t index = mask_index(args.mask, position);
      const uint32_t draw = draw_of(group_bits(state, group_of(index)), slot_of(index));
      const C x = widen(static_cast<const T*>(args.x)[position]);
      const C z = widen(static_cast<const T*>(args.z)[position]);
      narrow(keep_unit(x, z, draw), static_cast<T*>(args.y)[position]);
    });
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) const {
    Packed<T> packed[kUnroll], units[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packed[u].load(this->at(args.x, base, place + u * step));
      units[u].load(this->at(args.z, base, place + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + place, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C values[kGroup], z[kGroup];
      packed[u].widen_to(values);
      units[u].widen_to(z);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        values[k] = keep_unit(values[k], z[k], draw_of(masks[u].bits, k));
      }
      Packed<T>::store(this->at(args.y, base, place + u * step), values);
    }
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    standout_kernel(const StandoutArgs args, const Grid grid) {
  Walk walk(grid, blockIdx.x, threadIdx.x);
  const Standout<T> work(args);
  write_down(args.random, work.state);
  if constexpr (kVector) walk_whole_groups<2>(walk, work);
  walk_groups(walk, args.layout.numel, work);
}

template <class T>
struct StandoutMean : NoiseWork<T> {
  using typename NoiseWork<T>::C;
  using typename NoiseWork<T>::Precision;

  const StandoutArgs& args;

  FD_HD C element(C x, C z) const {
    return standout_mean<Precision>(x, z, number<C>(args.alpha), number<C>(args.beta));
  }

  FD_HD void element_by_element(int64_t base, uint32_t place) const {
    this->for_each(args.layout.numel, base, place, [&](int64_t position) {
      const C x = widen(static_cast<const T*>(args.x)[position]);
      const C z = widen(static_cast<const T*>(args.z)[position]);
      narrow(element(x, z), static_cast<T*>(args.y)[position]);
    });
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) const {
    static_assert(kUnroll == 1);
    Packed<T> packed, units;
    packed.load(this->at(args.x, base, place));
    units.load(this->at(args.z, base, place));
    C values[kGroup], z[kGroup];
    packed.widen_to(values);
    units.widen_to(z);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = element(values[k], z[k]);
    Packed<T>::store(this->at(args.y, base, place), values);
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    standout_mean_kernel(const StandoutArgs args, const Grid grid) {
  Walk walk(grid, blockIdx.x, threadIdx.x);
  const StandoutMean<T> work{{}, args};
  if constexpr (kVector) walk_whole_groups<1>(walk, work);
  walk_groups(walk, args.layout.numel, work);
}

template <class T>
struct StandoutBackward : NoiseWork<T> {
  using typename NoiseWork<T>::C;
  using typename NoiseWork<T>::Precision;

  const StandoutBackwardArgs& args;

  FD_HD void element(C dy, C x, C z, C& dx, C& dz) const {
    standout_mean_backward<Precision>(dy, x, z, number<C>(args.alpha), number<C>(args.beta), dx,
                                      dz);
  }

  FD_HD void element_by_element(int64_t base, uint32_t place) const {
    this->for_each(args.layout.numel, base, place, [&](int64_t position) {
      const C dy = widen(static_cast<const T*>(args.dy)[position]);
      const C x = widen(static_cast<const T*>(args.x)[position]);
      const C z = widen(static_cast<const T*>(args.z)[position]);
      C dx, dz;
      element(dy, x, z, dx, dz);
      if (args.dx) narrow(dx, static_cast<T*>(args.dx)[position]);
      if (args.dz) narrow(dz, static_cast<T*>(args.dz)[position]);
    });
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) const {
    static_assert(kUnroll == 1);
    Packed<T> upstream, packed, units;
    upstream.load(this->at(args.dy, base, place));
    packed.load(this->at(args.x, base, place));
    units.load(this->at(args.z, base, place));
    C gradient[kGroup], values[kGroup], z[kGroup];
    upstream.widen_to(gradient);
    packed.widen_to(values);
    units.widen_to(z);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      C dx, dz;
      element(gradient[k], values[k], z[k], dx, dz);
      gradient[k] = dx;
      z[k] = dz;
    }
    if (args.dx) Packed<T>::store(this->at(args.dx, base, place), gradient);
    if (args.dz) Packed<T>::store(this->at(args.dz, base, place), z);
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    standout_backward_kernel(const StandoutBackwardArgs args, const Grid grid) {
  Walk walk(grid, blockIdx.x, threadIdx.x);
  const StandoutBackward<T> work{{}, args};
  if constexpr (kVector) walk_whole_groups<1>(walk, work);
  walk_groups(walk, args.layout.numel, work);
}

template <class T>
void standout_of(const StandoutArgs& args, bool training, Stream stream) {
  const bool aligned = are_aligned(args.x, args.z, args.y);
  const Grid grid = forward_grid(args.layout);
  if (training) {
    launch_walk(standout_kernel<T, kHasVectors<T>>, standout_kernel<T, false>,
                aligned && is_vectorisable(args.mask), grid, args, stream);
  } else {
    launch_walk(standout_mean_kernel<T, kHasVectors<T>>, standout_mean_kernel<T, false>, aligned,
                grid, args, stream);
  }
}

template <class T>
void standout_backward_of(const StandoutBackwardArgs& args, Stream stream) {
  launch_walk(standout_backward_kernel<T, kHasVectors<T>>, standout_backward_kernel<T, false>,
              are_aligned(args.dy, args.x, args.z, args.dx, args.dz), forward_grid(args.layout),
              args, stream);
}

}  // namespace fused_dropout::cuda
