// The kernel of the noise operators, for every functor of math/noise.h.
#pragma once

#include <utility>

#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "cpu/noise.h"
#include "math/noise.h"

namespace fused_dropout::cpu::FD_ISA {

// Calls visit(position of the chunk, count) for every chunk.
template <class Visit>
FD_HD void for_each_chunk(int64_t begin, int64_t end, Visit visit) {
  for (int64_t position = begin; position < end; position += kChunk) {
    visit(position, end - position < kChunk ? static_cast<int>(end - position) : kChunk);
  }
}

// ---- draws ------------------------------------------------------------------------------------

// Standard normal numbers, chunk by chunk. C is float or double.
template <class C, class Precision>
class ChunkNormals {
 public:
  explicit ChunkNormals(const MaskIndexing& indexing)
      : indexing_(indexing), source_(indexing, words_, kMaxCount) {}

  // The numbers of `count` <= kChunk elements from `position` on. The memory behind them is
  // readable up to the end of a register.
  FD_HD const C* at(int64_t position, int count) {
    if (in_memory_order(indexing_)) return generate(indexing_.first + position, count, values_);
    fill_general(position, count);
    return values_;
  }

 private:
  // Words that `convert` turns into normal numbers at a time.
  static constexpr int kStep = std::is_same_v<C, double> ? 2 : 4 * kLanes;
  // A chunk, the neighbour of its first number, and a full last step.
  static constexpr int kMaxCount = kChunk + 2 + kStep;

  // The numbers of `count` consecutive mask indices. The result points into `target`, which has
  // kMaxCount numbers.
  FD_HD const C* generate(int64_t index, int count, C* target) {
    const int slot = static_cast<int>(index % 2);  // of the pair
    const uint32_t* words = source_.generate(index - slot, slot + count, words_);
    for (int i = 0; i < slot + count; i += kStep) convert(words + i, target + i);
    return target + slot;
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

  // The general path, for masks that are not in memory order.
  __attribute__((noinline)) void fill_general(int64_t position, int count) {
    for_each_index_run(
        indexing_, position, count, [&](int64_t index, int64_t stride, int run, int done) {
          if (stride == 1 && run >= kStep) {
            memcpy(values_ + done, generate(index, run, run_values_), run * sizeof(C));
          } else if (stride == 0) {
            const C value = single(index);
            for (int i = 0; i < run; ++i) values_[done + i] = value;
          } else {
            for (int i = 0; i < run; ++i) values_[done + i] = single(index + i * stride);
          }
        });
  }

  // One number. Its neighbours are cached, because the next call often needs one of them.
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
  alignas(64) uint32_t words_[DrawSourceOf<uint32_t>::capacity(kMaxCount)];
  alignas(64) C values_[kMaxCount + kPadding], run_values_[kMaxCount], cached_[kMaxCount];
};

// The draws of a functor, chunk by chunk: at(position, count) returns a pointer to them, and
// value<V>(pointer) loads as many as V has, which is a pair of registers or a double.
template <NoiseDraw kDraw, class A>
class ChunkNoise;

template <class A>
class ChunkNoise<NoiseDraw::kBits, A> : public ChunkDraws {
 public:
  using ChunkDraws::ChunkDraws;

  // fp32 for fp64 elements too, see Standout.
  template <class V>
  static FD_HD auto value(const uint16_t* draws) {
    if constexpr (std::is_same_v<V, double>) {
      return static_cast<float>(*draws);
    } else {
      return V{small_numbers(load_wide(draws)), small_numbers(load_wide(draws + kLanes))};
    }
  }
};

template <class A>
class ChunkNoise<NoiseDraw::kUniform, A> : public ChunkWords {
 public:
  using ChunkWords::ChunkWords;

  template <class V>
  static FD_HD V value(const uint32_t* words) {
    if constexpr (std::is_same_v<V, double>) {
      return draw_number<double>(*words);
    } else {
      return {draw_numbers(load_vector<UIntVector>(words)),
              draw_numbers(load_vector<UIntVector>(words + kLanes))};
    }
  }
};

template <class A>
class ChunkNoise<NoiseDraw::kNormal, A>
    : public ChunkNormals<typename A::Scalar, typename A::Precision> {
 public:
  using ChunkNormals<typename A::Scalar, typename A::Precision>::ChunkNormals;

  template <class V>
  static FD_HD V value(const typename A::Scalar* normals) {
    return load_register(normals);
  }
};

// ---- the kernel -------------------------------------------------------------------------------

// The loop of one kernel call. It keeps pointers and constants in registers.
template <class T, class Functor>
class NoiseLoop {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Constants = typename Functor::template Constants<V>;
  using Inputs = std::make_index_sequence<Functor::kInputs>;
  using Outputs = std::make_index_sequence<Functor::kOutputs>;

 public:
  FD_HD explicit NoiseLoop(const NoiseArgs& args)
      : NoiseLoop(args, Inputs(), Outputs(), std::make_index_sequence<kNoiseConstants<Functor>>()) {
  }

  // Returns the sum over the elements from `begin` to `end` if the functor has one, else 0.
  FD_HD double run(const MaskIndexing& mask, int64_t begin, int64_t end) const {
    double total = 0;
    if constexpr (Functor::kDraw == NoiseDraw::kNone) {
      static_assert(!Functor::kSum);
      for_each_register<A::kWidth>(begin, end, [&](int64_t position, auto extent) FD_INLINE {
        compute(position, V(C(0)), extent, Inputs(), Outputs());
      });
    } else {
      ChunkNoise<Functor::kDraw, A> source(mask);
      for_each_chunk(begin, end, [&](int64_t position, int count) FD_INLINE {
        const auto* draws = source.at(position, count);
        V sum(C(0));
        for_each_register<A::kWidth>(0, count, [&](int64_t i, auto extent) FD_INLINE {
          prefetch(position + i + kChunk, Inputs());
          const V last = compute(position + i, source.template value<V>(draws + i), extent,
                                 Inputs(), Outputs());
          if constexpr (Functor::kSum) sum = sum + zero_past_end(last, extent);
        });
        if constexpr (Functor::kSum) total += sum_of_lanes(sum);
      });
    }
    return total;
  }

 private:
  template <size_t... i, size_t... j, size_t... k>
  FD_HD NoiseLoop(const NoiseArgs& args, std::index_sequence<i...>, std::index_sequence<j...>,
                  std::index_sequence<k...>)
      : inputs_{static_cast<const T*>(args.inputs[i])...},
        outputs_{static_cast<T*>(args.outputs[j])...},
        constants_{V(static_cast<C>(args.constants[k]))...} {}

  template <size_t... i>
  FD_HD void prefetch(int64_t position, std::index_sequence<i...>) const {
    (prefetch_register(inputs_[i] + position), ...);
  }

  // Stores one register of every output; returns the last result.
  template <class Draw, class Extent, size_t... i, size_t... j>
  FD_HD V compute(int64_t position, Draw draw, Extent extent, std::index_sequence<i...>,
                  std::index_sequence<j...>) const {
    const V inputs[] = {V(load_register(inputs_[i] + position, extent))...};
    V results[Functor::kResults];
    Functor::template element<typename A::Precision>(inputs, draw, constants_, results);
    (store_output(outputs_[j], position, results[j], extent), ...);
    return results[Functor::kResults - 1];
  }
  template <class Extent>
  static FD_HD void store_output(T* output, int64_t position, V result, Extent extent) {
    constexpr bool kAlwaysWanted = Functor::kResults == 1;
    if (kAlwaysWanted || output) store_register(output + position, result, extent);
  }

  const T* const inputs_[Functor::kInputs];
  T* const outputs_[Functor::kOutputs];
  const Constants constants_;
};

template <class T, class Functor>
double noise_kernel(const NoiseArgs& args, int64_t begin, int64_t end) {
  return NoiseLoop<T, Functor>(args).run(args.mask, begin, end);
}

template <class T, class... Functors>
NoiseKernel noise_kernel_in(NoiseList<Functors...>, int functor) {
  static constexpr NoiseKernel kKernels[] = {noise_kernel<T, Functors>...};
  return kKernels[functor];
}

inline NoiseKernel noise_kernel_of(Storage storage, int functor) {
  return with_type<NoiseKernel>(storage, [&](auto type) {
    return noise_kernel_in<typename decltype(type)::Type>(NoiseFunctors(), functor);
  });
}

constexpr NoiseTable noise_table() { return {noise_kernel_of}; }

}  // namespace fused_dropout::cpu::FD_ISA
