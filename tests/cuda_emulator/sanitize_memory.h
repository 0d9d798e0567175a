// Memory for the calls of sanitize.cpp: of the GPU, or of the CPU if shim.h replaces CUDA. Each
// allocation has exactly the requested size, so that a checker sees every overrun.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// shim.h is included before everything else and defines this macro.
#if !defined(FD_LAUNCH_SHARED)
#include <cuda_runtime_api.h>

namespace memory {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

inline void* allocate(size_t bytes) {
  void* address = nullptr;
  check(cudaMalloc(&address, bytes), "cudaMalloc");
  return address;
}

inline void release(void* address) { check(cudaFree(address), "cudaFree"); }

inline void write(void* address, const void* source, size_t bytes) {
  check(cudaMemcpy(address, source, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

// Waits for the kernels. Ends the program if one of them failed.
inline void synchronize() {
  check(cudaGetLastError(), "launch");
  check(cudaDeviceSynchronize(), "kernel");
}

}  // namespace memory

#else

namespace memory {

inline void* allocate(size_t bytes) { return std::malloc(bytes); }
inline void release(void* address) { std::free(address); }
inline void write(void* address, const void* source, size_t bytes) {
  std::memcpy(address, source, bytes);
}
inline void synchronize() {}

}  // namespace memory

#endif

// A buffer of `count` numbers that starts `shift` numbers after an aligned address. It is not
// initialised, so that a checker finds reads of numbers that no kernel has written.
class Output {
 public:
  Output(int64_t count, size_t size, int shift)
      : bytes_((count + shift) * size), shift_(shift * size), address_(memory::allocate(bytes_)) {}
  ~Output() { memory::release(address_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  void* data() const { return static_cast<char*>(address_) + shift_; }

 protected:
  size_t bytes_, shift_;
  void* address_;
};

// A buffer that is initialised.
class Input : public Output {
 public:
  Input(int64_t count, size_t size, int shift) : Output(count, size, shift) {
    std::vector<char> pattern(bytes_);
    for (size_t i = 0; i < bytes_; ++i) pattern[i] = static_cast<char>(i % 61);
    memory::write(address_, pattern.data(), bytes_);
  }
};

// A buffer of one number.
class Counter : public Output {
 public:
  explicit Counter(int64_t value) : Output(1, sizeof(value), 0) {
    memory::write(address_, &value, sizeof(value));
  }
  int64_t* number() const { return static_cast<int64_t*>(address_); }
};
