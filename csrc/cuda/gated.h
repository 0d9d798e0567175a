// Arguments and launch functions of the gated kernels: y = drop(act(gate + gate_bias) * (value +
// value_bias)) and its gradient. Each row of x holds a row of `gate` beside a row of `value`.
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

// `layout` is that of y, with the row width as the number of channels. `gate` and `value` point at
// the first row of their half of x; their rows are twice the width apart.
struct GatedForwardArgs {
  const void* gate;
  const void* value;
  void* y;
  VectorOperand gate_bias, value_bias;
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
  void* dgate;  // dgate and dvalue are both null if the gradient of x is not wanted
  void* dvalue;
  // Both null if the bias gradients are not wanted. Otherwise each has partial_rows(layout) rows of
  // `period` numbers.
  void* gate_partials = nullptr;
  void* value_partials = nullptr;
  VectorOperand gate_bias, value_bias;
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

// The same for tensors of type T.
template <class T>
void gated_forward_of(GatedForwardArgs args, int activation, Stream stream);
template <class T>
void gated_backward_of(GatedBackwardArgs args, int activation, Stream stream);

}  // namespace fused_dropout::cuda
