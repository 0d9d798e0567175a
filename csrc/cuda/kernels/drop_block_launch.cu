#include "cuda/kernels/drop_block.cuh"

namespace fused_dropout::cuda {

template void drop_block_apply_of<float>(const DropBlockArgs&, Stream);
template void drop_block_apply_of<double>(const DropBlockArgs&, Stream);
template void drop_block_apply_of<Half>(const DropBlockArgs&, Stream);
template void drop_block_apply_of<BFloat16>(const DropBlockArgs&, Stream);

bool has_tiles(const drop_block::Geometry& geometry) {
  if (geometry.inner > 1 && geometry.run > 1) return false;
  if (geometry.places() > INT32_MAX) return false;
  const Tiles tiles(geometry);
  return tiles.length <= kMostWords && tiles.count() * tiles.copies <= INT32_MAX;
}

void launch_drop_block_count(const DropBlockArgs& args, int64_t* kept, Stream stream) {
  const Tiles tiles(args.geometry);
  FD_LAUNCH_SHARED(drop_block_count_kernel, tiles.count(), kDropBlockThreads, tiles.shared_bytes(),
                   stream, args.random, tiles, args.geometry.elements_each(),
                   reinterpret_cast<unsigned long long*>(kept));
}

}  // namespace fused_dropout::cuda
