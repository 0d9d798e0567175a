// The noise kernels: Gaussian and Concrete dropout and Standout, and their gradients.
#pragma once

#include "noise.h"
#include "sums.cuh"
#include "vectors.cuh"
#include "walk.cuh"
#include "words.cuh"

namespace fused_dropout::cuda {

// What all of them have in common: tensors of one type, walked over in groups of eight.
template <class T>
struct NoiseWork {
  using C = typename Arithmetic<T>::Scalar;
  using Precision = typename PrecisionOf<T>::Type;

  static FD_HD const T* at(const void* tensor, int64_t base, uint32_t place) {
    return group_at(static_cast<const T*>(tensor), base, place);
  }
  static FD_HD T* at(void* tensor, int64_t base, uint32_t place) {
    return group_at(static_cast<T*>(tensor), base, place);
  }
  // Calls visit(position in memory) for the elements of a group. Not unrolled: formulas are long.
  template <class Visit>
  static FD_HD void for_each(int64_t numel, int64_t base, uint32_t place, Visit visit) {
    const int64_t position = (base + place) * kGroup;
    const int count = count_in_group(numel - position);
#pragma unroll 1
    for (int k = 0; k < count; ++k) visit(position + k);
  }
};

// ---- Gaussian dropout -------------------------------------------------------------------------

template <class T>
struct Gaussian : NoiseWork<T> {
  using typename NoiseWork<T>::C;
  using typename NoiseWork<T>::Precision;

  const GaussianArgs& args;
  PhiloxState state;

  FD_HD explicit Gaussian(const GaussianArgs& arguments)
      : args(arguments), state(resolve(args.random)) {}

  FD_HD void element_by_element(int64_t base, uint32_t place) const {
    WordReader words(args.mask, state);
    this->for_each(args.layout.numel, base, place, [&](int64_t position) {
      words.move_to(position);
      const C x = widen(static_cast<const T*>(args.x)[position]);
      narrow(gaussian_element(x, words.template normal<Precision, C>(), number<C>(args.sigma)),
             static_cast<T*>(args.y)[position]);
    });
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) const {
    Packed<T> packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) packed[u].load(this->at(args.x, base, place + u * step));
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const GroupWords words = group_words(args.mask, state, base + place + u * step);
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
      Packed<T>::store(this->at(args.y, base, place + u * step), values);
    }
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    gaussian_kernel(const GaussianArgs args, const Grid grid) {
  Walk walk(grid, blockIdx.x, threadIdx.x);
  const Gaussian<T> work(args);
  write_down(args.random, work.state);
  if constexpr (kVector) walk_whole_groups<1>(walk, work);
  walk_groups(walk, args.layout.numel, work);
}

// ---- Concrete dropout -------------------------------------------------------------------------

template <class C, class Args>
FD_HD ConcreteConstants<C> constants_of(const Args& args) {
  return concrete_constants(*static_cast<const C*>(args.logit),
                            number<C>(args.inverse_temperature));
}

template <class T>
struct ConcreteForward : NoiseWork<T> {
  using typename NoiseWork<T>::C;
  using typename NoiseWork<T>::Precision;

  const ConcreteForwardArgs& args;
  PhiloxState state;
  ConcreteConstants<C> constants;

  FD_HD explicit ConcreteForward(const ConcreteForwardArgs& arguments)
      : args(arguments), state(resolve(args.random)), constants(constants_of<C>(args)) {}

  FD_HD void element_by_element(int64_t base, uint32_t place) const {
    WordReader words(args.mask, state);
    this->for_each(args.layout.numel, base, place, [&](int64_t position) {
      words.move_to(position);
      const C x = widen(static_cast<const T*>(args.x)[position]);
      narrow(concrete_element<Precision>(x, draw_number<C>(words.word()), constants),
             static_cast<T*>(args.y)[position]);
    });
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) const {
    Packed<T> packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) packed[u].load(this->at(args.x, base, place + u * step));
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const GroupWords words = group_words(args.mask, state, base + place + u * step);
      C values[kGroup];
      packed[u].widen_to(values);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        values[k] = concrete_element<Precision>(values[k], draw_number<C>(words.own(k)), constants);
      }
      Packed<T>::store(this->at(args.y, base, place + u * step), values);
    }
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    concrete_forward_kernel(const ConcreteForwardArgs args, const Grid grid) {
  Walk walk(grid, blockIdx.x, threadIdx.x);
  const ConcreteForward<T> work(args);
  write_down(args.random, work.state);
  if constexpr (kVector) walk_whole_groups<1>(walk, work);
  walk_groups(walk, args.layout.numel, work);
}

template <class T>
struct ConcreteBackward : NoiseWork<T> {
  using typename NoiseWork<T>::C;
  using typename NoiseWork<T>::Precision;

  const ConcreteBackwardArgs& args;
  PhiloxState state;
  ConcreteConstants<C> constants;
  C sums[kGroup];

  FD_HD explicit ConcreteBackward(const ConcreteBackwardArgs& arguments)
      : args(arguments), state(resolve(args.random)), constants(constants_of<C>(args)) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) sums[k] = C(0);
  }

  FD_HD void element_by_element(int64_t base, uint32_t place) {
    WordReader words(args.mask, state);
    this->for_each(args.layout.numel, base, place, [&](int64_t position) {
      words.move_to(position);
      const C dy = widen(static_cast<const T*>(args.dy)[position]);
      const C x = widen(static_cast<const T*>(args.x)[position]);
      C dx, dlogit;
      concrete_backward_element<Precision>(dy, x, draw_number<C>(words.word()), constants, dx,
                                           dlogit);
      if (args.dx) narrow(dx, static_cast<T*>(args.dx)[position]);
      sums[0] = sums[0] + dlogit;
    });
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) {
    static_assert(kUnroll == 1);
    Packed<T> upstream, packed;
    upstream.load(this->at(args.dy, base, place));
    packed.load(this->at(args.x, base, place));
    const GroupWords words = group_words(args.mask, state, base + place);
    C gradient[kGroup], values[kGroup];
    upstream.widen_to(gradient);
    packed.widen_to(values);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      C dx, dlogit;
      concrete_backward_element<Precision>(gradient[k], values[k], draw_number<C>(words.own(k)),
                                           constants, dx, dlogit);
      gradient[k] = dx;
      sums[k] = sums[k] + dlogit;
    }
    if (args.dx) Packed<T>::store(this->at(args.dx, base, place), gradient);
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    concrete_backward_kernel(const ConcreteBackwardArgs args, const Grid grid) {
  using C = typename Arithmetic<T>::Scalar;
  Walk walk(grid, blockIdx.x, threadIdx.x);
  ConcreteBackward<T> work(args);
  if constexpr (kVector) walk_whole_groups<1>(walk, work);
  walk_groups(walk, args.layout.numel, work);
  if (args.partials) {
    write_partials(walk, grid, args.layout.period, work.sums, static_cast<C*>(args.partials));
  }
}

// ---- Standout ---------------------------------------------------------------------------------

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
      const uint32_t draw = draw_of(group_bits(state, group_of(index)), lane_of(index));
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

// ---- launches ---------------------------------------------------------------------------------

template <class T>
void gaussian_of(const GaussianArgs& args, Stream stream) {
  launch_walk(gaussian_kernel<T, kHasVectors<T>>, gaussian_kernel<T, false>,
              is_vectorisable(args.mask) && are_aligned(args.x, args.y), forward_grid(args.layout),
              args, stream);
}

template <class T>
void concrete_forward_of(const ConcreteForwardArgs& args, Stream stream) {
  launch_walk(concrete_forward_kernel<T, kHasVectors<T>>, concrete_forward_kernel<T, false>,
              is_vectorisable(args.mask) && are_aligned(args.x, args.y), forward_grid(args.layout),
              args, stream);
}

template <class T>
void concrete_backward_of(const ConcreteBackwardArgs& args, Stream stream) {
  launch_walk(concrete_backward_kernel<T, kHasVectors<T>>, concrete_backward_kernel<T, false>,
              is_vectorisable(args.mask) && are_aligned(args.dy, args.x, args.dx),
              backward_grid(args.layout), args, stream);
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

// One translation unit for each type.
#define FD_INSTANTIATE(T)                                                     \
  template void gaussian_of<T>(const GaussianArgs&, Stream);                  \
  template void concrete_forward_of<T>(const ConcreteForwardArgs&, Stream);   \
  template void concrete_backward_of<T>(const ConcreteBackwardArgs&, Stream); \
  template void standout_of<T>(const StandoutArgs&, bool, Stream);            \
  template void standout_backward_of<T>(const StandoutBackwardArgs&, Stream);

}  // namespace fused_dropout::cuda
