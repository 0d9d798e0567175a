// Dual numbers of tensors: a formula that is computed with them has its derivative beside its
// value, so that the formula of a first derivative gives the second one.
#pragma once

#include "ops/common/tensor_value.h"

namespace fused_dropout::composition {

inline bool is_number(const Value& a, double number) {
  return a.is_constant() && a.constant == number;
}

// Sum and product of tangents, most of which are the constants 0 and 1: without operators for them.
inline Value sum(const Value& a, const Value& b) {
  return is_number(a, 0) ? b : is_number(b, 0) ? a : a + b;
}
inline Value product(const Value& a, const Value& b) {
  if (is_number(a, 0) || is_number(b, 0)) return Value(0.0);
  return is_number(a, 1) ? b : is_number(b, 1) ? a : a * b;
}

struct Dual {
  Value value;
  Value tangent{0.0};

  Dual() = default;
  Dual(Value value, Value tangent) : value(std::move(value)), tangent(std::move(tangent)) {}
  explicit Dual(double value) : value(value) {}
  explicit Dual(float value) : value(value) {}
  explicit Dual(int value) : value(value) {}
};

inline Dual operator+(const Dual& a, const Dual& b) {
  return {a.value + b.value, sum(a.tangent, b.tangent)};
}
inline Dual operator*(const Dual& a, const Dual& b) {
  return {a.value * b.value, sum(product(a.tangent, b.value), product(b.tangent, a.value))};
}
inline Dual operator/(const Dual& a, const Dual& b) {
  const Value quotient = a.value / b.value;
  return {quotient, sum(a.tangent, product(-quotient, b.tangent)) / b.value};
}

inline at::Tensor operator<(const Dual& a, const Dual& b) { return a.value < b.value; }
inline at::Tensor operator<=(const Dual& a, const Dual& b) { return a.value <= b.value; }
inline at::Tensor operator>(const Dual& a, const Dual& b) { return a.value > b.value; }
inline at::Tensor operator>=(const Dual& a, const Dual& b) { return a.value >= b.value; }

inline Dual fmadd(const Dual& a, const Dual& b, const Dual& c) { return a * b + c; }

inline Dual select(const at::Tensor& mask, const Dual& a, const Dual& b) {
  const bool equal = a.tangent.is_constant() && b.tangent.is_constant() &&
                     a.tangent.constant == b.tangent.constant;
  return {select(mask, a.value, b.value), equal ? a.tangent : select(mask, a.tangent, b.tangent)};
}
inline Dual absolute(const Dual& a) {
  return {absolute(a.value), product(a.tangent, Value(a.value.tensor.sign()))};
}
// The tangent of an argument on one side of a bound. Of two constants it would be in fp64.
inline Value tangent_where(const at::Tensor& mask, const Dual& a) {
  return product(a.tangent, Value(mask.to(a.value.tensor.scalar_type())));
}
inline Dual minimum(const Dual& a, const Dual& bound) {
  return {minimum(a.value, bound.value), tangent_where(a <= bound, a)};
}
inline Dual maximum(const Dual& a, const Dual& bound) {
  return {maximum(a.value, bound.value), tangent_where(a >= bound, a)};
}

template <class Precision>
Dual exponential(const Dual& x) {
  const Value value = exponential<Precision>(x.value);
  return {value, product(x.tangent, value)};
}
template <class Precision>
void sigmoid_and_derivative(const Dual& x, Dual& value, Dual& derivative) {
  Value s, ds;
  sigmoid_and_derivative<Precision>(x.value, s, ds);
  const Value tangent = product(x.tangent, ds);
  value = {s, tangent};
  derivative = {ds, tangent * (Value(1.0) - s * Value(2.0))};
}
template <class Precision>
Dual sigmoid(const Dual& x) {
  Dual value, derivative;
  sigmoid_and_derivative<Precision>(x, value, derivative);
  return value;
}
template <class Precision>
void normal_cdf_and_pdf(const Dual& x, Dual& cdf, Dual& pdf) {
  Value c, p;
  normal_cdf_and_pdf<Precision>(x.value, c, p);
  const Value tangent = product(x.tangent, p);
  cdf = {c, tangent};
  pdf = {p, -(tangent * x.value)};
}
template <class Precision>
Dual quotient(const Dual& a, const Dual& b) {
  return a / b;
}

}  // namespace fused_dropout::composition
