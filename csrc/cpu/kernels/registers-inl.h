// How all kernels read, compute and write elements: a register at a time, with a partial register
// at the end. Also chunks of a row, and sums over a row.
#pragma once

#include "cpu/indexing.h"
#include "cpu/isa/pair.h"
#include "math/transcendental.h"

namespace fused_dropout::cpu::FD_ISA {

// An attribute for lambdas. A lambda that is not inlined reads its captures from memory.
#define FD_INLINE __attribute__((always_inline))

// The registers and the precision in which the kernels compute with elements of storage type T.
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

// The extent of a register: all of its elements, or only the first `count`. The memory behind a
// partial register is not read or written.
struct FullRegister {};
struct PartialRegister {
  int count;
};

template <class T>
FD_HD auto load_register(const T* source, FullRegister) {
  return load_register(source);
}
template <class T>
FD_HD auto load_register(const T* source, PartialRegister part) {
  T values[Arithmetic<T>::kWidth] = {};
  memcpy(values, source, part.count * sizeof(T));
  return load_register(values);
}

template <class T, class V>
FD_HD void store_register(T* target, V value, FullRegister) {
  store(target, value);
}
template <class T, class V>
FD_HD void store_register(T* target, V value, PartialRegister part) {
  T values[Arithmetic<T>::kWidth];
  store(values, value);
  memcpy(target, values, part.count * sizeof(T));
}
// Stores past the cache if `non_temporal`; the target is then aligned to a register.
template <class T, class V>
FD_HD void store_register(T* target, V value, FullRegister, bool non_temporal) {
  if (non_temporal) {
    store_non_temporal(target, value);
  } else {
    store(target, value);
  }
}
template <class T, class V>
FD_HD void store_register(T* target, V value, PartialRegister part, bool) {
  store_register(target, value, part);
}

// The value with zeros in the elements that do not belong to the row.
template <class V>
FD_HD V zero_past_end(V value, FullRegister) {
  return value;
}
template <class V>
FD_HD V zero_past_end(V value, PartialRegister part) {
  using C = std::conditional_t<std::is_same_v<V, double>, double, float>;
  C values[sizeof(V) / sizeof(C)];
  store(values, value);
  return load_register(values, part);
}

// Calls visit(i, extent) for every register from `first` to `last`.
template <int kWidth, class Visit>
FD_HD void for_each_register(int64_t first, int64_t last, Visit visit) {
  int64_t i = first;
  for (; i + kWidth <= last; i += kWidth) visit(i, FullRegister{});
  if (i < last) visit(i, PartialRegister{static_cast<int>(last - i)});
}

// Calls visit(first, last) for every chunk of a row.
template <class Visit>
FD_HD void for_each_row_chunk(int64_t width, Visit visit) {
  for (int64_t first = 0; first < width; first += kChunk) {
    visit(first, first + kChunk < width ? first + kChunk : width);
  }
}

// The mask of a register of elements.
template <class V>
FD_HD auto keep_of(const uint16_t* draws, uint32_t keep_count) {
  if constexpr (std::is_same_v<V, double>) {
    return is_kept(*draws, keep_count);
  } else {
    return MaskPair<KeepMask>{keep_mask(draws, keep_count), keep_mask(draws + kLanes, keep_count)};
  }
}

// Prefetches a register; kernels do this one chunk ahead. The processor's own prefetching stops at
// every page.
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

// The sum of the elements of a register. Sums over a row are made of these: each chunk is summed up
// in a register, and the sums of the chunks are added in fp64, because many additions to one fp32
// number would lose accuracy.
template <class V>
FD_HD double sum_of_lanes(V value) {
  if constexpr (std::is_same_v<V, double>) {
    return value;
  } else {
    float lanes[2 * kLanes];
    store(lanes, value);
    for (int width = kLanes; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
  }
}

}  // namespace fused_dropout::cpu::FD_ISA
