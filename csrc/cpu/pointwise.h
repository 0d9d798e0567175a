// Arguments and dispatch table of the pointwise kernels: y = residual + drop(act(x + bias)).
// Filled in by pointwise.cpp, used by kernels/pointwise-inl.h.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

// Kept elements become scale * act(x + bias) + shift, dropped elements become `fill`.
struct PointwiseForwardArgs {
  const void* x;
  const void* residual;
  void* y;
  BiasIndexing bias;
  MaskIndexing mask;
  double scale, shift, fill;
  double parameter;   // of the activation
  bool non_temporal;  // store past the cache
};

struct PointwiseBackwardArgs {
  const void* dy;
  const void* x;  // null if the derivative needs no input
  void* dx;       // null if not needed
  BiasIndexing bias;
  MaskIndexing mask;
  double scale;
  double parameter;
  bool non_temporal;
};

// The residual's dtype: no residual, the dtype of x, or fp32 beside a 16-bit x.
enum class ResidualType : int { kNone, kSame, kFloat32 };

// Kernels work on the elements [begin, end) in memory order.
using PointwiseForwardKernel = void (*)(const PointwiseForwardArgs&, int64_t begin, int64_t end);
// `bias_sums` (may be null) has the layout of the bias values; the kernel adds to it.
using PointwiseBackwardKernel = void (*)(const PointwiseBackwardArgs&, void* bias_sums,
                                         int64_t begin, int64_t end);

struct PointwiseTable {
  PointwiseForwardKernel (*forward)(Storage storage, ResidualType residual, int activation);
  // `wide_gradient`: dy is fp32, and x has 16 bits.
  PointwiseBackwardKernel (*backward)(Storage storage, bool wide_gradient, bool sum_bias,
                                      int activation);
};

}  // namespace fused_dropout::cpu
