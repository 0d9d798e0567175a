// All CPU kernels without extensions of the instruction set: 128-bit registers. Every build has
// them.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define FD_ISA baseline
#define FD_LANES 4

#include "cpu/isa/simd_baseline.h"
#include "cpu/kernels/table-inl.h"

namespace fused_dropout::cpu {

const KernelTable* baseline_kernels() {
  static constexpr KernelTable kTable = baseline::kernel_table("baseline");
  return &kTable;
}

}  // namespace fused_dropout::cpu
