// Replaces torch's header of this name in builds with ThreadSanitizer, which understands how
// threads of the standard library wait for each other, but not how those of OpenMP do. Work is
// divided as in torch, except that the grain size is ignored: even little work runs in several
// threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace at {

inline int get_num_threads() { return 4; }

template <class Work>
void parallel_for(int64_t begin, int64_t end, int64_t /*grain_size*/, const Work& work) {
  static thread_local bool is_nested = false;
  if (begin >= end) return;
  const int64_t length = (end - begin + get_num_threads() - 1) / get_num_threads();
  if (is_nested || length == end - begin) return work(begin, end);
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors((end - begin + length - 1) / length);
  for (size_t i = 0; i < errors.size(); ++i) {
    threads.emplace_back([&, i] {
      is_nested = true;
      const int64_t first = begin + static_cast<int64_t>(i) * length;
      try {
        work(first, std::min(first + length, end));
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace at
