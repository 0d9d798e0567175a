// The dispatch table of one instruction set. Each file in isa/ includes this header, and so all
// kernels, once.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/drop_block-inl.h"
#include "cpu/kernels/gated-inl.h"
#include "cpu/kernels/noise-inl.h"
#include "cpu/kernels/norm-inl.h"
#include "cpu/kernels/pointwise-inl.h"
#include "cpu/kernels/random-inl.h"

namespace fused_dropout::cpu::FD_ISA {

constexpr KernelTable kernel_table(const char* name) {
  return {name,         pointwise_table(),  random_table(), gated_table(),
          norm_table(), drop_block_table(), noise_table()};
}

}  // namespace fused_dropout::cpu::FD_ISA
