// The functions that a GPU has instructions for, and with them the formulas of math_functions.h
// that are made for it. FD_DEVICE_FORMULAS is defined in code for a GPU, and in code for the CPU
// that stands in for it (tests/cuda): there the same formulas compute with exact functions.
#pragma once

#include "math/scalar.h"

#if defined(__CUDA_ARCH__)
#define FD_DEVICE_FORMULAS
#endif

#if defined(FD_DEVICE_FORMULAS)
namespace fused_dropout {

// 2^y for every y; relative error 2^-22, zero instead of a subnormal result.
FD_HD float approximate_exp2(float y) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
#else
  return y < -126.0f ? 0.0f : std::exp2(y);
#endif
}

// log2(y) for y >= 2^-126; an absolute error of 2^-22 between 1/2 and 2, else a relative one.
FD_HD float approximate_log2(float y) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
#else
  return std::log2(y);
#endif
}

// The sine and the cosine of |x| <= pi; an absolute error of 2^-20.5.
FD_HD void approximate_sine_and_cosine(float x, float& sine, float& cosine) {
#if defined(__CUDA_ARCH__)
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(sine) : "f"(x));
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(x));
#else
  sine = std::sin(x);
  cosine = std::cos(x);
#endif
}

// For x >= 2^-126; an error of 1 ULP.
FD_HD float approximate_square_root(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return std::sqrt(x);
#endif
}

// 1 / b for |b| >= 2^-126; an error of 1 ULP.
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
