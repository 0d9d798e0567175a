// What the torch side knows of the DropBlock kernels.
#pragma once

#include "cuda/launch_types.h"
#include "math/drop_block.h"

namespace fused_dropout::cuda {

struct BlockArgs {
  const void* x = nullptr;
  void* y = nullptr;
  const int64_t* kept = nullptr;  // how many elements are; null where nothing is scaled
  block::Rule rule;
  RandomState random;
};

// Whether kernels know such a tensor.
bool has_tiles(const block::Rule& rule);

// Adds to `kept`.
void launch_block_count(const BlockArgs& args, int64_t* kept, Stream stream);
void launch_block_apply(const BlockArgs& args, Storage storage, Stream stream);

// For one type.
template <class T>
void block_apply_of(const BlockArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
