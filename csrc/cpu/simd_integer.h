// Pieces of simd.h in plain integer vector arithmetic, for instruction sets without masks.
#pragma once

#include "pair.h"
#include "simd.h"
#include "storage.h"

namespace fused_dropout::cpu::FD_ISA {

// Two factors, so that neither overflows where the product does not, and a subnormal product is
// rounded once.
FD_HD F32 scale_by_pow2(F32 a, F32 n) {
  const IntVector exponent = __builtin_convertvector(n.v, IntVector);
  const IntVector half = exponent >> 1;
  return a.v * bit_cast<FloatVector>((half + 127) << 23) *
         bit_cast<FloatVector>((exponent - half + 127) << 23);
}

using KeepMask = LaneMask;

FD_HD KeepMask keep_mask(const uint16_t* draws, uint32_t keep_count) {
  const IntVector wide = __builtin_convertvector(load_vector<ShortVector>(draws), IntVector);
  return {wide < static_cast<int32_t>(keep_count)};
}

FD_HD F32 load(const BFloat16* source) {
  const UIntVector wide = __builtin_convertvector(load_vector<ShortVector>(source), UIntVector);
  return bit_cast<FloatVector>(wide << 16);
}

// A bf16 in each lane, rounded to nearest even.
FD_HD UIntVector round_to_bfloat16(F32 value) {
  const UIntVector bits = bit_cast<UIntVector>(value.v);
  const UIntVector carried = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const UIntVector rounded = value.v == value.v ? carried : UIntVector{} + 0x7FC00000u;
  return rounded >> 16;
}

}  // namespace fused_dropout::cpu::FD_ISA
