// The operations that element formulas are written with, for the value types float and double.
//
// A formula is a template over a value type T. T is `float` or `double` in the CUDA kernels, a SIMD
// register or `double` in the CPU kernels (cpu/isa/simd.h), and a tensor in the differentiable
// composition (ops/common/tensor_value.h). Each value type has the operators + - * / < <= > >= and
// the functions of this file; argument-dependent lookup finds them. A constant is written T(0.5f).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FD_HD __host__ __device__ __forceinline__
#else
// Always inlined. Otherwise the linker could pick a copy that was compiled for one instruction set
// for code that runs on machines without it.
#define FD_HD inline __attribute__((always_inline))
#endif

namespace fused_dropout {

// a * b + c, rounded once if the hardware has an instruction for it.
FD_HD float fmadd(float a, float b, float c) { return a * b + c; }
FD_HD double fmadd(double a, double b, double c) { return a * b + c; }

// The rounding error of square = a * a: a * a - square, exactly. Only fp32 formulas need it.
FD_HD float square_error(float a, float square) { return fmaf(a, a, -square); }

FD_HD float select(bool condition, float a, float b) { return condition ? a : b; }
FD_HD double select(bool condition, double a, double b) { return condition ? a : b; }

FD_HD float absolute(float a) { return fabsf(a); }
FD_HD double absolute(double a) { return fabs(a); }

// Return NaN if the first argument is NaN. The second argument is a constant bound.
#if __CUDA_ARCH__ >= 800
// One instruction; the conditional below would compile to two.
FD_HD float minimum(float a, float bound) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(bound));
  return result;
}
FD_HD float maximum(float a, float bound) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(bound));
  return result;
}
#else
FD_HD float minimum(float a, float bound) { return a > bound ? bound : a; }
FD_HD float maximum(float a, float bound) { return a < bound ? bound : a; }
#endif
FD_HD double minimum(double a, double bound) { return a > bound ? bound : a; }
FD_HD double maximum(double a, double bound) { return a < bound ? bound : a; }

// The magnitude of a with the sign of b.
FD_HD float copy_sign(float a, float b) { return copysignf(a, b); }
FD_HD double copy_sign(double a, double b) { return copysign(a, b); }

// The nearest integer, ties to even, for |a| < 2^22. Only fp32 formulas need it.
FD_HD float round_even(float a) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the last bit of the sum has the value 1
  return (a + kMagic) - kMagic;
}

// The square root, correctly rounded. Only fp32 formulas need it.
FD_HD float square_root(float a) { return sqrtf(a); }

FD_HD float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

FD_HD uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// a * b and 1 / a, each rounded by itself: compilers do not merge them into an fmadd. For results
// that have to be bitwise equal on all devices.
#if defined(__CUDA_ARCH__)
FD_HD float rounded_product(float a, float b) { return __fmul_rn(a, b); }
FD_HD float rounded_reciprocal(float a) { return __frcp_rn(a); }
#else
// Hides from the compiler how the value was computed.
#if defined(__x86_64__)
#define FD_OPAQUE(value) asm("" : "+v"(value))  // "v" has all registers of AVX-512, "x" 16 of them
#elif defined(__aarch64__)
#define FD_OPAQUE(value) asm("" : "+w"(value))
#else
#define FD_OPAQUE(value) asm("" : "+m"(value))
#endif
FD_HD float rounded_product(float a, float b) {
  float product = a * b;
  FD_OPAQUE(product);
  return product;
}
FD_HD float rounded_reciprocal(float a) { return 1.0f / a; }
#endif

// The integer n for which a 2^-n lies between sqrt(1/2) and sqrt(2), for normal a > 0.
constexpr uint32_t kSqrtHalfBits = 0x3F3504F3u;
FD_HD float binary_exponent(float a) {
  return static_cast<float>(static_cast<int32_t>(bits_of_float(a) - kSqrtHalfBits) >> 23);
}

// The upper 24 bits of a random word, converted to T.
template <class T>
FD_HD T draw_number(uint32_t word) {
  return static_cast<T>(word >> 8);
}

// The low bits of the float n + kExponentMagic are n + 127: the exponent bits of 2^n.
constexpr float kExponentMagic = 12582912.0f + 127.0f;

// a * 2^n for an integer n <= 128. 2^128 overflows to infinity. For n < -126 the result is zero,
// except with AVX-512, whose instruction gives subnormal results.
FD_HD float scale_by_pow2(float a, float n) {
  return a * float_from_bits(bits_of_float(maximum(n, -127.0f) + kExponentMagic) << 23);
}

}  // namespace fused_dropout
