// From the run-time storage type and activation to template arguments. Used by the kernel headers
// to fill their tables.
#pragma once

#include "cpu/isa/simd.h"
#include "math/activation_dispatch.h"
#include "math/dtype.h"

namespace fused_dropout::cpu::FD_ISA {

template <class T>
struct TypeTag {
  using Type = T;
};

// The fp64 versions of most kernels are compiled for the baseline only: see row_kernels.
constexpr bool kHasDoubleRows = kLanes == 4;

// visit(TypeTag) for the storage type of x, or null if its kernels are not compiled.
template <class Kernel, bool kHasDouble = kHasDoubleRows, class Visit>
Kernel with_type(Storage storage, Visit visit) {
  switch (storage) {
    case Storage::kFloat32:
      return visit(TypeTag<float>{});
    case Storage::kFloat64:
      if constexpr (kHasDouble) return visit(TypeTag<double>{});
      break;
    case Storage::kFloat16:
      return visit(TypeTag<Half>{});
    case Storage::kBFloat16:
      return visit(TypeTag<BFloat16>{});
  }
  return nullptr;
}

// visit(TypeTag, FunctorTag) for the storage type of x and the activation.
template <class Kernel, bool kHasDouble = kHasDoubleRows, class Visit>
Kernel with_type_and_functor(Storage storage, int activation, Visit visit) {
  return with_type<Kernel, kHasDouble>(storage, [&](auto type) {
    return with_functor(activation, [&](auto functor) -> Kernel { return visit(type, functor); });
  });
}

}  // namespace fused_dropout::cpu::FD_ISA
