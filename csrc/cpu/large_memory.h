// What large outputs need: huge pages, as the page faults of fresh memory cost more than writing
// it, and stores that leave the cache alone.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_dropout::cpu {

// Uninitialised tensors. From 4 MiB on the kernel is advised to back them by huge pages.
at::Tensor empty_large(at::IntArrayRef sizes, at::IntArrayRef strides, at::TensorOptions options);
at::Tensor empty_large(const at::Tensor& like, at::ScalarType dtype);

// Whether an output of this size would push everything else out of the last-level cache.
bool exceeds_cache(size_t bytes);

}  // namespace fused_dropout::cpu
