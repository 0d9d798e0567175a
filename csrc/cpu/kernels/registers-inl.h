// Pieces of the row kernels: whole and cut registers, and sums over a row.
#pragma once

#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/pointwise-inl.h"

namespace fused_dropout::cpu::FD_ISA {

// Behind the parameters of a lambda: one that is not inlined reads its captures from memory.
#define FD_INLINE __attribute__((always_inline))

// How much of a register belongs to the row.
struct Whole {};
struct Part {
  int count;
};

template <class T>
FD_HD auto load_some(const T* source, Whole) {
  return load_register(source);
}
template <class T>
FD_HD auto load_some(const T* source, Part part) {
  return load_part(source, part.count);
}
template <class T, class V>
FD_HD void store_some(T* target, V value, Whole) {
  store(target, value);
}
template <class T, class V>
FD_HD void store_some(T* target, V value, Part part) {
  store_part(target, value, part.count);
}
// Past the cache if asked to; the target is aligned then.
template <class T, class V>
FD_HD void store_some(T* target, V value, Whole, bool non_temporal) {
  if (non_temporal) {
    store_non_temporal(target, value);
  } else {
    store(target, value);
  }
}
template <class T, class V>
FD_HD void store_some(T* target, V value, Part part, bool) {
  store_part(target, value, part.count);
}

// The value with zeros behind the end of the row.
template <class V>
FD_HD V only_some(V value, Whole) {
  return value;
}
template <class V>
FD_HD V only_some(V value, Part part) {
  using C = std::conditional_t<std::is_same_v<V, double>, double, float>;
  C values[sizeof(V) / sizeof(C)];
  store(values, value);
  return load_part(values, part.count);
}

// Calls visit(i, how much) for every register from `first` to `last`.
template <int kWidth, class Visit>
FD_HD void for_each_register(int64_t first, int64_t last, Visit visit) {
  int64_t i = first;
  for (; i + kWidth <= last; i += kWidth) visit(i, Whole{});
  if (i < last) visit(i, Part{static_cast<int>(last - i)});
}

// A sum over a row. A long row of additions into one fp32 number loses digits, so that blocks are
// summed up in registers and the rest in fp64.
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

// Calls begin(first, last) for every block of a row.
template <class Visit>
FD_HD void for_each_chunk_of(int64_t width, Visit visit) {
  for (int64_t first = 0; first < width; first += kChunk) {
    visit(first, first + kChunk < width ? first + kChunk : width);
  }
}

}  // namespace fused_dropout::cpu::FD_ISA
