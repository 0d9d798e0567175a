// Which calls need a graph, and which the composition takes over.
#pragma once

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <initializer_list>

#include "ops/common/arguments.h"

namespace fused_dropout {

// Each level of torch.func's transforms hands its operators on through this key.
inline bool inside_transform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

// What autograd has saved, of which an undefined tensor stands for none.
inline OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

inline bool requires_grad(const OptionalTensor& tensor) {
  return tensor && tensor->requires_grad();
}

// C++ autograd functions have no forward mode and refuse the transforms of torch.func.
inline bool needs_composition(std::initializer_list<OptionalTensor> tensors) {
  if (inside_transform()) return true;
  for (const OptionalTensor& tensor : tensors) {
    if (tensor && tensor->_fw_grad(/*level=*/0).defined()) return true;
  }
  return false;
}

inline bool needs_graph(std::initializer_list<OptionalTensor> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  for (const OptionalTensor& tensor : tensors) {
    if (requires_grad(tensor)) return true;
  }
  return false;
}

// A state, or where it is to be drawn from: then the function that draws it keeps it here.
struct Random {
  OptionalTensor rng_state;
  bool draws = false;
  OptionalGenerator generator;

  static Random from(const OptionalGenerator& generator) { return {{}, true, generator}; }
};

}  // namespace fused_dropout
