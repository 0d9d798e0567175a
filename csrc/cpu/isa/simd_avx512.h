// The part of simd.h that is written for AVX-512.
#pragma once

#include "cpu/isa/pair.h"
#include "cpu/isa/simd.h"
#include "math/dtype.h"

namespace fused_dropout::cpu::FD_ISA {

// If an operand is NaN, these instructions return the second operand.
FD_HD F32 minimum(F32 a, F32 bound) {
  return (FloatVector)_mm512_min_ps((__m512)bound.v, (__m512)a.v);
}
FD_HD F32 maximum(F32 a, F32 bound) {
  return (FloatVector)_mm512_max_ps((__m512)bound.v, (__m512)a.v);
}

FD_HD F32 square_error(F32 a, F32 square) {
  return (FloatVector)_mm512_fmsub_ps((__m512)a.v, (__m512)a.v, (__m512)square.v);
}

FD_HD F32 square_root(F32 a) { return (FloatVector)_mm512_sqrt_ps((__m512)a.v); }

FD_HD F32 round_even(F32 a) {
  return (FloatVector)_mm512_roundscale_ps((__m512)a.v,
                                           _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

FD_HD F32 scale_by_pow2(F32 a, F32 n) {
  return (FloatVector)_mm512_scalef_ps((__m512)a.v, (__m512)n.v);
}

struct KeepMask {
  __mmask16 v;
};

FD_HD KeepMask keep_mask(const uint16_t* draws, uint32_t keep_count) {
  const __m256i threshold = _mm256_set1_epi16(static_cast<int16_t>(keep_count - 1));
  return {_mm256_cmple_epu16_mask(_mm256_loadu_si256((const __m256i*)draws), threshold)};
}

FD_HD F32 select(KeepMask mask, F32 a, F32 b) {
  return (FloatVector)_mm512_mask_blend_ps(mask.v, (__m512)b.v, (__m512)a.v);
}

FD_HD F32 load(const Half* source) {
  return (FloatVector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)source));
}

// 16-bit integers, widened to one in each lane.
FD_HD UIntVector load_wide(const void* source) {
  return (UIntVector)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)source));
}

FD_HD F32 load(const BFloat16* source) { return (FloatVector)(load_wide(source) << 16); }

// A bf16 in the upper half of each lane, rounded to nearest even. Does not use the conversion
// instruction of AVX512_BF16, because that flushes subnormal numbers to zero.
FD_HD __m512i round_to_bfloat16(F32 value) {
  // The table has four bits for each class of numbers, beginning with NaNs. A NaN is replaced by
  // the NaN that the addition below does not change; other numbers stay.
  const __m512i table = _mm512_set1_epi32(0x11111133);
  const __m512i bits = (__m512i)_mm512_fixupimm_ps((__m512)value.v, (__m512)value.v, table, 0);
  // Adds just below half a unit of the result, or exactly half if the last bit is odd.
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i carried = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
  return _mm512_mask_sub_epi32(carried, odd, carried, _mm512_set1_epi32(-1));
}

FD_HD __m512i pack(const BFloat16*, Pair<F32> value) {
  // Collects the upper halves of all 32 lanes.
  constexpr __v32hi kUpper = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                              33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(round_to_bfloat16(value.first), (__m512i)kUpper,
                                   round_to_bfloat16(value.second));
}

FD_HD __m512i pack(const Half*, Pair<F32> value) {
  constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512i first = _mm512_castsi256_si512(_mm512_cvtps_ph((__m512)value.first.v, kRound));
  return _mm512_inserti64x4(first, _mm512_cvtps_ph((__m512)value.second.v, kRound), 1);
}

template <class T>
FD_HD void store(T* target, Pair<F32> value) {
  _mm512_storeu_si512(target, pack(target, value));
}

// Stores past the cache. The target is aligned to a register.
template <class T>
FD_HD void store_non_temporal(T* target, Pair<F32> value) {
  _mm512_stream_si512((__m512i*)target, pack(target, value));
}
FD_HD void store_non_temporal(float* target, Pair<F32> value) {
  _mm512_stream_ps(target, (__m512)value.first.v);
  _mm512_stream_ps(target + kLanes, (__m512)value.second.v);
}

FD_HD Words multiply_wide(Words a, uint32_t b) {
  return {(WordVector)_mm512_mul_epu32((__m512i)a.v, _mm512_set1_epi64(b))};
}

// Consecutive counters, in an order in which store_draws needs no permutation.
FD_HD Words group_counters(uint64_t first) { return {WordVector{0, 4, 1, 5, 2, 6, 3, 7} + first}; }

FD_HD void store_draws(uint16_t* target, PhiloxWords<Words> bits) {
  // Each lane of `low` holds the words 0 and 1 of one counter, each lane of `high` the words 2
  // and 3.
  const __m512 low = _mm512_mask_moveldup_ps((__m512)bits.x.v, 0xAAAA, (__m512)bits.y.v);
  const __m512 high = _mm512_mask_moveldup_ps((__m512)bits.z.v, 0xAAAA, (__m512)bits.w.v);
  _mm512_storeu_si512(target, _mm512_unpacklo_epi64((__m512i)low, (__m512i)high));
  _mm512_storeu_si512(target + 32, _mm512_unpackhi_epi64((__m512i)low, (__m512i)high));
}

}  // namespace fused_dropout::cpu::FD_ISA
