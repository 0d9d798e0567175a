// The layout of memory that column loops and partial sums share.
#include <numeric>

#include "cuda/device/column_loop.cuh"

namespace fused_dropout::cuda {

Layout layout_for(int64_t numel, int64_t channels, int64_t inner) {
  if (channels == 1) inner = 1;  // one value for all
  const int64_t once = channels * inner;
  // Repetitions until a row is whole groups, so that no row starts within one.
  const int64_t whole = once * (kGroup / std::gcd<int64_t>(once, kGroup));
  // And more of them until no more than one lane in 32 has no column.
  constexpr int64_t kWarp = 32;
  int64_t copies = 1;
  const auto idle = [&](int64_t k) {
    const int64_t columns = whole / kGroup * k;
    return divide_up(columns, kWarp) * kWarp - columns;
  };
  while (kWarp * idle(copies) > whole / kGroup * copies) ++copies;  // up to 32: none is idle then
  return {numel, whole * copies, inner, channels, Divisor(inner), Divisor(once)};
}

int64_t partial_rows(const Layout& layout) { return row_blocks(layout, backward_grid(layout)); }

}  // namespace fused_dropout::cuda
