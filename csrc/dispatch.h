// Runtime choices turned into template arguments.
#pragma once

#include "activations.h"

namespace fused_dropout {

// Calls visit(Functor<Full>{}) for the activation with this index.
template <class Visit>
auto with_activation(int activation, Visit visit) {
  switch (static_cast<Activation>(activation)) {
#define FD_CASE(Functor, name) \
  case Activation::k##Functor: \
    return visit(Functor<Full>{});
    FD_FOR_EACH_ACTIVATION(FD_CASE)
#undef FD_CASE
  }
  return visit(Identity<Full>{});  // not reached: names are resolved before
}

}  // namespace fused_dropout
