// How the sums of the bias gradient are divided among threads: the elements are divided into parts
// along memory. If the period of the bias is long and there are few periods, a period is divided
// into panels as well. One task works on one panel of one part.
#include "cpu/bias_gradient.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

namespace fused_dropout::cpu {
namespace {

// Enough parts for many cores; more would only cost memory for partial sums.
constexpr int64_t kMaxParts = 256;
constexpr int64_t kPartElements = 1 << 17;
// The partial sums of a part are read and written once. With this many rows to a part they are
// few compared with the elements of the part.
constexpr int64_t kRowsPerPart = 64;
constexpr int64_t kPanel = 16 * kChunk;
constexpr int64_t kRowsPerStep = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Partition {
  int64_t parts;        // each with its own partial sums
  int64_t part_length;  // in elements; a multiple of the period or, with long runs, of the chunk
  int64_t panels;       // several if there are too few rows for all threads
  int64_t panel_length;
  int64_t step;  // elements after which the sums of a step are added to the partial sums
};

Partition partition(const BiasLayout& layout, int64_t numel) {
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
  // A panel works on a piece of every row, which is slow if the pieces are short.
  const int64_t panels = parts < 16 ? std::clamp<int64_t>(layout.period / kPanel, 1, wanted) : 1;
  const int64_t panel = ceil_div(ceil_div(layout.period, panels), kChunk) * kChunk;
  return {ceil_div(numel, length), length, ceil_div(layout.period, panel), panel,
          kRowsPerStep * layout.period};
}

template <class C>
Tensor sum(PointwiseBackwardKernel kernel, const PointwiseBackwardArgs& args,
           const BiasLayout& layout, int64_t numel, const at::TensorOptions& options) {
  const Partition work = partition(layout, numel);
  const int64_t length = layout.length();
  const Tensor partials = at::empty({work.parts, length}, options);
  C* const sums = partials.mutable_data_ptr<C>();

  at::parallel_for(0, work.parts * work.panels, 1, [&](int64_t first_task, int64_t last_task) {
    // The kernel sums up a step of a few rows at a time. Many additions to one fp32 number would
    // lose more accuracy than torch's summation does.
    const Tensor step_buffer = at::empty({length}, options);
    C* const step_sums = step_buffer.mutable_data_ptr<C>();
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t part = task / work.panels, panel = task % work.panels;
      const int64_t begin = part * work.part_length;
      const int64_t end = std::min(begin + work.part_length, numel);
      const int64_t first = panel * work.panel_length;
      const bool is_last = panel == work.panels - 1;
      const int64_t last = is_last ? length : first + work.panel_length;
      C* const partial = sums + part * length;
      std::fill(partial + first, partial + last, C(0));
      for (int64_t start = begin; start < end; start += work.step) {
        const int64_t stop = std::min(start + work.step, end);
        std::fill(step_sums + first, step_sums + last, C(0));
        if (work.panels == 1) {
          kernel(args, step_sums, start, stop);
        } else {
          for (int64_t row = start; row < stop; row += layout.period) {
            const int64_t panel_end = is_last ? layout.period : last;
            if (row + first < stop) {
              kernel(args, step_sums, row + first, std::min(row + panel_end, stop));
            }
          }
        }
        for (int64_t i = first; i < last; ++i) partial[i] += step_sums[i];
      }
    }
  });

  // The partial sums are added in fp64. There are few of them.
  std::vector<double> totals(length, 0.0);
  at::parallel_for(0, length, 4096, [&](int64_t first, int64_t last) {
    for (int64_t part = 0; part < work.parts; ++part) {
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

Tensor sum_bias_gradient(PointwiseBackwardKernel kernel, const PointwiseBackwardArgs& args,
                         const BiasLayout& layout, int64_t numel, at::ScalarType arithmetic) {
  const auto options = at::TensorOptions().dtype(arithmetic);
  return arithmetic == at::kDouble ? sum<double>(kernel, args, layout, numel, options)
                                   : sum<float>(kernel, args, layout, numel, options);
}

}  // namespace fused_dropout::cpu
