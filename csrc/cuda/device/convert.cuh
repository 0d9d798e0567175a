// Conversions between storage types and the types that kernels compute with. Narrowing rounds once,
// to nearest even.
#pragma once

#include "math/dtype.h"
#include "math/scalar.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fused_dropout::cuda {

FD_HD float widen(float value) { return value; }
FD_HD double widen(double value) { return value; }
FD_HD float widen(BFloat16 value) {
  return float_from_bits(static_cast<uint32_t>(value.bits) << 16);
}

FD_HD float widen(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return float_from_bits(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  // The exponent bias differs by 112. A multiplication adjusts subnormal numbers too.
  return float_from_bits(sign | bits_of_float(float_from_bits(magnitude << 13) * 0x1p112f));
#endif
}

FD_HD void narrow(float value, float& target) { target = value; }
FD_HD void narrow(double value, double& target) { target = value; }

FD_HD void narrow(float value, BFloat16& target) {
#if defined(__CUDA_ARCH__)
  target.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
  const uint32_t bits = bits_of_float(value);
  const uint32_t carried = bits + 0x7FFFu + ((bits >> 16) & 1u);
  target.bits = static_cast<uint16_t>((value == value ? carried : 0x7FFF0000u) >> 16);
#endif
}

FD_HD void narrow(float value, Half& target) {
#if defined(__CUDA_ARCH__)
  target.bits = __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7FFFu;
  } else if (magnitude >= 0x477FF000u) {
    half = 0x7C00u;  // infinity, for 65520 and above
  } else if (magnitude < 0x38800000u) {
    // Subnormal results: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    half = bits_of_float(float_from_bits(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  }
  target.bits = static_cast<uint16_t>(sign | half);
#endif
}

// The value after a store as T and a load.
template <class T, class C>
FD_HD C rounded(C value) {
  T stored;
  narrow(value, stored);
  return widen(stored);
}

// Two neighbouring elements in one 32-bit word, the first in the low half. The pointer argument
// selects the type.
FD_HD void widen_pair(uint32_t word, const BFloat16*, float& first, float& second) {
  first = float_from_bits(word << 16);
  second = float_from_bits(word & 0xFFFF0000u);
}
FD_HD void widen_pair(uint32_t word, const Half*, float& first, float& second) {
  first = widen(Half{static_cast<uint16_t>(word)});
  second = widen(Half{static_cast<uint16_t>(word >> 16)});
}

template <class T>
FD_HD uint32_t narrow_pair(const T*, float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  if constexpr (std::is_same_v<T, BFloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    memcpy(&word, &pair, sizeof(word));
  } else {
    const __half2 pair = __floats2half2_rn(first, second);
    memcpy(&word, &pair, sizeof(word));
  }
  return word;
#else
  T low, high;
  narrow(first, low);
  narrow(second, high);
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
#endif
}

}  // namespace fused_dropout::cuda
