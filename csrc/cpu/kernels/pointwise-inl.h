// The pointwise kernels: y = residual + drop(act(x + bias)), and its gradient. In the dispatch
// table as `pointwise`.
#pragma once

#include "cpu/kernels/bias-inl.h"
#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "cpu/pointwise.h"
#include "math/elementwise.h"

namespace fused_dropout::cpu::FD_ISA {

// T is the type of x, R that of the residual, or void if there is none. y has the type of the
// residual, or of x.
template <class T, class R, template <class> class Functor>
void pointwise_forward_kernel(const PointwiseForwardArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Y = std::conditional_t<std::is_void_v<R>, T, R>;
  using Function = Functor<typename A::Precision>;
  constexpr int kWidth = A::kWidth;

  const T* x = static_cast<const T*>(args.x);
  const Y* residual = static_cast<const Y*>(args.residual);
  Y* y = static_cast<Y*>(args.y);
  ChunkDraws source(args.mask);
  BiasReader<C> bias_reader(args.bias, begin);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), shift(static_cast<C>(args.shift)),
      fill(static_cast<C>(args.fill)), parameter(static_cast<C>(args.parameter));
  // Measured: stores past the cache are faster, because memory need not be read before it is
  // overwritten. But they slow down kernels in which arithmetic sets the speed, and kernels with
  // sums.
  const bool non_temporal =
      Function::kMemoryBound && args.non_temporal && is_register_aligned(y + begin);

  for (int64_t position = begin; position < end; position += kChunk) {
    const int count = end - position < kChunk ? static_cast<int>(end - position) : kChunk;
    const uint16_t* draws = source.at(position, count);
    const C* bias = bias_reader.next(position, count);
    const auto element = [&](V value, int i) {
      return forward_element<Function>(value + load_register(bias + i),
                                       keep_of<V>(draws + i, keep_count), scale, shift, fill,
                                       parameter);
    };
    int i = 0;
    for (; i + kWidth <= count; i += kWidth) {
      prefetch_register(x + position + i + kChunk);
      V result = element(load_register(x + position + i), i);
      if constexpr (!std::is_void_v<R>) result = load_register(residual + position + i) + result;
      if (non_temporal) {
        store_non_temporal(y + position + i, result);
      } else {
        store(y + position + i, result);
      }
    }
    if (i < count) {
      const PartialRegister tail{count - i};
      V result = element(load_register(x + position + i, tail), i);
      if constexpr (!std::is_void_v<R>)
        result = load_register(residual + position + i, tail) + result;
      store_register(y + position + i, result, tail);
    }
  }
}

// T is the type of x and dx, DY that of dy.
template <class T, class DY, template <class> class Functor, bool kSumBias>
void pointwise_backward_kernel(const PointwiseBackwardArgs& args, void* bias_sums, int64_t begin,
                               int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Function = Functor<typename A::Precision>;
  constexpr int kWidth = A::kWidth;

  const DY* dy = static_cast<const DY*>(args.dy);
  const T* x = static_cast<const T*>(args.x);
  T* dx = static_cast<T*>(args.dx);
  ChunkDraws source(args.mask);
  BiasReader<C> bias_reader(args.bias, begin);
  BiasGradientSums<C> bias_gradient(args.bias, bias_sums, begin);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), parameter(static_cast<C>(args.parameter));
  const bool non_temporal =
      Function::kMemoryBound && !kSumBias && args.non_temporal && is_register_aligned(dx + begin);

  for (int64_t position = begin; position < end; position += kChunk) {
    const int count = end - position < kChunk ? static_cast<int>(end - position) : kChunk;
    const uint16_t* draws = source.at(position, count);
    const C* bias = bias_reader.next(position, count);
    C* sums = nullptr;
    if constexpr (kSumBias) sums = bias_gradient.next(count);
    const auto element = [&](V upstream, V value, int i) {
      return backward_element<Function>(upstream, value + load_register(bias + i),
                                        keep_of<V>(draws + i, keep_count), scale, parameter);
    };
    int i = 0;
    for (; i + kWidth <= count; i += kWidth) {
      V value(C(0));
      if constexpr (!Function::kIdentity) value = load_register(x + position + i);
      if constexpr (!Function::kIdentity) prefetch_register(x + position + i + kChunk);
      prefetch_register(dy + position + i + kChunk);
      const V upstream = load_register(dy + position + i);
      const V result = element(upstream, value, i);
      if constexpr (kSumBias) {
        const V term = mutated(Mutation::kUnmaskedBiasGradient) ? upstream * scale : result;
        store(sums + i, load_register(sums + i) + term);
      }
      if (non_temporal) {
        store_non_temporal(dx + position + i, result);
      } else if (dx) {
        store(dx + position + i, result);
      }
    }
    if (i < count) {
      const PartialRegister tail{count - i};
      V value(C(0));
      if constexpr (!Function::kIdentity) value = load_register(x + position + i, tail);
      const V result = element(load_register(dy + position + i, tail), value, i);
      if constexpr (kSumBias) store_register(sums + i, load_register(sums + i) + result, tail);
      if (dx) store_register(dx + position + i, result, tail);
    }
    if constexpr (kSumBias) bias_gradient.add(position, count);
  }
}

inline PointwiseForwardKernel pointwise_forward(Storage storage, ResidualType residual,
                                                int activation) {
  return with_type_and_functor<PointwiseForwardKernel, true>(
      storage, activation, [&](auto type, auto functor) -> PointwiseForwardKernel {
        using T = typename decltype(type)::Type;
        if (residual == ResidualType::kNone) {
          return pointwise_forward_kernel<T, void, decltype(functor)::template Of>;
        }
        if constexpr (sizeof(T) == 2) {
          if (residual == ResidualType::kFloat32) {
            return pointwise_forward_kernel<T, float, decltype(functor)::template Of>;
          }
        }
        return pointwise_forward_kernel<T, T, decltype(functor)::template Of>;
      });
}

inline PointwiseBackwardKernel pointwise_backward(Storage storage, bool wide_gradient,
                                                  bool sum_bias, int activation) {
  return with_type_and_functor<PointwiseBackwardKernel, true>(
      storage, activation, [&](auto type, auto functor) -> PointwiseBackwardKernel {
        using T = typename decltype(type)::Type;
        if constexpr (sizeof(T) == 2) {
          if (wide_gradient) {
            return sum_bias
                       ? pointwise_backward_kernel<T, float, decltype(functor)::template Of, true>
                       : pointwise_backward_kernel<T, float, decltype(functor)::template Of, false>;
          }
        }
        return sum_bias ? pointwise_backward_kernel<T, T, decltype(functor)::template Of, true>
                        : pointwise_backward_kernel<T, T, decltype(functor)::template Of, false>;
      });
}

constexpr PointwiseTable pointwise_table() { return {pointwise_forward, pointwise_backward}; }

}  // namespace fused_dropout::cpu::FD_ISA
