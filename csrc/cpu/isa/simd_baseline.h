// The part of simd.h for 128-bit registers: for x86-64 without extensions, for aarch64, and for any
// other target whose compiler has vector extensions.
#pragma once

#include "cpu/isa/simd_integer.h"

namespace fused_dropout::cpu::FD_ISA {

FD_HD F32 minimum(F32 a, F32 bound) { return a.v > bound.v ? bound.v : a.v; }
FD_HD F32 maximum(F32 a, F32 bound) { return a.v < bound.v ? bound.v : a.v; }

FD_HD F32 square_error(F32 a, F32 square) {
  const FloatVector upper = bit_cast<FloatVector>(bit_cast<UIntVector>(a.v) & 0xFFFFF000u);
  return (upper * upper - square.v) + (a.v - upper) * (a.v + upper);
}

#if defined(__SSE2__)
FD_HD F32 square_root(F32 a) { return (FloatVector)_mm_sqrt_ps((__m128)a.v); }
#else
FD_HD F32 square_root(F32 a) {
  FloatVector root;
  for (int lane = 0; lane < kLanes; ++lane) root[lane] = sqrtf(a.v[lane]);
  return root;
}
#endif

FD_HD F32 round_even(F32 a) {
  const F32 magic(12582912.0f);  // 1.5 * 2^23: the last bit of the sum has the value 1
  return (a + magic) - magic;
}

FD_HD UIntVector load_wide(const void* source) {
  return __builtin_convertvector(load_vector<ShortVector>(source), UIntVector);
}

FD_HD F32 load(const Half* source) {
  const UIntVector half = load_wide(source);
  // Adds 112 to the exponent. A multiplication is correct for subnormal numbers, too.
  const FloatVector magnitude = bit_cast<FloatVector>((half & 0x7FFFu) << 13) * 0x1p112f;
  const UIntVector special = (UIntVector)((half & 0x7C00u) == 0x7C00u) & 0x7F800000u;
  return bit_cast<FloatVector>(bit_cast<UIntVector>(magnitude) | special |
                               ((half & 0x8000u) << 16));
}

FD_HD ShortVector pack(const BFloat16*, F32 value) {
  return __builtin_convertvector(round_to_bfloat16(value), ShortVector);
}

FD_HD ShortVector pack(const Half*, F32 value) {
  const UIntVector bits = bit_cast<UIntVector>(value.v);
  const UIntVector magnitude = bits & 0x7FFFFFFFu;
  // Normal results: change the bias of the exponent and round 13 bits away, to nearest even.
  const UIntVector normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: after adding 0.5, the low bits hold the rounded multiple of 2^-24.
  const UIntVector subnormal =
      bit_cast<UIntVector>(bit_cast<FloatVector>(magnitude) + 0.5f) - 0x3F000000u;
  const UIntVector finite = (IntVector)magnitude < 0x38800000 ? subnormal : normal;
  const UIntVector infinite =
      (IntVector)magnitude > 0x7F800000 ? UIntVector{} + 0x7E00u : UIntVector{} + 0x7C00u;
  // 65520 and above round to infinity.
  const UIntVector half = (IntVector)magnitude >= 0x477FF000 ? infinite : finite;
  return __builtin_convertvector(half | ((bits >> 16) & 0x8000u), ShortVector);
}

template <class T>
FD_HD void store(T* target, Pair<F32> value) {
  store_vector(target, pack(target, value.first));
  store_vector(target + kLanes, pack(target, value.second));
}

// Ordinary stores. Machines for which stores past the cache matter have wider registers as well.
template <class T>
FD_HD void store_non_temporal(T* target, Pair<F32> value) {
  store(target, value);
}

#if defined(__SSE2__)
FD_HD Words multiply_wide(Words a, uint32_t b) {
  return {(WordVector)_mm_mul_epu32((__m128i)a.v, _mm_set1_epi64x(b))};
}
#else
FD_HD Words multiply_wide(Words a, uint32_t b) {
  return {(a.v & 0xFFFFFFFFu) * static_cast<uint64_t>(b)};
}
#endif

FD_HD Words group_counters(uint64_t first) { return {WordVector{0, 1} + first}; }

FD_HD void store_draws(uint16_t* target, PhiloxWords<Words> bits) {
  const WordVector low = (bits.x.v & 0xFFFFFFFFu) | (bits.y.v << 32);
  const WordVector high = (bits.z.v & 0xFFFFFFFFu) | (bits.w.v << 32);
  store_vector(target, WordVector{low[0], high[0]});
  store_vector(target + 8, WordVector{low[1], high[1]});
}

}  // namespace fused_dropout::cpu::FD_ISA
