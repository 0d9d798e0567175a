// The choice of the CPU instruction set at run time. The operators get their kernels here;
// bindings.cpp shows the choice to Python.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernel_table.h"

namespace fused_dropout::cpu {

// The kernels in use: those of the instruction set that FUSED_DROPOUT_CPU_CAPABILITY names, or else
// of the best one that the machine has and that torch uses as well (ATEN_CPU_CAPABILITY).
const KernelTable& kernels();

// The kernels to use for the gated, norm and noise operators. Their fp64 versions are scalar code
// that no instruction set speeds up, so they are compiled for the baseline only.
const KernelTable& row_kernels(Storage storage);

// Names of the instruction sets that this build has and this machine runs, best first.
std::vector<std::string> available_capabilities();

// Uses the named instruction set in all further calls. Raises an error if it is not available.
void force_capability(const std::string& name);

}  // namespace fused_dropout::cpu
