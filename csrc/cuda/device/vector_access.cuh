// Loads and stores of a group: eight neighbouring elements. A group is the unit of work of every
// kernel. One Philox counter has the draws of eight elements.
#pragma once

#include <type_traits>

#include "cuda/device/convert.cuh"

namespace fused_dropout::cuda {

constexpr int kGroup = 8;

// The number of elements in a group when `remaining` elements follow from its first one on.
FD_HD int count_in_group(int64_t remaining) {
  return remaining >= kGroup ? kGroup : remaining > 0 ? static_cast<int>(remaining) : 0;
}

struct alignas(16) Words4 {
  uint32_t x, y, z, w;
};

// A store of 16 bytes in one instruction. The compiler splits a plain assignment if pointers may
// alias.
FD_HD void store_words(void* target, const Words4& words) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(target)),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
#else
  *static_cast<Words4*>(target) = words;
#endif
}

// The type that kernels compute with for tensors of type T.
template <class T>
struct Arithmetic {
  using Scalar = float;
};
template <>
struct Arithmetic<double> {
  using Scalar = double;
};

// A full group, accessed by 16 bytes; addresses are aligned to 16 bytes. Load and conversion are
// separate, so that a kernel can have several loads in flight.
template <class T>
struct Packed {
  static_assert(sizeof(T) == 2);
  Words4 words;

  FD_HD void load(const T* source) { words = *reinterpret_cast<const Words4*>(source); }
  FD_HD void widen_to(float (&values)[kGroup]) const {
    constexpr const T* kTag = nullptr;
    widen_pair(words.x, kTag, values[0], values[1]);
    widen_pair(words.y, kTag, values[2], values[3]);
    widen_pair(words.z, kTag, values[4], values[5]);
    widen_pair(words.w, kTag, values[6], values[7]);
  }
  static FD_HD void store(T* target, const float (&values)[kGroup]) {
    store_words(
        target,
        {narrow_pair(target, values[0], values[1]), narrow_pair(target, values[2], values[3]),
         narrow_pair(target, values[4], values[5]), narrow_pair(target, values[6], values[7])});
  }
};

template <>
struct Packed<float> {
  struct alignas(16) Four {
    float values[4];
  };
  Four low, high;

  FD_HD void load(const float* source) {
    low = reinterpret_cast<const Four*>(source)[0];
    high = reinterpret_cast<const Four*>(source)[1];
  }
  FD_HD void widen_to(float (&values)[kGroup]) const {
    for (int i = 0; i < 4; ++i) {
      values[i] = low.values[i];
      values[4 + i] = high.values[i];
    }
  }
  static FD_HD void store(float* target, const float (&values)[kGroup]) {
    store_words(target, {bits_of_float(values[0]), bits_of_float(values[1]),
                         bits_of_float(values[2]), bits_of_float(values[3])});
    store_words(target + 4, {bits_of_float(values[4]), bits_of_float(values[5]),
                             bits_of_float(values[6]), bits_of_float(values[7])});
  }
};

// The first `count` elements of a group, accessed one by one at any alignment.
template <class T>
struct Elementwise {
  using C = typename Arithmetic<T>::Scalar;

  static FD_HD void load(const T* source, int count, C (&values)[kGroup]) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) values[i] = i < count ? widen(source[i]) : C(0);
  }
  static FD_HD void store(T* target, int count, const C (&values)[kGroup]) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (i < count) narrow(values[i], target[i]);
    }
  }
};

// The first `count` elements of a group. With kVectorised, `count` is 0 or kGroup.
template <bool kVectorised, class S, class C>
FD_HD void load_group(const S* source, int count, C (&values)[kGroup]) {
  if constexpr (kVectorised) {
    Packed<S> packed{};
    if (count > 0) packed.load(source);
    packed.widen_to(values);
  } else {
    Elementwise<S>::load(source, count, values);
  }
}
template <bool kVectorised, class S, class C>
FD_HD void store_group(S* target, int count, const C (&values)[kGroup]) {
  if constexpr (kVectorised) {
    if (count > 0) Packed<S>::store(target, values);
  } else {
    Elementwise<S>::store(target, count, values);
  }
}

}  // namespace fused_dropout::cuda
