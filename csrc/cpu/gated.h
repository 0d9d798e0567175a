// Arguments and dispatch table of the gated kernels: y = drop(act(x1 + b1) * (x2 + b2)), where x1
// and x2 are the two halves of a row of x: the gate and the value. Filled in by gated.cpp, used by
// kernels/gated-inl.h.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

struct GatedArgs {
  const void* x;     // contiguous rows of 2 * width elements
  const void* bias;  // 2 * width + kPadding numbers of float, or double for fp64; never null
  int64_t width;
  bool gate_first;  // the gate is the first half of a row
  MaskIndexing mask;
  double scale, shift, fill;
  double parameter;
  bool non_temporal;
};

struct GatedForwardArgs : GatedArgs {
  void* y;
};

struct GatedBackwardArgs : GatedArgs {
  const void* dy;
  void* dx;  // null if not needed
};

using GatedForwardKernel = void (*)(const GatedForwardArgs&, const RowRange&);
using GatedBackwardKernel = void (*)(const GatedBackwardArgs&, const ColumnSums&, const RowRange&);

struct GatedTable {
  GatedForwardKernel (*forward)(Storage storage, int activation);
  GatedBackwardKernel (*backward)(Storage storage, int activation);
};

}  // namespace fused_dropout::cpu
