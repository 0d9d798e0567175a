// What the torch side knows of the DropBlock kernels.
#pragma once

#include "cuda/launch_types.h"
#include "math/drop_block.h"

namespace fused_dropout::cuda {

struct DropBlockArgs {
  const void* x = nullptr;
  void* y = nullptr;
  const int64_t* kept = nullptr;  // how many elements are; null where nothing is scaled
  drop_block::Geometry geometry;
  RandomState random;
};

// Whether kernels know such a tensor.
bool has_tiles(const drop_block::Geometry& geometry);

// Adds to `kept`.
void launch_drop_block_count(const DropBlockArgs& args, int64_t* kept, Stream stream);
void launch_drop_block_apply(const DropBlockArgs& args, Storage storage, Stream stream);

// For one type.
template <class T>
void drop_block_apply_of(const DropBlockArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
