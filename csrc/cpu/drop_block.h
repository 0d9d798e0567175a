// The arguments and the table of the DropBlock kernels.
#pragma once

#include "cpu/indexing.h"
#include "math/drop_block.h"
#include "math/dtype.h"

namespace fused_dropout::cpu {

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

struct DropBlockTable {
  DropBlockCountKernel count;
  DropBlockApplyKernel (*apply)(Storage storage);
};

}  // namespace fused_dropout::cpu
