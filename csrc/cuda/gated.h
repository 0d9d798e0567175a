// What the torch side knows of the gated kernels: y = drop(act(gate + gate_bias) * (value +
// value_bias)), where the rows of gate and value lie side by side in those of x.
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

// `layout` is that of y, with a row's width for its channels. The halves of x point at their first
// rows; from one row to the next it is twice the width.
struct GatedForwardArgs {
  const void* gate;
  const void* value;
  void* y;
  Vector gate_bias, value_bias;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number scale, shift, fill;
  Number parameter;
};

struct GatedBackwardArgs {
  const void* dy;
  const void* gate;
  const void* value;
  void* dgate;  // null, both, where no gradient by x is wanted
  void* dvalue;
  // Null, both, where no gradients by the biases are wanted, else partial_rows(layout) rows of the
  // layout's period each.
  void* gate_partials = nullptr;
  void* value_partials = nullptr;
  Vector gate_bias, value_bias;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number scale;
  Number parameter;
};

void launch_gated_forward(const GatedForwardArgs& args, Storage storage, int activation,
                          Stream stream);
void launch_gated_backward(const GatedBackwardArgs& args, Storage storage, int activation,
                           Stream stream);

// Both for one type.
template <class T>
void gated_forward_of(GatedForwardArgs args, int activation, Stream stream);
template <class T>
void gated_backward_of(GatedBackwardArgs args, int activation, Stream stream);

}  // namespace fused_dropout::cuda
