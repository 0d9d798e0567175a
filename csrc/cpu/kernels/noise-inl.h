// The noise kernels: Gaussian and Concrete dropout and Standout, and their gradients.
#pragma once

#include "cpu/kernels/registers-inl.h"
#include "math/noise.h"

namespace fused_dropout::cpu::FD_ISA {

// The numbers of neighbouring words, which fill a register.
template <class V>
FD_HD V numbers_of(const uint32_t* words) {
  if constexpr (std::is_same_v<V, double>) {
    return draw_number<double>(*words);
  } else {
    return {draw_numbers(load_vector<UIntVector>(words)),
            draw_numbers(load_vector<UIntVector>(words + kLanes))};
  }
}

// Calls visit(position of the block, count) for every block.
template <class Visit>
FD_HD void for_each_chunk(int64_t begin, int64_t end, Visit visit) {
  for (int64_t position = begin; position < end; position += kChunk) {
    visit(position, end - position < kChunk ? static_cast<int>(end - position) : kChunk);
  }
}

// ---- Gaussian dropout -------------------------------------------------------------------------

// The standard normal numbers of one block after another. C is float or double.
template <class C, class Precision>
class ChunkNormals {
 public:
  explicit ChunkNormals(const MaskIndexing& indexing)
      : indexing_(indexing), source_(indexing, words_, kMost) {}

  // The numbers of `count` <= kChunk elements from `position` on. Some further ones are readable.
  FD_HD const C* at(int64_t position, int count) {
    if (in_memory_order(indexing_)) return generate(indexing_.first + position, count, values_);
    walk(position, count);
    return values_;
  }

 private:
  // Of so many words at a time normal numbers are made.
  static constexpr int kStep = std::is_same_v<C, double> ? 2 : 4 * kLanes;
  // With a neighbour before the first and the whole last step.
  static constexpr int kMost = kChunk + 2 + kStep;

  // Those of `count` successive indices, somewhere in `target`, which has kMost numbers.
  FD_HD const C* generate(int64_t index, int count, C* target) {
    const int lane = static_cast<int>(index % 2);
    const uint32_t* words = source_.generate(index - lane, lane + count, words_);
    for (int i = 0; i < lane + count; i += kStep) convert(words + i, target + i);
    return target + lane;
  }

  static FD_HD void convert(const uint32_t* words, double* target) {
    normal_pair<Precision>(draw_number<double>(words[0]), draw_number<double>(words[1]), target[0],
                           target[1]);
  }
  static FD_HD void convert(const uint32_t* words, float* target) {
    // Registers of radii and of angles, two of each.
    UIntVector registers[4];
    for (int i = 0; i < 4; ++i) registers[i] = load_vector<UIntVector>(words + i * kLanes);
    transpose_pairs(registers[0], registers[1]);
    transpose_pairs(registers[2], registers[3]);
    Pair<F32> even, odd;
    normal_pair<Precision>(Pair<F32>{draw_numbers(registers[0]), draw_numbers(registers[2])},
                           Pair<F32>{draw_numbers(registers[1]), draw_numbers(registers[3])}, even,
                           odd);
    store_pairs(target, even.first, odd.first);
    store_pairs(target + 2 * kLanes, even.second, odd.second);
  }
  static FD_HD void store_pairs(float* target, F32 even, F32 odd) {
    UIntVector first = bit_cast<UIntVector>(even.v), second = bit_cast<UIntVector>(odd.v);
    transpose_pairs(first, second);
    store_vector(target, first);
    store_vector(target + kLanes, second);
  }

  // The general indexing: see DrawSourceOf.
  __attribute__((noinline)) void walk(int64_t position, int count) {
    for_each_stretch(indexing_, position, count,
                     [&](int64_t index, int64_t stride, int run, int done) {
                       if (stride == 1 && run >= kStep) {
                         memcpy(values_ + done, generate(index, run, stretch_), run * sizeof(C));
                       } else if (stride == 0) {
                         const C value = single(index);
                         for (int i = 0; i < run; ++i) values_[done + i] = value;
                       } else {
                         for (int i = 0; i < run; ++i)
                           values_[done + i] = single(index + i * stride);
                       }
                     });
  }

  // The ones generated along with it are kept, as the next one is often its neighbour.
  FD_HD C single(int64_t index) {
    if (index < cached_first_ || index >= cached_first_ + kStep) {
      cached_first_ = index - index % 2;
      generate(cached_first_, kStep, cached_);
    }
    return cached_[index - cached_first_];
  }

  const MaskIndexing& indexing_;
  DrawSourceOf<uint32_t> source_;
  int64_t cached_first_ = -kStep;
  alignas(64) uint32_t words_[DrawSourceOf<uint32_t>::capacity(kMost)];
  alignas(64) C values_[kMost + kPadding], stretch_[kMost], cached_[kMost];
};

template <class T>
void gaussian_kernel(const GaussianArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;

  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  ChunkNormals<C, typename A::Precision> source(args.mask);
  const V sigma(static_cast<C>(args.sigma));
  for_each_chunk(begin, end, [&](int64_t position, int count) FD_INLINE {
    const C* normals = source.at(position, count);
    for_each_register<A::kWidth>(0, count, [&](int64_t i, auto some) FD_INLINE {
      prefetch_register(x + position + i + kChunk);
      store_some(y + position + i,
                 gaussian_element(V(load_some(x + position + i, some)),
                                  V(load_register(normals + i)), sigma),
                 some);
    });
  });
}

// ---- Concrete dropout -------------------------------------------------------------------------

template <class V>
FD_HD ConcreteConstants<V> constants_of(const ConcreteArgs& args) {
  using C = std::conditional_t<std::is_same_v<V, double>, double, float>;
  return {V(static_cast<C>(args.logit)), V(static_cast<C>(args.inverse_temperature)),
          V(static_cast<C>(args.scale)), V(static_cast<C>(args.p))};
}

template <class T>
void concrete_forward_kernel(const ConcreteForwardArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;

  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  ChunkWords source(args.mask);
  const auto constants = constants_of<V>(args);
  for_each_chunk(begin, end, [&](int64_t position, int count) FD_INLINE {
    const uint32_t* words = source.at(position, count);
    for_each_register<A::kWidth>(0, count, [&](int64_t i, auto some) FD_INLINE {
      prefetch_register(x + position + i + kChunk);
      const V result = concrete_element<typename A::Precision>(V(load_some(x + position + i, some)),
                                                               numbers_of<V>(words + i), constants);
      store_some(y + position + i, result, some);
    });
  });
}

template <class T>
double concrete_backward_kernel(const ConcreteBackwardArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;

  const T* dy = static_cast<const T*>(args.dy);
  const T* x = static_cast<const T*>(args.x);
  T* dx = static_cast<T*>(args.dx);
  ChunkWords source(args.mask);
  const auto constants = constants_of<V>(args);
  double total = 0;
  for_each_chunk(begin, end, [&](int64_t position, int count) FD_INLINE {
    const uint32_t* words = source.at(position, count);
    V sum(C(0));
    for_each_register<A::kWidth>(0, count, [&](int64_t i, auto some) FD_INLINE {
      prefetch_register(x + position + i + kChunk);
      prefetch_register(dy + position + i + kChunk);
      V gradient, share;
      concrete_backward_element<typename A::Precision>(
          V(load_some(dy + position + i, some)), V(load_some(x + position + i, some)),
          numbers_of<V>(words + i), constants, gradient, share);
      if (dx) store_some(dx + position + i, gradient, some);
      sum = sum + only_some(share, some);
    });
    total += sum_of_lanes(sum);
  });
  return total;
}

// ---- Standout ---------------------------------------------------------------------------------

// x where a unit is kept, else zero. Decisions are made in fp32.
template <class V>
FD_HD V keep_units(V x, V z, const uint16_t* draws, float alpha, float beta) {
  if constexpr (std::is_same_v<V, double>) {
    return standout_element(x, static_cast<float>(*draws),
                            keep_threshold(static_cast<float>(z), alpha, beta));
  } else {
    const V numbers{small_numbers(load_wide(draws)), small_numbers(load_wide(draws + kLanes))};
    return standout_element(x, numbers, keep_threshold(z, V(alpha), V(beta)));
  }
}

template <class T>
void standout_kernel(const StandoutArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;

  const T* x = static_cast<const T*>(args.x);
  const T* z = static_cast<const T*>(args.z);
  T* y = static_cast<T*>(args.y);
  ChunkDraws source(args.mask);
  const float alpha = static_cast<float>(args.alpha), beta = static_cast<float>(args.beta);
  for_each_chunk(begin, end, [&](int64_t position, int count) FD_INLINE {
    const uint16_t* draws = source.at(position, count);
    for_each_register<A::kWidth>(0, count, [&](int64_t i, auto some) FD_INLINE {
      prefetch_register(x + position + i + kChunk);
      prefetch_register(z + position + i + kChunk);
      const V result = keep_units(V(load_some(x + position + i, some)),
                                  V(load_some(z + position + i, some)), draws + i, alpha, beta);
      store_some(y + position + i, result, some);
    });
  });
}

template <class T>
void standout_mean_kernel(const StandoutArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;

  const T* x = static_cast<const T*>(args.x);
  const T* z = static_cast<const T*>(args.z);
  T* y = static_cast<T*>(args.y);
  const V alpha(static_cast<C>(args.alpha)), beta(static_cast<C>(args.beta));
  for_each_register<A::kWidth>(begin, end, [&](int64_t i, auto some) FD_INLINE {
    const V result = standout_mean<typename A::Precision>(V(load_some(x + i, some)),
                                                          V(load_some(z + i, some)), alpha, beta);
    store_some(y + i, result, some);
  });
}

template <class T>
void standout_backward_kernel(const StandoutBackwardArgs& args, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;

  const T* dy = static_cast<const T*>(args.dy);
  const T* x = static_cast<const T*>(args.x);
  const T* z = static_cast<const T*>(args.z);
  T* dx = static_cast<T*>(args.dx);
  T* dz = static_cast<T*>(args.dz);
  const V alpha(static_cast<C>(args.alpha)), beta(static_cast<C>(args.beta));
  for_each_register<A::kWidth>(begin, end, [&](int64_t i, auto some) FD_INLINE {
    V by_x, by_z;
    standout_mean_backward<typename A::Precision>(
        V(load_some(dy + i, some)), V(load_some(x + i, some)), V(load_some(z + i, some)), alpha,
        beta, by_x, by_z);
    if (dx) store_some(dx + i, by_x, some);
    if (dz) store_some(dz + i, by_z, some);
  });
}

}  // namespace fused_dropout::cpu::FD_ISA
