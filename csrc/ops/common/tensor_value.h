// The functions of scalar.h and transcendental.h for tensors, made of differentiable
// torch operators, so that the formulas in math/ work on tensors unchanged.
#pragma once

#include <ATen/ATen.h>

#include "math/transcendental.h"

namespace fused_dropout::composition {

// A tensor, or a constant.
struct Value {
  at::Tensor tensor;
  double constant = 0;

  Value() = default;
  Value(at::Tensor value) : tensor(std::move(value)) {}
  explicit Value(double value) : constant(value) {}
  explicit Value(float value) : constant(value) {}
  explicit Value(int value) : constant(value) {}
  bool is_constant() const { return !tensor.defined(); }
};

inline Value operator+(const Value& a, const Value& b) {
  if (a.is_constant()) return b.is_constant() ? Value(a.constant + b.constant) : b + a;
  return b.is_constant() ? a.tensor + b.constant : a.tensor + b.tensor;
}
inline Value operator*(const Value& a, const Value& b) {
  if (a.is_constant()) return b.is_constant() ? Value(a.constant * b.constant) : b * a;
  return b.is_constant() ? a.tensor * b.constant : a.tensor * b.tensor;
}
inline Value operator-(const Value& a) {
  return a.is_constant() ? Value(-a.constant) : Value(-a.tensor);
}
inline Value operator-(const Value& a, const Value& b) { return a + -b; }
inline Value operator/(const Value& a, const Value& b) {
  if (b.is_constant()) return a * Value(1 / b.constant);
  return a.is_constant() ? a.constant / b.tensor : a.tensor / b.tensor;
}

// In comparisons the right-hand side is a constant.
inline at::Tensor operator<(const Value& a, const Value& b) { return a.tensor < b.constant; }
inline at::Tensor operator<=(const Value& a, const Value& b) { return a.tensor <= b.constant; }
inline at::Tensor operator>(const Value& a, const Value& b) { return a.tensor > b.constant; }
inline at::Tensor operator>=(const Value& a, const Value& b) { return a.tensor >= b.constant; }

inline Value fmadd(const Value& a, const Value& b, const Value& c) { return a * b + c; }

inline Value select(const at::Tensor& mask, const Value& a, const Value& b) {
  if (a.is_constant()) {
    // Of two numbers torch would make a tensor of the default dtype.
    const auto wide = mask.options().dtype(at::kDouble);
    return b.is_constant() ? at::where(mask, at::scalar_tensor(a.constant, wide), b.constant)
                           : at::where(mask, a.constant, b.tensor);
  }
  return b.is_constant() ? at::where(mask, a.tensor, b.constant)
                         : at::where(mask, a.tensor, b.tensor);
}

inline Value absolute(const Value& a) { return a.tensor.abs(); }
inline Value minimum(const Value& a, const Value& bound) {
  return a.tensor.clamp_max(bound.constant);
}
inline Value maximum(const Value& a, const Value& bound) {
  return a.tensor.clamp_min(bound.constant);
}

inline Value round_even(const Value& a) { return a.tensor.round(); }
inline Value square_root(const Value& a) { return a.tensor.sqrt(); }
// Each of torch's operators rounds by itself.
inline Value rounded_product(const Value& a, const Value& b) { return a * b; }
inline Value rounded_reciprocal(const Value& a) { return 1.0 / a.tensor; }
// a 2^n for integral n from -31 to 0, exactly: not by torch's power, which need not be.
inline Value scale_by_pow2(const Value& a, const Value& n) {
  at::Tensor result = a.tensor, left = -n.tensor;
  for (int power = 16; power > 0; power /= 2) {
    const at::Tensor has = left >= power;
    result = at::where(has, result * (1.0 / (1 << power)), result);
    left = at::where(has, left - power, left);
  }
  return result;
}

template <class Precision>
Value logarithm(const Value& x) {
  return x.tensor.log();
}
template <class Precision>
Value log_uniform(const Value& k) {
  constexpr double kUnit = 1.0 / 16777216;
  const at::Tensor below = ((k.tensor + 0.5) * kUnit).log();
  const at::Tensor above = (((k.tensor - 16777216) + 0.5) * kUnit).log1p();
  return at::where(k.tensor < 8388608, below, above);
}
template <class Precision>
void sine_and_cosine(const Value& f, Value& sine, Value& cosine) {
  constexpr double kTwoPi = 6.283185307179586476925;
  sine = (f.tensor * kTwoPi).sin();
  cosine = (f.tensor * kTwoPi).cos();
}
template <class Precision>
void sigmoid_pair(const Value& s, Value& value, Value& complement) {
  value = s.tensor.sigmoid();
  complement = (-s.tensor).sigmoid();
}
template <class Precision>
Value exponential(const Value& x) {
  return x.tensor.exp();
}
template <class Precision>
Value exponential_minus_one(const Value& x) {
  return x.tensor.expm1();
}
template <class Precision>
Value sigmoid(const Value& x) {
  return x.tensor.sigmoid();
}
template <class Precision>
void sigmoid_and_derivative(const Value& x, Value& value, Value& derivative) {
  value = x.tensor.sigmoid();
  derivative = value.tensor * (1 - value.tensor);
}
template <class Precision>
Value hyperbolic_tangent(const Value& x) {
  return x.tensor.tanh();
}
template <class Precision>
Value softplus(const Value& x) {
  return at::softplus(x.tensor);
}
// Not special_ndtr, which cancels in the far tail.
inline at::Tensor normal_cdf_of(const at::Tensor& x) {
  constexpr double kSqrtHalf = 0.707106781186547524401;
  return 0.5 * at::erfc(x * -kSqrtHalf);
}
template <class Precision>
Value normal_cdf(const Value& x) {
  return normal_cdf_of(x.tensor);
}
template <class Precision>
void normal_cdf_and_pdf(const Value& x, Value& cdf, Value& pdf) {
  constexpr double kInverseSqrtTwoPi = 0.398942280401432677939946;
  cdf = normal_cdf_of(x.tensor);
  pdf = kInverseSqrtTwoPi * (x.tensor * x.tensor * -0.5).exp();
}

template <class Precision>
Value multiply_by_normal_cdf(const Value& x) {
  return x.tensor * normal_cdf_of(x.tensor);
}
template <class Precision>
Value quotient(const Value& a, const Value& b) {
  return a / b;
}

}  // namespace fused_dropout::composition
