// Large outputs on huge pages: the page faults of fresh memory cost more than writing it.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_dropout::cpu {

// Uninitialised tensors. From 4 MiB on the kernel is advised to back them by huge pages.
at::Tensor empty_large(at::IntArrayRef sizes, at::IntArrayRef strides,
                       const at::TensorOptions& options);
at::Tensor empty_large(const at::Tensor& like, at::ScalarType dtype);

}  // namespace fused_dropout::cpu
