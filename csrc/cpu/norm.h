// Arguments and dispatch table of the norm kernels: h = residual + branch, y = norm(h), with
// branch = drop(act(x + bias)) * layer_scale * row_scale. Filled in by norm.cpp, used by
// kernels/norm-inl.h and kernels/norm_branch-inl.h.
//
// Vectors along a row (bias, layer_scale, weight, norm_bias) are arrays of float, or of double for
// fp64, with kPadding more numbers behind them. They are never null: a vector that the caller does
// not give is one that changes nothing (ones, or -0 for a bias).
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

struct BranchArgs {
  const void* x;
  const void* bias;
  const void* layer_scale;
  const void* row_scale;  // one number for each row; null for none
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
  const void* residual;  // has the dtype of h; null for none
  const void* norm_bias;
  void* y;
  void* h;     // null if not needed
  void* mean;  // one number for each row, like rstd; null if not centered
  void* rstd;
};

// dh and dresidual have the dtype of h.
struct NormBackwardArgs : NormArgs {
  const void* dy;
  const void* dh;        // null for none
  const void* h;         // null if the kernel computes it again from x and the residual
  const void* residual;  // null for none
  const void* mean;
  const void* rstd;
  void* dx;         // null if not needed
  void* dresidual;  // null if not needed
};

// Size of the scratch memory of a norm kernel: one row of values, of branch values, of gradients
// (8 bytes each at most) and of draws (2 bytes).
constexpr int64_t scratch_bytes(int64_t width) { return 26 * (width + 2 * kChunk + kPadding); }

// Writes drop(act(x + bias)) of one row to `values`, without layer_scale and row_scale.
using BranchKernel = void (*)(const BranchArgs&, int64_t row, int64_t width, const uint16_t* draws,
                              void* values);
// Takes the gradients with respect to drop(act(x + bias)) of one row. Writes those with respect to
// x + bias to dx and adds them to `bias_sums`; either may be null.
using BranchBackwardKernel = void (*)(const BranchArgs&, int64_t row, int64_t width,
                                      const uint16_t* draws, const void* gradients, void* dx,
                                      void* bias_sums);
// `scratch` has scratch_bytes(width) bytes.
using NormForwardKernel = void (*)(const NormForwardArgs&, BranchKernel, int64_t first_row,
                                   int64_t last_row, void* scratch);
using NormBackwardKernel = void (*)(const NormBackwardArgs&, BranchKernel, BranchBackwardKernel,
                                    const ColumnSums&, int64_t first_row, int64_t last_row,
                                    void* scratch);

// The branch depends on the activation and the norm on the dtypes. They are separate kernels so
// that not every combination is compiled.
struct NormTable {
  BranchKernel (*branch)(Storage storage, int activation);
  BranchBackwardKernel (*branch_backward)(Storage storage, int activation);
  // For a 16-bit x: `wide_h` if h and the residual are fp32, `wide_y` if y (or dy) is fp32 too.
  NormForwardKernel (*forward)(Storage storage, bool wide_h, bool wide_y);
  NormBackwardKernel (*backward)(Storage storage, bool wide_h, bool wide_y);
};

}  // namespace fused_dropout::cpu
