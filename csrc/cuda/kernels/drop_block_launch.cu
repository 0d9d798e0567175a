#include "cuda/kernels/drop_block.cuh"

namespace fused_dropout::cuda {

template void block_apply_of<float>(const BlockArgs&, Stream);
template void block_apply_of<double>(const BlockArgs&, Stream);
template void block_apply_of<Half>(const BlockArgs&, Stream);
template void block_apply_of<BFloat16>(const BlockArgs&, Stream);

bool has_tiles(const block::Rule& rule) {
  if (rule.inner > 1 && rule.run > 1) return false;
  if (rule.places() > INT32_MAX) return false;
  const Tiles tiles(rule);
  return tiles.length <= kMostWords && tiles.count() * tiles.copies <= INT32_MAX;
}

void launch_block_count(const BlockArgs& args, int64_t* kept, Stream stream) {
  const Tiles tiles(args.rule);
  FD_LAUNCH_SHARED(block_count_kernel, tiles.count(), kBlockThreads, tiles.shared_bytes(), stream,
                   args.random, tiles, args.rule.elements_each(),
                   reinterpret_cast<unsigned long long*>(kept));
}

}  // namespace fused_dropout::cuda
