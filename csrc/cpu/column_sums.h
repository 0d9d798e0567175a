// Runs row kernels in several threads, with or without sums over rows. Used by gated.cpp and
// norm.cpp; the sums are the gradients of vectors along a row.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "cpu/indexing.h"

namespace fused_dropout::cpu {

// Works on the rows and columns of `range` and adds to each of the vectors `sums`, which have one
// number for each column.
using RowTask = std::function<void(void* const* sums, const RowRange& range, void* scratch)>;

// Runs `task` over all rows. Returns `count` vectors of `width` sums, in the dtype `arithmetic`.
// `splits_columns`: the task can also work on a part of the columns.
//
// How the work is divided depends on the sizes only, and partial sums are added in a fixed order:
// the results are bitwise equal for any number of threads.
std::vector<at::Tensor> sum_columns(const RowTask& task, int64_t rows, int64_t width, int count,
                                    at::ScalarType arithmetic, bool splits_columns);

// Runs `task` over all rows, without sums: `sums` is null.
void for_each_row(const RowTask& task, int64_t rows, int64_t width, bool splits_columns);

}  // namespace fused_dropout::cpu
