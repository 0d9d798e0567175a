// The part of simd.h for instruction sets without mask registers, in integer vector arithmetic.
// Used by simd_baseline.h and simd_avx2.h.
#pragma once

#include "cpu/isa/pair.h"
#include "cpu/isa/simd.h"
#include "math/dtype.h"

namespace fused_dropout::cpu::FD_ISA {

// Defined in the header of the instruction set.
FD_HD F32 maximum(F32 a, F32 bound);
FD_HD UIntVector load_wide(const void* source);  // 16-bit integers, widened to one in each lane

FD_HD F32 scale_by_pow2(F32 a, F32 n) {
  const F32 biased = maximum(n, F32(-127.0f)) + F32(kExponentMagic);
  return a.v * bit_cast<FloatVector>(bit_cast<UIntVector>(biased.v) << 23);
}

using KeepMask = LaneMask;

FD_HD KeepMask keep_mask(const uint16_t* draws, uint32_t keep_count) {
  return {bit_cast<IntVector>(load_wide(draws)) < static_cast<int32_t>(keep_count)};
}

FD_HD F32 load(const BFloat16* source) { return bit_cast<FloatVector>(load_wide(source) << 16); }

// A bf16 in the low half of each lane, rounded to nearest even.
FD_HD UIntVector round_to_bfloat16(F32 value) {
  const UIntVector bits = bit_cast<UIntVector>(value.v);
  const UIntVector carried = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const UIntVector rounded = value.v == value.v ? carried : UIntVector{} + 0x7FC00000u;
  return rounded >> 16;
}

}  // namespace fused_dropout::cpu::FD_ISA
