// The tensors of a kernel whose row groups share rows. A thread reads its groups of eight elements
// of each row. Kernels with 16-byte accesses copy them to shared memory before they are needed.
#pragma once

#include <cstring>

#include "cuda/device/row_group.cuh"
#include "cuda/device/vector_access.cuh"

namespace fused_dropout::cuda {

// Starts a copy of 16 bytes, or of zeros without `in_range`, to shared memory. The thread has to
// wait for it before it reads them.
__device__ inline void copy_async(Words4* target, const void* source, bool in_range) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(target))),
               "l"(__cvta_generic_to_global(source)), "r"(in_range ? 16 : 0)
               : "memory");
#else
  *target = in_range ? *static_cast<const Words4*>(source) : Words4{};
#endif
}

// Ends a batch of copies of this thread.
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the last kPending batches of this thread are still being copied.
template <int kPending>
__device__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// How many rows a thread copies to shared memory before it uses the first of them. Copies in flight
// take no registers. One group of 16-bit numbers per thread is too little to hide the latency, so
// that the next row is copied at the same time.
constexpr int stages_of(int64_t size, int groups) { return groups == 1 && size == 2 ? 2 : 1; }
// Kernels without 16-byte accesses copy nothing.
template <class T, bool kVectorised, int kGroups>
constexpr int kStages = kVectorised ? stages_of(sizeof(T), kGroups) : 0;

// Shared memory for the copies of a thread block. For each row in flight (a stage), each thread has
// words of its own; adjacent words of one thread are `threads` words apart.
struct Staging {
  Words4* own;  // the first word of this thread
  int threads;
  int words;  // of a thread, in one stage
  int allocated = 0;

  FD_HD Staging(void* memory, int words_per_stage, int all_threads, int thread)
      : own(static_cast<Words4*>(memory) + thread), threads(all_threads), words(words_per_stage) {}
  static int64_t bytes(int words, int threads, int stages) {
    return int64_t{stages} * words * threads * sizeof(Words4);
  }
  // The thread's words for its n-th row.
  template <int kStages>
  FD_HD Words4* stage_of(int row_number) const {
    return kStages == 2 ? own + (row_number & 1) * words * threads : own;
  }
  // Reserves words for a tensor. Returns their offset from the first word of the stage.
  FD_HD int allocate(int count) {
    const int offset = allocated * threads;
    allocated += count;
    return offset;
  }
};

// The groups of one row that a thread holds. There are none if the row does not exist.
struct RowSlice {
  const RowGroup& row_group;
  int width;
  bool row_exists;
  int64_t row, first;  // `first`: the offset in memory of the thread's first element
  Words4* staged;

  FD_HD RowSlice(const RowGroup& a_row_group, int64_t rows, int a_width, int64_t number,
                 Words4* words)
      : row_group(a_row_group),
        width(a_width),
        row_exists(number < rows),
        row(number),
        first(number * a_width + a_row_group.column(0)),
        staged(words) {}

  FD_HD int column(int group) const { return row_group.column(group); }
  // How many elements of a group lie in the row. With kVectorised it is 0 or kGroup.
  template <bool kVectorised>
  FD_HD int count(int group) const {
    const int remaining = row_exists ? width - column(group) : 0;
    if constexpr (kVectorised) return remaining > 0 ? kGroup : 0;
    return count_in_group(remaining);
  }
  // The address of a group in a tensor.
  template <class S>
  FD_HD S* group_in(S* tensor, int group) const {
    return tensor + first + group * row_group.size * kGroup;
  }
};

// A tensor that is read by rows, or null. prefetch() starts the copy of a slice. widen_to() reads a
// group of it, after the wait.
template <class S, bool kVectorised, int kGroups>
class RowTensor {
 public:
  FD_HD RowTensor(const void* tensor, Staging&) : tensor_(static_cast<const S*>(tensor)) {}

  FD_HD void prefetch(const RowSlice&) const {}
  template <class C>
  FD_HD void widen_to(const RowSlice& slice, int group, C (&values)[kGroup]) const {
    Elementwise<S>::load(slice.group_in(tensor_, group), slice.count<false>(group), values);
  }

 private:
  const S* tensor_;
};

template <class S, int kGroups>
class RowTensor<S, true, kGroups> {
 public:
  FD_HD RowTensor(const void* tensor, Staging& staging)
      : tensor_(static_cast<const S*>(tensor)),
        threads_(staging.threads),
        offset_(staging.allocate(tensor ? kGroups * kWords : 0)) {}

  __device__ void prefetch(const RowSlice& slice) const {
    if (!tensor_) return;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const S* source = slice.group_in(tensor_, g);  // may point past the tensor: not read then
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        copy_async(word(slice, g, i), source + i * (kGroup / kWords), slice.count<true>(g) > 0);
      }
    }
  }
  FD_HD void widen_to(const RowSlice& slice, int group, float (&values)[kGroup]) const {
    Words4 words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = *word(slice, group, i);
    Packed<S> packed;
    memcpy(&packed, words, sizeof(packed));
    packed.widen_to(values);
  }

 private:
  static constexpr int kWords = sizeof(S) * kGroup / sizeof(Words4);

  FD_HD Words4* word(const RowSlice& slice, int group, int i) const {
    return slice.staged + offset_ + (group * kWords + i) * threads_;
  }

  const S* tensor_;
  int threads_, offset_;
};

// The loop over the rows of a row group. For each row it calls prefetch(slice), which starts the
// copies, and visit(slice), which has to call wait_for_row before it reads tensors.
template <int kStages, class Prefetch, class Visit>
__device__ void for_each_row(const RowGrid& grid, int64_t rows, int width, RowGroup& row_group,
                             const Staging& staging, Prefetch prefetch, Visit visit) {
  const auto slice_of = [&](int64_t row, int number) {
    return RowSlice(row_group, rows, width, row, staging.stage_of<kStages>(number));
  };
  const auto copy = [&](const RowSlice& slice) {
    prefetch(slice);
    commit_copies();
  };
  // The rows of a thread block are adjacent.
  int64_t first = static_cast<int64_t>(blockIdx.x) * grid.row_groups * grid.rows_per_row_group;
  if constexpr (kStages == 2) copy(slice_of(first + row_group.index, 0));
#pragma unroll 1
  for (int i = 0; i < grid.rows_per_row_group && first < rows; ++i, first += grid.row_groups) {
    row_group.hide_rank();
    const int64_t row = first + row_group.index;
    const RowSlice slice = slice_of(row, i);
    if constexpr (kStages == 1) copy(slice);
    if constexpr (kStages == 2) {
      copy(slice_of(i + 1 < grid.rows_per_row_group ? row + grid.row_groups : rows, i + 1));
    }
    visit(slice);
  }
  if constexpr (kStages == 2) wait_for_copies<0>();
}

// Waits until the thread's copies of the row that it visits have arrived.
template <int kStages>
__device__ void wait_for_row() {
  if constexpr (kStages > 0) wait_for_copies<kStages - 1>();
}

}  // namespace fused_dropout::cuda
