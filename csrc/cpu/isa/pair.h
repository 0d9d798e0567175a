// Two registers that go through every formula together. A formula is a long sequence of
// instructions that wait for each other; a second, independent sequence uses the waiting time. The
// kernels compute with Pair<F32>, and generate draws with Pair<Pair<Words>>.
#pragma once

#include "cpu/isa/simd.h"

namespace fused_dropout::cpu::FD_ISA {

template <class V>
struct Pair {
  V first, second;
  Pair() = default;
  FD_HD Pair(V a, V b) : first(a), second(b) {}
  FD_HD explicit Pair(float scalar) : first(scalar), second(scalar) {}
};

template <class V>
FD_HD Pair<V> operator+(Pair<V> a, Pair<V> b) {
  return {a.first + b.first, a.second + b.second};
}
template <class V>
FD_HD Pair<V> operator-(Pair<V> a, Pair<V> b) {
  return {a.first - b.first, a.second - b.second};
}
template <class V>
FD_HD Pair<V> operator*(Pair<V> a, Pair<V> b) {
  return {a.first * b.first, a.second * b.second};
}
template <class V>
FD_HD Pair<V> operator/(Pair<V> a, Pair<V> b) {
  return {a.first / b.first, a.second / b.second};
}
template <class V>
FD_HD Pair<V> operator-(Pair<V> a) {
  return {-a.first, -a.second};
}

template <class M>
struct MaskPair {
  M first, second;
};
template <class V>
FD_HD auto operator<(Pair<V> a, Pair<V> b) {
  return MaskPair<LaneMask>{a.first < b.first, a.second < b.second};
}
template <class V>
FD_HD auto operator<=(Pair<V> a, Pair<V> b) {
  return MaskPair<LaneMask>{a.first <= b.first, a.second <= b.second};
}
template <class V>
FD_HD auto operator>(Pair<V> a, Pair<V> b) {
  return MaskPair<LaneMask>{a.first > b.first, a.second > b.second};
}
template <class V>
FD_HD auto operator>=(Pair<V> a, Pair<V> b) {
  return MaskPair<LaneMask>{a.first >= b.first, a.second >= b.second};
}

template <class M, class V>
FD_HD Pair<V> select(MaskPair<M> mask, Pair<V> a, Pair<V> b) {
  return {select(mask.first, a.first, b.first), select(mask.second, a.second, b.second)};
}
template <class V>
FD_HD Pair<V> fmadd(Pair<V> a, Pair<V> b, Pair<V> c) {
  return {fmadd(a.first, b.first, c.first), fmadd(a.second, b.second, c.second)};
}
template <class V>
FD_HD Pair<V> minimum(Pair<V> a, Pair<V> bound) {
  return {minimum(a.first, bound.first), minimum(a.second, bound.second)};
}
template <class V>
FD_HD Pair<V> maximum(Pair<V> a, Pair<V> bound) {
  return {maximum(a.first, bound.first), maximum(a.second, bound.second)};
}
template <class V>
FD_HD Pair<V> absolute(Pair<V> a) {
  return {absolute(a.first), absolute(a.second)};
}
template <class V>
FD_HD Pair<V> copy_sign(Pair<V> a, Pair<V> b) {
  return {copy_sign(a.first, b.first), copy_sign(a.second, b.second)};
}
template <class V>
FD_HD Pair<V> square_error(Pair<V> a, Pair<V> square) {
  return {square_error(a.first, square.first), square_error(a.second, square.second)};
}
template <class V>
FD_HD Pair<V> round_even(Pair<V> a) {
  return {round_even(a.first), round_even(a.second)};
}
template <class V>
FD_HD Pair<V> scale_by_pow2(Pair<V> a, Pair<V> n) {
  return {scale_by_pow2(a.first, n.first), scale_by_pow2(a.second, n.second)};
}
template <class V>
FD_HD Pair<V> square_root(Pair<V> a) {
  return {square_root(a.first), square_root(a.second)};
}
template <class V>
FD_HD Pair<V> binary_exponent(Pair<V> a) {
  return {binary_exponent(a.first), binary_exponent(a.second)};
}
template <class V>
FD_HD Pair<V> rounded_product(Pair<V> a, Pair<V> b) {
  return {rounded_product(a.first, b.first), rounded_product(a.second, b.second)};
}
template <class V>
FD_HD Pair<V> rounded_reciprocal(Pair<V> a) {
  return {rounded_reciprocal(a.first), rounded_reciprocal(a.second)};
}

// ---- memory ----------------------------------------------------------------------------------

FD_HD void store(float* target, Pair<F32> value) {
  store_vector(target, value.first.v);
  store_vector(target + kLanes, value.second.v);
}

// ---- counters --------------------------------------------------------------------------------

template <class W>
FD_HD Pair<W> operator^(Pair<W> a, Pair<W> b) {
  return {a.first ^ b.first, a.second ^ b.second};
}
template <class W>
FD_HD Pair<W> operator^(Pair<W> a, uint32_t b) {
  return {a.first ^ b, a.second ^ b};
}
template <class W>
FD_HD Pair<W> multiply_wide(Pair<W> a, uint32_t b) {
  return {multiply_wide(a.first, b), multiply_wide(a.second, b)};
}
template <class W>
FD_HD Pair<W> high_word(Pair<W> a) {
  return {high_word(a.first), high_word(a.second)};
}
template <class W>
FD_HD Pair<W> low_word(Pair<W> a) {
  return {low_word(a.first), low_word(a.second)};
}

}  // namespace fused_dropout::cpu::FD_ISA
