// The 16-bit storage types, as bits: torch's own classes live in headers that the kernels avoid.
#pragma once

#include <cstdint>

namespace fused_dropout::cpu {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace fused_dropout::cpu
