// All CPU kernels for AVX2 (with FMA, F16C and BMI2).
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)

#include <immintrin.h>

// The target holds for the rest of this file. The standard headers above are compiled for the
// baseline: the linker may pick their inline functions for code that other machines run.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2")
#endif
#define FD_ISA avx2
#define FD_LANES 8

#include "cpu/isa/simd_avx2.h"
#include "cpu/kernels/table-inl.h"

namespace fused_dropout::cpu {

const KernelTable* avx2_kernels() {
  static constexpr KernelTable kTable = avx2::kernel_table("avx2");
  return &kTable;
}

}  // namespace fused_dropout::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif

#else

#include "cpu/kernel_table.h"

namespace fused_dropout::cpu {

const KernelTable* avx2_kernels() { return nullptr; }

}  // namespace fused_dropout::cpu

#endif
