// The dtypes of tensors, as the kernels see them. Kernels include no torch header, so they have
// classes of their own for 16-bit numbers.
#pragma once

#include <cstdint>

namespace fused_dropout {

enum class Storage : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

// In bytes.
inline int64_t size_of(Storage storage) {
  return storage == Storage::kFloat64 ? 8 : storage == Storage::kFloat32 ? 4 : 2;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace fused_dropout
