// From the run-time index of an activation to a template argument. Used by the kernels of all
// devices and by the composition of torch operators. The cases come from the list in activations.h.
#pragma once

#include "math/activations.h"

#if defined(FUSED_DROPOUT_SANITIZE)
#include <stdexcept>
#endif

namespace fused_dropout {

// The functor of an activation; the kernel chooses the precision with Of<Precision>.
template <template <class> class Functor>
struct FunctorTag {
  template <class Precision>
  using Of = Functor<Precision>;
};

// The activations that are compiled: all, except in a build with sanitizers. The memory that a
// kernel accesses does not depend on the activation, so such a build needs only three: one without
// arithmetic, one with a parameter, and one with most of the mathematical functions.
#if defined(FUSED_DROPOUT_SANITIZE)
#define FD_FOR_EACH_COMPILED(X) \
  X(Identity, "identity")       \
  X(LeakyRelu, "leaky_relu")    \
  X(Mish, "mish")
#else
#define FD_FOR_EACH_COMPILED FD_FOR_EACH_ACTIVATION
#endif

// visit(FunctorTag) for the activation with this index.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // also called with a `visit` for the host only
#endif
template <class Visit>
FD_HD auto with_functor(int activation, Visit visit) {
  switch (static_cast<Activation>(activation)) {
#define FD_CASE(Functor, name) \
  case Activation::k##Functor: \
    return visit(FunctorTag<Functor>{});
    FD_FOR_EACH_COMPILED(FD_CASE)
#undef FD_CASE
  }
#if defined(FUSED_DROPOUT_SANITIZE)
  throw std::domain_error("a build with sanitizers does not have this activation");
#else
  __builtin_unreachable();  // the index comes from activation_from_name
#endif
}

}  // namespace fused_dropout
