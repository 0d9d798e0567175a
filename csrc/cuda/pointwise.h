// What the torch side knows of the pointwise kernels: y = residual + drop(act(x + bias)).
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

struct PointwiseForwardArgs {
  const void* x;
  const void* residual;  // null for none
  void* y;
  Vector bias;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number scale, shift, fill;
  Number parameter;
  // residual != nullptr; a kernel tests 32 bits at half the price. Set by launch_pointwise_forward.
  uint32_t has_residual = 0;
};

struct PointwiseBackwardArgs {
  const void* dy;
  const void* x;   // null where the derivative needs no input
  void* dx;        // null where no gradient by x is wanted
  void* partials;  // null where no gradient by the bias is wanted; see partial_rows
  Vector bias;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number scale;
  Number parameter;
};

// `wide_y`, `wide_dy`: they are fp32 while x has 16 bits.
void launch_pointwise_forward(const PointwiseForwardArgs& args, Storage storage, bool wide_y,
                              int activation, Stream stream);
void launch_pointwise_backward(const PointwiseBackwardArgs& args, Storage storage, bool wide_dy,
                               int activation, Stream stream);

// Both for one pair of types: what kernels read x as, and y or dy.
template <class T, class Y>
void pointwise_forward_of(PointwiseForwardArgs args, int activation, Stream stream);
template <class T, class DY>
void pointwise_backward_of(PointwiseBackwardArgs args, int activation, Stream stream);

}  // namespace fused_dropout::cuda
