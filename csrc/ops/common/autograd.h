// Which calls need a graph, and which the composite kernels take over.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "ops/common/arguments.h"

namespace fused_dropout {

// Autograd saves None as an undefined tensor.
inline OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}
inline Tensor or_undefined(const OptionalTensor& tensor) { return tensor.value_or(Tensor()); }

inline bool requires_grad(const Tensor& tensor) { return tensor.requires_grad(); }
inline bool requires_grad(const OptionalTensor& tensor) {
  return tensor && tensor->requires_grad();
}

inline bool has_tangent(const Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }
inline bool has_tangent(const OptionalTensor& tensor) { return tensor && has_tangent(*tensor); }

template <class... Tensors>
bool has_tangents(const Tensors&... tensors) {
  return (has_tangent(tensors) || ...);
}

template <class... Tensors>
bool needs_graph(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (requires_grad(tensors) || ...);
}

// C++ autograd functions support neither forward mode nor the transforms of torch.func. During a
// transform this dispatch key is included.
template <class... Tensors>
bool needs_composite(const Tensors&... tensors) {
  return has_tangents(tensors...) ||
         (needs_graph(tensors...) &&
          c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode));
}

// The autograd kernel of an operator that has an autograd function: `tensors` are those that may
// have a gradient.
template <class Composite, class WithGraph, class Below, class... Tensors>
auto route_forward(Composite composite, WithGraph with_graph, Below below,
                   const Tensors&... tensors) {
  if (needs_composite(tensors...)) return composite();
  if (needs_graph(tensors...)) return with_graph();
  const at::AutoDispatchBelowADInplaceOrView guard;
  return below();
}

// The autograd kernel of an operator whose gradient is that of the composite kernel.
template <class Composite, class Below, class... Tensors>
auto route_backward(Composite composite, Below below, const Tensors&... tensors) {
  if (needs_composite(tensors...) || needs_graph(tensors...)) return composite();
  const at::AutoDispatchBelowADInplaceOrView guard;
  return below();
}

}  // namespace fused_dropout
