// The AVX-512 pieces of simd.h.
#pragma once

#include "simd.h"
#include "storage.h"

namespace fused_dropout::cpu::FD_ISA {

FD_HD F32 round_even(F32 a) {
  return (FloatVector)_mm512_roundscale_ps((__m512)a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
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

FD_HD void store(Half* target, F32 value) {
  _mm256_storeu_si256((__m256i*)target,
                      _mm512_cvtps_ph((__m512)value.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

FD_HD F32 load(const BFloat16* source) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)source));
  return (FloatVector)_mm512_slli_epi32(wide, 16);
}

// Not the conversion instruction of AVX512_BF16, which flushes subnormal numbers.
FD_HD void store(BFloat16* target, F32 value) {
  const __m512i bits = (__m512i)value.v;
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i carried =
      _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)value.v, (__m512)value.v, _CMP_UNORD_Q);
  const __m512i rounded = _mm512_mask_blend_epi32(nan, carried, _mm512_set1_epi32(0x7FC00000));
  _mm256_storeu_si256((__m256i*)target, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

FD_HD void stream(float* target, F32 value) { _mm512_stream_ps(target, (__m512)value.v); }

FD_HD Words multiply_wide(Words a, uint32_t b) {
  return {(WordVector)_mm512_mul_epu32((__m512i)a.v, _mm512_set1_epi64(b))};
}

// The order of the counters within a register that lets store_draws unpack without a permutation.
FD_HD Words group_counters(uint64_t first) {
  return {WordVector{0, 4, 1, 5, 2, 6, 3, 7} + first};
}

FD_HD void store_draws(uint16_t* target, PhiloxBlock<Words> block) {
  // Lane k of `low` holds words 0 and 1 of one counter, of `high` words 2 and 3.
  const __m512 low = _mm512_mask_moveldup_ps((__m512)block.x.v, 0xAAAA, (__m512)block.y.v);
  const __m512 high = _mm512_mask_moveldup_ps((__m512)block.z.v, 0xAAAA, (__m512)block.w.v);
  _mm512_storeu_si512(target, _mm512_unpacklo_epi64((__m512i)low, (__m512i)high));
  _mm512_storeu_si512(target + 32, _mm512_unpackhi_epi64((__m512i)low, (__m512i)high));
}

}  // namespace fused_dropout::cpu::FD_ISA
