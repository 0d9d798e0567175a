// Runtime choices turned into template arguments.
#pragma once

#include "math/activations.h"

#if defined(FUSED_DROPOUT_SANITIZE)
#include <stdexcept>
#endif

namespace fused_dropout {

// An activation's functor, of a precision yet to be named.
template <template <class> class Functor>
struct FunctorTag {
  template <class Precision>
  using Of = Functor<Precision>;
};

// Those that a build with sanitizers compiles, as which memory a kernel touches depends on none of
// them: one without arithmetic, one with a parameter, one with most of the mathematical functions.
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
#pragma nv_exec_check_disable  // it is for the host where visit is
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
  __builtin_unreachable();  // names are resolved before
#endif
}

}  // namespace fused_dropout
