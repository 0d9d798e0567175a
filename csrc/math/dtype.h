// Storage types: how numbers lie in memory. Torch's own 16-bit classes live in headers that the
// kernels avoid.
#pragma once

#include <cstdint>

namespace fused_dropout {

enum class Storage : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

inline int64_t size_of(Storage storage) {  // in bytes
  return storage == Storage::kFloat64 ? 8 : storage == Storage::kFloat32 ? 4 : 2;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace fused_dropout
