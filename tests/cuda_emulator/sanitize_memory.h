// Memory for the calls of sanitize.cpp: of a GPU, or of the CPU where shim.h stands in for CUDA.
// Blocks have exactly the size that was asked for, so that a checker sees every overrun.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// shim.h, which is included before everything else, defines how kernels are launched.
#if !defined(FD_LAUNCH_SHARED)
#include <cuda_runtime_api.h>

namespace memory {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

inline void* allocate(size_t bytes) {
  void* block = nullptr;
  check(cudaMalloc(&block, bytes), "cudaMalloc");
  return block;
}

inline void release(void* block) { check(cudaFree(block), "cudaFree"); }

inline void write(void* block, const void* source, size_t bytes) {
  check(cudaMemcpy(block, source, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

// Waits for the kernels, and ends the program if one of them failed.
inline void synchronize() {
  check(cudaGetLastError(), "launch");
  check(cudaDeviceSynchronize(), "kernel");
}

}  // namespace memory

#else

namespace memory {

inline void* allocate(size_t bytes) { return std::malloc(bytes); }
inline void release(void* block) { std::free(block); }
inline void write(void* block, const void* source, size_t bytes) {
  std::memcpy(block, source, bytes);
}
inline void synchronize() {}

}  // namespace memory

#endif

// `count` numbers, `shift` of them past an aligned address. Nothing is written to them: what a
// kernel reads of them without having written it is an error of its own.
class Output {
 public:
  Output(int64_t count, size_t size, int shift)
      : bytes_((count + shift) * size), shift_(shift * size), block_(memory::allocate(bytes_)) {}
  ~Output() { memory::release(block_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  void* data() const { return static_cast<char*>(block_) + shift_; }

 protected:
  size_t bytes_, shift_;
  void* block_;
};

// The same with something in it.
class Input : public Output {
 public:
  Input(int64_t count, size_t size, int shift) : Output(count, size, shift) {
    std::vector<char> pattern(bytes_);
    for (size_t i = 0; i < bytes_; ++i) pattern[i] = static_cast<char>(i % 61);
    memory::write(block_, pattern.data(), bytes_);
  }
};

// One number.
class Counter : public Output {
 public:
  explicit Counter(int64_t value) : Output(1, sizeof(value), 0) {
    memory::write(block_, &value, sizeof(value));
  }
  int64_t* number() const { return static_cast<int64_t*>(block_); }
};
