// Approximate functions for which GPUs have an instruction. The formulas for GPUs in
// transcendental.h and noise.h use them.
//
// FD_DEVICE_FORMULAS selects those formulas. It is defined in code for a GPU, and in the CUDA
// kernels that the tests compile for the CPU (tests/cuda_emulator), where the functions are exact.
#pragma once

#include "math/scalar.h"

#if defined(__CUDA_ARCH__)
#define FD_DEVICE_FORMULAS
#endif

#if defined(FD_DEVICE_FORMULAS)
namespace fused_dropout {

// 2^y for every y, with a relative error of 2^-22. Subnormal results become zero.
FD_HD float approximate_exp2(float y) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
#else
  return y < -126.0f ? 0.0f : std::exp2(y);
#endif
}

// log2(y) for y >= 2^-126. The error is 2^-22: absolute for y between 1/2 and 2, else relative.
FD_HD float approximate_log2(float y) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
#else
  return std::log2(y);
#endif
}

// The sine and the cosine of x for |x| <= pi, with an absolute error of 2^-20.5.
FD_HD void approximate_sine_and_cosine(float x, float& sine, float& cosine) {
#if defined(__CUDA_ARCH__)
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(sine) : "f"(x));
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(x));
#else
  sine = std::sin(x);
  cosine = std::cos(x);
#endif
}

// The square root of x >= 2^-126, with an error of 1 ULP.
FD_HD float approximate_square_root(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return std::sqrt(x);
#endif
}

// 1 / b for |b| >= 2^-126, with an error of 1 ULP.
FD_HD float approximate_reciprocal(float b) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(b));
  return result;
#else
  return 1.0f / b;
#endif
}

}  // namespace fused_dropout
#endif
