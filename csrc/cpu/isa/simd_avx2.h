// The part of simd.h that is written for AVX2 with FMA and F16C.
#pragma once

#include "cpu/isa/simd_integer.h"

namespace fused_dropout::cpu::FD_ISA {

// If an operand is NaN, these instructions return the second operand.
FD_HD F32 minimum(F32 a, F32 bound) {
  return (FloatVector)_mm256_min_ps((__m256)bound.v, (__m256)a.v);
}
FD_HD F32 maximum(F32 a, F32 bound) {
  return (FloatVector)_mm256_max_ps((__m256)bound.v, (__m256)a.v);
}

FD_HD F32 square_error(F32 a, F32 square) {
  return (FloatVector)_mm256_fmsub_ps((__m256)a.v, (__m256)a.v, (__m256)square.v);
}

FD_HD F32 square_root(F32 a) { return (FloatVector)_mm256_sqrt_ps((__m256)a.v); }

FD_HD F32 round_even(F32 a) {
  return (FloatVector)_mm256_round_ps((__m256)a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

FD_HD UIntVector load_wide(const void* source) {
  return (UIntVector)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)source));
}

FD_HD F32 load(const Half* source) {
  return (FloatVector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)source));
}

FD_HD __m256i pack(const Half*, Pair<F32> value) {
  constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return _mm256_set_m128i(_mm256_cvtps_ph((__m256)value.second.v, kRound),
                          _mm256_cvtps_ph((__m256)value.first.v, kRound));
}

FD_HD __m256i pack(const BFloat16*, Pair<F32> value) {
  // The instruction packs each half of a register by itself; the permutation restores the order.
  const __m256i mixed = _mm256_packus_epi32((__m256i)round_to_bfloat16(value.first),
                                            (__m256i)round_to_bfloat16(value.second));
  return _mm256_permute4x64_epi64(mixed, 0xD8);
}

template <class T>
FD_HD void store(T* target, Pair<F32> value) {
  _mm256_storeu_si256((__m256i*)target, pack(target, value));
}

// Stores past the cache. The target is aligned to a register.
template <class T>
FD_HD void store_non_temporal(T* target, Pair<F32> value) {
  _mm256_stream_si256((__m256i*)target, pack(target, value));
}
FD_HD void store_non_temporal(float* target, Pair<F32> value) {
  _mm256_stream_ps(target, (__m256)value.first.v);
  _mm256_stream_ps(target + kLanes, (__m256)value.second.v);
}

FD_HD Words multiply_wide(Words a, uint32_t b) {
  return {(WordVector)_mm256_mul_epu32((__m256i)a.v, _mm256_set1_epi64x(b))};
}

// Consecutive counters, in an order in which store_draws needs no permutation.
FD_HD Words group_counters(uint64_t first) { return {WordVector{0, 2, 1, 3} + first}; }

FD_HD void store_draws(uint16_t* target, PhiloxWords<Words> bits) {
  const __m256i low = _mm256_blend_epi32((__m256i)bits.x.v, (__m256i)(bits.y.v << 32), 0xAA);
  const __m256i high = _mm256_blend_epi32((__m256i)bits.z.v, (__m256i)(bits.w.v << 32), 0xAA);
  _mm256_storeu_si256((__m256i*)target, _mm256_unpacklo_epi64(low, high));
  _mm256_storeu_si256((__m256i*)(target + 16), _mm256_unpackhi_epi64(low, high));
}

}  // namespace fused_dropout::cpu::FD_ISA
