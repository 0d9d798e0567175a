// The arguments and the table of the pointwise kernels.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

struct ForwardArgs {
  const void* x;
  const void* residual;
  void* y;
  BiasIndexing bias;
  MaskIndexing mask;
  double scale, shift, fill;
  double parameter;
  bool non_temporal;  // store past the cache
};

struct BackwardArgs {
  const void* dy;
  const void* x;  // null where the derivative needs no input
  void* dx;       // null where no gradient by x is wanted
  BiasIndexing bias;
  MaskIndexing mask;
  double scale;
  double parameter;
  bool non_temporal;
};

enum class Residual : int { kNone, kSame, kFloat32 };

using ForwardKernel = void (*)(const ForwardArgs&, int64_t begin, int64_t end);
// `partial` (may be null) has the layout of the bias values and is added to.
using BackwardKernel = void (*)(const BackwardArgs&, void* partial, int64_t begin, int64_t end);

struct PointwiseTable {
  ForwardKernel (*forward)(Storage storage, Residual residual, int activation);
  // `wide_gradient`: dy is fp32 while x is 16 bits wide.
  BackwardKernel (*backward)(Storage storage, bool wide_gradient, bool sum_bias, int activation);
};

}  // namespace fused_dropout::cpu
