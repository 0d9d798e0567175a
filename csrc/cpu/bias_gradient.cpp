#include "cpu/bias_gradient.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

namespace fused_dropout::cpu {
namespace {

// Enough tasks for many cores; beyond that partial sums only cost memory.
constexpr int64_t kMaxParts = 256;
constexpr int64_t kPartElements = 1 << 17;
// A part's partial sums are read and written once: keep them a small share of the part itself.
constexpr int64_t kRowsPerPart = 64;
constexpr int64_t kPanel = 16 * kChunk;
constexpr int64_t kRowsPerStep = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Cut {
  int64_t parts;        // along memory, each with its own partial sums
  int64_t part_length;  // elements; a multiple of the period or, with long runs, of the block
  int64_t panels;       // of one period: several where there are too few rows to share out
  int64_t panel_length;
  int64_t step;  // elements between two carries of the sums
};

Cut cut_work(const BiasLayout& layout, int64_t numel) {
  const int64_t wanted = std::clamp<int64_t>(numel / kPartElements, 1, kMaxParts);
  if (!layout.unrolled()) {
    const int64_t affordable = std::max<int64_t>(numel / (16 * layout.channels), 1);
    const int64_t length = ceil_div(ceil_div(numel, std::min(wanted, affordable)), kChunk) * kChunk;
    const int64_t step = std::max(kRowsPerStep * kChunk, 16 * layout.channels / kChunk * kChunk);
    return {ceil_div(numel, length), length, 1, layout.period, step};
  }
  const int64_t rows = ceil_div(numel, layout.period);
  const int64_t parts = std::clamp<int64_t>(rows / kRowsPerPart, 1, wanted);
  const int64_t length = ceil_div(rows, parts) * layout.period;
  // Panels are cut at rows, and that costs where rows are short.
  const int64_t panels = parts < 16 ? std::clamp<int64_t>(layout.period / kPanel, 1, wanted) : 1;
  const int64_t panel = ceil_div(ceil_div(layout.period, panels), kChunk) * kChunk;
  return {ceil_div(numel, length), length, ceil_div(layout.period, panel), panel,
          kRowsPerStep * layout.period};
}

template <class C>
Tensor sum(BackwardKernel kernel, const BackwardArgs& args, const BiasLayout& layout, int64_t numel,
           const at::TensorOptions& options) {
  const Cut cut = cut_work(layout, numel);
  const int64_t length = layout.length();
  const Tensor partials = at::empty({cut.parts, length}, options);
  C* const sums = partials.mutable_data_ptr<C>();

  at::parallel_for(0, cut.parts * cut.panels, 1, [&](int64_t first_task, int64_t last_task) {
    // A few rows at a time are summed up apart: a long row of additions into one fp32 number loses
    // more than torch's summation does.
    const Tensor few_rows = at::empty({length}, options);
    C* const few = few_rows.mutable_data_ptr<C>();
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t part = task / cut.panels, panel = task % cut.panels;
      const int64_t begin = part * cut.part_length;
      const int64_t end = std::min(begin + cut.part_length, numel);
      const int64_t first = panel * cut.panel_length;
      const bool is_last = panel == cut.panels - 1;
      const int64_t last = is_last ? length : first + cut.panel_length;
      C* const partial = sums + part * length;
      std::fill(partial + first, partial + last, C(0));
      for (int64_t start = begin; start < end; start += cut.step) {
        const int64_t stop = std::min(start + cut.step, end);
        std::fill(few + first, few + last, C(0));
        if (cut.panels == 1) {
          kernel(args, few, start, stop);
        } else {
          for (int64_t row = start; row < stop; row += layout.period) {
            const int64_t panel_end = is_last ? layout.period : last;
            if (row + first < stop) {
              kernel(args, few, row + first, std::min(row + panel_end, stop));
            }
          }
        }
        for (int64_t i = first; i < last; ++i) partial[i] += few[i];
      }
    }
  });

  // The rest is little, and is summed in fp64.
  std::vector<double> totals(length, 0.0);
  at::parallel_for(0, length, 4096, [&](int64_t first, int64_t last) {
    for (int64_t part = 0; part < cut.parts; ++part) {
      const C* partial = sums + part * length;
      for (int64_t i = first; i < last; ++i) totals[i] += partial[i];
    }
  });
  std::vector<double> channel_sums(layout.channels, 0.0);
  if (layout.unrolled()) {
    for (int64_t i = 0; i < layout.period + kChunk; ++i) {
      channel_sums[i / layout.inner % layout.channels] += totals[i];
    }
  } else {
    channel_sums = std::move(totals);
  }
  const Tensor result = at::empty({layout.channels}, options);
  std::copy(channel_sums.begin(), channel_sums.end(), result.mutable_data_ptr<C>());
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
