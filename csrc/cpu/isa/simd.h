// F32, a SIMD register of fp32 values, and Words, a SIMD register of Philox words, for the
// instruction set that FD_ISA names, with FD_LANES fp32 lanes. The functions are the ones that
// math/scalar.h lists. They are written with the vector extensions of GCC and Clang; functions for
// which instruction sets need code of their own are in simd_{baseline,avx2,avx512}.h.
#pragma once

#include "math/philox.h"
#include "math/scalar.h"

namespace fused_dropout::cpu::FD_ISA {

constexpr int kLanes = FD_LANES;

// GCC drops the attributes of vector types that are template arguments, so formulas use the wrapper
// structs below. These also have a namespace for argument-dependent lookup.
typedef float FloatVector __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVector __attribute__((vector_size(4 * kLanes)));
typedef uint32_t UIntVector __attribute__((vector_size(4 * kLanes)));
typedef uint16_t ShortVector __attribute__((vector_size(2 * kLanes)));
typedef uint64_t WordVector __attribute__((vector_size(4 * kLanes)));

struct F32 {
  FloatVector v;
  F32() = default;
  FD_HD F32(FloatVector vector) : v(vector) {}
  FD_HD explicit F32(float scalar) : v(scalar - FloatVector{}) {}  // keeps the sign of -0
};

struct LaneMask {
  IntVector v;
};

template <class To, class From>
FD_HD To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(result));
  return result;
}

template <class Vector>
FD_HD Vector load_vector(const void* source) {
  Vector vector;
  memcpy(&vector, source, sizeof(vector));
  return vector;
}

template <class Vector>
FD_HD void store_vector(void* target, Vector vector) {
  memcpy(target, &vector, sizeof(vector));
}

FD_HD F32 operator+(F32 a, F32 b) { return a.v + b.v; }
FD_HD F32 operator-(F32 a, F32 b) { return a.v - b.v; }
FD_HD F32 operator*(F32 a, F32 b) { return a.v * b.v; }
FD_HD F32 operator/(F32 a, F32 b) { return a.v / b.v; }
FD_HD F32 operator-(F32 a) { return -a.v; }
FD_HD LaneMask operator<(F32 a, F32 b) { return {a.v < b.v}; }
FD_HD LaneMask operator<=(F32 a, F32 b) { return {a.v <= b.v}; }
FD_HD LaneMask operator>(F32 a, F32 b) { return {a.v > b.v}; }
FD_HD LaneMask operator>=(F32 a, F32 b) { return {a.v >= b.v}; }

FD_HD F32 fmadd(F32 a, F32 b, F32 c) { return a.v * b.v + c.v; }
FD_HD F32 select(LaneMask mask, F32 a, F32 b) { return mask.v ? a.v : b.v; }

FD_HD F32 absolute(F32 a) { return bit_cast<FloatVector>(bit_cast<UIntVector>(a.v) & 0x7FFFFFFFu); }

FD_HD F32 copy_sign(F32 a, F32 b) {
  return bit_cast<FloatVector>((bit_cast<UIntVector>(a.v) & 0x7FFFFFFFu) |
                               (bit_cast<UIntVector>(b.v) & 0x80000000u));
}

FD_HD F32 rounded_product(F32 a, F32 b) {
  FloatVector product = a.v * b.v;
  FD_OPAQUE(product);
  return product;
}
FD_HD F32 rounded_reciprocal(F32 a) { return 1.0f / a.v; }

FD_HD F32 binary_exponent(F32 a) {
  const IntVector shifted = bit_cast<IntVector>(bit_cast<UIntVector>(a.v) - kSqrtHalfBits);
  return __builtin_convertvector(shifted >> 23, FloatVector);
}

FD_HD F32 load(const float* source) { return load_vector<FloatVector>(source); }

// The upper 24 bits of random words, and 16-bit integers, converted to float.
FD_HD F32 draw_numbers(UIntVector words) {
  return __builtin_convertvector(bit_cast<IntVector>(words >> 8), FloatVector);
}
FD_HD F32 small_numbers(UIntVector integers) {
  return __builtin_convertvector(bit_cast<IntVector>(integers), FloatVector);
}

// Turns [a0 a1 a2 a3 ...] and [b0 b1 b2 b3 ...] into [a0 b0 a2 b2 ...] and [a1 b1 a3 b3 ...].
// Applied twice, it changes nothing.
FD_HD void transpose_pairs(UIntVector& a, UIntVector& b) {
  constexpr uint64_t kLow = 0xFFFFFFFFu;
  const WordVector first = bit_cast<WordVector>(a), second = bit_cast<WordVector>(b);
  a = bit_cast<UIntVector>((first & kLow) | (second << 32));
  b = bit_cast<UIntVector>((first >> 32) | (second & ~kLow));
}

// One word of each of several Philox counters, in 64-bit lanes. Only the low 32 bits of a lane are
// used; the high ones may have any value.
struct Words {
  WordVector v;
};
FD_HD Words operator^(Words a, Words b) { return {a.v ^ b.v}; }
FD_HD Words operator^(Words a, uint32_t b) { return {a.v ^ static_cast<uint64_t>(b)}; }
FD_HD Words high_word(Words product) { return {product.v >> 32}; }
FD_HD Words low_word(Words product) { return product; }

constexpr int kGroupsPerRegister = kLanes / 2;

}  // namespace fused_dropout::cpu::FD_ISA
