// Runtime choices turned into template arguments.
#pragma once

#include "activations.h"

namespace fused_dropout {

// An activation's functor, of a precision yet to be named.
template <template <class> class Functor>
struct FunctorTag {
  template <class Precision>
  using Of = Functor<Precision>;
};

// visit(FunctorTag) for the activation with this index.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // it is for the host where visit is
#endif
template <class Visit>
FD_HD auto with_functor(int activation, Visit visit) {
  switch (static_cast<Activation>(activation)) {
#define FD_CASE(Functor, name) \
  case Activation::k##Functor: \
    return visit(FunctorTag<Functor>{});
    FD_FOR_EACH_ACTIVATION(FD_CASE)
#undef FD_CASE
  }
  __builtin_unreachable();  // names are resolved before
}

}  // namespace fused_dropout
