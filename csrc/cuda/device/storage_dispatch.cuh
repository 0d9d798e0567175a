// From a storage type that is known at run time to a template argument.
#pragma once

#include "math/dtype.h"

namespace fused_dropout::cuda {

// Calls visit with an element of the storage type, for its type alone.
template <class Visit>
void with_type(Storage storage, Visit visit) {
  switch (storage) {
    case Storage::kFloat32:
      return visit(float());
    case Storage::kFloat64:
      return visit(double());
    case Storage::kFloat16:
      return visit(Half());
    case Storage::kBFloat16:
      return visit(BFloat16());
  }
}

template <class T>
constexpr bool kIsHalf = sizeof(T) == 2;

}  // namespace fused_dropout::cuda
