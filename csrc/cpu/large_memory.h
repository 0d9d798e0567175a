// Memory for large outputs. Used by all CPU operators. The page faults of fresh memory cost more
// time than writing it, so large outputs use huge pages; and their stores bypass the cache.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_dropout::cpu {

// Uninitialised tensors. From 4 MiB on, the operating system is advised to use huge pages.
at::Tensor empty_large(at::IntArrayRef sizes, at::IntArrayRef strides, at::TensorOptions options);
at::Tensor empty_large(const at::Tensor& like, at::ScalarType dtype);

// Whether an output of this size would evict everything else from the last-level cache.
bool exceeds_cache(size_t bytes);

}  // namespace fused_dropout::cpu
