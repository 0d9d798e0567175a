// Host functions that choose the layout of column loops and the number of partial sums.
#include <numeric>

#include "cuda/device/column_loop.cuh"

namespace fused_dropout::cuda {

Layout layout_for(int64_t numel, int64_t channels, int64_t inner) {
  if (channels == 1) inner = 1;  // one value for all elements
  const int64_t repetition = channels * inner;
  // A row has a whole number of groups, so that no row starts within a group.
  const int64_t row = repetition * (kGroup / std::gcd<int64_t>(repetition, kGroup));
  // The row is repeated until at most one thread in 32 has no column.
  constexpr int64_t kWarp = 32;
  int64_t copies = 1;
  const auto idle = [&](int64_t k) {
    const int64_t columns = row / kGroup * k;
    return divide_up(columns, kWarp) * kWarp - columns;
  };
  // With 32 copies no thread is idle.
  while (kWarp * idle(copies) > row / kGroup * copies) ++copies;
  return {numel, row * copies, inner, channels, Divisor(inner), Divisor(repetition)};
}

int64_t partial_rows(const Layout& layout) { return row_blocks(layout, backward_grid(layout)); }

}  // namespace fused_dropout::cuda
