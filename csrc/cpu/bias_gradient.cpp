#include "bias_gradient.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace fused_dropout::cpu {
namespace {

// Enough tasks for many cores; beyond that partial sums only cost memory.
constexpr int64_t kMaxParts = 256;
constexpr int64_t kPartElements = 1 << 17;
// A part's partial sums are read and written once: keep them a small share of the part itself.
constexpr int64_t kRowsPerPart = 64;
constexpr int64_t kPanel = 16 * kBlock;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Cut {
  int64_t parts;        // along memory, each with its own partial sums
  int64_t part_length;  // elements; a multiple of the period or, with long runs, of the block
  int64_t panels;       // of one period: several where there are too few rows to share out
  int64_t panel_length;
};

Cut cut_work(const BiasLayout& layout, int64_t numel) {
  const int64_t wanted = std::clamp<int64_t>(numel / kPartElements, 1, kMaxParts);
  if (!layout.unrolled()) {
    const int64_t affordable = std::max<int64_t>(numel / (16 * layout.channels), 1);
    const int64_t length = ceil_div(ceil_div(numel, std::min(wanted, affordable)), kBlock) * kBlock;
    return {ceil_div(numel, length), length, 1, layout.period};
  }
  const int64_t rows = ceil_div(numel, layout.period);
  const int64_t parts = std::clamp<int64_t>(rows / kRowsPerPart, 1, wanted);
  const int64_t length = ceil_div(rows, parts) * layout.period;
  // Panels are cut at rows, and that costs where rows are short.
  const int64_t panels = parts < 16 ? std::clamp<int64_t>(layout.period / kPanel, 1, wanted) : 1;
  const int64_t panel = ceil_div(ceil_div(layout.period, panels), kBlock) * kBlock;
  return {ceil_div(numel, length), length, ceil_div(layout.period, panel), panel};
}

template <class C>
Tensor sum(BackwardKernel kernel, const BackwardArgs& args, const BiasLayout& layout, int64_t numel,
           const at::TensorOptions& options) {
  const Cut cut = cut_work(layout, numel);
  const int64_t length = layout.length();
  const Tensor partials = at::empty({cut.parts, length}, options);
  C* const sums = partials.mutable_data_ptr<C>();

  at::parallel_for(0, cut.parts * cut.panels, 1, [&](int64_t first_task, int64_t last_task) {
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t part = task / cut.panels, panel = task % cut.panels;
      C* partial = sums + part * length;
      const int64_t begin = part * cut.part_length;
      const int64_t end = std::min(begin + cut.part_length, numel);
      if (cut.panels == 1) {
        std::fill(partial, partial + length, C(0));
        kernel(args, partial, begin, end);
        continue;
      }
      const int64_t first = panel * cut.panel_length;
      const int64_t last = std::min(first + cut.panel_length, layout.period);
      const bool is_last = last == layout.period;
      std::fill(partial + first, partial + (is_last ? length : last), C(0));
      for (int64_t row = begin; row < end; row += layout.period) {
        const int64_t stop = std::min(row + last, end);
        if (row + first < stop) kernel(args, partial, row + first, stop);
      }
    }
  });

  at::parallel_for(0, length, 4096, [&](int64_t first, int64_t last) {
    for (int64_t part = 1; part < cut.parts; ++part) {
      const C* partial = sums + part * length;
      for (int64_t i = first; i < last; ++i) sums[i] += partial[i];
    }
  });

  if (!layout.unrolled()) return partials.select(0, 0);
  const Tensor result = at::empty({layout.channels}, options);
  C* const channel_sums = result.mutable_data_ptr<C>();
  std::fill(channel_sums, channel_sums + layout.channels, C(0));
  for (int64_t i = 0; i < layout.period + kBlock; ++i) {
    channel_sums[i / layout.inner % layout.channels] += sums[i];
  }
  return result;
}

}  // namespace

Tensor sum_bias_gradient(BackwardKernel kernel, const BackwardArgs& args, const BiasLayout& layout,
                         int64_t numel, at::ScalarType arithmetic) {
  const auto options = at::TensorOptions().dtype(arithmetic);
  return arithmetic == at::kDouble ? sum<double>(kernel, args, layout, numel, options)
                                   : sum<float>(kernel, args, layout, numel, options);
}

}  // namespace fused_dropout::cpu
