// The arguments and the table of the gated kernels.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

// Vectors along a row are arrays of arithmetic type (float, or double for fp64) with kPadding more
// numbers behind them. None is null: what is not given is a vector that changes nothing.
struct GatedArgs {
  const void* x;     // rows of two halves of `width`
  const void* bias;  // of 2 * width + kPadding
  int64_t width;
  bool gate_first;
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
  void* dx;  // null where not wanted
};

using GatedForwardKernel = void (*)(const GatedForwardArgs&, const RowRange&);
using GatedBackwardKernel = void (*)(const GatedBackwardArgs&, const ColumnSums&, const RowRange&);

struct GatedTable {
  GatedForwardKernel (*forward)(Storage storage, int activation);
  GatedBackwardKernel (*backward)(Storage storage, int activation);
};

}  // namespace fused_dropout::cpu
