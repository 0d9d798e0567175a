// Launch functions and instantiations of the DropBlock kernels.
#include "cuda/kernels/drop_block.cuh"

#include "cuda/device/storage_dispatch.cuh"

namespace fused_dropout::cuda {

template void drop_block_apply_of<float>(const DropBlockArgs&, Stream);
template void drop_block_apply_of<double>(const DropBlockArgs&, Stream);
template void drop_block_apply_of<Half>(const DropBlockArgs&, Stream);
template void drop_block_apply_of<BFloat16>(const DropBlockArgs&, Stream);

bool can_tile(const drop_block::Geometry& geometry) {
  if (geometry.inner > 1 && geometry.run > 1) return false;
  if (geometry.decisions() > INT32_MAX) return false;
  const Tiling tiling(geometry);
  return tiling.length <= kMaxWords && tiling.count() * tiling.copies <= INT32_MAX;
}

void launch_drop_block_count(const DropBlockArgs& args, int64_t* kept, Stream stream) {
  const Tiling tiling(args.geometry);
  FD_LAUNCH_SHARED(drop_block_count_kernel, tiling.count(), kDropBlockThreads,
                   tiling.shared_bytes(), stream, args.random, tiling,
                   args.geometry.elements_per_decision(),
                   reinterpret_cast<unsigned long long*>(kept));
}

void launch_drop_block_apply(const DropBlockArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { drop_block_apply_of<decltype(element)>(args, stream); });
}

}  // namespace fused_dropout::cuda
