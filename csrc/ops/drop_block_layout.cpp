// From the sizes and strides of a tensor to the geometry that DropBlock kernels work on.
#include <algorithm>
#include <utility>

#include "ops/drop_block.h"

namespace fused_dropout::drop_block {
namespace {

constexpr int64_t kBatch = 0, kChannel = 1, kFirstSpatial = 2;

}  // namespace

std::vector<Axis> axes_of(at::IntArrayRef sizes, int64_t block_size) {
  std::vector<Axis> axes;
  for (const int64_t size : sizes.slice(kFirstSpatial)) {
    axes.push_back({size, std::min(size, block_size)});
  }
  return axes;
}

uint32_t seed_keep_count(double p, const std::vector<Axis>& axes) {
  return keep_count_of(seed_probability(p, axes.data(), static_cast<int>(axes.size())));
}

double drop_rate(const std::vector<Axis>& axes, double p) {
  // For each number of blocks, how many positions lie in so many blocks. Numbers of several
  // dimensions are multiplied.
  std::vector<std::pair<double, double>> counts = {{1, 1}};  // blocks, positions
  double positions = 1;
  for (const Axis& axis : axes) {
    std::vector<double> along(axis.block + 1, 0);
    for (int64_t position = 0; position < axis.size; ++position) {
      ++along[std::min(position, axis.seeds() - 1) - axis.first_seed(position) + 1];
    }
    std::vector<std::pair<double, double>> product;
    for (const auto& [blocks, number] : counts) {
      for (int64_t more = 1; more <= axis.block; ++more) {
        if (along[more] > 0) product.emplace_back(blocks * more, number * along[more]);
      }
    }
    counts = std::move(product);
    positions *= static_cast<double>(axis.size);
  }
  const double no_seed = seed_keep_count(p, axes) / 65536.0;
  double kept = 0;
  for (const auto& [blocks, number] : counts) kept += number * std::pow(no_seed, blocks);
  return 1 - kept / positions;
}

double keep_rate(const Params& call, at::IntArrayRef sizes) {
  return 1 - drop_rate(axes_of(sizes, call.block_size), call.probability());
}

std::optional<Geometry> geometry_for(const Params& call, at::IntArrayRef sizes,
                                     at::IntArrayRef strides) {
  const std::vector<int64_t> order = memory_order(strides);
  const std::vector<Axis> axes = axes_of(sizes, call.block_size);
  Geometry geometry;
  geometry.keep_count = seed_keep_count(call.probability(), axes);

  // From the innermost dimension outwards: dimensions inside of the spatial ones, the spatial ones,
  // and those around them.
  bool outside = false;
  int64_t stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); stride *= sizes[*dim++]) {
    const int64_t size = sizes[*dim];
    if (size == 1) continue;
    const bool shared = *dim == kChannel && call.shared_channels;
    if (*dim >= kFirstSpatial) {
      if (outside) return std::nullopt;
      // The slowest goes first.
      for (int i = geometry.ndim++; i > 0; --i) geometry.axes[i] = geometry.axes[i - 1];
      geometry.axes[0] = axes[*dim - kFirstSpatial];
    } else if (geometry.ndim == 0) {
      if (!shared) {
        geometry.inner *= size;
      } else if (geometry.inner == 1) {
        geometry.run = size;
      } else {
        return std::nullopt;
      }
    } else {
      outside = true;
      if (shared) {
        geometry.copies = size;
        geometry.copy_stride = stride;
      } else if (geometry.volume_stride == 0) {
        geometry.volumes = size;
        geometry.volume_stride = stride;
      } else {
        geometry.volumes *= size;  // right around the volumes of the other dimension
      }
    }
  }
  // Maps with a single position: channels that share nothing are volumes too.
  if (geometry.ndim == 0 && geometry.run > 1) {
    geometry.volumes = std::exchange(geometry.inner, 1);
    geometry.volume_stride = geometry.run;
  }
  return geometry;
}

}  // namespace fused_dropout::drop_block
