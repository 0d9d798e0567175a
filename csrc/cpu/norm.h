// The arguments and the table of the normalised kernels.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

// A branch drop(act(x + bias)) * layer_scale * row_scale.
struct BranchArgs {
  const void* x;
  const void* bias;
  const void* layer_scale;
  const void* row_scale;  // one number a row; null for none
  MaskIndexing mask;
  double scale, shift, fill;
  double parameter;
  bool non_temporal = false;
};

struct NormArgs {
  BranchArgs branch;
  int64_t width;
  const void* weight;
  bool centered;  // LayerNorm rather than RMSNorm
  double eps;
  bool non_temporal;
};

struct NormForwardArgs : NormArgs {
  const void* residual;  // of h's type, as all of the stream; null for none
  const void* norm_bias;
  void* y;
  void* h;     // null where not wanted
  void* mean;  // one number a row, as rstd; null if not centered
  void* rstd;
};

struct NormBackwardArgs : NormArgs {
  const void* dy;
  const void* dh;        // null for none
  const void* h;         // null where it is computed from x and the residual
  const void* residual;  // null for none
  const void* mean;
  const void* rstd;
  void* dx;  // null where not wanted, as the next
  void* dresidual;
};

// What a row kernel keeps of one row: three vectors and the draws, in 8 bytes a number and 2.
constexpr int64_t scratch_bytes(int64_t width) { return 26 * (width + 2 * kChunk + kPadding); }

// `scratch` has scratch_bytes(width).
// Writes `width` values of one row, without the two scales.
using BranchKernel = void (*)(const BranchArgs&, int64_t row, int64_t width, const uint16_t* draws,
                              void* values);
// Turns gradients by the branch's value into those by x + bias, writes them to dx, and adds them to
// `sums`; either may be null.
using BranchBackwardKernel = void (*)(const BranchArgs&, int64_t row, int64_t width,
                                      const uint16_t* draws, const void* gradients, void* dx,
                                      void* sums);
using NormForwardKernel = void (*)(const NormForwardArgs&, BranchKernel, int64_t first_row,
                                   int64_t last_row, void* scratch);
using NormBackwardKernel = void (*)(const NormBackwardArgs&, BranchKernel, BranchBackwardKernel,
                                    const ColumnSums&, int64_t first_row, int64_t last_row,
                                    void* scratch);

struct NormTable {
  BranchKernel (*branch)(Storage storage, int activation);
  BranchBackwardKernel (*branch_backward)(Storage storage, int activation);
  // `wide_h`: the stream is fp32 while x has 16 bits. `wide_y`: so is y, or dy.
  NormForwardKernel (*forward)(Storage storage, bool wide_h, bool wide_y);
  NormBackwardKernel (*backward)(Storage storage, bool wide_h, bool wide_y);
};

}  // namespace fused_dropout::cpu
