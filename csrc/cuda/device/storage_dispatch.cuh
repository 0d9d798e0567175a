// Turns a storage type that is known at run time into a template argument, for launch functions.
#pragma once

#include "math/dtype.h"

namespace fused_dropout::cuda {

// Calls visit with a value of the storage type; only the type of the value matters.
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
