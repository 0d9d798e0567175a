// What the torch side of the CPU path knows of the kernels: plain structs and one table of function
// pointers per instruction set. No torch header here, so that the kernels compile in seconds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/drop_block.h"
#include "math/dtype.h"
#include "math/philox.h"

namespace fused_dropout::cpu {

// Elements handled at a time: random draws and broadcast biases of one block live in the L1 cache.
constexpr int kChunk = 512;
// Buffers read in whole registers are this much longer than their contents.
constexpr int kPadding = 64;

// Which random number decides about the element at a position in memory order: the collapsed
// dimensions of the tensor, outermost first, and the stride of the mask index along each.
struct MaskIndexing {
  PhiloxState state{};
  uint32_t keep_count = 65536;
  int64_t first = 0;
  int ndim = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;

  bool draws() const { return keep_count < 65536; }
};

// A bias that repeats over memory: element `position` takes values[(position / inner) % channels].
// Where inner is small, `values` is unrolled to one period (a multiple of channels * inner of at
// least kChunk elements) and stored with kChunk + kPadding wrapped elements behind it; inner is 1
// then. Values are float, or double for fp64.
struct BiasIndexing {
  const void* values = nullptr;
  int64_t period = kChunk;
  int64_t inner = 1;
};

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

// ---- rows: memory whose last dimension lies innermost ----------------------------------------

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

// Which columns a row kernel sums up, each into a vector of its own (null where not wanted) that is
// added to. A gated kernel has the two halves of its bias.
struct ColumnSums {
  void* bias = nullptr;
  void* value_bias = nullptr;  // of the half that is not the first
  void* layer_scale = nullptr;
  void* weight = nullptr;
  void* norm_bias = nullptr;
};

// Which rows and columns a kernel works on.
struct RowRange {
  int64_t first_row, last_row;
  int64_t first_column, last_column;
};

// `scratch` has scratch_bytes(width).
using GatedForwardKernel = void (*)(const GatedForwardArgs&, const RowRange&);
using GatedBackwardKernel = void (*)(const GatedBackwardArgs&, const ColumnSums&, const RowRange&);
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

// ---- noise: draws that are numbers, and keep probabilities of single elements ------------------

// y = x (1 + sigma z). Its own gradient.
struct GaussianArgs {
  const void* x;
  void* y;
  MaskIndexing mask;
  double sigma;
};

struct ConcreteArgs {
  const void* x;
  MaskIndexing mask;
  double logit;
  double inverse_temperature;
  double scale;  // 1 / (1 - p)
  double p;
};

struct ConcreteForwardArgs : ConcreteArgs {
  void* y;
};

struct ConcreteBackwardArgs : ConcreteArgs {
  const void* dy;
  void* dx;  // null where not wanted
};

// In training x where a unit is kept, which takes dy to dx as well; in evaluation the mean of that.
struct StandoutArgs {
  const void* x;
  const void* z;
  void* y;
  MaskIndexing mask;
  double alpha, beta;
};

// Of evaluation.
struct StandoutBackwardArgs {
  const void* dy;
  const void* x;
  const void* z;
  void* dx;  // null where not wanted, as the next
  void* dz;
  double alpha, beta;
};

using GaussianKernel = void (*)(const GaussianArgs&, int64_t begin, int64_t end);
using ConcreteForwardKernel = void (*)(const ConcreteForwardArgs&, int64_t begin, int64_t end);
// Returns this part's share in the gradient by the logit.
using ConcreteBackwardKernel = double (*)(const ConcreteBackwardArgs&, int64_t begin, int64_t end);
using StandoutKernel = void (*)(const StandoutArgs&, int64_t begin, int64_t end);
using StandoutBackwardKernel = void (*)(const StandoutBackwardArgs&, int64_t begin, int64_t end);

struct NoiseTable {
  GaussianKernel (*gaussian)(Storage storage);
  ConcreteForwardKernel (*concrete_forward)(Storage storage);
  ConcreteBackwardKernel (*concrete_backward)(Storage storage);
  StandoutKernel (*standout)(Storage storage, bool training);
  StandoutBackwardKernel (*standout_backward)(Storage storage);
};

// What a row kernel keeps of one row: three vectors and the draws, in 8 bytes a number and 2.
constexpr int64_t scratch_bytes(int64_t width) { return 26 * (width + 2 * kChunk + kPadding); }

using ForwardKernel = void (*)(const ForwardArgs&, int64_t begin, int64_t end);
// `partial` (may be null) has the layout of the bias values and is added to.
using BackwardKernel = void (*)(const BackwardArgs&, void* partial, int64_t begin, int64_t end);
using MaskKernel = void (*)(const MaskIndexing&, bool* kept, int64_t begin, int64_t end);

// ---- DropBlock ------------------------------------------------------------------------------

// A volume is seen as slices along its slowest dimension. Where volumes are small and lie one after
// the other, they are the slices of one volume, with blocks of one slice.
struct DropBlockArgs {
  const void* x;
  void* y;
  MaskIndexing seeds;  // which draw decides about a seed, and keep_count
  int64_t volumes, copies, volume_stride, copy_stride;
  drop_block::Axis slow;
  drop_block::Axis fast[3];  // the last is the fastest
  int64_t inner, run;
  int64_t window;  // slices at a time
  double scale;
  bool non_temporal;

  FD_HD int64_t slice() const { return fast[0].size * fast[1].size * fast[2].size * inner; }
  FD_HD int64_t seed_slice() const {
    return fast[0].seeds() * fast[1].seeds() * fast[2].seeds() * inner;
  }
  // Room for what the last blocks reach beyond, and for whole registers.
  FD_HD int64_t window_length() const { return (window + slow.block - 1) * slice() + kPadding; }
};

// Slices of one volume.
struct DropBlockRange {
  int64_t volume, first, last;
};

// `window` has args.window_length() numbers.
using DropBlockCountKernel = int64_t (*)(const DropBlockArgs&, const DropBlockRange&,
                                         uint16_t* window);
using DropBlockApplyKernel = void (*)(const DropBlockArgs&, const DropBlockRange&,
                                      uint16_t* window);

struct KernelTable {
  const char* name;
  ForwardKernel (*forward)(Storage storage, Residual residual, int activation);
  // `wide_gradient`: dy is fp32 while x is 16 bits wide.
  BackwardKernel (*backward)(Storage storage, bool wide_gradient, bool sum_bias, int activation);
  MaskKernel mask;
  GatedForwardKernel (*gated_forward)(Storage storage, int activation);
  GatedBackwardKernel (*gated_backward)(Storage storage, int activation);
  BranchKernel (*branch)(Storage storage, int activation);
  BranchBackwardKernel (*branch_backward)(Storage storage, int activation);
  // `wide_h`: the stream is fp32 while x has 16 bits. `wide_y`: so is y, or dy.
  NormForwardKernel (*norm_forward)(Storage storage, bool wide_h, bool wide_y);
  NormBackwardKernel (*norm_backward)(Storage storage, bool wide_h, bool wide_y);
  DropBlockCountKernel drop_block_count;
  DropBlockApplyKernel (*drop_block_apply)(Storage storage);
  NoiseTable noise;
};

const KernelTable* baseline_kernels();
const KernelTable* avx2_kernels();  // null where not compiled for this architecture
const KernelTable* avx512_kernels();

}  // namespace fused_dropout::cpu
