// The kernels of Concrete dropout: the result, and its gradients by x and by the logit of p.
#pragma once

#include "cuda/device/sums.cuh"
#include "cuda/kernels/noise_work.cuh"

namespace fused_dropout::cuda {

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

  FD_HD void element_by_element(int64_t base, uint32_t offset) const {
    WordReader words(args.mask, state);
    this->for_each(args.layout.numel, base, offset, [&](int64_t position) {
      words.move_to(position);
      const C x = widen(static_cast<const T*>(args.x)[position]);
      narrow(concrete_element<Precision>(x, draw_number<C>(words.word()), constants),
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
      for (int k = 0; k < kGroup; ++k) {
        values[k] = concrete_element<Precision>(values[k], draw_number<C>(words.own(k)), constants);
      }
      Packed<T>::store(this->at(args.y, base, offset + u * step), values);
    }
  }
};

template <class T, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM<T>)
    concrete_forward_kernel(const ConcreteForwardArgs args, const ColumnGrid grid) {
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  const ConcreteForward<T> work(args);
  write_down(args.random, work.state);
  if constexpr (kVectorised) for_full_groups<1>(loop, work);
  for_remaining_groups(loop, args.layout.numel, work);
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

  FD_HD void element_by_element(int64_t base, uint32_t offset) {
    WordReader words(args.mask, state);
    this->for_each(args.layout.numel, base, offset, [&](int64_t position) {
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
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) {
    static_assert(kUnroll == 1);
    Packed<T> upstream, packed;
    upstream.load(this->at(args.dy, base, offset));
    packed.load(this->at(args.x, base, offset));
    const GroupWords words = group_words(args.mask, state, base + offset);
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
    if (args.dx) Packed<T>::store(this->at(args.dx, base, offset), gradient);
  }
};

template <class T, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM<T>)
    concrete_backward_kernel(const ConcreteBackwardArgs args, const ColumnGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  ConcreteBackward<T> work(args);
  if constexpr (kVectorised) for_full_groups<1>(loop, work);
  for_remaining_groups(loop, args.layout.numel, work);
  if (args.partials) {
    write_partials(loop, grid, args.layout.period, work.sums, static_cast<C*>(args.partials));
  }
}

template <class T>
void concrete_forward_of(const ConcreteForwardArgs& args, Stream stream) {
  launch_column_loop(concrete_forward_kernel<T, kCanVectorise<T>>,
                     concrete_forward_kernel<T, false>,
                     is_vectorisable(args.mask) && are_aligned(args.x, args.y),
                     forward_grid(args.layout), args, stream);
}

template <class T>
void concrete_backward_of(const ConcreteBackwardArgs& args, Stream stream) {
  launch_column_loop(concrete_backward_kernel<T, kCanVectorise<T>>,
                     concrete_backward_kernel<T, false>,
                     is_vectorisable(args.mask) && are_aligned(args.dy, args.x, args.dx),
                     backward_grid(args.layout), args, stream);
}

}  // namespace fused_dropout::cuda
