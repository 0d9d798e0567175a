// Large outputs in huge pages (on Linux), and past the cache; see large_memory.h.
#include "cpu/large_memory.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fused_dropout::cpu {
namespace {

at::Tensor advise(at::Tensor tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 << 20;
  constexpr size_t kWorthwhile = 4 << 20;
  if (tensor.nbytes() >= kWorthwhile) {
    // Only pages that the tensor fills: other data may lie on its first and last page.
    const auto address = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    const uintptr_t first = (address + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t last = (address + tensor.nbytes()) / kHugePage * kHugePage;
    // The result does not matter: if the advice is refused, pages stay small.
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

}  // namespace

at::Tensor empty_large(at::IntArrayRef sizes, at::IntArrayRef strides, at::TensorOptions options) {
  return advise(at::empty_strided(sizes, strides, options));
}

at::Tensor empty_large(const at::Tensor& like, at::ScalarType dtype) {
  return advise(at::empty_like(like, like.options().dtype(dtype)));
}

bool exceeds_cache(size_t bytes) {
  // A constant, because the cache size that a machine reports can be many times too large,
  // especially on virtual machines.
  constexpr size_t kCache = 32 << 20;
  return bytes >= kCache;
}

}  // namespace fused_dropout::cpu
