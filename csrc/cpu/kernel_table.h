// The dispatch table: one table of kernel pointers for each instruction set. The host code of the
// operators gets it from capability.h; kernels/table-inl.h fills it in. This header and the family
// headers below include no torch header, so that the kernels compile in seconds.
#pragma once

#include "cpu/drop_block.h"
#include "cpu/gated.h"
#include "cpu/noise.h"
#include "cpu/norm.h"
#include "cpu/pointwise.h"
#include "cpu/random.h"

namespace fused_dropout::cpu {

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
