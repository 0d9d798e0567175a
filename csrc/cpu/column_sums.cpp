// How row kernels are divided among threads: the rows are divided into parts. If rows are long and
// few, they are divided into panels of columns as well. One task works on one panel of one part.
#include "cpu/column_sums.h"

#include <ATen/Parallel.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <vector>

#include "cpu/kernel_args.h"
#include "cpu/norm.h"

namespace fused_dropout::cpu {
namespace {

// Enough parts for many cores; more would only cost memory for partial sums.
constexpr int64_t kMaxParts = 64;
constexpr int64_t kPartElements = 1 << 16;
// The partial sums of a part are read and written once. With this many rows to a part they are few
// compared with the elements of the part.
constexpr int64_t kRowsPerPart = 64;
// The kernel sums up a step of this many rows at a time. Many additions to one fp32 number would
// lose more accuracy than torch's summation does.
constexpr int64_t kRowsPerStep = 32;
constexpr int64_t kPanel = 8 * kChunk;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Partition {
  int64_t parts, rows_per_part;
  int64_t panels, columns_per_panel;

  Partition(int64_t rows, int64_t width, int64_t max_parts, bool splits_columns) {
    parts = std::clamp<int64_t>(max_parts, 1, rows);
    rows_per_part = divide_up(rows, parts);
    parts = divide_up(rows, rows_per_part);
    const int64_t wanted = splits_columns && parts < 16 ? width / kPanel : 1;
    columns_per_panel = divide_up(divide_up(width, std::max<int64_t>(wanted, 1)), kChunk) * kChunk;
    panels = divide_up(width, columns_per_panel);
  }
  int64_t tasks() const { return parts * panels; }
  RowRange range(int64_t task, int64_t rows, int64_t width) const {
    const int64_t row = task / panels * rows_per_part, column = task % panels * columns_per_panel;
    return {row, std::min(row + rows_per_part, rows), column,
            std::min(column + columns_per_panel, width)};
  }
};

at::Tensor scratch_for(int64_t width, bool splits_columns) {
  // A task that works on parts of the columns needs no memory for a full row.
  return empty_vector(splits_columns ? 0 : scratch_bytes(width), at::kByte);
}

template <class C>
std::vector<at::Tensor> sum(const RowTask& task, int64_t rows, int64_t width, int count,
                            bool splits_columns) {
  constexpr at::ScalarType kDtype = c10::CppTypeToScalarType<C>::value;
  const int64_t affordable = std::max<int64_t>(rows / kRowsPerPart, 1);
  const int64_t wanted = std::clamp<int64_t>(rows * width / kPartElements, 1, kMaxParts);
  const Partition work(rows, width, std::min(wanted, affordable), splits_columns);
  const int64_t length = width + kPadding;
  // In fp64, because a part can have very many rows.
  const at::Tensor partials = empty_vector(work.parts * count * length, at::kDouble);
  double* const partial_sums = partials.mutable_data_ptr<double>();

  at::parallel_for(0, work.tasks(), 1, [&](int64_t first_task, int64_t last_task) {
    const at::Tensor step_buffer = empty_vector(count * length, kDtype);
    C* const step_sums = step_buffer.mutable_data_ptr<C>();
    const at::Tensor scratch = scratch_for(width, splits_columns);
    std::vector<void*> sums(count);
    for (int vector = 0; vector < count; ++vector) sums[vector] = step_sums + vector * length;
    for (int64_t i = first_task; i < last_task; ++i) {
      const RowRange range = work.range(i, rows, width);
      double* const partial = partial_sums + i / work.panels * count * length;
      for (int64_t row = range.first_row; row < range.last_row; row += kRowsPerStep) {
        std::fill_n(step_sums, count * length, C(0));
        task(sums.data(),
             {row, std::min(row + kRowsPerStep, range.last_row), range.first_column,
              range.last_column},
             scratch.mutable_data_ptr());
        for (int vector = 0; vector < count; ++vector) {
          double* const to = partial + vector * length;
          const C* const from = step_sums + vector * length;
          const bool first = row == range.first_row;
          for (int64_t column = range.first_column; column < range.last_column; ++column) {
            to[column] = first ? from[column] : to[column] + from[column];
          }
        }
      }
    }
  });

  std::vector<at::Tensor> results;
  for (int vector = 0; vector < count; ++vector) {
    results.push_back(empty_vector(width, kDtype));
    C* const result = results.back().mutable_data_ptr<C>();
    at::parallel_for(0, width, 4096, [&](int64_t first, int64_t last) {
      std::vector<double> totals(last - first, 0.0);
      for (int64_t part = 0; part < work.parts; ++part) {
        const double* partial = partial_sums + (part * count + vector) * length + first;
        for (int64_t i = 0; i < last - first; ++i) totals[i] += partial[i];
      }
      std::copy(totals.begin(), totals.end(), result + first);
    });
  }
  return results;
}

}  // namespace

std::vector<at::Tensor> sum_columns(const RowTask& task, int64_t rows, int64_t width, int count,
                                    at::ScalarType arithmetic, bool splits_columns) {
  return arithmetic == at::kDouble ? sum<double>(task, rows, width, count, splits_columns)
                                   : sum<float>(task, rows, width, count, splits_columns);
}

void for_each_row(const RowTask& task, int64_t rows, int64_t width, bool splits_columns) {
  const int64_t wanted = divide_up(rows * width, kGrain);
  const Partition work(rows, width, wanted, splits_columns);
  at::parallel_for(0, work.tasks(), 1, [&](int64_t first, int64_t last) {
    const at::Tensor scratch = scratch_for(width, splits_columns);
    for (int64_t i = first; i < last; ++i) {
      task(nullptr, work.range(i, rows, width), scratch.mutable_data_ptr());
    }
  });
}

}  // namespace fused_dropout::cpu
