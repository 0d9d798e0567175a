// The run-time choice of instruction set.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernel_table.h"

namespace fused_dropout::cpu {

// The kernels in use: the best set that the machine has and torch's own choice
// (ATEN_CPU_CAPABILITY) allows, or the one named by FUSED_DROPOUT_CPU_CAPABILITY.
const KernelTable& kernels();

// Those of the operators that work row by row, and of noise. fp64 has no registers to gain from:
// these kernels are compiled for the baseline alone.
const KernelTable& row_kernels(Storage storage);

// Names of the sets that this build has and this machine runs, best first.
std::vector<std::string> available_capabilities();

// Takes the named set for all further calls; an error if it is not available.
void force_capability(const std::string& name);

}  // namespace fused_dropout::cpu
