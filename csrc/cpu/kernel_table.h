// What the torch side of the CPU path knows of the kernels: plain structs and one table of function
// pointers per instruction set. No torch header here, so that the kernels compile in seconds.
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

const KernelTable* baseline_kernels();
const KernelTable* avx2_kernels();  // null where not compiled for this architecture
const KernelTable* avx512_kernels();

}  // namespace fused_dropout::cpu
