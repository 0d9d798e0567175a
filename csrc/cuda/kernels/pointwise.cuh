// The pointwise kernels: y = residual + drop(act(x + bias)), and the gradients of x and bias.
#pragma once

#include "cuda/device/column_loop.cuh"
#include "cuda/device/mask.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/device/sums.cuh"
#include "cuda/pointwise.h"
#include "math/activation_dispatch.h"

namespace fused_dropout::cuda {

// The work of one thread on the groups of its column. T is the type of x, Y that of residual and y.
template <class T, class Y, template <class> class Functor>
struct PointwiseForward {
  using C = typename Arithmetic<T>::Scalar;
  using Function = Functor<typename PrecisionOf<T>::Type>;

  const PointwiseForwardArgs& args;
  PhiloxState state;
  C bias[kGroup];

  FD_HD PointwiseForward(const PointwiseForwardArgs& arguments, int64_t column) : args(arguments) {
    state = resolve(args.random);
    load_bias<T>(args.bias, args.layout, column * kGroup, bias);
  }
  FD_HD const T* x(int64_t base, uint32_t offset) const {
    return group_at(static_cast<const T*>(args.x), base, offset);
  }
  FD_HD const Y* residual(int64_t base, uint32_t offset) const {
    return group_at(static_cast<const Y*>(args.residual), base, offset);
  }
  FD_HD Y* y(int64_t base, uint32_t offset) const {
    return group_at(static_cast<Y*>(args.y), base, offset);
  }

  // drop(act(values + bias)), in place.
  template <class Keep>
  FD_HD void apply(C (&values)[kGroup], const Keep& keep) const {
    const C scale = number<C>(args.scale), shift = number<C>(args.shift);
    const C fill = number<C>(args.fill), parameter = number<C>(args.parameter);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      values[k] =
          forward_element<Function>(values[k] + bias[k], keep(k), scale, shift, fill, parameter);
    }
  }
  FD_HD void add(C (&values)[kGroup], const C (&others)[kGroup]) const {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = others[k] + values[k];
  }

  FD_HD void element_by_element(int64_t base, uint32_t offset) const {
    const int64_t position = (base + offset) * kGroup;
    const int count = count_in_group(args.layout.numel - position);
    const MaskBits mask = mask_bits(args.mask, state, position, count);
    C values[kGroup];
    Elementwise<T>::load(x(base, offset), count, values);
    apply(values, mask);
    if (args.has_residual) {
      C others[kGroup];
      Elementwise<Y>::load(residual(base, offset), count, others);
      add(values, others);
    }
    Elementwise<Y>::store(y(base, offset), count, values);
  }

  // kUnroll full groups, `step` apart, with overlapping loads.
  template <int kUnroll>
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) const {
    Packed<T> packed[kUnroll];
    Packed<Y> others[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) packed[u].load(x(base, offset + u * step));
    if (args.has_residual) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) others[u].load(residual(base, offset + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + offset, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C values[kGroup];
      packed[u].widen_to(values);
      apply(values, masks[u]);
      if (args.has_residual) {
        C wide[kGroup];
        others[u].widen_to(wide);
        add(values, wide);
      }
      Packed<Y>::store(y(base, offset + u * step), values);
    }
  }
};

template <class T, class Y, template <class> class Functor, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM<T>)
    pointwise_forward_kernel(const PointwiseForwardArgs args, const ColumnGrid grid) {
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  const PointwiseForward<T, Y, Functor> work(args, loop.column);
  if constexpr (kVectorised) for_full_groups<2>(loop, work);
  for_remaining_groups(loop, args.layout.numel, work);
}

// The same for the gradients. DY is the type of dy. `sums` is the thread's share of the bias
// gradient.
template <class T, class DY, template <class> class Functor>
struct PointwiseBackward {
  using C = typename Arithmetic<T>::Scalar;
  using Function = Functor<typename PrecisionOf<T>::Type>;

  const PointwiseBackwardArgs& args;
  PhiloxState state;
  C bias[kGroup];
  C sums[kGroup];

  FD_HD PointwiseBackward(const PointwiseBackwardArgs& arguments, int64_t column)
      : args(arguments) {
    state = resolve(args.random);
    load_bias<T>(args.bias, args.layout, column * kGroup, bias);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) sums[k] = C(0);
  }
  FD_HD const DY* dy(int64_t base, uint32_t offset) const {
    return group_at(static_cast<const DY*>(args.dy), base, offset);
  }
  FD_HD const T* x(int64_t base, uint32_t offset) const {
    return group_at(static_cast<const T*>(args.x), base, offset);
  }
  FD_HD T* dx(int64_t base, uint32_t offset) const {
    return group_at(static_cast<T*>(args.dx), base, offset);
  }

  // Turns dy into the gradient of x + bias, in place, and adds it to the sums.
  template <class Keep>
  FD_HD void apply(C (&gradient)[kGroup], const C (&values)[kGroup], const Keep& keep) {
    const C scale = number<C>(args.scale), parameter = number<C>(args.parameter);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      gradient[k] =
          backward_element<Function>(gradient[k], values[k] + bias[k], keep(k), scale, parameter);
      sums[k] = sums[k] + gradient[k];
    }
  }

  FD_HD void element_by_element(int64_t base, uint32_t offset) {
    const int64_t position = (base + offset) * kGroup;
    const int count = count_in_group(args.layout.numel - position);
    const MaskBits mask = mask_bits(args.mask, state, position, count);
    C gradient[kGroup], values[kGroup] = {};
    Elementwise<DY>::load(dy(base, offset), count, gradient);
    if constexpr (!Function::kIdentity) Elementwise<T>::load(x(base, offset), count, values);
    apply(gradient, values, mask);
    if (args.dx) Elementwise<T>::store(dx(base, offset), count, gradient);
  }

  template <int kUnroll>
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) {
    Packed<DY> upstream[kUnroll];
    Packed<T> packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      upstream[u].load(dy(base, offset + u * step));
      if constexpr (!Function::kIdentity) packed[u].load(x(base, offset + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + offset, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C gradient[kGroup], values[kGroup] = {};
      upstream[u].widen_to(gradient);
      if constexpr (!Function::kIdentity) packed[u].widen_to(values);
      apply(gradient, values, masks[u]);
      if (args.dx) Packed<T>::store(dx(base, offset + u * step), gradient);
    }
  }
};

template <class T, class DY, template <class> class Functor, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM<T>)
    pointwise_backward_kernel(const PointwiseBackwardArgs args, const ColumnGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  PointwiseBackward<T, DY, Functor> work(args, loop.column);
  if constexpr (kVectorised) for_full_groups<2>(loop, work);
  for_remaining_groups(loop, args.layout.numel, work);
  if (args.partials) {
    write_partials(loop, grid, args.layout.period, work.sums, static_cast<C*>(args.partials));
  }
}

template <class T, class Y, template <class> class Functor>
void pointwise_forward_with(FunctorTag<Functor>, const PointwiseForwardArgs& args, Stream stream) {
  launch_column_loop(pointwise_forward_kernel<T, Y, Functor, kCanVectorise<T>>,
                     pointwise_forward_kernel<T, Y, Functor, false>,
                     is_vectorisable(args.mask) && are_aligned(args.x, args.residual, args.y),
                     forward_grid(args.layout), args, stream);
}

template <class T, class DY, template <class> class Functor>
void pointwise_backward_with(FunctorTag<Functor>, const PointwiseBackwardArgs& args,
                             Stream stream) {
  launch_column_loop(pointwise_backward_kernel<T, DY, Functor, kCanVectorise<T>>,
                     pointwise_backward_kernel<T, DY, Functor, false>,
                     is_vectorisable(args.mask) && are_aligned(args.dy, args.x, args.dx),
                     backward_grid(args.layout), args, stream);
}

template <class T, class Y>
void pointwise_forward_of(PointwiseForwardArgs args, int activation, Stream stream) {
  args.has_residual = args.residual != nullptr;
  args.bias = bias_operand<T>(args.bias, args.layout);
  with_functor(activation,
               [&](auto functor) { pointwise_forward_with<T, Y>(functor, args, stream); });
}

template <class T, class DY>
void pointwise_backward_of(PointwiseBackwardArgs args, int activation, Stream stream) {
  args.bias = bias_operand<T>(args.bias, args.layout);
  with_functor(activation,
               [&](auto functor) { pointwise_backward_with<T, DY>(functor, args, stream); });
}

// Each pair of types has a translation unit of its own in instantiations/.
#define FD_INSTANTIATE(T, Y)                                                   \
  template void pointwise_forward_of<T, Y>(PointwiseForwardArgs, int, Stream); \
  template void pointwise_backward_of<T, Y>(PointwiseBackwardArgs, int, Stream);

}  // namespace fused_dropout::cuda
