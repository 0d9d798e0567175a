// The pointwise kernels: y = residual + drop(act(x + bias)), and its gradient.
#pragma once

#include "cpu/isa/pair.h"
#include "cpu/kernel_table.h"
#include "cpu/kernels/bias-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "math/activations.h"
#include "math/elementwise.h"

namespace fused_dropout::cpu::FD_ISA {

// How a storage type is computed with: in which registers and to which precision.
template <class T>
struct Arithmetic {
  using Scalar = float;
  using Register = Pair<F32>;
  using Precision = Reduced;
  static constexpr int kWidth = 2 * kLanes;
};
template <>
struct Arithmetic<float> : Arithmetic<Half> {
  using Precision = Full;
};
template <>
struct Arithmetic<double> {
  using Scalar = double;
  using Register = double;
  using Precision = Full;
  static constexpr int kWidth = 1;
};

template <class T>
FD_HD Pair<F32> load_register(const T* source) {
  return {load(source), load(source + kLanes)};
}
FD_HD double load_register(const double* source) { return *source; }
FD_HD void store(double* target, double value) { *target = value; }
FD_HD void store_non_temporal(double* target, double value) { *target = value; }

// A register of which only the first `count` values are in memory.
template <class T>
FD_HD auto load_part(const T* source, int count) {
  T values[Arithmetic<T>::kWidth] = {};
  memcpy(values, source, count * sizeof(T));
  return load_register(values);
}

template <class T, class V>
FD_HD void store_part(T* target, V value, int count) {
  T values[Arithmetic<T>::kWidth];
  store(values, value);
  memcpy(target, values, count * sizeof(T));
}

template <class V>
FD_HD auto keep_of(const uint16_t* draws, uint32_t keep_count) {
  if constexpr (std::is_same_v<V, double>) {
    return is_kept(*draws, keep_count);
  } else {
    return MaskPair<KeepMask>{keep_mask(draws, keep_count), keep_mask(draws + kLanes, keep_count)};
  }
}

// Asks for what the next block reads. The processor's own prefetching stops at every page.
template <class T>
FD_HD void prefetch_register(const T* source) {
  constexpr int kLine = 64;
  for (size_t byte = 0; byte < Arithmetic<T>::kWidth * sizeof(T); byte += kLine) {
    __builtin_prefetch(reinterpret_cast<const char*>(source) + byte);
  }
}

template <class T>
FD_HD bool is_register_aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (4 * kLanes) == 0;
}

// R is the residual's type, or void. The result has the wider of the two.
template <class T, class R, template <class> class Functor>
void forward_kernel(const ForwardArgs& args, int64_t begin, int64_t end) {
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
  // Measured: stores past the cache save the reading of what they overwrite, but slow down kernels
  // that are bound by arithmetic, and those that keep sums.
  const bool non_temporal = Function::kLight && args.non_temporal && is_register_aligned(y + begin);

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
      const int rest = count - i;
      V result = element(load_part(x + position + i, rest), i);
      if constexpr (!std::is_void_v<R>) result = load_part(residual + position + i, rest) + result;
      store_part(y + position + i, result, rest);
    }
  }
}

template <class T, class DY, template <class> class Functor, bool kSumBias>
void backward_kernel(const BackwardArgs& args, void* partial, int64_t begin, int64_t end) {
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
  BiasGradient<C> bias_gradient(args.bias, partial, begin);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), parameter(static_cast<C>(args.parameter));
  const bool non_temporal =
      Function::kLight && !kSumBias && args.non_temporal && is_register_aligned(dx + begin);

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
      const int rest = count - i;
      V value(C(0));
      if constexpr (!Function::kIdentity) value = load_part(x + position + i, rest);
      const V result = element(load_part(dy + position + i, rest), value, i);
      if constexpr (kSumBias) store_part(sums + i, load_register(sums + i) + result, rest);
      if (dx) store_part(dx + position + i, result, rest);
    }
    if constexpr (kSumBias) bias_gradient.add(position, count);
  }
}

inline void mask_kernel(const MaskIndexing& indexing, bool* kept, int64_t begin, int64_t end) {
  ChunkDraws source(indexing);
  for (int64_t position = begin; position < end; position += kChunk) {
    const int count = end - position < kChunk ? static_cast<int>(end - position) : kChunk;
    const uint16_t* draws = source.at(position, count);
    for (int i = 0; i < count; ++i) kept[position + i] = is_kept(draws[i], indexing.keep_count);
  }
}

}  // namespace fused_dropout::cpu::FD_ISA
