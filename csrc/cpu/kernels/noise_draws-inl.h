// The random numbers that noise kernels draw, chunk by chunk.
#pragma once

#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "math/distributions.h"
#include "math/noise_functor.h"

namespace fused_dropout::cpu::FD_ISA {

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

}  // namespace fused_dropout::cpu::FD_ISA
