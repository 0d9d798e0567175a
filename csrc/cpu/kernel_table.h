// The dispatch table: one table of kernel pointers for each instruction set. The host code of the
// operators gets it from capability.h; kernels/table-inl.h fills it in. This header and the family
// headers below include no torch header, so that the kernels compile in seconds.
#pragma once

#include "cpu/drop_block.h"
#include "cpu/gated.h"
#include "cpu/indexing.h"
#include "cpu/norm.h"
#include "cpu/pointwise.h"
#include "cpu/random.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

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

struct KernelTable {
  const char* name;
  PointwiseTable pointwise;
  RandomTable random;
  GatedTable gated;
  NormTable norm;
  DropBlockTable drop_block;
  NoiseTable noise;
};

// The tables of the files in isa/. Null if the instruction set does not exist on the architecture
// that is compiled for.
const KernelTable* baseline_kernels();  // never null
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();

}  // namespace fused_dropout::cpu
