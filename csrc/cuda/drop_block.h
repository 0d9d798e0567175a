// Arguments and launch functions of the DropBlock kernels.
#pragma once

#include "cuda/launch_types.h"
#include "math/drop_block.h"

namespace fused_dropout::cuda {

struct DropBlockArgs {
  const void* x = nullptr;
  void* y = nullptr;
  const int64_t* kept = nullptr;  // how many elements are kept; null if the result is not scaled
  drop_block::Geometry geometry;
  RandomState random;
};

// True if the kernels can handle tensors of this geometry.
bool can_tile(const drop_block::Geometry& geometry);

// Adds the number of kept elements to `kept`.
void launch_drop_block_count(const DropBlockArgs& args, int64_t* kept, Stream stream);
void launch_drop_block_apply(const DropBlockArgs& args, Storage storage, Stream stream);

// The same for tensors of type T.
template <class T>
void drop_block_apply_of(const DropBlockArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
