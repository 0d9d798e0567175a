// Arguments and launch functions of the pointwise kernels: y = residual + drop(act(x + bias)) and
// its gradient.
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

struct PointwiseForwardArgs {
  const void* x;
  const void* residual;  // null if the call has none
  void* y;
  VectorOperand bias;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number scale, shift, fill;
  Number parameter;
  // residual != nullptr: kernels test 32 bits at half the cost of a pointer. pointwise_forward_of
  // sets it.
  uint32_t has_residual = 0;
};

struct PointwiseBackwardArgs {
  const void* dy;
  const void* x;   // null if the derivative of the activation does not need it
  void* dx;        // null if this gradient is not wanted
  void* partials;  // null if the bias gradient is not wanted; partial_rows gives the size
  VectorOperand bias;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number scale;
  Number parameter;
};

// `wide_y` and `wide_dy`: that tensor is fp32 while x has 16 bits.
void launch_pointwise_forward(const PointwiseForwardArgs& args, Storage storage, bool wide_y,
                              int activation, Stream stream);
void launch_pointwise_backward(const PointwiseBackwardArgs& args, Storage storage, bool wide_dy,
                               int activation, Stream stream);

// The same for one pair of types: T of x and dx, Y of y and the residual, DY of dy.
template <class T, class Y>
void pointwise_forward_of(PointwiseForwardArgs args, int activation, Stream stream);
template <class T, class DY>
void pointwise_backward_of(PointwiseBackwardArgs args, int activation, Stream stream);

}  // namespace fused_dropout::cuda
