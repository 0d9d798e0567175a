// Sums over the rows of a tensor, one for each column: how the work is cut into tasks with partial
// sums of their own.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "cpu/indexing.h"

namespace fused_dropout::cpu {

// Adds to `count` vectors of `width` numbers, for the rows and columns of its range.
using RowTask = std::function<void(void* const* sums, const RowRange& range, void* scratch)>;

// Runs the task over all rows and returns the sums, of arithmetic type. The cut depends on sizes
// alone and partial sums are added in a fixed order: the bits are the same for any thread count.
// `cuts_columns`: the task works on parts of rows too.
std::vector<at::Tensor> sum_columns(const RowTask& task, int64_t rows, int64_t width, int count,
                                    at::ScalarType arithmetic, bool cuts_columns);

// The same without sums.
void for_each_row(const RowTask& task, int64_t rows, int64_t width, bool cuts_columns);

}  // namespace fused_dropout::cpu
