// The launch functions: storage types to template arguments, and how memory is cut.
#include <numeric>

#include "launch.cuh"

namespace fused_dropout::cuda {

Layout layout_for(int64_t numel, int64_t channels, int64_t inner) {
  if (channels == 1) inner = 1;  // one value for all
  const int64_t once = channels * inner;
  // Repetitions until a row is whole groups, so that no row starts within one.
  const int64_t whole = once * (kGroup / std::gcd<int64_t>(once, kGroup));
  // And more of them until a warp's columns are nearly all in use.
  constexpr int64_t kWarp = 32;
  int64_t copies = 1;
  const auto idle = [&](int64_t k) {
    const int64_t columns = whole / kGroup * k;
    return divide_up(columns, kWarp) * kWarp - columns;
  };
  while (copies < kWarp && 10 * idle(copies) > whole / kGroup * copies) ++copies;
  return {numel, whole * copies, inner, channels, Divisor(inner), Divisor(once)};
}

int64_t partial_rows(const Layout& layout) { return row_blocks(layout, backward_grid(layout)); }

void launch_forward(const ForwardArgs& args, Storage storage, bool wide_y, int activation,
                    Stream stream) {
  switch (storage) {
    case Storage::kFloat32:
      return forward_of<float, float>(args, activation, stream);
    case Storage::kFloat64:
      return forward_of<double, double>(args, activation, stream);
    case Storage::kFloat16:
      return wide_y ? forward_of<Half, float>(args, activation, stream)
                    : forward_of<Half, Half>(args, activation, stream);
    case Storage::kBFloat16:
      return wide_y ? forward_of<BFloat16, float>(args, activation, stream)
                    : forward_of<BFloat16, BFloat16>(args, activation, stream);
  }
}

void launch_backward(const BackwardArgs& args, Storage storage, bool wide_dy, int activation,
                     Stream stream) {
  switch (storage) {
    case Storage::kFloat32:
      return backward_of<float, float>(args, activation, stream);
    case Storage::kFloat64:
      return backward_of<double, double>(args, activation, stream);
    case Storage::kFloat16:
      return wide_dy ? backward_of<Half, float>(args, activation, stream)
                     : backward_of<Half, Half>(args, activation, stream);
    case Storage::kBFloat16:
      return wide_dy ? backward_of<BFloat16, float>(args, activation, stream)
                     : backward_of<BFloat16, BFloat16>(args, activation, stream);
  }
}

namespace {

template <class C, class T>
void sum_into(const void* partials, const Layout& layout, void* dbias, Stream stream) {
  // Channels side by side share a read; a channel of many neighbours fills one by itself.
  const int width = layout.inner >= 32 ? 1 : 8;
  const int64_t copies = partial_rows(layout) * (layout.period / (layout.channels * layout.inner));
  FD_LAUNCH((bias_sum_kernel<C, T>), divide_up(layout.channels, width), kThreads, stream,
            static_cast<const C*>(partials), layout, copies, width, static_cast<T*>(dbias));
}

template <class C>
void sum_from(const void* partials, const Layout& layout, void* dbias, Storage storage,
              Stream stream) {
  switch (storage) {
    case Storage::kFloat32:
      return sum_into<C, float>(partials, layout, dbias, stream);
    case Storage::kFloat64:
      return sum_into<C, double>(partials, layout, dbias, stream);
    case Storage::kFloat16:
      return sum_into<C, Half>(partials, layout, dbias, stream);
    case Storage::kBFloat16:
      return sum_into<C, BFloat16>(partials, layout, dbias, stream);
  }
}

}  // namespace

void launch_bias_sum(const void* partials, const Layout& layout, bool fp64_partials, void* dbias,
                     Storage storage, Stream stream) {
  if (fp64_partials) {
    sum_from<double>(partials, layout, dbias, storage, stream);
  } else {
    sum_from<float>(partials, layout, dbias, storage, stream);
  }
}

void launch_mask(const MaskRule& mask, const RandomState& random, int64_t numel, bool* kept,
                 Stream stream) {
  FD_LAUNCH(mask_kernel, divide_up(divide_up(numel, kGroup), kThreads), kThreads, stream, mask,
            random, numel, kept);
}

void launch_state(const RandomState& random, Stream stream) {
  FD_LAUNCH(state_kernel, 1, 1, stream, random);
}

}  // namespace fused_dropout::cuda
