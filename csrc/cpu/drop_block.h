// Arguments and dispatch table of the DropBlock kernels. Filled in by drop_block.cpp, used by
// kernels/drop_block-inl.h. The terms (seed, volume, copies, inner, run) are those of
// math/drop_block.h.
#pragma once

#include "cpu/indexing.h"
#include "math/drop_block.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

// A volume is a sequence of slices along its slowest dimension. Small volumes that are contiguous
// to each other are treated as the slices of one volume, in which a block spans one slice.
struct DropBlockArgs {
  const void* x;
  void* y;
  MaskIndexing seeds;  // the draws that select the seeds
  int64_t volumes, copies, volume_stride, copy_stride;
  drop_block::Axis slow;
  drop_block::Axis fast[3];  // the last one is the fastest
  int64_t inner, run;
  int64_t window;  // slices per window
  double scale;
  bool non_temporal;

  FD_HD int64_t slice() const { return fast[0].size * fast[1].size * fast[2].size * inner; }
  FD_HD int64_t seed_slice() const {
    return fast[0].seeds() * fast[1].seeds() * fast[2].seeds() * inner;
  }
  // Includes the slices that blocks of the window's last seeds extend into, and padding for full
  // registers.
  FD_HD int64_t window_length() const { return (window + slow.block - 1) * slice() + kPadding; }
};

// The slices [first, last) of one volume.
struct DropBlockRange {
  int64_t volume, first, last;
};

// `window` has args.window_length() numbers.
using DropBlockCountKernel = int64_t (*)(const DropBlockArgs&, const DropBlockRange&,
                                         uint16_t* window);
using DropBlockApplyKernel = void (*)(const DropBlockArgs&, const DropBlockRange&,
                                      uint16_t* window);

struct DropBlockTable {
  DropBlockCountKernel count;  // returns the number of kept decisions
  DropBlockApplyKernel (*apply)(Storage storage);
};

}  // namespace fused_dropout::cpu
