// From a tensor's sizes and strides to what DropBlock kernels know of it.
#include <algorithm>
#include <numeric>
#include <utility>

#include "ops/drop_block.h"

namespace fused_dropout::block {
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
  // How many places lie in how many blocks; along several dimensions these numbers are multiplied.
  std::vector<std::pair<double, double>> counts = {{1, 1}};  // blocks, places
  double places = 1;
  for (const Axis& axis : axes) {
    std::vector<double> along(axis.block + 1, 0);
    for (int64_t place = 0; place < axis.size; ++place) {
      ++along[std::min(place, axis.seeds() - 1) - axis.first_seed(place) + 1];
    }
    std::vector<std::pair<double, double>> product;
    for (const auto& [blocks, number] : counts) {
      for (int64_t more = 1; more <= axis.block; ++more) {
        if (along[more] > 0) product.emplace_back(blocks * more, number * along[more]);
      }
    }
    counts = std::move(product);
    places *= static_cast<double>(axis.size);
  }
  const double no_seed = seed_keep_count(p, axes) / 65536.0;
  double kept = 0;
  for (const auto& [blocks, number] : counts) kept += number * std::pow(no_seed, blocks);
  return 1 - kept / places;
}

double keep_rate(const Call& call, at::IntArrayRef sizes) {
  return 1 - drop_rate(axes_of(sizes, call.block_size), call.probability());
}

std::optional<Rule> rule_for(const Call& call, at::IntArrayRef sizes, at::IntArrayRef strides) {
  std::vector<int64_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  const std::vector<Axis> axes = axes_of(sizes, call.block_size);
  Rule rule;
  rule.keep_count = seed_keep_count(call.probability(), axes);

  // From the innermost dimension outwards: first what lies within a place, then the spatial
  // dimensions, then what lies around them.
  bool outside = false;
  int64_t stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); stride *= sizes[*dim++]) {
    const int64_t size = sizes[*dim];
    if (size == 1) continue;
    const bool shared = *dim == kChannel && call.shared_channels;
    if (*dim >= kFirstSpatial) {
      if (outside) return std::nullopt;
      // The slowest goes first.
      for (int i = rule.ndim++; i > 0; --i) rule.axes[i] = rule.axes[i - 1];
      rule.axes[0] = axes[*dim - kFirstSpatial];
    } else if (rule.ndim == 0) {
      if (!shared) {
        rule.inner *= size;
      } else if (rule.inner == 1) {
        rule.run = size;
      } else {
        return std::nullopt;
      }
    } else {
      outside = true;
      if (shared) {
        rule.copies = size;
        rule.copy_stride = stride;
      } else if (rule.volume_stride == 0) {
        rule.volumes = size;
        rule.volume_stride = stride;
      } else {
        rule.volumes *= size;  // right around the volumes of the other dimension
      }
    }
  }
  // Maps of one place: what shares no channel is a volume as well.
  if (rule.ndim == 0 && rule.run > 1) {
    rule.volumes = std::exchange(rule.inner, 1);
    rule.volume_stride = rule.run;
  }
  return rule;
}

}  // namespace fused_dropout::block
