// Launches the noise kernels for the storage type of a call.
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/noise.h"

namespace fused_dropout::cuda {

ColumnSums flat_sums(const void* partials, const Layout& layout, void* target) {
  ColumnSums sums{partials, layout, partial_rows(layout), 1, {target}};
  // One long channel: it fills a thread block by itself.
  sums.layout.inner = layout.period;
  sums.layout.by_inner = Divisor(layout.period);
  return sums;
}

void launch_gaussian(const GaussianArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { gaussian_of<decltype(element)>(args, stream); });
}

void launch_concrete_forward(const ConcreteForwardArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { concrete_forward_of<decltype(element)>(args, stream); });
}

void launch_concrete_backward(const ConcreteBackwardArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { concrete_backward_of<decltype(element)>(args, stream); });
}

void launch_standout(const StandoutArgs& args, Storage storage, bool training, Stream stream) {
  with_type(storage, [&](auto element) { standout_of<decltype(element)>(args, training, stream); });
}

void launch_standout_backward(const StandoutBackwardArgs& args, Storage storage, Stream stream) {
  with_type(storage, [&](auto element) { standout_backward_of<decltype(element)>(args, stream); });
}

}  // namespace fused_dropout::cuda
